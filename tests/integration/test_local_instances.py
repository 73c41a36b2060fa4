"""Model server processes that are slow, crash, hang or grow, and a supervisor that is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from airflow_provider_timl.backends.contract import InstanceState
from airflow_provider_timl.backends.local import logs
from airflow_provider_timl.backends.local.logs import LocalLogs
from airflow_provider_timl.exceptions import ConflictError, ExternalSystemError
from tests.servers.local import ALL, LocalMachine, build_route, run_machine
from tests.waiting import wait_until

HEALS_WITHIN_SECONDS = 10.0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalMachine]:
    with run_machine(tmp_path, monkeypatch) as machine:
        yield machine


# start


def test_slow_start_is_starting_until_it_answers(machine: LocalMachine) -> None:
    machine.set_faults("iris", load_seconds=1.5)
    name = machine.ensure("iris")
    wait_until(lambda: machine.backend.list_instances() and machine.list_servers(), timeout_seconds=5)
    assert machine.get(name).state is InstanceState.STARTING
    assert machine.wait_for(name, InstanceState.READY).restarts == 0


def test_never_ready_is_killed_and_started_again_until_it_is_called_failed(machine: LocalMachine) -> None:
    machine.restart(start_timeout_seconds=0.7)
    machine.set_faults("iris", load_seconds=600)
    name = machine.ensure("iris")
    failed = machine.wait_for(name, InstanceState.FAILED, 15)
    assert failed.reason == "it was not ready within 0.7 s"
    machine.set_faults("iris")
    machine.restart(start_timeout_seconds=20.0)
    machine.wait_for(name, InstanceState.READY)


def test_crash_while_loading_tells_status_and_last_words(machine: LocalMachine) -> None:
    machine.set_faults("iris", load_exit=5, load_words="the third tree has no root")
    failed = machine.wait_for(machine.ensure("iris"), InstanceState.FAILED)
    assert failed.reason == "it exited with status 5: the third tree has no root"
    assert failed.restarts >= 3


def test_one_that_fails_does_not_delay_another(machine: LocalMachine) -> None:
    machine.set_faults("broken", load_exit=5)
    machine.ensure("broken")
    machine.start_ready("iris")


def test_artifact_that_two_instances_need_is_fetched_once_and_again_only_after_a_bad_start(
    machine: LocalMachine,
) -> None:
    machine.start_ready("iris", instances=2)
    assert machine.fetches == ["s3://bucket/iris"]
    machine.list_servers()[0].kill()
    wait_until(lambda: any(status.restarts for status in machine.backend.list_instances()), timeout_seconds=5)
    machine.start_ready("iris", instances=2)
    assert machine.fetches == ["s3://bucket/iris"]


def test_artifact_that_cannot_be_fetched_is_a_reason_and_others_go_on(
    machine: LocalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def fetch(uri: str, *_: object) -> Path:
        if uri.endswith("slow"):
            released.wait(30)
        raise ExternalSystemError("object storage is down")

    monkeypatch.setattr(machine, "fetch", fetch)
    machine.restart()
    slow, broken = machine.ensure("slow"), machine.ensure("broken")
    failed = machine.wait_for(broken, InstanceState.FAILED)
    assert failed.reason == "the artifact cannot be fetched: object storage is down"
    assert machine.get(slow).state is InstanceState.STARTING
    released.set()
    machine.wait_for(slow, InstanceState.FAILED)


def test_copied_artifact_is_removed_with_its_last_instance(
    machine: LocalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_uri: str, _files: object, target: Path) -> Path:
        target.mkdir(exist_ok=True)
        return target

    monkeypatch.setattr(machine, "fetch", fetch)
    machine.restart()
    cache = machine.settings.data_dir / "artifact-cache"
    machine.start_ready("iris", instances=2)
    (cache / "left-by-a-killed-download.1a2b.partial").mkdir()
    first, second = (status.id for status in machine.backend.list_instances())
    for name, copies in ((first, 1), (second, 0)):
        machine.backend.drain_instance(name)
        wait_until(lambda name=name: name not in {s.id for s in machine.backend.list_instances()}, timeout_seconds=10)
        assert len(list(cache.iterdir())) == copies


# watch


def test_killed_server_is_started_again_at_the_same_address(machine: LocalMachine) -> None:
    (address,) = machine.start_ready("iris")
    machine.publish(build_route("iris", {1: (ALL, (address,))}))
    (server,) = machine.list_servers()
    server.kill()
    name = machine.backend.list_instances()[0].id
    wait_until(lambda: machine.get(name).restarts == 1, timeout_seconds=5)
    assert "was killed by SIGKILL" in (machine.get(name).reason or "")
    assert machine.wait_for(name, InstanceState.READY, HEALS_WITHIN_SECONDS).address == address
    wait_until(lambda: machine.call()[0] == 200, timeout_seconds=HEALS_WITHIN_SECONDS)


def test_server_that_ends_by_itself_says_with_which_status(machine: LocalMachine) -> None:
    addresses = machine.start_ready("iris")
    machine.publish(build_route("iris", {1: (ALL, addresses)}))
    assert machine.call({"print": "out of luck", "exit": 7})[0] == 503
    name = machine.backend.list_instances()[0].id
    assert wait_until(lambda: machine.get(name).reason, timeout_seconds=5) == "it exited with status 7: out of luck"
    machine.wait_for(name, InstanceState.READY, HEALS_WITHIN_SECONDS)


def test_server_that_takes_too_much_memory_is_ended_with_the_figures(machine: LocalMachine) -> None:
    name = machine.ensure("iris", memory_mb=256)
    address = machine.wait_for(name, InstanceState.READY).address
    machine.publish(build_route("iris", {1: (ALL, (address,))}))
    assert machine.call({"grow_mb": 50})[0] == 200
    assert machine.get(name).state is InstanceState.READY
    assert machine.call({"grow_mb": 400})[0] == 200
    assert " MB of its 256 MB of memory" in (
        wait_until(lambda: machine.get(name).reason, timeout_seconds=HEALS_WITHIN_SECONDS)
    )
    machine.wait_for(name, InstanceState.READY, HEALS_WITHIN_SECONDS)


def test_server_that_hangs_is_replaced_while_others_are_looked_after(machine: LocalMachine) -> None:
    addresses = machine.start_ready("iris")
    (other,) = machine.start_ready("other")
    machine.publish(build_route("iris", {1: (ALL, addresses)}))
    (server,) = machine.list_servers("iris-v1")
    threading.Thread(target=machine.call, args=({"block_seconds": 600},)).start()
    name = next(status.id for status in machine.backend.list_instances() if status.service == "iris")
    hung = wait_until(lambda: machine.get(name).reason, timeout_seconds=20)
    assert hung == "it did not answer 3 health checks in a row"
    assert not server.is_running()
    machine.wait_for(name, InstanceState.READY, HEALS_WITHIN_SECONDS)
    assert [status.restarts for status in machine.backend.list_instances() if status.address == other] == [0]


def test_waiting_for_a_change_ends_when_a_server_does(machine: LocalMachine) -> None:
    machine.start_ready("iris")
    (server,) = machine.list_servers()
    waiting = threading.Thread(target=machine.backend.wait_for_change, args=(60.0,))
    waiting.start()
    server.kill()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_lasting_failure_does_not_keep_the_controller_busy(machine: LocalMachine) -> None:
    machine.wait_for(machine.ensure("greedy", gpu=64), InstanceState.FAILED)
    waiting = threading.Thread(target=machine.backend.wait_for_change, args=(1.0,))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    waiting.join()


# resources


def test_each_instance_has_a_device_of_its_own_and_a_new_backend_knows_whose_it_is(
    machine: LocalMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    first = machine.ensure("iris", slot=0, gpu=1)
    machine.wait_for(first, InstanceState.READY)
    machine.restart()
    machine.wait_for(machine.ensure("iris", slot=1, gpu=1), InstanceState.READY)
    machine.wait_for(machine.ensure("plain"), InstanceState.READY)
    devices = {process.environ()["CUDA_VISIBLE_DEVICES"] for process in machine.list_servers("iris-v1")}
    assert devices == {"GPU-a", "GPU-b"}
    assert [process.environ()["CUDA_VISIBLE_DEVICES"] for process in machine.list_servers("plain-v1")] == [""]
    third = machine.wait_for(machine.ensure("iris", slot=2, gpu=1), InstanceState.FAILED)
    assert third.reason == "it wants 1 GPU(s); too few are free on this machine now"
    machine.backend.drain_instance(first)
    machine.wait_for(third.id, InstanceState.READY)


# end


def test_drained_server_finishes_what_it_works_on(machine: LocalMachine) -> None:
    addresses = machine.start_ready("iris")
    machine.publish(build_route("iris", {1: (ALL, addresses)}))
    answers: list[int] = []
    late = threading.Thread(target=lambda: answers.append(machine.call({"seconds": 1.5})[0]))
    late.start()
    name = machine.backend.list_instances()[0].id
    wait_until(lambda: count_connections(machine) > 0, timeout_seconds=5)
    machine.publish()
    machine.backend.drain_instance(name)
    wait_until(lambda: not machine.backend.list_instances(), timeout_seconds=10)
    late.join()
    assert answers == [200]
    assert not machine.list_servers()
    assert not list((machine.settings.data_dir / "instances").iterdir())


def test_server_that_does_not_end_is_killed_after_its_time(machine: LocalMachine) -> None:
    machine.restart(drain_timeout_seconds=0.2)
    machine.start_ready("iris")
    (server,) = machine.list_servers()
    server.send_signal(signal.SIGSTOP)
    machine.backend.drain_instance(machine.backend.list_instances()[0].id)
    wait_until(lambda: not machine.backend.list_instances(), timeout_seconds=15)
    assert not server.is_running()


def test_draining_what_is_gone_is_no_error(machine: LocalMachine) -> None:
    machine.backend.drain_instance("iris-v1-00000000-0")
    assert machine.backend.list_instances() == []


# a supervisor that was killed


def test_process_without_a_folder_is_ended_by_the_next_backend(machine: LocalMachine) -> None:
    machine.start_ready("iris")
    (server,) = machine.list_servers()
    folder = machine.settings.data_dir / "instances" / machine.backend.list_instances()[0].id
    (folder / "spec.json").unlink()
    machine.restart()
    assert machine.backend.list_instances() == []
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, timeout_seconds=5)


def test_unreadable_folders_do_not_stop_the_next_backend(machine: LocalMachine) -> None:
    (address,) = machine.start_ready("iris")
    for number, text in enumerate(("", "{", "[]", '{"id": "x"}', "null")):
        folder = machine.settings.data_dir / "instances" / f"odd-{number}"
        folder.mkdir()
        (folder / "spec.json").write_text(text)
    machine.restart()
    assert [status.address for status in machine.backend.list_instances()] == [address]


def test_adopted_server_is_watched_like_any_other(machine: LocalMachine) -> None:
    machine.start_ready("iris")
    (server,) = machine.list_servers()
    machine.restart()
    name = machine.backend.list_instances()[0].id
    machine.wait_for(name, InstanceState.READY)
    assert [process.pid for process in machine.list_servers()] == [server.pid]
    server.kill()
    wait_until(lambda: machine.get(name).restarts == 1, timeout_seconds=5)
    machine.wait_for(name, InstanceState.READY, HEALS_WITHIN_SECONDS)


# files


def test_everything_is_private_to_the_user(machine: LocalMachine) -> None:
    addresses = machine.start_ready("iris")
    machine.publish(build_route("iris", {1: (ALL, addresses)}))
    root = machine.settings.data_dir
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    folders = [root / "gateway", root / "instances", root / "logs" / "iris", machine.settings.run_dir]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 4


def test_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gateway").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError, match="not a folder of this user"):
        LocalMachine(tmp_path)


def test_large_log_is_put_aside_while_the_server_writes_on(
    machine: LocalMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_MOST_BYTES", 10_000)
    addresses = machine.start_ready("iris")
    machine.publish(build_route("iris", {1: (ALL, addresses)}))
    for number in range(4):
        assert machine.call({"print": f"round {number} " + "x" * 6_000})[0] == 200
    folder = machine.settings.data_dir / "logs" / "iris"
    wait_until(lambda: machine.backend.list_instances() and list(folder.glob("*.old")), timeout_seconds=10)
    assert machine.call({"print": "after"})[0] == 200
    (chunk,) = LocalLogs(machine.settings).read_logs("iris", None, 100_000)
    assert chunk.version == 1
    assert "listening" in chunk.text
    assert chunk.text.index("round 3") < chunk.text.index("after")
    (log,) = folder.glob("*.log")
    assert log.stat().st_size < 10_000


def test_logs_of_the_living_and_of_the_last_ten_that_ended_are_kept(machine: LocalMachine) -> None:
    folder = machine.settings.data_dir / "logs" / "iris"
    machine.start_ready("iris", instances=2)
    for number in range(15):
        path = folder / f"iris-v2-0a1b2c3d-{number}.log"
        path.write_text("ended")
        os.utime(path, (2e9 + number, 2e9 + number))  # newer than those of the living
    ended, living = (status.id for status in machine.backend.list_instances())
    machine.backend.drain_instance(ended)
    wait_until(lambda: len(machine.backend.list_instances()) == 1, timeout_seconds=10)
    kept = {path.stem for path in folder.glob("*.log")}
    assert kept == {living, *(f"iris-v2-0a1b2c3d-{number}" for number in range(5, 15))}


def test_module_in_the_controllers_folder_is_not_run_by_model_servers(
    machine: LocalMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orjson.py").write_text("raise SystemExit('this is not orjson')")
    monkeypatch.chdir(tmp_path)
    assert subprocess.run([sys.executable, "-m", "orjson"], capture_output=True, check=False).returncode == 1
    machine.start_ready("iris")


def count_connections(machine: LocalMachine) -> int:
    """Requests that servers work on, as the gateway counts them."""
    admin = json.loads(machine.ask_gateway("/stats?format=json&filter=upstream_rq_active$"))
    return sum(stat["value"] for stat in admin["stats"])
