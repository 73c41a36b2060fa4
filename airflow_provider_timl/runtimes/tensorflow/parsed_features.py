"""The features that a graph parses from serialized ``tf.train.Example`` messages, as one message that has them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.tensorflow.graph_walk import GraphWalk, get_attribute
from airflow_provider_timl.runtimes.tensorflow.library import example_pb2, types_pb2
from airflow_provider_timl.runtimes.tensorflow.tensor_protos import read_tensor

_MOST_VALUES = 2**16


def build_serialized_example(walk: GraphWalk) -> bytes:
    """An ``Example`` with zeros and empty strings in the features of a fixed shape; the others may be absent."""
    example = example_pb2.Example()
    for scope, node in walk.iterate():
        keys = _find_keys(walk, scope, node)
        dtypes, shapes = get_attribute(node, "Tdense").list.type, get_attribute(node, "dense_shapes").list.shape
        for key, dtype, shape in zip(keys, dtypes, shapes, strict=False):
            _fill(example.features.feature[key], dtype, math.prod(max(1, each.size) for each in shape.dim))
    content: bytes = example.SerializeToString()
    return content


def _find_keys(walk: GraphWalk, scope: str, node: Any) -> list[str]:
    """Names of the dense features that a node parses: one input in the newer operation, one for each in the older."""
    if node.op == "ParseExampleV2" and len(node.input) > 3:
        return list(_read_constant(walk, scope, node.input[3]))
    if node.op == "ParseExample":
        first = 2 + get_attribute(node, "Nsparse").i
        inputs = node.input[first : first + get_attribute(node, "Ndense").i]
        return [key for text in inputs for key in _read_constant(walk, scope, text)]
    return []


def _read_constant(walk: GraphWalk, scope: str, text: str) -> Iterator[str]:
    node = walk.nodes[scope].get(text.split(":", maxsplit=1)[0])
    if node is None or node.op != "Const":
        return
    try:
        values = read_tensor(node.name, get_attribute(node, "value").tensor)
    except InvalidInputError:
        return
    for value in values.reshape(-1).tolist():
        if isinstance(value, bytes):
            yield value.decode(errors="replace")


def _fill(feature: Any, dtype: int, count: int) -> None:
    if count > _MOST_VALUES:
        return
    if dtype == types_pb2.DT_FLOAT:
        feature.float_list.value.extend([0.0] * count)
    elif dtype == types_pb2.DT_INT64:
        feature.int64_list.value.extend([0] * count)
    elif dtype == types_pb2.DT_STRING:
        feature.bytes_list.value.extend([b""] * count)
