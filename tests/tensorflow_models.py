"""SavedModels for tests, made with the real TensorFlow: ``python tests/tensorflow_models.py FOLDER``.

A program of its own, for importing TensorFlow takes ten seconds, and the runtime under test imports a part of it only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

v1 = tf.compat.v1
FOLDER = Path(sys.argv[1])
DTYPES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool string"
COMPLEX = "complex64 complex128"


def spec(shape: Any, dtype: Any, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name=name)


def save(name: str, module: tf.Module, **signatures: Any) -> None:
    tf.saved_model.save(module, str(FOLDER / name), signatures=signatures or None)


def save_one(name: str, function: Any, *specs: tf.TensorSpec, module: tf.Module | None = None) -> None:
    module = module or tf.Module()
    module.function = tf.function(function, input_signature=specs)
    save(name, module, serving_default=module.function)


class Linear(tf.Module):
    """``y = x @ w + 1`` with ``w`` of 1 to 12, and signatures of other forms."""

    def __init__(self) -> None:
        self.w = tf.Variable(tf.reshape(tf.range(1.0, 13.0), [4, 3]))
        self.b = tf.Variable(tf.ones([3]))

    @tf.function(input_signature=[spec([None, 4], tf.float32, "x")])
    def predict(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x @ self.w + self.b}

    @tf.function(input_signature=[spec([None, 2], tf.float32, "a"), spec([None], tf.int64, "b")])
    def two(self, a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"total": a + tf.cast(b, tf.float32)[:, None], "count": b * 2, "a_copy": tf.identity(a)}

    @tf.function(input_signature=[spec([], tf.float64, "v")])
    def scalar(self, v: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"w": v * 2}


class Perceptron(tf.Module):
    def __init__(self) -> None:
        self.layers = [tf.Variable(tf.random.stateless_normal(shape, (1, 2))) for shape in ([8, 16], [16, 3])]

    @tf.function(input_signature=[spec([None, 8], tf.float32, "features")])
    def predict(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden = tf.nn.relu(features @ self.layers[0])
        return {"probabilities": tf.nn.softmax(hidden @ self.layers[1])}


class Vocabulary(tf.Module):
    def __init__(self, path: Path) -> None:
        path.write_text("red\ngreen\nblue\n")
        text = tf.lookup.TextFileInitializer(
            str(path), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(text, -1)

    @tf.function(input_signature=[spec([None], tf.string, "color")])
    def predict(self, color: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": self.table.lookup(color)}


class Counter(tf.Module):
    def __init__(self) -> None:
        self.count = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[spec([None], tf.int64, "n")])
    def predict(self, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"count": n * 0 + self.count.assign_add(1)}


def write_tensorflow_2() -> None:
    linear = Linear()
    save("linear", linear, serving_default=linear.predict, two=linear.two, scalar=linear.scalar)
    perceptron = Perceptron()
    save("perceptron", perceptron, serving_default=perceptron.predict)
    vocabulary = Vocabulary(FOLDER / "colors.txt")
    save("vocabulary", vocabulary, serving_default=vocabulary.predict)
    counter = Counter()
    save("counter", counter, serving_default=counter.predict)
    save("no_signature", Linear())
    save_one("unknown_rank", lambda x: {"y": x * 2}, spec(None, tf.float32, "x"))
    save_one("fixed_batch", lambda x: {"y": x * 2}, spec([2, 2], tf.float32, "x"))
    save_one("total", lambda x: {"y": tf.reduce_sum(x, 0, keepdims=True)}, spec([None, 2], tf.float32, "x"))
    strings = (spec([None], tf.string, name) for name in ("s", "raw"))
    save_one("bytes", lambda s, raw: {"text": s + "!", "raw_bytes": raw + b"\xff"}, *strings)
    save_one("picky", _double_positive, spec([None], tf.float32, "x"))
    identities = tf.Module()
    found = {}
    for dtype in f"{DTYPES} {COMPLEX}".split():
        function = tf.function(
            lambda x: {"y": tf.identity(x)}, input_signature=[spec([None, 2], getattr(tf, dtype), "x")]
        )
        setattr(identities, dtype, function)
        found[dtype] = function
    save("dtypes", identities, **found)


def _double_positive(x: tf.Tensor) -> dict[str, tf.Tensor]:
    with tf.control_dependencies([tf.debugging.assert_non_negative(x, "no negative numbers")]):
        return {"y": x * 2}


def write_tensorflow_1(name: str, *, use_resource: bool) -> None:
    """Signatures on parsed examples: classes and scores, values, and all of it for ``predict``."""
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], "examples")
        features = {"x": tf.io.FixedLenFeature([2], tf.float32), "tag": tf.io.FixedLenFeature([], tf.string, "")}
        parsed = tf.io.parse_example(serialized, features)
        weights = v1.get_variable("w", initializer=tf.constant([[1.0], [10.0]]), use_resource=use_resource)
        value = parsed["x"] @ weights
        scores = tf.concat([value, -value], 1)
        tags = tf.stack([parsed["tag"], tf.strings.join(["not ", parsed["tag"]])], 1)
        session.run(v1.global_variables_initializer())
        signatures = {
            "classify": v1.saved_model.classification_signature_def(serialized, tags, scores),
            "scores": v1.saved_model.classification_signature_def(serialized, None, scores),
            "regress": v1.saved_model.regression_signature_def(serialized, value),
            "serving_default": v1.saved_model.predict_signature_def({"examples": serialized}, {"value": value}),
        }
        builder = v1.saved_model.Builder(str(FOLDER / name))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.add_meta_graph(["serve", "gpu"], signatures)
        builder.save()


def write_training_only() -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x * 2})
        builder = v1.saved_model.Builder(str(FOLDER / "training_only"))
        builder.add_meta_graph_and_variables(session, ["train"], {"serving_default": signature})
        builder.save()


def write_hostile() -> None:
    x = spec([None], tf.string, "x")

    @tf.function
    def nested(path: tf.Tensor) -> tf.Tensor:
        return tf.io.read_file(path[0])[None]

    save_one("reads", lambda x: {"y": tf.function(nested)(x)}, x)
    save_one("writes", lambda x: {"y": _after(tf.io.write_file("/tmp/timl-written", x[0]), x)}, x)
    save_one("python", lambda x: {"y": tf.py_function(lambda value: value, [x], tf.string)}, x)
    save_one("prints", lambda x: {"y": _after(tf.print(x, output_stream="file:///tmp/timl-written"), x)}, x)
    save_one("lists", lambda x: {"y": tf.io.matching_files(x)}, x)
    save_one("restores", lambda x: {"y": _restore(x[0])[0]}, x)
    save_one("aborts", lambda x: {"y": _after(tf.raw_ops.Abort(error_msg="end"), x)}, x)
    save_one("dataset", lambda x: {"y": tf.data.TextLineDataset(x).reduce("", lambda a, b: b)[None]}, x)
    x = spec([None, 1], tf.float32, "x")
    save_one("large", lambda x: {"y": tf.fill([1_000_000, 1_000_000], x[0, 0])[:1] + x}, x)
    save_one("endless", lambda x: {"y": tf.while_loop(lambda n: True, lambda n: (n + 1,), [x])[0]}, x)
    write_hostile_init()


def _restore(prefix: tf.Tensor) -> Any:
    return tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=["w"], shape_and_slices=[""], dtypes=[tf.string])


def _after(operation: Any, value: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([operation] if operation is not None else []):
        return tf.identity(value)


def write_hostile_init() -> None:
    """A table whose init operation reads a file that is no asset."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.string, [None], "x")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
        init = tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=table, filename="/etc/passwd", key_index=-2, value_index=-1, delimiter="\n"
        )
        found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(-1, tf.int64))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": found})
        builder = v1.saved_model.Builder(str(FOLDER / "hostile_init"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=init)
        builder.save()


def write_warm() -> None:
    """A model with warm-up requests of every kind, and one whose request does not fit."""
    write_tensorflow_1("warm", use_resource=True)
    log = prediction_log_pb2.PredictionLog
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.extend([1.0, 2.0])
    predict, classify, regress, multi = log(), log(), log(), log()
    predict.predict_log.request.inputs["examples"].CopyFrom(tf.make_tensor_proto([example.SerializeToString()]))
    classify.classify_log.request.model_spec.signature_name = "classify"
    classify.classify_log.request.input.example_list.examples.append(example)
    regress.regress_log.request.model_spec.signature_name = "regress"
    regress.regress_log.request.input.example_list.examples.append(example)
    request = multi.multi_inference_log.request
    request.input.example_list.examples.append(example)
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", method
    write_records(FOLDER / "warm", predict, classify, regress, multi)
    save("badly_warmed", linear := Linear(), serving_default=linear.predict)
    write_records(FOLDER / "badly_warmed", predict)


def write_records(model: Path, *records: Any) -> None:
    folder = model / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record.SerializeToString())


if __name__ == "__main__":
    write_tensorflow_2()
    write_tensorflow_1("examples", use_resource=True)
    write_tensorflow_1("reference_variables", use_resource=False)
    write_training_only()
    write_hostile()
    write_warm()
