"""What a runtime is: the contract between the model server and an engine, and how runtimes are found.

A runtime is one file that ends in a ``RUNTIME`` value, registered under the entry point group ``timl.runtimes``; the
built-in ones are registered the same way. The model server owns HTTP, limits, the queue, batching, metrics and
drain; the engine owns what a request and an answer look like for its model type, and the arithmetic.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from airflow_provider_timl.entities import Entity, InspectionReport, Resources, Signature
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidInputError, NotFoundError, TimlError

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


class Monitor(Protocol):
    """Counts of requests in the form of the server that an engine stands for, beside our own metrics. Called on the
    event loop, which must not wait."""

    path: str
    """Where ``GET`` answers them."""

    def count(self, name: str, version: str | None, *, is_success: bool, seconds: float) -> None:
        """A prediction was answered.

        :param version: as in the path; ``None`` when the path has none.
        """

    def render(self) -> bytes:
        """JSON."""


@runtime_checkable
class MonitoredEngine(Engine[Request], Protocol):
    """An engine with a monitor."""

    monitor: Monitor


class RuntimeOptions(Entity):
    """What a version can be deployed with beside resources: a runtime's own subclass says, with a default for each."""


@dataclass(frozen=True)
class RuntimeProgram:
    """How one model type is recognised, inspected and loaded.

    :param requires: modules that must be importable; without them the runtime is known but not installed.
    :param programs: that must be found on the PATH, likewise.
    :param extra: the extra of this package that installs the modules.
    :param inspect: parse the artifact at a folder completely and try its example, within resources; runs in the limited
        process.
    :param load: make the engine for the artifact at a folder, within resources, with a value of ``options``.
    :param has_rpc: whether its engines are ``RpcEngine``.
    :param stands_for: the runtime of the same type whose place it takes where both are installed and nobody names one;
        that one inspects the models.
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
    programs: tuple[str, ...] = ()
    stands_for: str | None = None
    memory_mb: int = Resources().memory_mb

    def find_missing(self) -> str | None:
        """The first required program or module that is not installed, without importing any."""
        absent = (program for program in self.programs if shutil.which(program) is None)
        return next(absent, None) or next((module for module in self.requires if find_spec(module) is None), None)

    def describe_need(self, missing: str) -> str:
        """What is needed, and what to do for it.

        :param missing: what ``find_missing`` found.
        """
        if missing in self.programs:
            return f"the program {missing!r} on the PATH; install it"
        return f"the module {missing!r}; install `airflow-provider-timl[{self.extra}]`"

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
    return [_load(point) for point in sorted(points, key=lambda point: point.name)]


def _load(point: EntryPoint) -> RuntimeProgram:
    """A runtime whose own file needs what is not installed is known still, by what is missing: one that nobody uses
    must not keep the others from work."""
    try:
        program: RuntimeProgram = point.load()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == __package__.partition(".")[0]:
            raise
        return _build_absent(point.name, missing)
    return program


def _build_absent(name: str, missing: str) -> RuntimeProgram:
    message = f"the runtime {name!r} needs the package {missing!r}, which is not installed here"

    def refuse(*_: object) -> Any:
        raise ExternalSystemError(message)

    return RuntimeProgram(name=name, model_type=name, requires=(missing,), extra=name, inspect=refuse, load=refuse)


def get_runtime_for(model_type: str) -> RuntimeProgram:
    """The runtime that inspects models of a type: the first by name of those that stand for no other.

    :raises InvalidInputError: there is no such model type.
    """
    programs = list_runtimes()
    inspecting = (program for program in programs if program.stands_for is None)
    fitting = next((program for program in inspecting if program.model_type == model_type), None)
    if fitting is None:
        known = ", ".join(sorted({program.model_type for program in programs}))
        raise InvalidInputError(f"unknown model type {model_type!r}; there are {known}", "model_type")
    return fitting


def get_runtime(name: str) -> RuntimeProgram:
    """:raises NotFoundError: no runtime of that name is registered."""
    for point in entry_points(group="timl.runtimes", name=name):
        return _load(point)
    raise NotFoundError("runtime", name)


def has_rpc(name: str) -> bool:
    """Whether a runtime's servers take gRPC. One that cannot be imported has none: its servers say why they cannot
    start."""
    try:
        return get_runtime(name).has_rpc
    except (NotFoundError, ImportError):
        return False
