"""Loads a document into PMML4S and finds out what the model takes and what it answers.

:source: PMML4S 1.5.8, ``org.pmml4s.model.Model`` and ``MiningModel``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jpype

from airflow_provider_timl.entities import SignatureField
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.jvm import get_java_class
from airflow_provider_timl.runtimes.pmml.document import DataField, MiningField, PmmlDocument
from airflow_provider_timl.runtimes.pmml.encoding import rewrite

_LABEL = "predictedValue"
_REALS = frozenset({"real", "double", "float"})
_LABEL_PREFIX = "predicted_"
#: How values of an output's type are read; of other types only the value itself tells.
#: Features whose empty text is PMML4S's way to say that there is none.
_IDENTITIES = frozenset({"clusterId", "entityId", "predictedDisplayValue", "reasonCode", "ruleId"})
_KINDS = {"real": "number", "double": "number", "float": "number", "string": "text", "integer": "integer"}


@dataclass(frozen=True)
class Output:
    """An output field that is answered.

    ``index``: its place in what PMML4S gives. ``sources``: the names that it may have where a segment answers in the
    model's place, best first. ``kind``: ``number``, ``integer``, ``text``, ``identity`` (text that
    is never empty) or ``other``.
    """

    name: str
    index: int
    sources: tuple[str, ...]
    kind: str
    dtype: str
    is_label: bool
    is_probability: bool


def load_model(path: Path, document: PmmlDocument) -> Any:
    """The model as PMML4S has it, with all that it can compute as its output fields.

    :raises InvalidModelError: PMML4S refuses it.
    """
    loader = get_java_class("org.pmml4s.model.Model")
    try:
        if document.encoding == "utf-8" and not document.wraps_arrays:
            model = loader.fromFile(str(path))
        else:
            with path.open("rb") as source:
                model = loader.fromBytes(jpype.JArray(jpype.JByte)(rewrite(source, document.encoding)))
        model.setSupplementOutput(True)
        _supplement_segments(model)
        model.setOutputFields(_mend(model, _list_candidates(model)))
    except jpype.JException as exc:
        raise InvalidModelError(f"PMML4S refuses the model: {describe_java_error(exc)}") from exc
    return model


def describe_java_error(error: Any) -> str:
    return str(error.message() or error.javaClass().getName())


def get_method(model: Any) -> str | None:
    """How a MiningModel puts its segments together; ``None`` for all other models."""
    if str(model.modelElement()) != "MiningModel" or not model.isSegmentation():
        return None
    return str(model.segmentation().get().multipleModelMethod())


def answers_by_segment(model: Any) -> bool:
    """Whether the answer is that of whichever segment fired, so that only names tell what is what."""
    method = get_method(model)
    if method == "modelChain":
        last = model.segmentation().get().segments()[-1]
        return not model.output().isDefined() and str(last.predicate()) != "True"
    return method == "selectFirst"


def list_shares(model: Any) -> list[int]:
    """Where the probabilities of all classes stand that PMML4S divides by the number of segments instead of by their
    weight (seen with 1.5.8); empty for models without that mistake."""
    if get_method(model) != "weightedMajorityVote":
        return []
    fields = enumerate(model.outputFields())
    shares = {str(f.value().get()): i for i, f in fields if str(f.feature()) == "probability" and f.value().isDefined()}
    return list(shares.values())


def list_outputs(model: Any, document: PmmlDocument) -> list[Output]:
    """Those that the model declares, or all it can give when it declares none; and always the prediction itself, under
    the name of the target."""
    declared = _list_declared(model)
    fields = list(model.outputFields())
    has_label = any(str(f.feature()) == _LABEL and str(f.name()) in declared for f in fields)
    target = str(model.targetName()) if model.targetName() is not None else None
    others = list(_list_segment_fields(model)) if answers_by_segment(model) else []
    outputs: list[Output] = []
    for index, output in enumerate(fields):
        name, is_label = str(output.name()), str(output.feature()) == _LABEL
        is_extra = name not in declared
        if not output.isFinalResult() or (declared and is_extra and (not is_label or has_label)):
            continue
        alike = [str(f.name()) for f in others if _is_alike(f, output)]
        shown = _choose_name(output, target) if is_extra else name
        if shown not in {chosen.name for chosen in outputs}:
            dtype = str(output.dataType())
            kind = "identity" if str(output.feature()) in _IDENTITIES else _KINDS.get(dtype, "other")
            outputs.append(
                Output(
                    shown,
                    index,
                    (*dict.fromkeys((name, *alike)),),
                    kind,
                    dtype,
                    is_label,
                    str(output.feature()) == "probability",
                )
            )
    if not outputs:
        raise InvalidModelError(f"the {document.model_element} has neither a target nor an Output; it answers nothing")
    return outputs


def build_inputs(model: Any, document: PmmlDocument) -> list[SignatureField]:
    """The active fields, in the order in which PMML4S takes them; then a target whose residual is an output."""
    return [_build_input(document, str(name)) for name in model.usedSchema().fieldNames()]


def build_outputs(outputs: list[Output], document: PmmlDocument) -> list[SignatureField]:
    target = document.data_fields.get(document.target_names[0]) if document.target_names else None
    fields = []
    for output in outputs:
        dtype = "double" if output.dtype == "real" else "any" if output.dtype == "unresolved" else output.dtype
        known = output.is_label and target is not None and is_categorical(target) and target.dtype == dtype
        values = [to_value(target, text) for text in target.values] if known and target is not None else None
        fields.append(SignatureField(name=output.name, dtype=dtype, values=values))
    return fields


def is_categorical(data: DataField) -> bool:
    return data.optype in {"categorical", "ordinal"} and bool(data.values)


def to_value(data: DataField, text: str) -> Any:
    """A category as requests carry it."""
    try:
        if data.dtype == "integer":
            return int(float(text)) if not text.strip("+-").isdigit() else int(text)
        if data.dtype in {"double", "float"}:
            return float(text)
    except (ValueError, OverflowError) as exc:
        raise InvalidModelError(f"field {data.name!r} has the value {text!r}, which is no {data.dtype}") from exc
    return text.lower() == "true" if data.dtype == "boolean" else text


def _build_input(document: PmmlDocument, name: str) -> SignatureField:
    data = document.data_fields.get(name)
    if data is None:
        raise InvalidModelError(f"input field {name!r} is not in the DataDictionary")
    mining = document.mining_fields.get(name) or MiningField(name, "active", False, False)
    accepts_all = mining.accepts_invalid or not is_categorical(data)
    return SignatureField(
        name=name,
        dtype=data.dtype,
        required=not mining.replaces_missing and name not in document.target_names,
        values=None if accepts_all else [to_value(data, text) for text in data.values],
    )


def _supplement_segments(model: Any) -> None:
    """Let each segment give all classes' probabilities and its prediction: with an Output that names some of them,
    PMML4S takes the others for missing and averages nonsense (seen with 1.5.8)."""
    method = get_method(model)
    if method is None:
        return
    segments = [segment.model() for segment in model.segmentation().get().segments()]
    answers_alone = answers_by_segment(model)
    for segment in segments:
        is_mining = get_method(segment) is not None
        _supplement_segments(segment)
        # other segments of a chain feed those behind them, by names that must stay the model's own
        feeds_others = method == "modelChain" and segment is not segments[-1] and not answers_alone
        if feeds_others or not (is_mining or segment.output().isDefined()):
            continue
        if segment.isClassification() or answers_alone or method == "modelChain":
            segment.setSupplementOutput(True)
            if not _has_candidates(segment):
                segment.setSupplementOutput(False)


def _has_candidates(model: Any) -> bool:
    """Without a target of its own PMML4S fails to make up a segment's fields."""
    try:
        model.candidateOutputFields()
    except jpype.JException:
        return False
    return True


def _list_candidates(model: Any) -> Any:
    try:
        return model.unionCandidateOutputFields()
    except jpype.JException:
        if model.output().isDefined():
            return model.output().get().outputFields()
        raise


def _list_declared(model: Any) -> frozenset[str]:
    """Names in the model's Output, or in that of the last model of a chain."""
    if model.output().isDefined():
        return frozenset(str(output.name()) for output in model.output().get().outputFields())
    if get_method(model) == "modelChain":
        return _list_declared(model.segmentation().get().segments()[-1].model())
    return frozenset()


def _list_segment_fields(model: Any) -> Iterator[Any]:
    for segment in model.segmentation().get().segments():
        yield from segment.model().candidateOutputFields()


def _is_alike(one: Any, other: Any) -> bool:
    return bool(one.feature() == other.feature() and one.value() == other.value())


def _mend(model: Any, fields: Any) -> Any:
    """The output fields, without two of PMML4S's mistakes (seen with 1.5.8)."""
    mended = []
    for field in fields:
        if str(model.modelElement()) == "AssociationModel":
            mended.append(_turn_rank_order(field))
        elif str(field.feature()) == "probability" and field.value().isDefined():
            mended.append(_give_type(model, field))
        else:
            mended.append(field)
    return jpype.JArray(jpype.JClass("org.pmml4s.metadata.OutputField"))(mended)


def _turn_rank_order(field: Any) -> Any:
    """PMML4S puts the weakest rule first where the strongest is asked for, and the other way round."""
    orders = get_java_class("org.pmml4s.metadata.RankOrder")
    order = orders.ascending() if field.rankOrder() == orders.descending() else orders.descending()
    return get_java_class("org.pmml4s.metadata.OutputField")(
        field.name(), field.displayName(), field.dataType(), field.opType(), field.feature(), field.targetField(),
        field.value(), field.ruleFeature(), field.algorithm(), field.rank(), field.rankBasis(), order,
        field.isMultiValued(), field.segmentId(), field.isFinalResult(), field.decisions(), field.expr(),
    )  # fmt: skip


def _give_type(model: Any, field: Any) -> Any:
    """PMML4S looks for the classes that a Targets element lists as strings, whatever the target's type is."""
    target, value = model.targetField(), field.value().get()
    is_made_up = str(field.name()) == f"probability_{value}"
    if target is None or not is_made_up or str(value.dataType()) != "string" or str(target.dataType()) == "string":
        return field
    return get_java_class("org.pmml4s.metadata.OutputField").probability(target.toVal(str(value)))


def _choose_name(output: Any, target: str | None) -> str:
    """The name to show of a field that PMML4S made up."""
    name, value = str(output.name()), output.value()
    if target is not None and name == _LABEL_PREFIX + target:
        return target
    if str(output.feature()) == "probability" and value.isDefined() and str(value.get().dataType()) in _REALS:
        return f"probability_{_format_category(float(value.get().toVal()))}"  # PMML4S rounds to three digits
    return name


def _format_category(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)
