"""The request that shows how a model is called, made from a signature: one row of zeros, false, and a string.

What a string must be, the signature does not say: a word, a serialized ``tf.train.Example``, or an image. So there are
several examples, to be tried in turn; features of an ``Example`` are those that the graph parses.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.tensorflow.graph_walk import GraphWalk
from airflow_provider_timl.runtimes.tensorflow.parsed_features import build_serialized_example
from airflow_provider_timl.runtimes.tensorflow.signatures import CLASSIFY, DEFAULT, REGRESS, GraphSignature
from airflow_provider_timl.runtimes.tensors.spec import TensorSpec

#: Values that an example may have in all: more would be no use to a reader.
_MOST_VALUES = 2**20
#: A PNG of one black pixel.
_IMAGE = {"b64": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"}


def build_examples(signature: GraphSignature, walk: GraphWalk) -> list[dict[str, Any]]:
    """Bodies for ``:predict``, in row form where all inputs have a batch.

    :raises InvalidModelError: an input is too large.
    """
    if all(spec.dtype != object for spec in signature.specs.inputs.values()):
        return [_build_body(signature, "")]
    serialized = {"b64": b64encode(build_serialized_example(walk)).decode()}
    is_serialized = signature.method in {CLASSIFY, REGRESS}
    texts: list[Any] = [serialized, "a", _IMAGE] if is_serialized else ["a", serialized, _IMAGE]
    return [_build_body(signature, text) for text in texts]


def _build_body(signature: GraphSignature, text: Any) -> dict[str, Any]:
    specs = signature.specs.inputs
    name = {} if signature.specs.name == DEFAULT else {"signature_name": signature.specs.name}
    has_rows = all(spec.shape is None or spec.shape[:1] in {(None,), (1,)} for spec in specs.values())
    if not has_rows:
        return {**name, "inputs": {alias: _build_value(spec, spec.shape or (), text) for alias, spec in specs.items()}}
    row = {alias: _build_value(spec, (spec.shape or ())[1:], text) for alias, spec in specs.items()}
    return {**name, "instances": [row]}


def _build_value(spec: TensorSpec, shape: tuple[int | None, ...], text: Any) -> Any:
    sizes = tuple(1 if size is None else size for size in shape)
    if np.prod(sizes, dtype=np.float64) > _MOST_VALUES:
        raise InvalidModelError(f"the input {spec.name!r} of shape {list(sizes)} is too large to try")
    if spec.dtype == object:
        return np.full(sizes, text, object).tolist()
    return np.zeros(sizes, bool if spec.dtype == bool else np.int64 if spec.dtype.kind in "iu" else float).tolist()
