"""The commands and their arguments. Every ``airflow`` call imports this, so nothing heavy is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

_OUTPUT = Arg(("-o", "--output"), help="how to print", choices=("table", "json", "yaml"), default="table")
_CONN_ID = Arg(("--conn-id",), help="connection to the control plane", default="timl_default")
_VERBOSE = Arg(("-v", "--verbose"), help="show where an error came from", action="store_true")
_WAIT = Arg(("--wait",), help="end when the gateway serves the change", action="store_true")
_TIMEOUT = Arg(("--timeout",), help="longest wait in seconds", type=float, default=600.0)
_COMMON = (_OUTPUT, _CONN_ID, _VERBOSE)
_CHANGE = (_WAIT, _TIMEOUT, *_COMMON)

_NAME = Arg(("name",), help="the model")
_SERVICE = Arg(("service",), help="the service")
_VERSION = Arg(("version",), help="the version", type=int)
_TYPE = Arg(("--type",), help="model type: pmml, onnx, tensorflow, angel, ...", required=True, dest="model_type")
_ALIAS = Arg(("--alias",), help="point this alias to the new version; may be repeated", action="append", default=[])
_WANTED_VERSION = Arg(("--version",), help="version; the latest by default", type=int)
_SPECIFICATION = (
    _WANTED_VERSION,
    Arg(("--instances",), help="how many", type=int, default=1),
    Arg(("--cpu",), help="cores of an instance", type=float, default=1.0),
    Arg(("--memory-mb",), help="memory of an instance in MiB; by default the runtime's", type=int),
    Arg(("--gpu",), help="GPUs of an instance", type=int, default=0),
    Arg(("--runtime",), help="the program that serves it; by default the model type's"),
    Arg(("--option",), help="of the runtime, as NAME=VALUE; may be repeated", action="append", metavar="NAME=VALUE"),
)


def get_cli_commands() -> list[CLICommand]:
    """What Airflow adds to its own commands."""
    return [
        GroupCommand(
            name="timl",
            help="Model repository and model services",
            subcommands=(
                *_build_server_commands(),
                GroupCommand(name="db", help="The provider's database", subcommands=_build_database_commands()),
                GroupCommand(name="models", help="The model repository", subcommands=_build_model_commands()),
                GroupCommand(name="services", help="Model services", subcommands=_build_service_commands()),
            ),
        )
    ]


def _build_server_commands() -> tuple[ActionCommand, ...]:
    stop_all = Arg(("--stop-all",), help="end every model server and the gateway instead", action="store_true")
    return (
        _build("controller", "Run the controller: it makes services what they should be", "server", (stop_all,)),
        _build("doctor", "Check what is installed, reachable and configured", "server", _COMMON),
    )


def _build_database_commands() -> tuple[ActionCommand, ...]:
    return (_build("upgrade", "Create the database, or bring it to the newest version", "server", (_VERBOSE,)),)


def _build_model_commands() -> tuple[ActionCommand, ...]:
    path = Arg(("path",), help="file or folder")
    cos_path = Arg(("cos_path",), help="cos://bucket/key, s3://bucket/key or the object's https address")
    alias = Arg(("alias",), help="the alias")
    return (
        _build("save", "Save a model as the next version", "models", (_NAME, _TYPE, path, _ALIAS, *_COMMON)),
        _build("import", "Import a model from COS", "models", (_NAME, _TYPE, cos_path, _ALIAS, *_COMMON)),
        _build("list", "List models", "models", _COMMON),
        _build("show", "Show a model and its versions", "models", (_NAME, *_COMMON)),
        _build("alias", "Point an alias to a version", "models", (_NAME, alias, _VERSION, *_COMMON)),
        _build("delete", "Delete a version", "models", (_NAME, _VERSION, *_COMMON)),
    )


def _build_service_commands() -> tuple[ActionCommand, ...]:
    model = Arg(("--model",), help="the model", required=True)
    split = Arg(("traffic",), help="VERSION=PERCENT, sum 100", nargs="+")
    revision = Arg(("--revision",), help="the revision; by default the one before", type=int)
    body = Arg(("--body",), help="JSON file with the request; by default the model's example")
    pin = Arg(("--version",), help="ask this version, whatever its traffic", type=int)
    key = Arg(("--key",), help="name of the key; by default the first that is enabled")
    return (
        _build("list", "List services", "services", _COMMON),
        _build("show", "Show a service", "services", (_SERVICE, *_COMMON)),
        _build("deploy", "Deploy a model version", "services", (_SERVICE, model, *_SPECIFICATION, *_CHANGE)),
        _build("add-version", "Add a version with no traffic", "services", (_SERVICE, *_SPECIFICATION, *_CHANGE)),
        _build("remove-version", "Stop a version that has no traffic", "services", (_SERVICE, _VERSION, *_CHANGE)),
        _build("traffic", "Split the traffic", "services", (_SERVICE, split, *_CHANGE)),
        _build("rollback", "Go back to an earlier revision", "services", (_SERVICE, revision, *_CHANGE)),
        _build("revisions", "List revisions", "services", (_SERVICE, *_COMMON)),
        _build("test", "Send a prediction through the gateway", "services", (_SERVICE, body, pin, *_COMMON)),
        _build("key", "Print an access key", "services", (_SERVICE, key, _CONN_ID, _VERBOSE)),
        _build("logs", "Print the end of the instances' logs", "services", (_SERVICE, pin, *_COMMON)),
        _build("delete", "Stop serving", "services", (_SERVICE, *_CHANGE)),
    )


def _build(name: str, text: str, module: str, args: tuple[Arg, ...]) -> ActionCommand:
    function = f"{name.replace('-', '_')}_command"
    return ActionCommand(name=name, help=text, func=_lazy(f"{__package__}.{module}.{function}"), args=args)


def _lazy(path: str) -> Callable[..., Any]:
    load: Callable[[str], Callable[..., Any]] = lazy_load_command
    return load(path)
