"""The ``angel`` engine against the plain evaluator of ``tests/angel_reference.py``, on graphs, files and requests that
are drawn: every layer, loss, file format and row type, in combinations that nobody thought of."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.angel.engine import AngelOptions, load_angel
from airflow_provider_timl.runtimes.angel.losses import to_java, to_java_strings
from tests.angel_reference import answer, evaluate
from tests.angel_writer import COLUMN_FORMATS, ROW_FORMATS, Layout, write_model

FEATURES = 7
TRANSFERS = st.sampled_from(["identity", "relu", "tanh", "sigmoid", "softmax"])
#: DENSE, DENSE_COMPONENT, SPARSE, SPARSE_COMPONENT, SPARSE_LONGKEY, SPARSE_LONGKEY_COMPONENT.
KINDS = (0, 1, 3, 4, 5, 6)
DENSE_KINDS = frozenset({0, 1})
Shape = tuple[int | None, int]


class Drawn:
    """A model that grows layer by layer. Shapes are (parts or None, width)."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.layers: list[dict[str, Any]] = []
        self.shapes: dict[str, Shape] = {}
        self.matrices: dict[str, Any] = {}
        self.weights: dict[str, list[dict[int, float]]] = {}
        self.features = draw(st.integers(2, 4))

    def add(self, kind: str, shape: Shape, inputs: tuple[str, ...] = (), **fields: Any) -> str:
        name = f"l{len(self.layers)}"
        layer = {"name": name, "type": kind, "outputdim": (shape[0] or 1) * shape[1], "inputlayers": list(inputs)}
        self.layers.append({**layer, **fields})
        self.shapes[name] = shape
        return name

    def add_matrix(self, name: str, rows: int, columns: int, *, by_column: bool = False) -> None:
        """With random contents in a random format, cut at random."""
        draw = self.draw
        format_name = draw(st.sampled_from(COLUMN_FORMATS if by_column else ROW_FORMATS))
        kind = draw(st.sampled_from(sorted(DENSE_KINDS) if format_name.startswith("Value") else KINDS))
        row_type = kind + draw(st.sampled_from([0, 7]))
        generator = np.random.default_rng(draw(st.integers(0, 2**32)))
        values = generator.normal(size=(rows + draw(st.integers(0, 2)), columns))
        values = values.astype("f4").astype("f8") if row_type >= 7 else values
        is_kept = np.ones(values.shape, bool) if kind in DENSE_KINDS else generator.random(values.shape) < 0.7
        if by_column:
            is_kept[:] = is_kept[0]
        stored = [
            {column: float(values[row, column]) for column in range(columns) if is_kept[row, column]}
            for row in range(len(values))
        ]
        inner = draw(st.sets(st.integers(1, columns), max_size=2))
        is_hashed = kind not in DENSE_KINDS and draw(st.booleans())
        bounds = None if is_hashed else tuple(sorted({0, columns, *inner}))
        shared = draw(st.integers(1, 3))
        end = "\r\n" if shared == 1 and draw(st.booleans()) else "\n"
        separator = draw(st.sampled_from([",", " ", "\t", ":", "|"]))
        self.matrices[name] = (stored, columns, Layout(format_name, row_type, bounds, shared, end, separator))
        self.weights[name] = stored[:rows]

    def count(self, name: str) -> int:
        parts, width = self.shapes[name]
        return (parts or 1) * width

    def pick(self, *, with_parts: bool = False) -> str:
        names = [name for name, shape in self.shapes.items() if not with_parts or shape[0] is not None]
        return self.draw(st.sampled_from(names))

    def pick_alike(self) -> tuple[str, str]:
        first = self.pick()
        others = [name for name in self.shapes if self.count(name) == self.count(first)]
        return first, self.draw(st.sampled_from(others))


def add_input(drawn: Drawn) -> None:
    width = drawn.draw(st.integers(1, 3))
    name = drawn.add("SimpleInputLayer", (None, width), transfunc=drawn.draw(TRANSFERS))
    drawn.add_matrix(f"{name}_weight", width, FEATURES)
    drawn.add_matrix(f"{name}_bias", 1, width)


def add_embedding(drawn: Drawn) -> None:
    factors = drawn.draw(st.integers(1, 3))
    name = drawn.add("Embedding", (drawn.features, factors), numfactors=factors)
    drawn.add_matrix(f"{name}_embedding", factors, FEATURES, by_column=True)


def add_fully_connected(drawn: Drawn) -> None:
    source, width = drawn.pick(), drawn.draw(st.integers(1, 3))
    name = drawn.add("FCLayer", (None, width), (source,), transfunc=drawn.draw(TRANSFERS))
    drawn.add_matrix(f"{name}_weight", 1, width * drawn.count(source))
    drawn.add_matrix(f"{name}_bias", 1, width)


def add_shared(drawn: Drawn) -> None:
    source, width = drawn.pick(), drawn.draw(st.integers(1, 3))
    total = drawn.count(source)
    piece = drawn.draw(st.sampled_from([size for size in range(1, total + 1) if total % size == 0]))
    shape = (total // piece, width)
    name = drawn.add("ParamSharedFC", shape, (source,), weightdim=width, transfunc=drawn.draw(TRANSFERS))
    drawn.add_matrix(f"{name}_weight", 1, width * piece)
    drawn.add_matrix(f"{name}_bias", 1, width)


def add_cross(drawn: Drawn) -> None:
    inputs = drawn.pick_alike()
    width = drawn.count(inputs[0])
    name = drawn.add("CrossLayer", (None, width), inputs)
    drawn.add_matrix(f"{name}_weight", 1, width)
    drawn.add_matrix(f"{name}_bias", 1, width)


def add_pairs(drawn: Drawn) -> None:
    source = drawn.pick(with_parts=True)
    parts, width = drawn.shapes[source]
    count = parts or 0
    pairs = count * (count - 1) // 2
    kinds: dict[str, Shape] = {"BiInnerSumCross": (None, 1), "BiInteractionCross": (None, width)}
    if 0 < pairs < 50:
        kinds |= {
            "BiInnerCross": (None, pairs + drawn.draw(st.integers(0, 1))),
            "BiInteractionCrossTiled": (pairs, width),
        }
    kind = drawn.draw(st.sampled_from(sorted(kinds)))
    drawn.add(kind, kinds[kind], (source,))


def add_weighted_sum(drawn: Drawn) -> None:
    parts = drawn.pick(with_parts=True)
    count, width = drawn.shapes[parts]
    shares = [name for name in drawn.shapes if drawn.count(name) == count]
    if shares:
        drawn.add("WeightedSumLayer", (None, width), (drawn.draw(st.sampled_from(shares)), parts))


def add_concat(drawn: Drawn) -> None:
    inputs = tuple(drawn.pick() for _ in range(drawn.draw(st.integers(1, 3))))
    total = sum(map(drawn.count, inputs))
    if total < 200:
        drawn.add("ConcatLayer", (None, total), inputs)


def add_pooling(drawn: Drawn) -> None:
    inputs = drawn.pick_alike()
    if drawn.draw(st.booleans()):
        inputs = (*inputs, inputs[0])
    kind = drawn.draw(st.sampled_from(["SumPooling", "MulPooling", "DotPooling"]))
    drawn.add(kind, (None, 1 if kind == "DotPooling" else drawn.count(inputs[0])), inputs)


STEPS = (
    add_input, add_embedding, add_fully_connected, add_shared, add_cross, add_pairs, add_weighted_sum, add_concat,
    add_pooling,
)  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> Drawn:
    drawn = Drawn(draw)
    add_input(drawn)
    add_embedding(drawn)
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=7)):
        step(drawn)
    last = next(reversed(drawn.shapes))
    losses = ["SoftmaxLoss"]
    if drawn.count(last) == 1:
        losses += ["LogLoss", "HingeLoss", "L2Loss", "HuberLoss", "CrossEntropyLoss"]
    drawn.add("LossLayer", (None, 1), (last,), lossfunc=draw(st.sampled_from(losses)))
    return drawn


def write(folder: Path, drawn: Drawn, order: list[dict[str, Any]], *, is_list: bool, is_double: bool) -> None:
    layers: Any = order if is_list else {layer["name"]: layer for layer in order}
    model = {"modeltype": "T_DOUBLE_DENSE" if is_double else "T_FLOAT_SPARSE"}
    graph = {"data": {"format": "dummy", "indexrange": FEATURES}, "model": model, "layers": layers}
    write_model(folder, graph, drawn.matrices)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_drawn_model_answers_as_the_plain_evaluator(data: st.DataObject) -> None:
    drawn = data.draw(models())
    keys = st.lists(st.integers(0, FEATURES - 1), min_size=drawn.features, max_size=drawn.features, unique=True)
    value = st.floats(-2, 2, width=32)
    drawn_keys = data.draw(st.lists(keys, min_size=1, max_size=4))
    instances = [{key: data.draw(value) for key in each} for each in drawn_keys]
    is_double = data.draw(st.booleans())
    folder = Path(tempfile.mkdtemp())
    try:
        order = data.draw(st.permutations(drawn.layers))
        write(folder / "m", drawn, order, is_list=data.draw(st.booleans()), is_double=is_double)
        engine = load_angel(folder / "m", Resources(), AngelOptions())
    finally:
        shutil.rmtree(folder)
    body = [{"sparseIndices": [*each], "sparseValues": [*each.values()]} for each in instances]
    (content,) = engine.run([engine.parse("predict", json.dumps({"instances": body}).encode())])
    assert isinstance(content, bytes)
    for instance, found in zip(instances, json.loads(content)["predictions"], strict=True):
        z = evaluate(drawn.layers, drawn.weights, instance)
        if max(map(abs, z)) > 1e12:
            continue  # powers of powers: both are right to some digits that nobody can say
        if is_double:
            assert_close(found, answer(drawn.layers[-1]["lossfunc"], z), z)
        else:
            assert found.keys() == {"trueLabel", "proba", "pred", "attached", "predLabel", "sid"}


def assert_close(found: dict[str, str], expected: dict[str, float], z: list[float]) -> None:
    scale = max(1.0, *map(abs, z))
    ranked = sorted(z)
    if len(z) > 1 and ranked[-1] - ranked[-2] < 1e-9 * scale:
        return  # two classes win, and rounding says which
    for name, number in expected.items():
        text = float(found[name])
        if name == "predLabel" and min(abs(z[0]), abs(z[0] - 0.5)) < 1e-9 * scale:
            continue
        is_same = math.isclose(text, number, rel_tol=1e-7, abs_tol=1e-8 * scale)
        assert is_same or (math.isnan(text) and math.isnan(number)), (name, text, number)


def spell(number: float) -> str:
    """The rule of ``Double.toString`` as its documentation has it, on the digits of ``repr``."""
    if math.isnan(number):
        return "NaN"
    sign = "-" if math.copysign(1, number) < 0 else ""
    size = abs(number)
    if math.isinf(size):
        return f"{sign}Infinity"
    if size == 0:
        return f"{sign}0.0"
    _, digit_numbers, exponent = Decimal(repr(size)).normalize().as_tuple()
    digits = "".join(map(str, digit_numbers))
    power = len(digits) - 1 + int(exponent)
    if not 1e-3 <= size < 1e7:
        return f"{sign}{digits[0]}.{digits[1:] or '0'}E{power}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole = digits[: power + 1].ljust(power + 1, "0")
    return f"{sign}{whole}.{digits[power + 1 :] or '0'}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats() | st.floats(-1e8, 1e8) | st.floats(-1e-2, 1e-2), min_size=1, max_size=40))
def test_numbers_are_spelled_by_javas_rule_one_by_one_and_together(numbers: list[float]) -> None:
    expected = [spell(number) for number in numbers]
    assert [to_java(number) for number in numbers] == expected
    many = np.array(numbers * 20)
    assert to_java_strings(many) == expected * 20
