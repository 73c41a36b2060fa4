"""What a runtime is: the contract between the model server and an engine, and how runtimes are found.

A runtime is one file that ends in a ``RUNTIME`` value, registered under the entry point group ``timl.runtimes``; the
built-in ones are registered the same way. The model server owns HTTP, limits, the queue, batching, metrics and
drain; the engine owns what a request and an answer look like for its model type, and the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from airflow_provider_timl.entities import InspectionReport, Resources, Signature
from airflow_provider_timl.exceptions import NotFoundError, TimlError

#: What an engine makes of a request body; only the engine looks inside.
Request = TypeVar("Request")


class Engine(Protocol[Request]):
    """A loaded model.

    ``parse`` runs on the event loop and must be quick in proportion to the body; ``run`` runs in the engine's own
    thread and may block. Neither keeps a reference to what it was given.
    """

    signature: Signature

    def describe(self) -> dict[str, Any]:
        """Further fields of the status answer, such as Angel Serving's ``typeMap``."""

    def parse(self, verb: str, body: bytes) -> Request:
        """Check a request body completely.

        :param verb: what follows the colon in the path: ``predict``.
        :raises InvalidInputError: naming the instance and the field, as in ``instances[2].x1``.
        """

    def count_rows(self, request: Request) -> int:
        """Rows in a parsed request; what batches and metrics are counted in."""

    def run(self, batch: Sequence[Request]) -> list[bytes | TimlError]:
        """Answer each request of a batch, same order: a JSON body, or the error of that request alone."""

    def score(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[dict[str, object] | TimlError]:
        """Predict rows given as values in the order of ``columns``: what offline prediction calls.

        :return: one dict of outputs, or the row's own error, for each row, same order.
        :raises InvalidInputError: when a required input is not among ``columns``.
        """

    def close(self) -> None:
        """Give back what the engine holds; called once, after the last ``run``."""


@dataclass(frozen=True)
class RuntimeProgram:
    """How one model type is recognised, inspected and loaded.

    :param requires: modules that must be importable; without them the runtime is known but not installed.
    :param extra: the extra of this package that installs them.
    :param inspect: parse the artifact at a folder completely and try its example, within resources; runs in the limited
        process.
    :param load: make the engine for the artifact at a folder, within resources.
    """

    name: str
    model_type: str
    requires: tuple[str, ...]
    extra: str
    inspect: Callable[[Path, Resources], InspectionReport]
    load: Callable[[Path, Resources], Engine[Any]]

    def find_missing(self) -> str | None:
        """The first required module that is not installed, without importing any."""
        return next((module for module in self.requires if find_spec(module) is None), None)


def list_runtimes() -> list[RuntimeProgram]:
    """All registered runtimes, by name."""
    points = entry_points(group="timl.runtimes")
    return [point.load() for point in sorted(points, key=lambda point: point.name)]


def get_runtime(name: str) -> RuntimeProgram:
    """:raises NotFoundError: no runtime of that name is registered."""
    for point in entry_points(group="timl.runtimes", name=name):
        program: RuntimeProgram = point.load()
        return program
    raise NotFoundError("runtime", name)
