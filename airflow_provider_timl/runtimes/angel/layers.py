"""The layers, each as a function that is built once from its weights and computes a whole batch in a few array calls.

What flows between layers is a vector an instance, shape (instances, width), or *parts*: a vector for each feature,
shape (instances, parts, width) where every instance has as many, else ``Ragged``. Shapes are worked out and checked
when the model is loaded, so that a request that passed its own checks cannot fail here.

:source: mlcore 0.1.1 of Angel Serving, ``com.tencent.angel.mlcore.network.layers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.angel.batch import Array, Batch
from airflow_provider_timl.runtimes.angel.graph import Graph, Layer, Transfer
from airflow_provider_timl.runtimes.angel.weights import Table, WeightReader

_SIGMOID_END = 20.0
#: As an array, which functions take twice as quickly as a number; no wider than any type that it meets.
_ZERO = np.zeros((), np.float32)
#: Numbers that all layers together may hold of one instance. Layers without weights grow by what a graph claims.
_MOST_NUMBERS = 2**24
#: Products that an input layer holds at a time.
_MOST_PRODUCTS = 2**22


@dataclass(frozen=True)
class Ragged:
    """Parts of instances that have different numbers of them; every instance has one at least."""

    values: Array
    starts: Array


Value = Array | Ragged
Compute = Callable[[Batch, list[Any]], Any]


@dataclass(frozen=True)
class Shape:
    """Of what a layer gives for one instance. ``parts`` is ``None`` for a vector; of an embedding, it is the number
    that ``outputdim`` allows for."""

    width: int
    parts: int | None = None

    @property
    def flat_width(self) -> int:
        return self.width if self.parts is None else self.width * self.parts


class Network:
    """A graph with its weights.

    ``feature_count``: how many features every instance must have, ``None`` where any number will do;
    ``needs_features``: whether an instance without any cannot be computed. ``width``: of what the loss gets.
    ``numbers_an_instance`` and ``numbers_a_feature`` are held while a batch is computed, for bounding its memory.
    """

    def __init__(self, graph: Graph, reader: WeightReader, layout: str) -> None:
        self.feature_count: int | None = None
        self.needs_features = False
        self.numbers_an_instance = 0
        self.numbers_a_feature = 1
        self._graph = graph
        self._reader = reader
        self._layout = layout
        self._steps: list[tuple[str, tuple[str, ...], Compute]] = []
        self._shapes: dict[str, Shape] = {}
        self._layers = {layer.name: layer for layer in graph.layers}
        for layer in graph.layers[:-1]:
            shape, compute = _BUILDERS[layer.kind](self, layer)
            self._take(layer, shape.flat_width)
            self._shapes[layer.name] = shape
            self._steps.append((layer.name, layer.inputs, compute))
        (self._last,) = graph.layers[-1].inputs
        self.width = self.flatten(self._last)
        if self.feature_count is not None and 0 <= graph.dimension < self.feature_count:
            raise InvalidModelError(
                f"graph.json: layers need {self.feature_count} features of an instance; indexrange is {graph.dimension}"
            )

    def run(self, batch: Batch) -> Array:
        """:return: what the loss layer gets, shape (instances, width)."""
        values: dict[str, Any] = {}
        for name, inputs, compute in self._steps:
            values[name] = compute(batch, [values[source] for source in inputs])
        return _flatten(values[self._last])

    # what builders ask for

    def get_shape(self, name: str) -> Shape:
        return self._shapes[name]

    def flatten(self, name: str) -> int:
        """The width of a layer's output in a row; of an embedding, this fixes the number of features."""
        self.fix_parts(name)
        return self._shapes[name].flat_width

    def fix_parts(self, name: str) -> int | None:
        """The number of parts that a layer gives, which must now be that of every instance."""
        shape = self._shapes[name]
        if self._layers[name].kind == "embedding":
            if self.feature_count not in {None, shape.parts}:
                raise InvalidModelError(
                    f"graph.json: layers need {self.feature_count} and {shape.parts} features of one instance"
                )
            self.feature_count = shape.parts
        return shape.parts

    # layers that read the request

    def build_simple_input(self, layer: Layer) -> tuple[Shape, Compute]:
        width, dimension = layer.width, self._graph.dimension
        bias = self._reader.read_vector(f"{layer.name}_bias", width)
        transfer = build_transfer(layer.transfer)
        if self._graph.data_format == "dense":
            weights = self._read_matrix(layer, dimension)
            self._take(layer, dimension)

            def compute_dense(batch: Batch, _: list[Any]) -> Array:
                return transfer(np.dot(batch.to_dense(dimension), weights) + bias)

            return Shape(width), compute_dense
        table = self._reader.read_table(f"{layer.name}_weight", width, dimension)

        def compute(batch: Batch, _: list[Any]) -> Array:
            return transfer(_sum_products(batch, table).astype(bias.dtype) + bias)

        return Shape(width), compute

    def build_embedding(self, layer: Layer) -> tuple[Shape, Compute]:
        factors = layer.factors
        if layer.width % factors:
            raise InvalidModelError(
                f"graph.json, layer {layer.name}: outputdim {layer.width} is no multiple of numfactors {factors}"
            )
        self.needs_features = True
        self.numbers_a_feature += factors
        table = self._reader.read_embedding(f"{layer.name}_embedding", factors, self._graph.dimension)

        def compute(batch: Batch, _: list[Any]) -> Value:
            parts = table.get(batch.ids) * batch.values[:, None]
            if self.feature_count is None:
                return Ragged(parts, batch.starts)
            return parts.reshape(len(batch), self.feature_count, factors)

        return Shape(factors, layer.width // factors), compute

    def build_kmeans(self, layer: Layer) -> tuple[Shape, Compute]:
        """The nearest centre's number, and the way from there."""
        dimension = self._graph.dimension
        if dimension < 0:
            raise InvalidModelError(f"graph.json, layer {layer.name}: k-means needs indexrange")
        self._take(layer, dimension * 2)
        table = self._reader.read_table(f"{layer.name}_center", layer.width, dimension)
        centres = np.ascontiguousarray(table.get(np.arange(dimension)).T)
        halved_norms = (centres.astype(np.float64) ** 2).sum(axis=1) / 2
        transfer = build_transfer(layer.transfer)

        def compute(batch: Batch, _: list[Any]) -> Array:
            points = batch.to_dense(dimension)
            nearest = np.argmin(halved_norms - points.astype(np.float64) @ centres.T, axis=1)
            return transfer(np.concatenate([nearest[:, None].astype(points.dtype), points - centres[nearest]], axis=1))

        return Shape(dimension + 1), compute

    # layers with weights

    def build_fully_connected(self, layer: Layer) -> tuple[Shape, Compute]:
        weights = self._read_matrix(layer, self.flatten(layer.inputs[0]))
        bias = self._reader.read_vector(f"{layer.name}_bias", layer.width)
        transfer = build_transfer(layer.transfer)
        return Shape(layer.width), lambda _, inputs: transfer(np.dot(_flatten(inputs[0]), weights) + bias)

    def build_shared(self, layer: Layer) -> tuple[Shape, Compute]:
        """One small layer for each piece of its input."""
        total, width = self.flatten(layer.inputs[0]), layer.weight_width
        piece = total * width // layer.width
        if piece * layer.width != total * width or layer.width % width:
            raise InvalidModelError(
                f"graph.json, layer {layer.name}: {total} inputs cannot be cut into pieces for {layer.width} outputs, "
                f"{width} a piece"
            )
        weights = self._reader.read_vector(f"{layer.name}_weight", width * piece).reshape(width, piece).T
        bias = self._reader.read_vector(f"{layer.name}_bias", width)
        transfer = build_transfer(layer.transfer)
        parts = layer.width // width

        def compute(_: Batch, inputs: list[Any]) -> Any:
            pieces = _flatten(inputs[0]).reshape(-1, parts, piece)
            whole = (pieces @ weights + bias).reshape(-1, parts * width)
            return transfer(whole).reshape(-1, parts, width)

        return Shape(width, parts), compute

    def build_cross(self, layer: Layer) -> tuple[Shape, Compute]:
        width = self._get_common_width(layer)
        weights = self._reader.read_vector(f"{layer.name}_weight", width)
        bias = self._reader.read_vector(f"{layer.name}_bias", width)

        def compute(_: Batch, inputs: list[Any]) -> Any:
            first, last = map(_flatten, inputs)
            return first * (last @ weights)[:, None] + bias + last

        return Shape(width), compute

    # layers of parts

    def build_inner_sum(self, layer: Layer) -> tuple[Shape, Compute]:
        """Half of what the square of the sum has more than the squares of the parts, each summed up in double."""
        norms = _build_square_norms(self._get_parts(layer).width)

        def compute(_: Batch, inputs: list[Any]) -> Any:
            total = _sum_parts(inputs[0])
            return (norms(total) - _sum_parts(inputs[0], norms)) * total.dtype.type(0.5)

        return Shape(1), compute

    def build_interaction(self, layer: Layer) -> tuple[Shape, Compute]:
        shape = self._get_parts(layer)

        def compute(_: Batch, inputs: list[Any]) -> Any:
            total = _sum_parts(inputs[0])
            return (total * total - _sum_parts(inputs[0], np.square)) * total.dtype.type(0.5)

        return Shape(shape.width), compute

    def build_inner_cross(self, layer: Layer) -> tuple[Shape, Compute]:
        """Products of all pairs, first with second, first with third ...; what is left of the width is zeros."""
        count = self._get_parts(layer).parts or 0
        self.fix_parts(layer.inputs[0])
        pairs = count * (count - 1) // 2
        if pairs > layer.width:
            raise InvalidModelError(
                f"graph.json, layer {layer.name}: {count} parts have {pairs} pairs; outputdim is {layer.width}"
            )
        self._take(layer, count * count)
        rows, columns = np.triu_indices(count, 1)

        def compute(_: Batch, inputs: list[Any]) -> Any:
            parts = inputs[0]
            products = np.zeros((len(parts), layer.width), parts.dtype)
            products[:, :pairs] = (parts @ parts.transpose(0, 2, 1))[:, rows, columns]
            return products

        return Shape(layer.width), compute

    def build_tiled(self, layer: Layer) -> tuple[Shape, Compute]:
        """Angel multiplies in place, and trains so: each pair of ``a`` is the product of ``a`` and all after it."""
        shape = self._get_parts(layer)
        self.fix_parts(layer.inputs[0])
        count = shape.parts or 0
        pairs = count * (count - 1) // 2
        self._take(layer, pairs * shape.width)
        if pairs == 0:
            raise InvalidModelError(f"graph.json, layer {layer.name}: {count} part(s) have no pairs")
        repeats = np.arange(count - 1, 0, -1)

        def compute(_: Batch, inputs: list[Any]) -> Any:
            products = np.cumprod(inputs[0][:, ::-1], axis=1)[:, ::-1]
            return np.repeat(products[:, :-1], repeats, axis=1)

        return Shape(shape.width, pairs), compute

    def build_weighted_sum(self, layer: Layer) -> tuple[Shape, Compute]:
        weights, parts = layer.inputs
        shape = self._shapes[parts]
        self.fix_parts(parts)
        if shape.parts is None or self.flatten(weights) != shape.parts:
            raise InvalidModelError(f"graph.json, layer {layer.name}: it needs as many weights as parts")

        def compute(_: Batch, inputs: list[Any]) -> Any:
            return (_flatten(inputs[0])[:, None, :] @ inputs[1])[:, 0]

        return Shape(shape.width), compute

    # layers that join

    def build_concat(self, layer: Layer) -> tuple[Shape, Compute]:
        width = sum(self.flatten(name) for name in layer.inputs)
        if width != layer.width:
            raise InvalidModelError(
                f"graph.json, layer {layer.name}: its inputs have {width} numbers; outputdim is {layer.width}"
            )
        return Shape(width), lambda _, inputs: np.concatenate([_flatten(value) for value in inputs], axis=1)

    def build_sum(self, layer: Layer) -> tuple[Shape, Compute]:
        return Shape(self._get_common_width(layer)), lambda _, inputs: _reduce(np.add, inputs)

    def build_product(self, layer: Layer) -> tuple[Shape, Compute]:
        return Shape(self._get_common_width(layer)), lambda _, inputs: _reduce(np.multiply, inputs)

    def build_dot(self, layer: Layer) -> tuple[Shape, Compute]:
        self._get_common_width(layer)
        return Shape(1), lambda _, inputs: _reduce(np.multiply, inputs).sum(axis=1, keepdims=True)

    def _take(self, layer: Layer, numbers: int) -> None:
        """Bound what an instance takes, before anything of that size is made."""
        self.numbers_an_instance += numbers
        if self.numbers_an_instance > _MOST_NUMBERS:
            raise InvalidModelError(
                f"graph.json, layer {layer.name}: one instance would take more than {_MOST_NUMBERS} numbers"
            )

    def _read_matrix(self, layer: Layer, inputs: int) -> Array:
        """Weights as they multiply from the right: shape (inputs, outputs)."""
        if inputs < 0:
            raise InvalidModelError(f"graph.json, layer {layer.name}: dense data needs indexrange")
        flat = self._reader.read_vector(f"{layer.name}_weight", layer.width * inputs)
        is_in_out = self._layout == "in_out"
        matrix: Array = flat.reshape(inputs, layer.width) if is_in_out else flat.reshape(layer.width, inputs).T
        return matrix

    def _get_common_width(self, layer: Layer) -> int:
        widths = {self.flatten(name) for name in layer.inputs}
        if len(widths) != 1:
            raise InvalidModelError(f"graph.json, layer {layer.name}: its inputs differ in width: {sorted(widths)}")
        return widths.pop()

    def _get_parts(self, layer: Layer) -> Shape:
        shape = self._shapes[layer.inputs[0]]
        if shape.parts is None:
            raise InvalidModelError(
                f"graph.json, layer {layer.name}: {layer.inputs[0]} gives no vector a feature to cross"
            )
        return shape


_BUILDERS: dict[str, Callable[[Network, Layer], tuple[Shape, Compute]]] = {
    "simpleinputlayer": Network.build_simple_input,
    "embedding": Network.build_embedding,
    "kmeansinputlayer": Network.build_kmeans,
    "fclayer": Network.build_fully_connected,
    "paramsharedfc": Network.build_shared,
    "crosslayer": Network.build_cross,
    "biinnersumcross": Network.build_inner_sum,
    "biinnercross": Network.build_inner_cross,
    "biinteractioncross": Network.build_interaction,
    "biinteractioncrosstiled": Network.build_tiled,
    "weightedsumlayer": Network.build_weighted_sum,
    "concatlayer": Network.build_concat,
    "sumpooling": Network.build_sum,
    "mulpooling": Network.build_product,
    "dotpooling": Network.build_dot,
}


def _sum_products(batch: Batch, table: Table) -> Array:
    """Each instance's values by their weights, summed as Angel does: products in the model's type, their sum in double.

    :return: shape (instances, width of the table), in double.
    """
    instance_numbers = batch.instance_numbers
    step = max(1, _MOST_PRODUCTS // table.width)
    sums = _sum_part(table, batch.ids[:step], batch.values[:step], instance_numbers[:step], len(batch))
    for first in range(step, len(batch.ids), step):  # of very large batches
        part = slice(first, first + step)
        sums += _sum_part(table, batch.ids[part], batch.values[part], instance_numbers[part], len(batch))
    return sums


def _sum_part(table: Table, ids: Array, values: Array, instance_numbers: Array, count: int) -> Array:
    width, products = table.width, table.get(ids) * values[:, None]
    if width > 1:
        instance_numbers = (instance_numbers[:, None] * width + np.arange(width)).ravel()
    return np.bincount(instance_numbers, products.ravel(), count * width).reshape(count, width)


def _flatten(value: Any) -> Array:
    flat: Array = value if value.ndim == 2 else value.reshape(len(value), -1)
    return flat


def _reduce(function: np.ufunc, inputs: Sequence[Any]) -> Array:
    result = _flatten(inputs[0])
    for value in inputs[1:]:
        result = function(result, _flatten(value))
    return result


def _sum_parts(parts: Value, transform: Callable[[Array], Array] | None = None) -> Array:
    """The sum over each instance's parts, transformed: shape (instances, width of a part)."""
    values = parts.values if isinstance(parts, Ragged) else parts
    if transform is not None:
        values = transform(values)
    return np.add.reduceat(values, parts.starts[:-1], 0) if isinstance(parts, Ragged) else np.add.reduce(values, 1)


def _build_square_norms(width: int) -> Callable[[Array], Array]:
    """Of vectors of that width, summed up in double, which a product with ones is the quickest way to do: shape
    (..., width) becomes (..., 1)."""
    ones = np.ones((width, 1))

    def compute(values: Array) -> Array:
        squares = (values * values).reshape(-1, width).astype(np.float64)
        norms: Array = np.dot(squares, ones).astype(values.dtype)
        return norms.reshape(*values.shape[:-1], 1)

    return compute


def build_transfer(transfer: Transfer) -> Callable[[Array], Array]:
    """Element by element, but for softmax. A dropout scales, as Angel's does when it predicts."""
    function = _TRANSFERS[transfer.name]
    if transfer.kept == 1:
        return function
    return lambda values: function(values) * values.dtype.type(transfer.kept)


def _sigmoid(values: Array) -> Array:
    """In double; exactly 0 and 1 beyond 20 on either side, as Angel's."""
    wide = values.astype(np.float64)
    result = 1 / (1 + np.exp(-wide))
    result[wide > _SIGMOID_END] = 1
    result[wide < -_SIGMOID_END] = 0
    return result.astype(values.dtype)


def softmax(values: Array) -> Array:
    """Over each row, in double; its largest is taken off first, so that nothing overflows."""
    wide = values.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    shares: Array = (powers / powers.sum(axis=-1, keepdims=True)).astype(values.dtype)
    return shares


def _tanh(values: Array) -> Array:
    return np.tanh(values.astype(np.float64)).astype(values.dtype)


def _identity(values: Array) -> Array:
    return values


def _relu(values: Array) -> Array:
    return np.maximum(values, _ZERO)


_TRANSFERS: dict[str, Callable[[Array], Array]] = {
    "identity": _identity,
    "relu": _relu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softmax": softmax,
    "dropout": _identity,
    "sigmoidwithdropout": _sigmoid,
    "tanhwithdropout": _tanh,
}
