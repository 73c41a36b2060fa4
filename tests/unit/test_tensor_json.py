"""TensorFlow Serving's REST rules: every case of its documentation, every type, and whatever else may be sent.

:source: https://www.tensorflow.org/tfx/serving/api_rest and tensorflow/serving ``util/json_tensor.cc``.
"""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_timl.exceptions import InvalidInputError
from airflow_provider_timl.runtimes.tensors.json_answer import write_predict
from airflow_provider_timl.runtimes.tensors.json_request import PredictRequest, read_predict
from airflow_provider_timl.runtimes.tensors.spec import Array, TensorSignature, TensorSpec

Shape = tuple[int | None, ...] | None
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = ["float16", "float32", "float64", "bfloat16"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def build_dtype(name: str) -> np.dtype[Any]:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def build(name: str = "serving_default", **inputs: tuple[str, Shape]) -> dict[str, TensorSignature]:
    specs = {key: TensorSpec(key, build_dtype(dtype), shape) for key, (dtype, shape) in inputs.items()}
    return {name: TensorSignature(name, specs, {})}


def read(body: Any, signatures: dict[str, TensorSignature]) -> PredictRequest:
    return read_predict(body if isinstance(body, bytes) else json.dumps(body).encode(), signatures)


def refuse(body: Any, signatures: dict[str, TensorSignature]) -> str:
    """What the caller reads: field and message."""
    with pytest.raises(InvalidInputError) as caught:
        read(body, signatures)
    assert caught.value.status == 400
    field = caught.value.details.get("field")
    return f"{field}: {caught.value.message}" if field else caught.value.message


ANY_FLOAT = build(x=("float32", None))
PAIRS = build(x=("float32", (None, 2)))
STRINGS = build(x=("object", None))
DOCUMENTED = build(tag=("object", (None,)), signal=("int32", (None, 5)), sensor=("float32", (None, 2, 2)))
TWO_ROWS = [
    {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
    {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
]


# ---- the forms


def test_list_of_scalars_is_a_batch_of_strings() -> None:
    request = read({"instances": ["foo", "bar", "baz"]}, STRINGS)
    assert request.inputs["x"].tolist() == [b"foo", b"bar", b"baz"]
    assert (request.signature, request.is_row_format, request.row_count) == ("serving_default", True, 3)


def test_nested_lists_are_tensors() -> None:
    request = read({"instances": [[[1, 2]], [[3, 4]]]}, ANY_FLOAT)
    assert request.inputs["x"].shape == (2, 1, 2)
    assert request.inputs["x"].dtype == np.float32
    assert request.inputs["x"].tolist() == [[[1, 2]], [[3, 4]]]


def test_objects_name_several_inputs() -> None:
    request = read({"instances": TWO_ROWS}, DOCUMENTED)
    assert request.inputs["tag"].tolist() == [b"foo", b"bar"]
    assert request.inputs["signal"].tolist() == [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]]
    assert request.inputs["sensor"].tolist() == [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]


def test_columns_say_the_same_as_rows() -> None:
    columns = {name: [row[name] for row in TWO_ROWS] for name in TWO_ROWS[0]}
    by_column = read({"inputs": columns}, DOCUMENTED)
    by_row = read({"instances": TWO_ROWS}, DOCUMENTED)
    assert not by_column.is_row_format
    assert by_column.row_count == 2
    for name, array in by_row.inputs.items():
        np.testing.assert_array_equal(by_column.inputs[name], array)
        assert by_column.inputs[name].dtype == array.dtype


def test_columns_may_differ_in_length() -> None:
    request = read({"inputs": {"a": [1, 2, 3], "b": 7}}, build(a=("int32", (None,)), b=("int64", ())))
    assert (request.inputs["a"].shape, request.inputs["b"].shape) == ((3,), ())
    assert request.row_count == 3


@pytest.mark.parametrize(("value", "shape"), [(1.5, ()), ([1.5], (1,)), ([[1], [2]], (2, 1)), ([], (0,))])
def test_only_input_needs_no_name_in_column_form(value: Any, shape: tuple[int, ...]) -> None:
    request = read({"inputs": value}, ANY_FLOAT)
    assert request.inputs["x"].shape == shape
    assert request.row_count == (shape[0] if shape else 1)
    assert read({"inputs": {"x": value}}, ANY_FLOAT).inputs["x"].tolist() == value


def test_only_input_may_be_named_in_row_form() -> None:
    assert read({"instances": [{"x": 1}, {"x": 2}]}, ANY_FLOAT).inputs["x"].tolist() == [1, 2]


def test_signature_is_chosen_by_name() -> None:
    signatures = {**build(x=("float32", None)), **build("other", y=("int32", None))}
    assert read({"signature_name": "other", "instances": [1]}, signatures).inputs["y"].tolist() == [1]
    assert read({"signature_name": "", "instances": [1]}, signatures).signature == "serving_default"
    assert "no signature 'third'; it has 'serving_default', 'other'" in refuse(
        {"signature_name": "third", "instances": [1]}, signatures
    )
    assert refuse({"signature_name": 7, "instances": [1]}, signatures).startswith("signature_name: expected a string")
    assert "'serving_default'; it has 'other'" in refuse({"instances": [1]}, build("other", y=("int32", None)))


def test_other_names_in_the_body_and_in_inputs_are_ignored() -> None:
    assert read({"instances": [1], "id": 5}, ANY_FLOAT).row_count == 1
    assert list(read({"inputs": {"x": [1], "y": [2]}}, ANY_FLOAT).inputs) == ["x"]


def test_name_that_stands_twice_has_its_last_value() -> None:
    assert read(b'{"instances": [1], "instances": [2, 3]}', ANY_FLOAT).inputs["x"].tolist() == [2, 3]
    assert read(b'{"instances": [{"x": 1, "x": 2}]}', ANY_FLOAT).inputs["x"].tolist() == [2]


# ---- strings


def test_base64_objects_are_bytes() -> None:
    body = {"instances": [{"b64": "aW1hZ2UgYnl0ZXM="}, "text", {"b64": "/w"}, {"b64": " a W1hZ2Ug\nYnl0ZXM= "}]}
    assert read(body, STRINGS).inputs["x"].tolist() == [b"image bytes", b"text", b"\xff", b"image bytes"]
    assert read({"inputs": {"b64": "/w=="}}, STRINGS).inputs["x"].tolist() == b"\xff"
    assert read({"instances": [{"x": {"b64": "/w=="}}]}, STRINGS).inputs["x"].tolist() == [b"\xff"]
    assert read({"inputs": {"x": [["\u00e9", {"b64": ""}]]}}, STRINGS).inputs["x"].tolist() == [[b"\xc3\xa9", b""]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"b64": "?"}, 'instances[1]: the value of "b64" is not base64'),
        ({"b64": "\u00e9"}, 'instances[1]: the value of "b64" is not base64'),
        ({"b64": 7}, "instances[1]: expected a string"),
        ({"b64": "aa", "x": 1}, "instances[1]: expected a string"),
        ({}, "instances[1]: expected a string"),
        (7, "instances[1]: expected a string or"),
        (None, "instances[1]: expected a string or"),
        (["a"], "instances[1]: expected a string or"),
    ],
)
def test_what_is_no_string_is_refused_where_it_stands(value: Any, words: str) -> None:
    assert refuse({"instances": ["a", value]}, STRINGS).startswith(words)


def test_base64_object_is_refused_for_numbers() -> None:
    assert refuse({"instances": [{"b64": "aa=="}]}, ANY_FLOAT) == "instances[0]: expected a number, got an object"


# ---- numbers


@pytest.mark.parametrize("dtype", FLOATS)
def test_floating_types_take_integers_and_floats(dtype: str) -> None:
    array = read({"instances": [[1, 0.5], [-2, 0.1]]}, build(x=(dtype, (None, 2)))).inputs["x"]
    assert array.dtype == build_dtype(dtype)
    assert array.tolist() == np.array([[1, 0.5], [-2, 0.1]]).astype(build_dtype(dtype)).tolist()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 50])
def test_floating_types_take_nan_and_infinities(dtype: str, count: int) -> None:
    values = ", ".join(["NaN", "-NaN", "Infinity", "-Infinity", "Inf", "-Inf", "1"] * count)
    array = read(b'{"instances": [' + values.encode() + b"]}", build(x=(dtype, (None,)))).inputs["x"]
    expected = [math.nan, math.nan, math.inf, -math.inf, math.inf, -math.inf, 1.0] * count
    np.testing.assert_array_equal(array.astype(float), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("filling", [0, 100])
@pytest.mark.parametrize("form", ["{}", "{}, NaN", "NaN, {}"])
def test_integers_that_may_lose_digits_are_refused(dtype: str, filling: int, form: str) -> None:
    most = 2 ** {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype] - 1
    signatures = build(x=(dtype, (None,)))

    def build_body(number: object) -> bytes:
        return ('{"inputs": [' + "0, " * filling + form.format(number) + "]}").encode()

    assert most in read(build_body(most), signatures).inputs["x"].astype(float)
    assert f"{-most - 1} may lose digits in {dtype}" in refuse(build_body(-most - 1), signatures)
    assert float(most + 1) in read(build_body(f"{most + 1}.0"), signatures).inputs["x"].astype(float)


@pytest.mark.parametrize("filling", [0, 100])
@pytest.mark.parametrize(
    ("dtype", "number"), [("float16", 65520.0), ("bfloat16", 3.4e38), ("float32", 1e39), ("float32", -1e300)]
)
def test_floats_beyond_their_type_are_refused(dtype: str, number: float, filling: int) -> None:
    message = refuse({"instances": [0.5] * filling + [number]}, build(x=(dtype, (None,))))
    assert message.startswith(f"instances[{filling}]: {number} is too large for {dtype}")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_exact_over_their_whole_range(dtype: str) -> None:
    info = np.iinfo(dtype)
    signatures = build(x=(dtype, (None,)))
    array = read({"instances": [info.min, info.max]}, signatures).inputs["x"]
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == [info.min, info.max]
    assert json.loads(write_predict({"y": array}, True)) == {"predictions": [info.min, info.max]}
    for number in (info.min - 1, info.max + 1):
        assert "instances[1]: " in refuse({"instances": [0, number]}, signatures)


def test_integer_beyond_its_type_is_refused_with_the_range() -> None:
    assert refuse({"instances": [0, 128]}, build(x=("int8", None))) == (
        "instances[1]: 128 does not fit int8, which holds -128 to 127"
    )


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("value", [1.0, "1", True, None, {}, [1]])
def test_integers_take_nothing_but_integers(dtype: str, value: Any) -> None:
    assert refuse({"instances": [1, value]}, build(x=(dtype, None))).startswith("instances[1]: expected a whole number")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", ["1", "NaN", True, None, {}, [1]])
def test_floating_types_take_nothing_but_numbers(dtype: str, value: Any) -> None:
    assert refuse({"instances": [1.5, value]}, build(x=(dtype, None))).startswith("instances[1]: expected a number")


def test_booleans_take_nothing_but_booleans() -> None:
    signatures = build(x=("bool", None))
    assert read({"instances": [[True, False]]}, signatures).inputs["x"].tolist() == [[True, False]]
    for value in (1, 0.0, "true", None):
        assert refuse({"instances": [True, value]}, signatures).startswith("instances[1]: expected true or false")


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_are_refused_both_ways(dtype: str) -> None:
    assert "which JSON cannot carry" in refuse({"instances": [1]}, build(x=(dtype, None)))
    with pytest.raises(InvalidInputError, match="'y' is of type complex"):
        write_predict({"y": np.zeros(2, dtype)}, True)


# ---- what is refused, and how it is told

TWO = build(a=("float32", (None,)), b=("float32", (None, 2)))
ROW = {"a": 1, "b": [1, 2]}
REFUSED = [
    (b"", ANY_FLOAT, "the body is empty"),
    (b" \n", ANY_FLOAT, "the body is empty"),
    (b"\xff\xfe", ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances": [1}', ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances": [1NaN]}', ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances": [NaN1]}', ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances": [-Infinityx]}', ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances": [+Infinity]}', ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances": [NaN, "\\ud800"]}', STRINGS, "the body is not valid JSON"),
    (b'{"instances": [NaN, "\xff"]}', STRINGS, "the body is not valid JSON"),
    (b'{"instances": [1e999]}', ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances":' + b"[" * 9999 + b"]" * 9999 + b"}", ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances":' + b"[" * 9999 + b"NaN" + b"]" * 9999 + b"}", ANY_FLOAT, "the body is not valid JSON"),
    (b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}", ANY_FLOAT, "instances: is nested deeper than 32 levels"),
    (b'{"instances":' + b"[" * 900 + b"NaN" + b"]" * 900 + b"}", ANY_FLOAT, "instances: is nested deeper than 32"),
    (b"[1]", ANY_FLOAT, "the body is an array"),
    (b"NaN", ANY_FLOAT, "the body is a number"),
    ({}, ANY_FLOAT, "the body needs 'instances' or 'inputs'"),
    ({"instances": [1], "inputs": [1]}, ANY_FLOAT, "the body has both"),
    ({"instances": []}, ANY_FLOAT, "instances: the batch is empty"),
    ({"instances": {"x": 1}}, ANY_FLOAT, "instances: expected an array, got an object"),
    ({"instances": 1}, ANY_FLOAT, "instances: expected an array, got a number (1)"),
    ({"instances": [1]}, build(), "signature_name: the signature 'serving_default' has no inputs"),
    ({"instances": [[1, 2], [3]]}, ANY_FLOAT, "instances[1]: has 1 values, but the arrays before it have 2"),
    ({"instances": [[1, 2], 3]}, ANY_FLOAT, "instances[1]: is a number (3), but its neighbours are arrays"),
    ({"instances": [1, [2]]}, ANY_FLOAT, "instances[1]: expected a number, got an array; all instances must have"),
    ({"instances": [[[1], [2]], [[3], [4, 5]]]}, ANY_FLOAT, "instances[1][1]: has 2 values"),
    ({"instances": [[[1], [2]], [[3], "ab"]]}, ANY_FLOAT, "instances[1][1]: is a string (ab)"),
    ({"instances": [[1, 2], [3, "4"]]}, ANY_FLOAT, "instances[1][1]: expected a number, got a string (4)"),
    ({"instances": [{"x": [1, 2]}, {"x": [1]}]}, ANY_FLOAT, "instances[1].x: has 1 values"),
    ({"instances": [{"x": [1, 2]}, {"x": [1, None]}]}, ANY_FLOAT, "instances[1].x[1]: expected a number, got null"),
    ({"inputs": {"x": [[1, 2], [1, None]]}}, ANY_FLOAT, "inputs.x[1][1]: expected a number, got null"),
    ({"inputs": [[1, 2], [1, None]]}, ANY_FLOAT, "inputs[1][1]: expected a number, got null"),
    ({"inputs": None}, ANY_FLOAT, "inputs: expected a number, got null"),
    ({"instances": [[1, 2, 3], [4, 5, 6]]}, PAIRS, "x: shape (2, 3) does not fit (?, 2)"),
    ({"instances": [1]}, PAIRS, "x: shape (1,) does not fit (?, 2)"),
    ({"instances": [[], []]}, PAIRS, "x: shape (2, 0) does not fit (?, 2)"),
    ({"inputs": 1}, PAIRS, "x: shape () does not fit (?, 2)"),
    ({"instances": [ROW, {"a": 1}]}, TWO, "instances[1].b: the input is missing"),
    ({"instances": [{"a": 1, "B": [1, 2]}]}, TWO, "instances[0].b: the input is missing; there is 'B', which is no"),
    ({"instances": [ROW, {**ROW, "c": 1}]}, TWO, "instances[1].c: the model has no input of that name; it takes 'a'"),
    ({"instances": [{}]}, TWO, "instances[0].a: the input is missing"),
    ({"instances": [ROW, 7]}, TWO, "instances[1]: is a number (7), but instances[0] is an object"),
    ({"instances": [1]}, TWO, "instances[0]: expected an object with 'a', 'b', got a number (1)"),
    ({"instances": [{"b64": "aa=="}]}, TWO, "instances[0]: expected an object with 'a', 'b'"),
    ({"instances": [1, {"x": 1}]}, ANY_FLOAT, "instances[1]: expected a number, got an object"),
    ({"inputs": [1, 2]}, TWO, "inputs: expected an object with 'a', 'b', got an array"),
    ({"inputs": {"a": [1]}}, TWO, "inputs.b: the input is missing"),
]


@pytest.mark.parametrize(
    ("body", "signatures", "words"), REFUSED, ids=[f"{n} {row[2]}" for n, row in enumerate(REFUSED)]
)
def test_bad_body_is_refused_with_what_and_where(body: Any, signatures: dict[str, TensorSignature], words: str) -> None:
    assert refuse(body, signatures).startswith(words)


def test_position_of_a_mistake_is_right_behind_nan() -> None:
    assert refuse(b'{"instances": [-Infinity, NaN, }', ANY_FLOAT).endswith("at line 1 column 32")


def test_byte_order_mark_is_skipped() -> None:
    assert read(b'\xef\xbb\xbf{"instances": [1]}', ANY_FLOAT).inputs["x"].tolist() == [1]


def test_tokens_inside_strings_are_text() -> None:
    body = rb'{"inputs": {"x": ["NaN", "a\"NaN", "\\"], "y": [NaN]}}'
    request = read(body, build(x=("object", None), y=("float32", None)))
    assert request.inputs["x"].tolist() == [b"NaN", b'a"NaN', b"\\"]


def test_request_does_not_share_memory_with_another() -> None:
    first = read({"instances": [[1, 2]]}, PAIRS)
    first.inputs["x"][:] = 7
    assert read({"instances": [[1, 2]]}, PAIRS).inputs["x"].tolist() == [[1, 2]]


# ---- answers


def write(outputs: dict[str, Any], is_row_format: bool) -> str:
    return write_predict({name: np.asarray(value) for name, value in outputs.items()}, is_row_format).decode()


def test_single_output_stands_without_its_name() -> None:
    assert write({"y": np.float32([3.5, 4.0, 5.5])}, True) == '{"predictions":[3.5,4.0,5.5]}'
    assert write({"y": np.float32([[1, 2]])}, False) == '{"outputs":[[1.0,2.0]]}'
    assert write({"y": np.float32(0.1)}, False) == '{"outputs":0.1}'


def test_several_outputs_are_objects() -> None:
    outputs = {"label": np.array([b"a", b"b"], object), "score": np.float32([[0.1, 0.9], [0.2, 0.8]])}
    assert json.loads(write(outputs, True)) == {
        "predictions": [{"label": "a", "score": [0.1, 0.9]}, {"label": "b", "score": [0.2, 0.8]}]
    }
    assert json.loads(write(outputs, False)) == {"outputs": {"label": ["a", "b"], "score": [[0.1, 0.9], [0.2, 0.8]]}}


def test_columns_of_an_answer_may_differ_in_length() -> None:
    assert write({"a": np.array([1, 2]), "b": np.array(True)}, False) == '{"outputs":{"a":[1,2],"b":true}}'


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, "Tensor name: b has inconsistent batch size: 3 expecting: 2"),
        ({"a": np.zeros(0)}, "Tensor name: a has invalid batch size: 0"),
        ({"a": np.float64(1)}, "Tensor name: a is a scalar"),
        ({}, "the model gave no output"),
    ],
)
def test_outputs_without_a_common_batch_are_refused_in_row_form(outputs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        write(outputs, True)


def test_strings_are_text_and_bytes_are_base64() -> None:
    values = np.array([b"text", "\u00e9 \x00".encode(), b'"'], object)
    assert json.loads(write({"y": values}, True)) == {"predictions": ["text", "\u00e9 \x00", '"']}
    assert json.loads(write({"y_bytes": values}, True)) == {
        "predictions": [{"b64": "dGV4dA=="}, {"b64": "w6kgAA=="}, {"b64": "Ig=="}]
    }
    assert json.loads(write({"y_bytes": np.int32([1])}, True)) == {"predictions": [1]}


def test_string_that_is_not_utf8_is_base64_under_any_name() -> None:
    values = np.array([[b"ok", b"\xff\xfe"], ["\ud800", "ok"]], object)
    assert json.loads(write({"y": values}, False)) == {"outputs": [["ok", {"b64": "//4="}], [{"b64": "7aCA"}, "ok"]]}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("is_row_format", [True, False])
def test_nan_and_infinities_are_tokens(dtype: str, is_row_format: bool) -> None:
    values = np.array([0.5, np.nan, np.inf, -np.inf]).astype(build_dtype(dtype))
    key = "predictions" if is_row_format else "outputs"
    assert write({"y": values}, is_row_format) == f'{{"{key}":[0.5,NaN,Infinity,-Infinity]}}'
    several = json.loads(write({"y": values, "t": np.array(["null", "a", "b", "c"], object)}, is_row_format))
    rows = (
        [[row["y"], row["t"]] for row in several[key]]
        if is_row_format
        else list(zip(*several[key].values(), strict=True))
    )
    assert [text for _, text in rows] == ["null", "a", "b", "c"]
    np.testing.assert_array_equal([number for number, _ in rows], values.astype(float))


def test_scalar_nan_is_a_token() -> None:
    assert write({"a": np.float32(np.nan), "b": np.float64(np.inf)}, False) == '{"outputs":{"a":NaN,"b":Infinity}}'


def test_float32_keeps_its_digits_beside_nan() -> None:
    assert write({"y": np.float32([0.1, np.nan])}, True) == '{"predictions":[0.1,NaN]}'


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_tenth_is_written_as_a_tenth(dtype: str) -> None:
    values = np.array([0.1, -0.0]).astype(build_dtype(dtype))
    assert write({"y": values}, True) == '{"predictions":[0.1,-0.0]}'


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_of_16_bits_reads_back(dtype: str) -> None:
    values = np.arange(2**16, dtype=np.uint16).view(build_dtype(dtype))
    values = values[np.isfinite(values.astype(np.float32))]
    body = b'{"instances"' + write_predict({"y": values}, True)[len('{"predictions"') :]
    assert read(body, build(x=(dtype, None))).inputs["x"].view(np.uint16).tolist() == values.view(np.uint16).tolist()


def test_arrays_of_any_layout_are_written_in_order() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for array in (np.asfortranarray(values), values.astype(">f4"), values.T.copy().T, np.repeat(values, 2, 0)[::2]):
        assert json.loads(write_predict({"y": array}, True)) == {"predictions": values.tolist()}


def test_arrays_without_values_are_written() -> None:
    assert write({"y": np.zeros((2, 0), np.float32)}, True) == '{"predictions":[[],[]]}'
    assert write({"y": np.zeros((0,), object)}, False) == '{"outputs":[]}'


# ---- round trips, and hostile bodies

VALUES = {
    "float16": st.floats(width=16),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "bool": st.booleans(),
    "object": st.text(st.characters(codec="utf-8")),
    **{name: st.integers(int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in INTEGERS},
}


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    name = draw(st.sampled_from(sorted(VALUES)))
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    size = math.prod(shape)
    values = draw(st.lists(VALUES[name], min_size=size, max_size=size))
    if name == "object":
        values = [value.encode() for value in values]
    return np.array(values, dtype=name).reshape(shape)


@given(tensors(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_what_is_written_reads_back(array: Array, is_row_format: bool, is_bytes: bool) -> None:
    body = write_predict({"y_bytes" if is_bytes else "y": array}, is_row_format)
    answer, request = (b"predictions", b"instances") if is_row_format else (b"outputs", b"inputs")
    again = read(body.replace(answer, request, 1), build(x=(array.dtype.name, (None, *array.shape[1:])))).inputs["x"]
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.just({"b64": "aa=="}),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "x", "b64"]), children, max_size=3)
    ),
    max_leaves=12,
)
BODIES = st.builds(
    lambda key, value: json.dumps({key: value}).encode(),
    st.sampled_from(["instances", "inputs", "signature_name"]),
    JSON,
)
SIGNATURES = [
    ANY_FLOAT,
    PAIRS,
    STRINGS,
    TWO,
    build(x=("int8", (None,))),
    build(x=("bool", None)),
    build(b64=("object", None)),
]


@given(
    st.binary(max_size=40) | BODIES | BODIES.map(lambda body: body.replace(b"1", b"NaN")), st.sampled_from(SIGNATURES)
)
@settings(max_examples=1500, deadline=None)
def test_no_body_raises_anything_else(body: bytes, signatures: dict[str, TensorSignature]) -> None:
    try:
        request = read_predict(body, signatures)
    except InvalidInputError as exc:
        json.dumps(exc.message).encode()
        return
    for name, spec in signatures["serving_default"].inputs.items():
        assert request.inputs[name].dtype == spec.dtype
        assert spec.shape is None or len(spec.shape) == request.inputs[name].ndim


def test_time_to_refuse_grows_with_the_body_only() -> None:
    """Bodies of a megabyte that are quick to refuse, or never: quotes without end, rags, depth, long numbers."""
    size = 1_000_000
    bodies = [
        b'{"x": NaN, "' + rb"\"" * (size // 2),
        b'"' * size + b"NaN",
        b'{"instances": [NaN, ' + b"9" * size + b"]}",
        b'{"instances": [' + b"[1]," * (size // 4) + b"[1, 2]]}",
        b'{"instances": [' + (b"[" * 40 + b"]" * 40 + b",") * (size // 80) + b"1]}",
        b"-Inf" * (size // 4),
    ]
    for body in bodies:
        refuse(body, ANY_FLOAT)
