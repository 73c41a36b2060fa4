"""What is fuzzed: functions that take bytes and must end quietly, whatever the bytes are.

A target is one function and its seeds; ``tests/fuzz/run.py`` runs it for as long as one likes,
``tests/fuzz/test_fuzz.py`` for a moment in each run of the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.fuzz import angel, pmml, tensors


@dataclass(frozen=True)
class Target:
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


TARGETS = {
    "angel_reader": Target(angel.read_angel_model, angel.list_angel_files),
    "angel_requests": Target(angel.read_angel_request, angel.list_angel_requests),
    "pmml_document": Target(pmml.read_document, pmml.list_documents),
    "pmml_requests": Target(pmml.read_rows, pmml.list_rows),
    "tensor_requests": Target(tensors.read_request, tensors.list_requests),
    "rpc_messages": Target(tensors.read_rpc_head, tensors.list_rpc_messages),
}
