"""The signatures of a graph: TensorFlow's ``SignatureDef`` as specs of arrays, and as the product's own nouns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from airflow_provider_timl.entities import Signature, SignatureField
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.tensorflow.library import dtypes, types_pb2
from airflow_provider_timl.runtimes.tensorflow.tensor_protos import read_tensor
from airflow_provider_timl.runtimes.tensors.spec import Array, TensorSignature, TensorSpec

DEFAULT = "serving_default"
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))
#: The product's words for types; the others keep NumPy's.
_WORDS = {"float64": "double", "float32": "float", "object": "string", "bool": "boolean", "int64": "integer"}


@dataclass(frozen=True)
class GraphSignature:
    """One way to call the graph.

    :param specs: by alias, in alphabetical order, which is the order that TensorFlow Serving feeds and fetches in.
    :param feeds: names of the tensors of the inputs, in the order of ``specs.inputs``; ``fetches`` of the outputs.
    :param defaults: values of inputs that a request may leave out.
    :param is_joinable: whether the first dimension of all inputs and outputs is free, so that it may be the batch's.
    """

    specs: TensorSignature
    method: str
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    defaults: Mapping[str, Array]
    is_joinable: bool

    def get_feed(self, alias: str) -> str:
        return self.feeds[list(self.specs.inputs).index(alias)]

    def get_fetch(self, alias: str) -> str:
        return self.fetches[list(self.specs.outputs).index(alias)]


def read_signatures(graph: Any) -> dict[str, GraphSignature]:
    """Those that requests may name: not the ones that TensorFlow's loader keeps for itself.

    :raises InvalidModelError: there is none.
    """
    methods = {PREDICT, CLASSIFY, REGRESS}
    found = {name: each for name, each in sorted(graph.signature_def.items()) if each.method_name in methods}
    signatures = {name: _read_signature(name, each) for name, each in found.items()}
    if not any(each.fetches for each in signatures.values()):
        raise InvalidModelError("the model has no signature to serve; save it with signatures, such as serving_default")
    return signatures


def choose_default(signatures: Mapping[str, GraphSignature]) -> GraphSignature:
    """``serving_default``, or the only one, or the first by name: what the example and tables go by."""
    return signatures.get(DEFAULT) or next(each for each in signatures.values() if each.fetches)


def _read_signature(name: str, definition: Any) -> GraphSignature:
    inputs = {alias: _read_spec(name, alias, definition.inputs[alias]) for alias in sorted(definition.inputs)}
    outputs = {alias: _read_spec(name, alias, definition.outputs[alias]) for alias in sorted(definition.outputs)}
    shapes = [spec.shape for spec in (*inputs.values(), *outputs.values())]
    return GraphSignature(
        specs=TensorSignature(name, inputs, outputs),
        method=definition.method_name,
        feeds=tuple(definition.inputs[alias].name for alias in inputs),
        fetches=tuple(definition.outputs[alias].name for alias in outputs),
        defaults={alias: read_tensor(alias, proto) for alias, proto in definition.defaults.items()},
        is_joinable=bool(inputs) and all(shape is not None and shape[:1] == (None,) for shape in shapes),
    )


def _read_spec(signature: str, alias: str, info: Any) -> TensorSpec:
    if info.WhichOneof("encoding") != "name":
        raise InvalidModelError(
            f"signature {signature!r}: {alias!r} is a sparse or composite tensor, which requests cannot carry; "
            "save a signature that takes and gives dense tensors"
        )
    try:
        dtype = np.dtype(dtypes.as_dtype(info.dtype).as_numpy_dtype)
    except (TypeError, KeyError) as exc:
        kind = types_pb2.DataType.Name(info.dtype) if info.dtype in types_pb2.DataType.values() else info.dtype
        raise InvalidModelError(f"signature {signature!r}: {alias!r} is of type {kind}, which is no array") from exc
    shape = info.tensor_shape
    dimensions = None if shape.unknown_rank else tuple(None if d.size < 0 else int(d.size) for d in shape.dim)
    return TensorSpec(alias, dtype, dimensions)


def describe_signature(signature: GraphSignature, example: dict[str, Any] | None) -> Signature:
    """The signature as the product shows it: shapes of one instance."""
    return Signature(
        inputs=[
            _describe_spec(spec, required=name not in signature.defaults)
            for name, spec in signature.specs.inputs.items()
        ],
        outputs=[_describe_spec(spec, required=True) for spec in signature.specs.outputs.values()],
        example=example,
    )


def _describe_spec(spec: TensorSpec, *, required: bool) -> SignatureField:
    shape = list(spec.shape[1:]) if spec.shape else [] if spec.shape == () else [None]
    word = _WORDS.get(spec.dtype.name, spec.dtype.name)
    return SignatureField(name=spec.name, dtype=word, shape=shape, required=required)
