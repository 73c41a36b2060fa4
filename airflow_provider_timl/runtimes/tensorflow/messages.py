"""TensorFlow Serving's gRPC messages: serialized requests as calls of the graph, and results as serialized responses.

The transport owns names and versions of models; a response repeats the request's name, and has the version that the
server said it serves.

:source: tensorflow/serving ``servables/tensorflow/predict_util.cc``, ``multi_inference.cc``,
    ``get_model_metadata_impl.cc``, ``util.cc``; ``tensorflow/cc/saved_model/util.cc`` (2.x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError, Message

from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError
from airflow_provider_timl.runtimes.tensorflow.calls import Call
from airflow_provider_timl.runtimes.tensorflow.examples import (
    Task,
    build_task,
    read_classes,
    read_values,
    to_strings,
)
from airflow_provider_timl.runtimes.tensorflow.library import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)
from airflow_provider_timl.runtimes.tensorflow.signatures import CLASSIFY, DEFAULT, REGRESS, GraphSignature
from airflow_provider_timl.runtimes.tensorflow.tensor_protos import read_tensor, write_tensor
from airflow_provider_timl.runtimes.tensors.spec import Array, TensorSpec

_SIGNATURE_FIELD = "model_spec.signature_name"
_METADATA_FIELD = "signature_def"
_VERBS = {CLASSIFY: "classify", REGRESS: "regress"}


class MessageReader:
    """Reads requests for a model with these signatures.

    :param definitions: the graph's ``SignatureDef`` messages by name.
    """

    def __init__(self, signatures: Mapping[str, GraphSignature], definitions: Mapping[str, Any]) -> None:
        self.model_version: int | None = None
        self._signatures = signatures
        self.definitions = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in definitions.items():
            self.definitions.signature_def[name].CopyFrom(definition)
        self._methods: dict[str, tuple[Any, Callable[[Any], Call]]] = {
            "Predict": (predict_pb2.PredictRequest, self.read_predict),
            "Classify": (classification_pb2.ClassificationRequest, partial(self.read_examples, verb="classify")),
            "Regress": (regression_pb2.RegressionRequest, partial(self.read_examples, verb="regress")),
            "MultiInference": (inference_pb2.MultiInferenceRequest, self.read_multi_inference),
            "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, self.read_metadata),
        }

    def read(self, method: str, message: bytes) -> Call:
        """:raises InvalidInputError: naming the input."""
        if method not in self._methods:
            raise NotFoundError("method", method)
        kind, read = self._methods[method]
        request = kind()
        try:
            request.ParseFromString(message)
        except DecodeError as exc:
            raise InvalidInputError(f"the message is no {kind.DESCRIPTOR.name}") from exc
        return read(request)

    def read_predict(self, request: Any) -> Call:
        signature = self._get_signature(request.model_spec)
        aliases = list(request.output_filter) or list(signature.specs.outputs)
        _check_filter(aliases, signature)
        arrays = _read_inputs(request.inputs, signature)
        response = predict_pb2.PredictResponse()
        self._fill_spec(response.model_spec, request.model_spec, signature)

        def answer(outputs: Sequence[Array]) -> bytes:
            for alias, output in zip(aliases, outputs, strict=True):
                write_tensor(response.outputs[alias], output)
            return _serialize(response)

        return Call(
            feeds=signature.feeds,
            fetches=tuple(map(signature.get_fetch, aliases)),
            arrays=arrays,
            row_count=max((len(array) for array in arrays if array.ndim), default=1),
            is_joinable=signature.is_joinable,
            answer=answer,
        )

    def read_examples(self, request: Any, *, verb: str) -> Call:
        task = build_task(self._get_signature(request.model_spec), verb, _SIGNATURE_FIELD)
        examples = _read_input(request.input)
        kind = classification_pb2.ClassificationResponse if verb == "classify" else regression_pb2.RegressionResponse
        response = kind()
        self._fill_spec(response.model_spec, request.model_spec, task.signature)

        def answer(outputs: Sequence[Array]) -> bytes:
            _fill_result(response.result, task, outputs, len(examples))
            return _serialize(response)

        return _build_examples_call([task], examples, answer)

    def read_multi_inference(self, request: Any) -> Call:
        tasks = self._read_tasks(request.tasks)
        examples = _read_input(request.input)
        response = inference_pb2.MultiInferenceResponse()

        def answer(outputs: Sequence[Array]) -> bytes:
            values = dict(zip(call.fetches, outputs, strict=True))
            for asked, task in zip(request.tasks, tasks, strict=True):
                result = response.results.add()
                self._fill_spec(result.model_spec, asked.model_spec, task.signature)
                part = result.classification_result if task.verb == "classify" else result.regression_result
                _fill_result(part, task, [values[name] for name in task.fetches], len(examples))
            return _serialize(response)

        call = _build_examples_call(tasks, examples, answer)
        return call

    def read_metadata(self, request: Any) -> Call:
        if not request.HasField("model_spec"):
            raise InvalidInputError("Missing ModelSpec", "model_spec")
        if not request.metadata_field:
            raise InvalidInputError("specify at least one metadata_field", "metadata_field")
        unknown = next((field for field in request.metadata_field if field != _METADATA_FIELD), None)
        if unknown is not None:
            raise InvalidInputError(f"Metadata field {unknown} is not supported", "metadata_field")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        self._fill_spec(response.model_spec, request.model_spec, None)
        response.metadata[_METADATA_FIELD].Pack(self.definitions)
        content = _serialize(response)
        return Call((), (), (), 1, is_joinable=False, answer=lambda _: content)

    def _get_signature(self, model_spec: Any) -> GraphSignature:
        name = model_spec.signature_name or DEFAULT
        found = self._signatures.get(name)
        if found is None:
            known = ", ".join(map(repr, self._signatures))
            raise InvalidInputError(f"the model has no signature {name[:80]!r}; it has {known}", _SIGNATURE_FIELD)
        return found

    def _read_tasks(self, tasks: Sequence[Any]) -> list[Task]:
        if not tasks:
            raise InvalidInputError("the request has no task", "tasks")
        if not all(task.model_spec.name for task in tasks):
            raise InvalidInputError("Found ModelSpec with an empty model name.", "tasks")
        if len({task.model_spec.name for task in tasks}) > 1:
            raise InvalidInputError("all ModelSpecs must access the same model name", "tasks")
        found = []
        for task in tasks:
            verb = _VERBS.get(task.method_name)
            if verb is None:
                raise InvalidInputError(f"Unsupported signature method_name: {task.method_name[:80]}", "tasks")
            found.append(build_task(self._get_signature(task.model_spec), verb, "tasks"))
        names = [task.signature.specs.name for task in found]
        if len(set(names)) != len(names):
            raise InvalidInputError("a signature is evaluated twice", "tasks")
        if len({task.feed for task in found}) > 1:
            raise InvalidInputError("Input tensor must be the same for all Signatures.", "tasks")
        return found

    def _fill_spec(self, spec: Any, asked: Any, signature: GraphSignature | None) -> None:
        spec.name = asked.name
        if signature is not None:
            spec.signature_name = signature.specs.name
        if self.model_version is not None:
            spec.version.value = self.model_version


def _check_filter(aliases: Sequence[str], signature: GraphSignature) -> None:
    unknown = next((alias for alias in aliases if alias not in signature.specs.outputs), None)
    if unknown is not None:
        expected = ",".join(signature.specs.outputs)
        message = f"output tensor alias not found in signature: {unknown[:80]}; outputs are in the set {{{expected}}}"
        raise InvalidInputError(message, "output_filter")
    if len(set(aliases)) != len(aliases):
        raise InvalidInputError("an output stands twice in it", "output_filter")


def _read_inputs(inputs: Any, signature: GraphSignature) -> tuple[Array, ...]:
    """In the order of the signature's feeds, defaults in the place of what is not there."""
    specs = signature.specs.inputs
    extra = sorted(inputs.keys() - specs.keys())
    missing = [alias for alias in specs if alias not in inputs and alias not in signature.defaults]
    if extra or missing:
        sent = f"Sent extra: {{{','.join(extra)[:200]}}}. Missing but required: {{{','.join(missing)}}}."
        raise InvalidInputError(f"inputs do not match the signature {signature.specs.name!r}. {sent}", "inputs")
    return tuple(
        _read_checked(spec, inputs[alias]) if alias in inputs else signature.defaults[alias]
        for alias, spec in specs.items()
    )


def _read_checked(spec: TensorSpec, proto: Any) -> Array:
    array = read_tensor(f"inputs.{spec.name}", proto)
    if array.dtype != spec.dtype:
        message = f"the tensor is of type {_describe(array)}; the model takes {spec.dtype.name}"
        raise InvalidInputError(message, f"inputs.{spec.name}")
    return array


def _describe(array: Array) -> str:
    return "string" if array.dtype == object else array.dtype.name


def _read_input(message: Any) -> Array:
    """The serialized examples; a context's bytes before an example's are the two merged."""
    kind = message.WhichOneof("kind")
    found = getattr(message, kind) if kind else None
    if found is None or not found.examples:
        raise InvalidInputError("Input is empty.", "input")
    context = found.context.SerializeToString() if kind == "example_list_with_context" else b""
    return to_strings([context + example.SerializeToString() for example in found.examples])


def _build_examples_call(tasks: Sequence[Task], examples: Array, answer: Callable[[Sequence[Array]], bytes]) -> Call:
    return Call(
        feeds=(tasks[0].feed,),
        fetches=tuple(dict.fromkeys(name for task in tasks for name in task.fetches)),
        arrays=(examples,),
        row_count=len(examples),
        is_joinable=all(task.signature.is_joinable for task in tasks),
        answer=answer,
    )


def _fill_result(result: Any, task: Task, outputs: Sequence[Array], count: int) -> None:
    if task.verb == "regress":
        for value in read_values(outputs, count):
            result.regressions.add().value = value
        return
    for classes in read_classes(task, outputs, count):
        row = result.classifications.add()
        for label, score in classes:
            row.classes.add(label=label.decode(errors="replace"), score=score)


def _serialize(message: Message) -> bytes:
    content: bytes = message.SerializeToString()
    return content
