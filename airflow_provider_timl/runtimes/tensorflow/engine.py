"""The engine of the ``tensorflow`` runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import orjson
from google.protobuf.json_format import MessageToDict

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidModelError, NotFoundError, TimlError
from airflow_provider_timl.runtimes.contract import Batching
from airflow_provider_timl.runtimes.tensorflow.calls import Call, run_call, run_calls
from airflow_provider_timl.runtimes.tensorflow.example import build_examples
from airflow_provider_timl.runtimes.tensorflow.examples import build_task, read_examples, write_results
from airflow_provider_timl.runtimes.tensorflow.graph_walk import GraphWalk
from airflow_provider_timl.runtimes.tensorflow.messages import MessageReader
from airflow_provider_timl.runtimes.tensorflow.runtime import TensorflowOptions
from airflow_provider_timl.runtimes.tensorflow.saved_model import check_files, choose_graph, read_saved_model
from airflow_provider_timl.runtimes.tensorflow.session import GraphSession, ModelSession
from airflow_provider_timl.runtimes.tensorflow.signatures import (
    GraphSignature,
    choose_default,
    describe_signature,
    read_signatures,
)
from airflow_provider_timl.runtimes.tensorflow.table import TableScorer
from airflow_provider_timl.runtimes.tensorflow.trial import can_join
from airflow_provider_timl.runtimes.tensorflow.warmup import replay_warmup
from airflow_provider_timl.runtimes.tensors.json_answer import write_predict
from airflow_provider_timl.runtimes.tensors.json_request import find_signature, parse_body, read_predict
from airflow_provider_timl.runtimes.tensors.spec import Array

log = logging.getLogger(__name__)

OpenSession = Callable[[Mapping[str, GraphSignature]], ModelSession]
_VERBS = ("predict", "classify", "regress")
_SHOWN_EXAMPLE = 200


class TensorflowEngine:
    """A loaded SavedModel.

    ``model_version`` is what gRPC answers say of the version; the server sets it. Nothing of the graph's message, which
    may be as large as the model, is kept.
    """

    def __init__(self, graph: Any, open_session: OpenSession, options: TensorflowOptions) -> None:
        """:param open_session: makes what runs the graph, which the engine then closes."""
        self.batching = Batching(options.max_batch_rows, options.max_batch_delay_ms / 1000)
        self._sizes = options.allowed_batch_sizes
        self._signatures = read_signatures(graph)
        self._specs = {name: each.specs for name, each in self._signatures.items()}
        self._default = choose_default(self._signatures)
        self.signature = describe_signature(self._default, None)
        self._reader = MessageReader(self._signatures, graph.signature_def)
        self._session = open_session(self._signatures)
        self._scorer = TableScorer(self._session, self._default)

    @property
    def model_version(self) -> int | None:
        return self._reader.model_version

    @model_version.setter
    def model_version(self, version: int | None) -> None:
        self._reader.model_version = version

    @property
    def signature_names(self) -> list[str]:
        return list(self._signatures)

    def describe(self) -> dict[str, Any]:
        return {}

    def describe_metadata(self) -> dict[str, Any]:
        """TensorFlow Serving's ``SignatureDefMap``, as it prints it."""
        definitions = MessageToDict(
            self._reader.definitions,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        return {"signature_def": definitions}

    def parse(self, verb: str, body: bytes) -> Call:
        if verb == "predict":
            return self._parse_predict(body)
        if verb not in _VERBS:
            raise NotFoundError("method", f":{verb}", known=":predict, :classify and :regress")
        content = parse_body(body)
        task = build_task(self._signatures[find_signature(content, self._specs).name], verb)
        examples = read_examples(content)
        return Call(
            feeds=(task.feed,),
            fetches=task.fetches,
            arrays=(examples,),
            row_count=len(examples),
            is_joinable=task.signature.is_joinable,
            answer=partial(write_results, task, count=len(examples)),
        )

    def parse_rpc(self, method: str, message: bytes) -> Call:
        return self._reader.read(method, message)

    def count_rows(self, request: Call) -> int:
        return request.row_count

    def run(self, batch: Sequence[Call]) -> list[bytes | TimlError]:
        if len(batch) == 1 and not self._sizes:
            return [run_call(self._session, batch[0])]
        return run_calls(self._session, batch, self.batching.most_rows, self._sizes)

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        is_joinable = self._signatures[self._default.specs.name].is_joinable
        return self._scorer.score(columns, rows, is_joinable=is_joinable)

    def close(self) -> None:
        self._session.close()

    def warm_up(self, folder: Path, graph: Any) -> None:
        """Replay the model's warm-up requests, and try each signature. Without warm-up requests the default one must
        answer an example: nothing else would show that the model works.

        :raises InvalidModelError: a request fails, or no example is answered.
        """
        count = replay_warmup(folder, self._answer_message)
        log.info("replayed %d warm-up requests", count)
        walk = GraphWalk(graph)
        for name, signature in self._signatures.items():
            example = self._find_example(signature, walk)
            if name == self._default.specs.name:
                if example is None and not count:
                    self._refuse_example(walk)
                self.signature = describe_signature(signature, example)
            is_joinable = example is not None and can_join(self._session, self._parse(example))
            self._signatures[name] = replace(signature, is_joinable=is_joinable)
        joined = [name for name, each in self._signatures.items() if each.is_joinable]
        log.info("requests of these signatures are joined: %s", ", ".join(joined) or "none")

    def _answer_message(self, method: str, message: bytes) -> bytes | TimlError:
        try:
            return run_call(self._session, self.parse_rpc(method, message))
        except TimlError as exc:
            return exc

    def _find_example(self, signature: GraphSignature, walk: GraphWalk) -> dict[str, Any] | None:
        """The first that the model answers."""
        return next((each for each in build_examples(signature, walk) if self._try(each) is None), None)

    def _refuse_example(self, walk: GraphWalk) -> NoReturn:
        example = build_examples(self._default, walk)[0]
        shown = str(example)[:_SHOWN_EXAMPLE]
        raise InvalidModelError(f"the model does not answer the example {shown}: {self._try(example)}")

    def _try(self, example: dict[str, Any]) -> TimlError | None:
        try:
            answer = run_call(self._session, self._parse(example))
        except TimlError as exc:
            return exc
        return answer if isinstance(answer, TimlError) else None

    def _parse(self, example: dict[str, Any]) -> Call:
        return self._parse_predict(orjson.dumps(example))

    def _parse_predict(self, body: bytes) -> Call:
        request = read_predict(body, self._specs)
        signature = self._signatures[request.signature]
        return Call(
            feeds=signature.feeds,
            fetches=signature.fetches,
            arrays=tuple(request.inputs[name] for name in signature.specs.inputs),
            row_count=request.row_count,
            is_joinable=signature.is_joinable,
            answer=partial(_write_outputs, tuple(signature.specs.outputs), request.is_row_format),
        )


def _write_outputs(names: Sequence[str], is_row_format: bool, outputs: Sequence[Array]) -> bytes:
    return write_predict(dict(zip(names, outputs, strict=True)), is_row_format)


def load_engine(folder: Path, resources: Resources, options: TensorflowOptions) -> TensorflowEngine:
    """Load and warm up the model of an artifact.

    :raises InvalidModelError: it cannot be loaded, or a warm-up request fails.
    """
    check_files(folder)
    graph = choose_graph(read_saved_model(folder))
    return build_engine(folder, graph, lambda _: GraphSession(graph, folder, resources), options)


def build_engine(folder: Path, graph: Any, open_session: OpenSession, options: TensorflowOptions) -> TensorflowEngine:
    """Make the engine and warm it up.

    :raises InvalidModelError: a warm-up request fails; what was opened is closed.
    """
    engine = TensorflowEngine(graph, open_session, options)
    try:
        engine.warm_up(folder, graph)
    except BaseException:
        engine.close()
        raise
    return engine
