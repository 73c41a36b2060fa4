"""The engine of the ``angel`` runtime."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import Field

from airflow_provider_timl.entities import InspectionReport, Resources, Signature, SignatureField
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError, TimlError
from airflow_provider_timl.runtimes.angel.batch import Batch, join_batches
from airflow_provider_timl.runtimes.angel.folders import find_model_folder
from airflow_provider_timl.runtimes.angel.graph import Graph, read_graph
from airflow_provider_timl.runtimes.angel.layers import Network
from airflow_provider_timl.runtimes.angel.losses import Answers, get_loss, join_answers, to_java_strings
from airflow_provider_timl.runtimes.angel.monitor import AngelMonitor
from airflow_provider_timl.runtimes.angel.requests import AngelRequest, RequestReader
from airflow_provider_timl.runtimes.angel.weights import WeightReader
from airflow_provider_timl.runtimes.contract import Batching, RuntimeOptions, RuntimeProgram

log = logging.getLogger(__name__)

#: Numbers that a part of a batch may take in all layers.
_MOST_NUMBERS = 2**24
_MOST_DENSE_EXAMPLE = 32
_EXAMPLE_FEATURES = 3
_OUTPUTS = ("pred", "proba", "predLabel", "attached")


class AngelOptions(RuntimeOptions):
    """What no file of a model says.

    :param fc_weight_layout: how the weights of fully connected layers lie in their files. ``auto`` goes by the marks of
        the trainer that wrote ``graph.json``.
    :param text_separator: between the fields of a text file's line (Hadoop's ``text.format.filed.sep``). ``auto`` takes
        what stands after the first field.
    """

    fc_weight_layout: Literal["auto", "out_in", "in_out"] = "auto"
    text_separator: str = Field("auto", pattern=r"^(auto|[\t -,/:-@\\^_`|~])$")


class AngelEngine:
    """A loaded Angel model. Arithmetic is that of the model's own type, ``float`` or ``double``."""

    batching = Batching()

    def __init__(self, folder: Path, options: AngelOptions) -> None:
        self.monitor = AngelMonitor()
        folder = find_model_folder(folder)
        self.graph = read_graph(folder)
        is_chosen = options.fc_weight_layout != "auto"
        self.layout = options.fc_weight_layout if is_chosen else self.graph.fc_weight_layout
        log.info("fully connected weights are read as %s", self.layout)
        separator = "" if options.text_separator == "auto" else options.text_separator
        self._network = Network(self.graph, WeightReader(folder, self.graph.value_type, separator), self.layout)
        self._loss = get_loss(self.graph.layers[-1].loss, self._network.width)
        self._reader = RequestReader(
            self.graph.dimension,
            self.graph.value_type,
            self.graph.has_long_keys,
            feature_count=self._network.feature_count,
            needs_features=self._network.needs_features,
            most_features=_MOST_NUMBERS // self._network.numbers_a_feature,
        )
        self.signature = build_signature(self.graph, self._network.feature_count)

    def describe(self) -> dict[str, Any]:
        """Angel Serving's ``typeMap`` and ``dim``."""
        types = {
            "valueType": "DT_FLOAT" if self.graph.value_type == "f4" else "DT_DOUBLE",
            "keyType": "DT_INT64" if self.graph.has_long_keys else "DT_INT32",
        }
        dimension = {"dim": str(self.graph.dimension)} if self.graph.dimension else {}
        return {"typeMap": types, **dimension, "fc_weight_layout": self.layout}

    def describe_metadata(self) -> dict[str, Any]:
        return {"signature": self.signature.model_dump(mode="json")}

    def parse(self, verb: str, body: bytes) -> AngelRequest:
        if verb != "predict":
            raise NotFoundError("method", f":{verb}", known=":predict")
        return self._reader.read(body)

    def count_rows(self, request: AngelRequest) -> int:
        return len(request.batch)

    def run(self, batch: Sequence[AngelRequest]) -> list[bytes | TimlError]:
        lines = _write(self.compute(join_batches([request.batch for request in batch])))
        bodies: list[bytes | TimlError] = []
        first = 0
        for request in batch:
            end = first + len(request.batch)
            bodies.append(_finish(lines[first:end], request.names))
            first = end
        return bodies

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        known = [name for name in ("values", "sparseIndices", "sparseValues") if name in columns]
        if not known:
            raise InvalidInputError("the input needs the column values, or sparseIndices and sparseValues", "values")
        read = [self._read_row(known, dict(zip(columns, row, strict=False))) for row in rows]
        batches = [each for each in read if isinstance(each, Batch)]
        answers = self.compute(join_batches(batches)) if batches else None
        scored = _list_outputs(answers) if answers else iter(())
        return [next(scored) if isinstance(each, Batch) else each for each in read]

    def close(self) -> None:
        """Nothing: the arrays go with the process."""

    def _read_row(self, known: Sequence[str], given: dict[str, object]) -> Batch | InvalidInputError:
        """A row of a table as an instance, or why it is none."""
        try:
            instance = {name: _to_list(given[name]) for name in known if given.get(name) is not None}
            return self._reader.read_instances([instance]).batch
        except InvalidInputError as exc:
            field = str(exc.details.get("field") or "")
            return InvalidInputError(exc.message, field.removeprefix("instances[0]").removeprefix(".") or None)

    @np.errstate(all="ignore")  # a model may overflow; its answer says so
    def compute(self, batch: Batch) -> Answers:
        """What the loss makes of a batch of any size, in bounded memory."""
        return join_answers([self._loss(self._network.run(part)) for part in self._split(batch)])

    def _split(self, batch: Batch) -> Iterator[Batch]:
        """Parts that can be computed within bounded memory."""
        a_feature, an_instance = self._network.numbers_a_feature, self._network.numbers_an_instance
        if len(batch.ids) * a_feature + len(batch) * an_instance <= _MOST_NUMBERS:
            yield batch
            return
        ends = np.cumsum(np.array(batch.counts) * a_feature + an_instance)
        first = 0
        while first < len(batch):
            before = int(ends[first - 1]) if first else 0
            end = max(first + 1, int(np.searchsorted(ends, before + _MOST_NUMBERS, side="right")))
            yield batch.slice(first, end)
            first = end


def _write(answers: Answers) -> list[str]:
    """The fields of each instance's answer but its ``sid``, in the order of Angel Serving's answers. Servers know no
    true label: it is always 0.0."""
    columns = [
        repeat("NaN", len(answers.pred)) if column is None else to_java_strings(column)
        for column in (answers.proba, answers.pred, answers.attached, answers.label)
    ]
    return [
        f'{{"trueLabel":"0.0","proba":"{proba}","pred":"{pred}","attached":"{attached}","predLabel":"{label}","sid":'
        for proba, pred, attached, label in zip(*columns, strict=True)
    ]


def _finish(lines: list[str], names: list[str | None] | None) -> bytes:
    if names is None:
        content = ",".join([f'{line}"{number}"}}' for number, line in enumerate(lines)])
    else:
        sids = [orjson.dumps(str(number) if name is None else name).decode() for number, name in enumerate(names)]
        content = ",".join([f"{line}{sid}}}" for line, sid in zip(lines, sids, strict=True)])
    return b'{"predictions":[%b]}' % content.encode()


def _list_outputs(answers: Answers) -> Iterator[dict[str, object]]:
    columns = [repeat(math.nan, len(answers.pred)) if column is None else column.tolist() for column in answers]
    for numbers in zip(*columns, strict=True):
        yield dict(zip(_OUTPUTS, numbers, strict=True))


def _to_list(value: Any) -> Any:
    """A cell of a table: a list (Parquet), or the JSON of one (CSV)."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError("the cell is not the JSON of a list") from exc


def build_signature(graph: Graph, feature_count: int | None) -> Signature:
    """Requests are dense or sparse, so no field is required by itself."""
    dtype = "float" if graph.value_type == "f4" else "double"
    count: list[int | None] = [feature_count]
    inputs = [
        SignatureField(name="sparseIndices", dtype="integer", shape=count, required=False),
        SignatureField(name="sparseValues", dtype=dtype, shape=count, required=False),
    ]
    if graph.dimension >= 0 and not graph.has_long_keys:
        inputs.insert(0, SignatureField(name="values", dtype=dtype, shape=[graph.dimension], required=False))
    outputs = [SignatureField(name=name, dtype="double") for name in _OUTPUTS]
    return Signature(inputs=inputs, outputs=outputs, example={"instances": [_build_instance(graph, feature_count)]})


def _build_instance(graph: Graph, feature_count: int | None) -> Any:
    dimension = graph.dimension
    if feature_count is None and 0 < dimension <= _MOST_DENSE_EXAMPLE and not graph.has_long_keys:
        return [1.0] * dimension
    count = feature_count or (min(dimension, _EXAMPLE_FEATURES) if dimension > 0 else _EXAMPLE_FEATURES)
    return {"sparseIndices": list(range(count)), "sparseValues": [1.0] * count}


def inspect_angel(folder: Path, resources: Resources) -> InspectionReport:
    """Read all matrices and try the model. For a limited process: the files are hostile until this returned.

    :raises InvalidModelError: with the reason.
    """
    engine = AngelEngine(folder, AngelOptions())
    request = engine.parse("predict", orjson.dumps(engine.signature.example))
    engine.run([request])
    return InspectionReport(
        model_type="angel",
        checks=["structure", "loaded", "example"],
        signature=engine.signature,
        framework={
            "value_type": engine.describe()["typeMap"]["valueType"],
            "layers": ", ".join(layer.kind for layer in engine.graph.layers),
            "fc_weight_layout": engine.layout,
        },
    )


def load_angel(folder: Path, resources: Resources, options: AngelOptions) -> AngelEngine:
    """Load the model of an artifact, and run its example once.

    :raises InvalidModelError: it cannot be loaded.
    """
    engine = AngelEngine(folder, options)
    engine.run([engine.parse("predict", orjson.dumps(engine.signature.example))])
    return engine


RUNTIME = RuntimeProgram(
    name="angel",
    model_type="angel",
    requires=("httptools", "numpy", "orjson", "prometheus_client", "pyarrow", "uvloop"),
    extra="angel",
    inspect=inspect_angel,
    load=load_angel,
    options=AngelOptions,
)
