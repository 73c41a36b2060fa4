"""A second evaluator of Angel graphs, as plain as can be: loops over one instance at a time, in double.

Written from the description of the layers alone; it shares nothing with the engine that it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Vector = list[float]
Parts = list[Vector]


def evaluate(layers: Sequence[Mapping[str, Any]], weights: Mapping[str, Any], instance: Mapping[int, float]) -> Vector:
    """:param layers: in an order in which each comes after its inputs, the loss last.
    :param weights: of each matrix, a list of rows as dicts of column to value.
    :return: what the loss layer gets.
    """
    outputs: dict[str, Any] = {}
    for layer in layers:
        inputs = [outputs[name] for name in layer.get("inputlayers", [])]
        if layer["type"] == "LossLayer":
            return flatten(inputs[0])
        outputs[layer["name"]] = _LAYERS[layer["type"]](layer, weights, instance, inputs)
    raise AssertionError("no loss")


def flatten(value: Any) -> Vector:
    return [number for part in value for number in part] if value and isinstance(value[0], list) else value


def transfer(name: str, values: Vector) -> Vector:
    if name == "softmax":
        powers = [math.exp(value - max(values)) for value in values]
        return [power / sum(powers) for power in powers]
    return [_TRANSFERS[name](value) for value in values]


def sigmoid(value: float) -> float:
    return 1.0 if value > 20 else 0.0 if value < -20 else 1 / (1 + math.exp(-value))


_TRANSFERS = {
    "identity": lambda value: value,
    "relu": lambda value: max(value, 0.0),
    "tanh": math.tanh,
    "sigmoid": sigmoid,
}


def get_vector(weights: Mapping[str, Any], name: str, size: int) -> Vector:
    return [weights[name][0].get(column, 0.0) for column in range(size)]


def simple_input(layer: Any, weights: Any, instance: Any, _: Any) -> Vector:
    bias = get_vector(weights, f"{layer['name']}_bias", layer["outputdim"])
    rows = weights[f"{layer['name']}_weight"]
    sums = [sum(rows[o].get(key, 0.0) * value for key, value in sorted(instance.items())) for o in range(len(bias))]
    return transfer(layer["transfunc"], [total + b for total, b in zip(sums, bias, strict=True)])


def embedding(layer: Any, weights: Any, instance: Any, _: Any) -> Parts:
    rows = weights[f"{layer['name']}_embedding"][: layer["numfactors"]]
    return [[value * row.get(key, 0.0) for row in rows] for key, value in sorted(instance.items())]


def multiply(matrix: Vector, bias: Vector, x: Vector) -> Vector:
    return [sum(matrix[o * len(x) + i] * x[i] for i in range(len(x))) + bias[o] for o in range(len(bias))]


def fully_connected(layer: Any, weights: Any, _: Any, inputs: Any) -> Vector:
    x, width = flatten(inputs[0]), layer["outputdim"]
    matrix = get_vector(weights, f"{layer['name']}_weight", width * len(x))
    return transfer(layer["transfunc"], multiply(matrix, get_vector(weights, f"{layer['name']}_bias", width), x))


def shared(layer: Any, weights: Any, _: Any, inputs: Any) -> Parts:
    x, width = flatten(inputs[0]), layer["weightdim"]
    size = len(x) * width // layer["outputdim"]
    matrix = get_vector(weights, f"{layer['name']}_weight", width * size)
    bias = get_vector(weights, f"{layer['name']}_bias", width)
    whole = [y for first in range(0, len(x), size) for y in multiply(matrix, bias, x[first : first + size])]
    whole = transfer(layer["transfunc"], whole)
    return [whole[first : first + width] for first in range(0, len(whole), width)]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def inner_sum(_: Any, __: Any, ___: Any, inputs: Any) -> Vector:
    total = [sum(column) for column in zip(*inputs[0], strict=True)]
    return [(dot(total, total) - sum(dot(part, part) for part in inputs[0])) / 2]


def inner_cross(layer: Any, _: Any, __: Any, inputs: Any) -> Vector:
    parts = inputs[0]
    pairs = [dot(parts[a], parts[b]) for a in range(len(parts)) for b in range(a + 1, len(parts))]
    return pairs + [0.0] * (layer["outputdim"] - len(pairs))


def interaction(_: Any, __: Any, ___: Any, inputs: Any) -> Vector:
    return [(sum(column) ** 2 - sum(x * x for x in column)) / 2 for column in zip(*inputs[0], strict=True)]


def tiled(_: Any, __: Any, ___: Any, inputs: Any) -> Parts:
    parts, pairs = inputs[0], []
    for a in range(len(parts) - 1):
        product = [math.prod(column) for column in zip(*parts[a:], strict=True)]
        pairs += [product] * (len(parts) - 1 - a)
    return pairs


def weighted_sum(_: Any, __: Any, ___: Any, inputs: Any) -> Vector:
    shares, parts = flatten(inputs[0]), inputs[1]
    return [sum(share * part[j] for share, part in zip(shares, parts, strict=True)) for j in range(len(parts[0]))]


def cross(layer: Any, weights: Any, _: Any, inputs: Any) -> Vector:
    first, last = map(flatten, inputs)
    w = get_vector(weights, f"{layer['name']}_weight", len(first))
    b = get_vector(weights, f"{layer['name']}_bias", len(first))
    scale = dot(last, w)
    return [x * scale + c + y for x, c, y in zip(first, b, last, strict=True)]


def concat(_: Any, __: Any, ___: Any, inputs: Any) -> Vector:
    return [number for value in inputs for number in flatten(value)]


def add(_: Any, __: Any, ___: Any, inputs: Any) -> Vector:
    return [sum(column) for column in zip(*map(flatten, inputs), strict=True)]


def product(_: Any, __: Any, ___: Any, inputs: Any) -> Vector:
    return [math.prod(column) for column in zip(*map(flatten, inputs), strict=True)]


def dot_pooling(*given: Any) -> Vector:
    return [sum(product(*given))]


_LAYERS = {
    "SimpleInputLayer": simple_input,
    "Embedding": embedding,
    "FCLayer": fully_connected,
    "ParamSharedFC": shared,
    "BiInnerSumCross": inner_sum,
    "BiInnerCross": inner_cross,
    "BiInteractionCross": interaction,
    "BiInteractionCrossTiled": tiled,
    "WeightedSumLayer": weighted_sum,
    "CrossLayer": cross,
    "ConcatLayer": concat,
    "SumPooling": add,
    "MulPooling": product,
    "DotPooling": dot_pooling,
}


def answer(loss: str, z: Vector) -> dict[str, float]:
    """``pred``, ``proba``, ``predLabel`` and ``attached``."""
    nan, first = math.nan, z[0]
    if loss in {"LogLoss", "HingeLoss"}:
        proba = 0.0 if first < -700 else 1 / (1 + math.exp(-first))
        return {"pred": first, "proba": proba, "predLabel": 1.0 if first > 0 else -1.0, "attached": nan}
    if loss in {"L2Loss", "HuberLoss"}:
        return {"pred": first, "proba": nan, "predLabel": first, "attached": nan}
    if loss == "CrossEntropyLoss":
        odds = math.inf if first >= 1 else first / (1 - first)
        pred = math.log(min(max(odds, 1e-6), 3.4028234663852886e38))
        return {"pred": pred, "proba": first, "predLabel": 1.0 if first >= 0.5 else -1.0, "attached": nan}
    shares = transfer("softmax", z)
    winner = z.index(max(z))
    return {"pred": z[winner], "proba": shares[winner], "predLabel": float(winner), "attached": shares[0]}
