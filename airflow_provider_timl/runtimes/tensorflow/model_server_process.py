"""TensorFlow Serving's program as a child of this process, on a socket that nobody else reaches.

It gets neither a port for gRPC nor one for REST: it would listen on them at all addresses of the machine, without a
key. ``--port=0`` is "no port" to it, or, before it could do without one, an error that ends it. It loads the one
version in its folder before it listens, and reads the folder no more.

``start_model_server`` starts it, with a thread that copies its output to our log and waits for its end. ``close`` stops
both. The kernel kills it when the thread that started it ends, which must be the main one; and once it has loaded the
model, its end is the end of this process: whoever watches this one sees the reason and starts it anew.

:source: tensorflow/serving ``model_servers/main.cc`` and ``server.cc`` (2.x); prctl(2).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import ExternalSystemError, InvalidModelError
from airflow_provider_timl.runtimes.process_end import end_process
from airflow_provider_timl.runtimes.tensorflow.library import get_model_status_pb2

MODEL_NAME = "m"
#: A backend ends what is not ready, and sooner by default; this is for who has none.
START_SECONDS = 600.0
_POLL_SECONDS = 0.02
_STATUS_SECONDS = 5.0
_STOP_SECONDS = 10.0
_EXIT_CHILD_ENDED = 4
_STATUS_METHOD = "/tensorflow.serving.ModelService/GetModelStatus"
_UNLIMITED = -1
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", _UNLIMITED),
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
#: Becomes the program, after it asked the kernel to be killed with its parent: a process of its own, for a
#: ``preexec_fn`` is not safe beside threads. If the parent ended before that, nobody would kill it.
_LAUNCHER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    sys.exit("cannot be bound to the process that started it")
os.execv(sys.argv[2], sys.argv[2:])
"""


class ModelServerProcess:
    """The running program. ``channel`` leads to it. Made by ``start_model_server``."""

    def __init__(self, command: list[str], folder: Path) -> None:
        """:param folder: private, with the socket; removed in the end."""
        self.socket = folder / "socket"
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=_CHANNEL_OPTIONS)
        self._folder = folder
        self._last_line = "it said nothing"
        self._is_required = self._is_closing = False
        self._lock = threading.Lock()
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
        self._process = subprocess.Popen(
            launcher,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"},  # as our own session takes memory of GPUs
            start_new_session=True,  # a Ctrl-C is for us, who serve on until our connections are gone
        )
        self._thread = threading.Thread(target=self._watch, name="model-server-output", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_model(self, timeout_seconds: float) -> None:
        """From its return on this process does not live without the program.

        :raises InvalidModelError: the program ended, or gave the model up.
        :raises ExternalSystemError: it is not ready in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._is_available():
            if self._process.poll() is not None:
                self._thread.join(_STOP_SECONDS)
                raise InvalidModelError(self._describe_end())
            if time.monotonic() > deadline:
                raise ExternalSystemError(
                    f"tensorflow_model_server did not load the model within {timeout_seconds:g} s: {self._last_line}"
                )
            time.sleep(_POLL_SECONDS)
        with self._lock:
            self._is_required = True
            has_ended = self._process.poll() is not None
        if has_ended:
            self._end_with_it()

    def close(self) -> None:
        """Stop the program; it answers nothing any more."""
        with self._lock:
            self._is_closing = True
        self.channel.close()
        self._process.kill()  # it has nothing to write down
        self._thread.join(_STOP_SECONDS)
        self._process.wait(_STOP_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_available(self) -> bool:
        if not self.socket.exists():
            return False
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": MODEL_NAME})
        ask = self.channel.unary_unary(_STATUS_METHOD)
        try:
            answer = get_model_status_pb2.GetModelStatusResponse.FromString(
                ask(request.SerializeToString(), timeout=_STATUS_SECONDS, wait_for_ready=True)
            )
        except grpc.RpcError:  # not yet, or it ended
            return False
        states = get_model_status_pb2.ModelVersionStatus
        for version in answer.model_version_status:
            if version.state == states.END:
                raise InvalidModelError(f"TensorFlow Serving refuses the model: {version.status.error_message}")
        return any(version.state == states.AVAILABLE for version in answer.model_version_status)

    def _watch(self) -> None:
        """The thread: until the program closes its output, which it does by its end."""
        assert self._process.stdout is not None  # noqa: S101  a pipe was asked for
        with self._process.stdout as output:
            for line in output:
                os.write(2, line)
                self._last_line = line.decode(errors="replace").strip() or self._last_line
        self._process.wait()
        with self._lock:
            is_missed = self._is_required and not self._is_closing
        if is_missed:
            self._end_with_it()

    def _end_with_it(self) -> None:
        print(self._describe_end(), file=sys.stderr)
        shutil.rmtree(self._folder, ignore_errors=True)
        end_process(_EXIT_CHILD_ENDED)

    def _describe_end(self) -> str:
        code = self._process.poll() or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return f"tensorflow_model_server {how}: {self._last_line}"


def build_flags(base_folder: Path, socket: Path, resources: Resources) -> list[str]:
    """Joining, warm-up and further tries are left out: the engine joins requests, by options of its own and only where
    the model was seen to allow it; it replays the warm-up requests; and the backend tries again."""
    threads = max(1, math.ceil(resources.cpu))
    return [
        "--port=0",
        f"--grpc_socket_path={socket}",
        f"--model_name={MODEL_NAME}",
        f"--model_base_path={base_folder}",
        f"--tensorflow_intra_op_parallelism={threads}",
        f"--tensorflow_inter_op_parallelism={threads}",
        "--file_system_poll_wait_seconds=0",
        "--max_num_load_retries=0",
        "--enable_model_warmup=false",
        "--enable_serialization_as_tensor_content",  # older ones say that they do not know it, and go on
    ]


def start_model_server(program: str, model: Path, resources: Resources) -> ModelServerProcess:
    """Start the program, and wait until it has loaded the model.

    :raises InvalidModelError: the program ended, or gave the model up.
    :raises ExternalSystemError: it is not on the PATH, cannot be started, or is not ready in time.
    """
    path = shutil.which(program)
    if path is None:
        raise ExternalSystemError(f"the program {program!r} is not on the PATH of the process that serves the model")
    folder = Path(tempfile.mkdtemp(prefix="timl-model-server-"))  # for this user alone
    base = folder / MODEL_NAME
    base.mkdir()
    (base / "1").symlink_to(model.absolute(), target_is_directory=True)
    try:
        process = ModelServerProcess([path, *build_flags(base, folder / "socket", resources)], folder)
    except OSError as exc:
        shutil.rmtree(folder, ignore_errors=True)
        raise ExternalSystemError(f"tensorflow_model_server cannot be started: {exc}") from exc
    try:
        process.wait_for_model(START_SECONDS)
    except BaseException:
        process.close()
        raise
    return process
