"""``python -m demo [--exit]``: start everything, run the life cycle, say how to use it, stay until Ctrl-C.

Started by ``script/demo``. Starts the S3 server that stands for COS, ``airflow standalone`` and the controller; ends
all of them, the model servers and the gateway, however it ends itself.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from demo import configuration
from demo.airflow_api import AirflowAPI
from demo.configuration import STATE, USERNAME
from demo.errors import DemoFailedError
from demo.lifecycle import run_lifecycle
from demo.processes import MARK, ROOT, Program, Supervisor, kill_marked
from demo.result import read_result
from tests.servers.seaweedfs import ObjectStorage

START_SECONDS = 300.0
STOP_SECONDS = 120.0
POLL_SECONDS = 1.0
TELL_SECONDS = 10.0
LOG_CHARACTERS = 3000
DATA = ROOT / "tests" / "data"
#: What the example DAGs read: bucket, key, file or folder.
UPLOADS = (
    ("models", "pmml_lr/LogisticRegressionIris.pmml", DATA / "pmml_lr" / "LogisticRegressionIris.pmml"),
    ("models", "angel/lr", DATA / "angel" / "published" / "lr"),
    ("models", "angel/deepFM", DATA / "angel" / "published" / "deepFM"),
    ("data", "iris/flowers.csv", DATA / "flowers" / "flowers.csv"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/demo", description="Run the whole product on this machine.")
    parser.add_argument("--exit", action="store_true", help="stop when the life cycle has ended")
    arguments = parser.parse_args()
    # A shell gives programs that it starts in the background an ignored SIGINT; this one wants to be stopped by it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    configuration.make_folders()
    with configuration.LOCK_FILE.open("w") as lock:
        take_lock(lock)
        try:
            run(stay=not arguments.exit)
        except DemoFailedError as error:
            sys.exit(f"\nThe demo failed: {error}\n\nLogs are in {configuration.LOGS}. Run script/demo again to retry.")
        except KeyboardInterrupt:
            print("Stopped; nothing is left running.", flush=True)


def interrupt(*_: object) -> None:
    """Once: a second Ctrl-C does not keep the first from ending everything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("\nStopping ...", flush=True)
    raise KeyboardInterrupt


def take_lock(lock: TextIO) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"A demo of this checkout runs already; its addresses are in {configuration.RESULT_FILE}.")


def run(*, stay: bool) -> None:
    """The whole demonstration; whatever it started has ended when this returns or raises."""
    os.environ[MARK] = str(STATE)  # what is started without an environment of its own carries it too
    if killed := kill_marked(str(STATE)):
        print(f"Ended {killed} processes of an earlier demo that was killed.", flush=True)
    configuration.RESULT_FILE.unlink(missing_ok=True)  # of an earlier run; its addresses are no longer true
    with ExitStack() as stack:
        stack.callback(kill_marked, str(STATE))
        secrets, ports = configuration.ensure_secrets(), configuration.choose_ports()
        print("Starting the S3 server that stands for COS ...", flush=True)
        storage = start_storage(stack)
        upload(storage)
        cos = configuration.build_cos_connection(storage.endpoint_url, storage.access_key, storage.secret_key)
        airflow_environment = configuration.build_airflow_environment(secrets, ports, cos)
        configuration.write_environment_file(airflow_environment)
        environment = configuration.build_process_environment(airflow_environment)

        airflow = start_airflow(stack, environment)
        start_controller(stack, environment)

        def check_programs() -> None:
            if airflow.find_exit_status() is not None:
                raise DemoFailedError(f"Airflow ended by itself. Its log ends:\n{read_end(airflow.log)}")

        api = AirflowAPI(f"http://127.0.0.1:{ports.airflow}", USERNAME, secrets.password)
        wait_for_airflow(api, check_programs)
        run_lifecycle(api, check_programs)
        result = read_result(api, USERNAME, secrets.password)
        configuration.write_private(configuration.RESULT_FILE, result.to_json())
        print(
            f"{result.describe()}\n\nAll of this is in {configuration.RESULT_FILE.relative_to(ROOT)} too.", flush=True
        )
        if stay:
            print("Everything stays up until Ctrl-C.", flush=True)
            while True:
                check_programs()
                time.sleep(POLL_SECONDS)
        print("Stopping ...", flush=True)


def start_storage(stack: ExitStack) -> ObjectStorage:
    try:
        return stack.enter_context(ObjectStorage(configuration.STORAGE))
    except AssertionError as error:  # how that server, which the tests share, says what is wrong
        raise DemoFailedError(str(error)) from error


def upload(storage: ObjectStorage) -> None:
    client = storage.build_client()
    existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket, key, source in UPLOADS:
        if bucket not in existing:
            client.create_bucket(Bucket=bucket)
            existing.add(bucket)
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        for file in files:
            suffix = "" if file == source else f"/{file.relative_to(source).as_posix()}"
            client.upload_file(str(file), bucket, f"{key}{suffix}")


def start_airflow(stack: ExitStack, environment: Mapping[str, str]) -> Program:
    """``airflow standalone``; it wants SIGINT, and leaves its parts behind on SIGTERM."""
    print("Starting Airflow, which takes about half a minute ...", flush=True)
    path = f"{Path(__file__).parent / 'bin'}{os.pathsep}{environment['PATH']}"
    airflow = Program(
        "Airflow",
        [get_airflow(), "standalone"],
        {**environment, "PATH": path},
        configuration.LOGS / "airflow.log",
        signal.SIGINT,
    )
    stack.callback(airflow.stop)
    airflow.start()
    return airflow


def start_controller(stack: ExitStack, environment: Mapping[str, str]) -> None:
    """The database's tables, then the controller, which is started again whenever it ends."""
    log = configuration.LOGS / "controller.log"
    run_to_end([get_airflow(), "timl", "db", "upgrade"], environment, log)
    stack.callback(run_to_end, [get_airflow(), "timl", "controller", "--stop-all"], environment, log)
    supervisor = Supervisor(Program("controller", [get_airflow(), "timl", "controller"], environment, log))
    stack.callback(supervisor.stop)
    supervisor.start()


def run_to_end(command: list[str], environment: Mapping[str, str], log: Path) -> None:
    program = Program(" ".join(command[1:]), command, environment, log)
    program.start()
    if status := program.wait():
        raise DemoFailedError(f"'{program.name}' ended with status {status}. Its log ends:\n{read_end(log)}")


def wait_for_airflow(api: AirflowAPI, check_programs: Callable[[], None]) -> None:
    started = told = time.monotonic()
    while missing := api.find_unhealthy():
        check_programs()
        now = time.monotonic()
        if now - started > START_SECONDS:
            raise DemoFailedError(f"Airflow's {', '.join(missing)} did not come up within {START_SECONDS:.0f} s.")
        if now - told > TELL_SECONDS:
            print(f"  ... {now - started:.0f} s, waiting for {', '.join(missing)}", flush=True)
            told = now
        time.sleep(POLL_SECONDS)
    print(f"Airflow is up after {time.monotonic() - started:.0f} s.", flush=True)


def get_airflow() -> str:
    return str(Path(sys.executable).with_name("airflow"))


def read_end(file: Path) -> str:
    return file.read_text(errors="replace")[-LOG_CHARACTERS:]


if __name__ == "__main__":
    main()
