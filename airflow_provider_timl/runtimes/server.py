"""The model server program: ``python -m airflow_provider_timl.runtimes.server --config FILE.json``.

Started and watched by a backend. It loads one model version, listens only when a prediction would be answered, and on
SIGTERM serves its connections until they are gone: who sends it requests has taken it off the list by then and lets go.
Exits with 3 and the reason as last line on stderr when the model cannot be loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import uvloop

from airflow_provider_timl.exceptions import TimlError
from airflow_provider_timl.runtimes.application import ModelApplication
from airflow_provider_timl.runtimes.contract import Engine, RpcEngine, find_model_root, get_runtime
from airflow_provider_timl.runtimes.http import HttpConnection
from airflow_provider_timl.runtimes.process_end import end_process
from airflow_provider_timl.runtimes.server_config import ServerConfig

if TYPE_CHECKING:
    from airflow_provider_timl.runtimes.rpc import RpcServer

log = logging.getLogger(__name__)

_EXIT_NOT_LOADED = 3
_BACKLOG = 1024
#: The engine's thread and the event loop hand the interpreter to each other; 5 ms (the default) would be the latency.
_SWITCH_INTERVAL_SECONDS = 0.0002
_DRAIN_STEP_SECONDS = 0.02
#: Between two looks for garbage that refers to itself, which requests do not leave: a body of 1,000 rows makes as many
#: containers, and the defaults look at them several times, and at all that the libraries made with them.
_COLLECTION_THRESHOLDS = (50_000, 20, 20)
#: Of NumPy, which reads it when it is imported. Several wait for each other without sleeping: they gain a tenth, and
#: cost ten times as much while another process has their core.
_BLAS_THREADS = "1"


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve one version of a model.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the fields of ServerConfig")
    config = ServerConfig.from_json_file(parser.parse_args().config)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    prepare_process()
    try:
        program = get_runtime(config.runtime)
        folder = find_model_root(Path(config.model_path))
        engine = program.load(folder, config.resources, program.parse_options(config.options))
        if program.has_rpc:
            cast(RpcEngine[Any], engine).model_version = config.model_version
    except TimlError as exc:
        print(f"cannot load the model: {exc}", file=sys.stderr)
        return _EXIT_NOT_LOADED
    gc.collect()
    gc.freeze()
    uvloop.run(serve(config, engine, has_rpc=program.has_rpc))
    return 0


def prepare_process() -> None:
    """What the interpreter, and libraries that are imported later, are told before an engine is loaded."""
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", _BLAS_THREADS)


async def serve(config: ServerConfig, engine: Engine[Any], *, has_rpc: bool) -> None:
    """Serve until SIGTERM or SIGINT, then drain. gRPC first: when HTTP says that it is ready, all is."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    application = ModelApplication(config, engine)
    rpc = None
    if has_rpc and config.rpc_listen:
        rpc = await _start_rpc(config, cast(RpcEngine[Any], engine), application, config.rpc_listen)
    server = await _listen(loop, application, config.listen)
    await stop.wait()
    log.info("draining %d connection(s)", len(application.connections))
    drains = [_drain(server, application, config.drain_timeout_seconds)]
    if rpc is not None:
        drains.append(rpc.stop(config.drain_timeout_seconds))
    await asyncio.gather(*drains)
    application.close()
    log.info("stopped")


async def _listen(loop: asyncio.AbstractEventLoop, application: ModelApplication, listen: str) -> asyncio.Server:
    def connect() -> HttpConnection:
        return HttpConnection(application)

    if not listen.startswith("unix:"):
        host, _, port = listen.rpartition(":")
        server = await loop.create_server(connect, host, int(port), backlog=_BACKLOG)
        host, port = server.sockets[0].getsockname()[:2]
        print(f"listening on {host}:{port}", flush=True)
        return server
    path = listen.removeprefix("unix:")
    with _bind_privately(path):
        return await loop.create_unix_server(connect, path, backlog=_BACKLOG)


async def _start_rpc(
    config: ServerConfig, engine: RpcEngine[Any], application: ModelApplication, listen: str
) -> RpcServer:
    from airflow_provider_timl.runtimes.rpc import RpcServer

    server = RpcServer(config, engine, application)
    with _bind_privately(listen.removeprefix("unix:")):
        await server.start(listen)
    return server


@contextmanager
def _bind_privately(path: str) -> Iterator[None]:
    """A socket that is bound inside is this user's alone, and takes the place of one that a process before left."""
    Path(path).unlink(missing_ok=True)
    former = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(former)
    log.info("listening on %s", path)


async def _drain(server: asyncio.Server, application: ModelApplication, timeout_seconds: float) -> None:
    """Go on answering what is connected; every answer now ends its connection."""
    application.draining = True
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    while application.connections and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_DRAIN_STEP_SECONDS)
    server.close()
    for connection in list(application.connections):
        connection.close_if_idle()


if __name__ == "__main__":
    end_process(main())
