"""``graph.json``: the layers of a model, checked and in the order of evaluation.

:source: Angel, ``com.tencent.angel.ml.core.graphsubmit`` and mlcore's ``JsonUtils``; facts of its trainers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.strict_json import (
    get_int,
    get_long,
    get_object,
    get_plain_name,
    get_text,
    parse_object,
    quote,
    read_bytes,
)

_WHERE = "graph.json"
_MOST_LAYERS = 1000
_MOST_WIDTH = 2**24
_MODEL_TYPE = re.compile("T_(DOUBLE|FLOAT)_(?:DENSE|SPARSE)(_LONGKEY)?(?:_COMPONENT)?")
_DATA_FORMATS = frozenset({"libsvm", "dummy", "dense"})
#: How many inputs a layer takes: at least, and at most.
_INPUT_COUNTS = {
    "simpleinputlayer": (0, 0),
    "embedding": (0, 0),
    "kmeansinputlayer": (0, 0),
    "fclayer": (1, 1),
    "biinnersumcross": (1, 1),
    "biinnercross": (1, 1),
    "biinteractioncross": (1, 1),
    "biinteractioncrosstiled": (1, 1),
    "paramsharedfc": (1, 1),
    "weightedsumlayer": (2, 2),
    "crosslayer": (2, 2),
    "concatlayer": (1, _MOST_LAYERS),
    "sumpooling": (1, _MOST_LAYERS),
    "mulpooling": (2, _MOST_LAYERS),
    "dotpooling": (2, _MOST_LAYERS),
    "losslayer": (1, 1),
}
_OTHER_NAMES = {
    "simplelosslayer": "losslayer",
    "denseinputlayer": "simpleinputlayer",
    "sparseinputlayer": "simpleinputlayer",
}
#: These hold lists of dimensions in the list form, and stand for one layer an entry.
_FOLDED = frozenset({"fclayer", "paramsharedfc"})
_WITH_TRANSFER = _FOLDED | {"simpleinputlayer", "kmeansinputlayer"}
#: What follows from their inputs, whatever ``outputdim`` says; some trainers write -1.
_WITHOUT_WIDTH = frozenset({"losslayer"})
#: One number whatever ``outputdim`` says, so that it may be left out.
_ONE_WIDE = frozenset({"biinnersumcross", "dotpooling"})
_TRANSFERS = frozenset({
    "identity", "relu", "tanh", "sigmoid", "softmax", "dropout", "sigmoidwithdropout", "tanhwithdropout",
})  # fmt: skip
_LOSSES = frozenset({
    "logloss", "hingeloss", "l2loss", "huberloss", "crossentropyloss", "softmaxloss", "kmeansloss",
})  # fmt: skip
#: Only the trainers that store fully connected weights as inputs by outputs write these.
_IN_OUT_TRAINER_KEYS = frozenset({"decayclass", "decayalpha", "decaybeta"})
_DEFAULT_DROPOUT = 0.5


@dataclass(frozen=True)
class Transfer:
    """A transfer function. ``kept``: the share that a dropout at prediction time multiplies with."""

    name: str
    kept: float = 1.0


@dataclass(frozen=True)
class Layer:
    """``kind`` is the type's name in lower case; ``width`` is ``outputdim`` (1 where a loss says none)."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    width: int
    factors: int = 0
    weight_width: int = 0
    transfer: Transfer = Transfer("identity")
    loss: str = ""


@dataclass(frozen=True)
class Graph:
    """``layers`` in an order in which each comes after its inputs, the loss last. ``dimension`` is ``indexrange``; -1
    where the model does not know."""

    layers: tuple[Layer, ...]
    data_format: str
    dimension: int
    value_type: str
    has_long_keys: bool
    fc_weight_layout: str


def read_graph(folder: Path) -> Graph:
    """:raises InvalidModelError: with the layer and the field."""
    path = folder / _WHERE
    if not path.exists():
        raise InvalidModelError("an Angel model has the file 'graph.json'; it is not there")
    content = parse_object(read_bytes(path, _WHERE), _WHERE)
    data = get_object(content, "data", _WHERE) if "data" in content else {}
    value_type, has_long_keys = _read_model_type(content)
    layers = _order(_read_layers(content))
    return Graph(
        layers=layers,
        data_format=_choose(data.get("format", "libsvm"), _DATA_FORMATS, "data.format"),
        dimension=_read_dimension(data),
        value_type=value_type,
        has_long_keys=has_long_keys,
        fc_weight_layout=_guess_layout(content),
    )


def _read_dimension(data: dict[str, Any]) -> int:
    dimension = get_long(data, "indexrange", f"{_WHERE}, data", least=-1) if "indexrange" in data else -1
    if dimension == 0:
        raise InvalidModelError(f"{_WHERE}: indexrange is 0; a model has features, or -1 where it does not know them")
    return dimension


def _read_model_type(content: dict[str, Any]) -> tuple[str, bool]:
    model = get_object(content, "model", _WHERE) if "model" in content else {}
    name = model.get("modeltype", "T_FLOAT_DENSE")
    match = _MODEL_TYPE.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise InvalidModelError(f"{_WHERE}: modeltype {quote(name)} is no type of float or double rows")
    return ("f8" if match[1] == "DOUBLE" else "f4"), match[2] is not None


def _guess_layout(content: dict[str, Any]) -> str:
    train = content.get("train")
    return "in_out" if isinstance(train, dict) and _IN_OUT_TRAINER_KEYS & train.keys() else "out_in"


def _read_layers(content: dict[str, Any]) -> list[Layer]:
    described = content.get("layers")
    is_list = isinstance(described, list)
    if isinstance(described, dict):
        described = [
            {**fields, "name": name} if isinstance(fields, dict) else fields for name, fields in described.items()
        ]
    if not isinstance(described, list) or not 0 < len(described) <= _MOST_LAYERS:
        raise InvalidModelError(f"{_WHERE} needs 'layers', from 1 to {_MOST_LAYERS}")
    default = content.get("default_trandfunc", content.get("default_transfunc", "relu"))  # the first is Angel's own
    layers: list[Layer] = []
    for number, fields in enumerate(described):
        if not isinstance(fields, dict):
            raise InvalidModelError(f"{_WHERE}: layer {number} is not an object")
        layers.extend(_read_layer(fields, default, is_list))
    if len(layers) > _MOST_LAYERS:
        raise InvalidModelError(f"{_WHERE} has {len(layers)} layers; {_MOST_LAYERS} are read")
    return layers


def _read_layer(fields: dict[str, Any], default_transfer: Any, is_list: bool) -> list[Layer]:
    """The layer, or the chain of layers that its lists of dimensions stand for."""
    name = get_plain_name(fields.get("name"), f"{_WHERE}: the name of a layer")
    where = f"{_WHERE}, layer {name}"
    written = get_text(fields, "type", where).lower()
    kind = _choose(_OTHER_NAMES.get(written, written), frozenset(_INPUT_COUNTS), f"type of layer {name}")
    inputs = _read_inputs(fields, kind, where)
    if kind in _FOLDED and is_list and "outputdims" in fields:
        return _unfold(fields, name, kind, inputs, default_transfer)
    loss = _read_function(fields.get("lossfunc", "logloss"), where)[0] if kind == "losslayer" else ""
    layer = Layer(
        name=name,
        kind=kind,
        inputs=inputs,
        width=1 if _has_no_width(fields, kind) else _get_width(fields, "outputdim", where),
        factors=_get_width(fields, "numfactors", where) if kind == "embedding" else 0,
        weight_width=_get_width(fields, "weightdim", where) if kind == "paramsharedfc" else 0,
        transfer=_read_transfer(fields.get("transfunc", default_transfer), where)
        if kind in _WITH_TRANSFER
        else Transfer("identity"),
        loss=_choose(loss, _LOSSES, f"lossfunc of layer {name}") if kind == "losslayer" else "",
    )
    return [layer]


def _has_no_width(fields: dict[str, Any], kind: str) -> bool:
    return kind in _WITHOUT_WIDTH or (kind in _ONE_WIDE and "outputdim" not in fields)


def _unfold(
    fields: dict[str, Any], name: str, kind: str, inputs: tuple[str, ...], default_transfer: Any
) -> list[Layer]:
    where = f"{_WHERE}, layer {name}"
    widths = _get_list(fields, "outputdims", where)
    transfers = _get_list(fields, "transfuncs", where) if "transfuncs" in fields else [default_transfer] * len(widths)
    weight_widths = _get_list(fields, "weightdims", where) if kind == "paramsharedfc" else [1] * len(widths)
    if not len(widths) == len(transfers) == len(weight_widths):
        raise InvalidModelError(f"{where}: outputdims, transfuncs and weightdims differ in length")
    layers: list[Layer] = []
    for number, (width, transfer, weight_width) in enumerate(zip(widths, transfers, weight_widths, strict=True)):
        sizes = {"outputdims": width, "weightdims": weight_width}
        layers.append(
            Layer(
                name=name if number == len(widths) - 1 else f"{name}_{number}",
                kind=kind,
                inputs=(layers[-1].name,) if layers else inputs,
                width=_get_width(sizes, "outputdims", where),
                weight_width=_get_width(sizes, "weightdims", where),
                transfer=_read_transfer(transfer, where),
            )
        )
    return layers


def _read_inputs(fields: dict[str, Any], kind: str, where: str) -> tuple[str, ...]:
    given = fields.get("inputlayers", fields.get("inputlayer", []))
    names = given if isinstance(given, list) else [given]
    if not all(isinstance(name, str) for name in names):
        raise InvalidModelError(f"{where}: its inputs are not names of layers")
    least, most = _INPUT_COUNTS[kind]
    if not least <= len(names) <= most:
        raise InvalidModelError(
            f"{where} has {len(names)} inputs; a {kind} takes {least if most == least else f'{least} or more'}"
        )
    return tuple(names)


def _read_transfer(content: Any, where: str) -> Transfer:
    name, fields = _read_function(content, where)
    _choose(name, _TRANSFERS, f"{where.removeprefix(_WHERE + ', ')}: transfer function")
    if "dropout" not in name:
        return Transfer(name)
    probability = fields.get("proba", _DEFAULT_DROPOUT)
    if type(probability) not in {int, float} or not 0 <= probability < 1:
        raise InvalidModelError(f"{where}: proba is {quote(probability)}, not from 0 to less than 1")
    return Transfer(name, 1 - probability)


def _read_function(content: Any, where: str) -> tuple[str, dict[str, Any]]:
    """A function is its name, or an object with the name as ``type``."""
    fields = content if isinstance(content, dict) else {"type": content}
    return get_text(fields, "type", where).lower(), fields


def _get_width(fields: dict[str, Any], key: str, where: str) -> int:
    return get_int(fields, key, where, least=1, below=_MOST_WIDTH + 1)


def _get_list(fields: dict[str, Any], key: str, where: str) -> list[Any]:
    value = fields.get(key)
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_LAYERS:
        raise InvalidModelError(f"{where}: {key!r} is not a list of 1 to {_MOST_LAYERS}")
    return value


def _choose(value: Any, known: frozenset[str], what: str) -> str:
    name = value.lower() if isinstance(value, str) else ""
    if name not in known:
        raise InvalidModelError(f"{_WHERE}: {what} is {quote(value)}; known are {', '.join(sorted(known))}")
    return name


def _order(layers: list[Layer]) -> tuple[Layer, ...]:
    """Each layer after its inputs, and the one loss last."""
    by_name = {layer.name: layer for layer in layers}
    if len(by_name) != len(layers):
        names = [layer.name for layer in layers]
        twin = next(name for name in names if names.count(name) > 1)
        raise InvalidModelError(f"{_WHERE} has the layer {twin!r} twice")
    losses = [layer for layer in layers if layer.kind == "losslayer"]
    if len(losses) != 1:
        raise InvalidModelError(f"{_WHERE} has {len(losses)} loss layers; a model has one")
    for layer in layers:
        for name in layer.inputs:
            if name not in by_name or by_name[name].kind == "losslayer":
                raise InvalidModelError(
                    f"{_WHERE}: layer {layer.name} takes {name[:80]!r}, which is no layer to take from"
                )
    inputs = {layer.name: layer.inputs for layer in layers if layer is not losses[0]}
    try:
        return *(by_name[name] for name in TopologicalSorter(inputs).static_order()), losses[0]
    except CycleError as exc:
        raise InvalidModelError(f"{_WHERE}: layers {', '.join(exc.args[1][:5])} feed each other") from exc
