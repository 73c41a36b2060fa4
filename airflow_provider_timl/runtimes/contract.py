"""What a runtime is: the contract between the model server and an engine, and how runtimes are found.

A runtime is one file that ends in a ``RUNTIME`` value, registered under the entry point group ``timl.runtimes``; the
built-in ones are registered the same way. The model server owns HTTP, limits, the queue, batching, metrics and
drain; the engine owns what a request and an answer look like for its model type, and the arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from airflow_provider_timl.entities import Entity, InspectionReport, Resources, Signature
from airflow_provider_timl.exceptions import InvalidInputError, NotFoundError, TimlError

#: What an engine makes of a request body; only the engine looks inside.
Request = TypeVar("Request")


@dataclass(frozen=True)
class Batching:
    """How requests that wait are joined.

    :param most_rows: of one batch; a larger request is a batch of its own.
    :param delay_seconds: how long a request may wait for others to come.
    """

    most_rows: int = 4096
    delay_seconds: float = 0.0


class Engine(Protocol[Request]):
    """A loaded model.

    ``parse`` runs on the event loop and must be quick in proportion to the body; ``run`` runs in the engine's own
    thread and may block. Neither keeps a reference to what it was given.
    """

    signature: Signature
    batching: Batching

    def describe(self) -> dict[str, Any]:
        """Further fields of the status answer, such as Angel Serving's ``typeMap``."""

    def describe_metadata(self) -> dict[str, Any]:
        """What stands under ``metadata`` in the metadata answer."""

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


class RpcEngine(Engine[Request], Protocol):
    """An engine that also takes TensorFlow Serving's gRPC messages.

    ``model_version`` is what responses say of the version; the server sets it before the first request.
    """

    model_version: int | None

    def parse_rpc(self, method: str, message: bytes) -> Request:
        """Check a serialized request of ``PredictionService`` completely; ``run`` gives the serialized response.

        :param method: ``Predict``, ``Classify``, ``Regress``, ``MultiInference`` or ``GetModelMetadata``.
        :raises InvalidInputError: naming the input.
        """


class RuntimeOptions(Entity):
    """What a version can be deployed with beside resources: a runtime's own subclass says, with a default for each."""


@dataclass(frozen=True)
class RuntimeProgram:
    """How one model type is recognised, inspected and loaded.

    :param requires: modules that must be importable; without them the runtime is known but not installed.
    :param extra: the extra of this package that installs them.
    :param inspect: parse the artifact at a folder completely and try its example, within resources; runs in the limited
        process.
    :param load: make the engine for the artifact at a folder, within resources, with a value of ``options``.
    :param has_rpc: whether its engines are ``RpcEngine``.
    :param memory_mb: what an instance gets when nobody says.
    """

    name: str
    model_type: str
    requires: tuple[str, ...]
    extra: str
    inspect: Callable[[Path, Resources], InspectionReport]
    load: Callable[[Path, Resources, Any], Engine[Any]]
    options: type[RuntimeOptions] = RuntimeOptions
    has_rpc: bool = False
    memory_mb: int = Resources().memory_mb

    def find_missing(self) -> str | None:
        """The first required module that is not installed, without importing any."""
        return next((module for module in self.requires if find_spec(module) is None), None)

    def parse_options(self, given: Mapping[str, Any]) -> RuntimeOptions:
        """:raises InvalidInputError: an option is unknown or has a wrong value; the field is ``options.<name>``."""
        try:
            return self.options.model_validate(given)
        except ValidationError as exc:
            problem = exc.errors(include_url=False, include_input=False)[0]
            field = ".".join(["options", *map(str, problem["loc"])])
            known = ", ".join(self.options.model_fields) or "none"
            message = f"{problem['msg']} (runtime {self.name!r}; its options: {known})"
            raise InvalidInputError(message, field) from exc


def find_model_root(folder: Path) -> Path:
    """Where the model stands in an artifact: in its folder, or in the one numbered folder there (``base/version``)."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and re.fullmatch("[0-9]+", entries[0].name):
        return entries[0]
    return folder


def list_runtimes() -> list[RuntimeProgram]:
    """All registered runtimes, by name."""
    points = entry_points(group="timl.runtimes")
    return [point.load() for point in sorted(points, key=lambda point: point.name)]


def get_runtime_for(model_type: str) -> RuntimeProgram:
    """The runtime that inspects models of a type: the first by name.

    :raises InvalidInputError: there is no such model type.
    """
    programs = list_runtimes()
    fitting = next((program for program in programs if program.model_type == model_type), None)
    if fitting is None:
        known = ", ".join(sorted({program.model_type for program in programs}))
        raise InvalidInputError(f"unknown model type {model_type!r}; there are {known}", "model_type")
    return fitting


def get_runtime(name: str) -> RuntimeProgram:
    """:raises NotFoundError: no runtime of that name is registered."""
    for point in entry_points(group="timl.runtimes", name=name):
        program: RuntimeProgram = point.load()
        return program
    raise NotFoundError("runtime", name)
