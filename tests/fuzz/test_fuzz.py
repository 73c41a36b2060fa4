"""All targets for a moment with atheris, and Angel models with mutations that keep their form."""

from __future__ import annotations

import json
import re
import resource
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.angel import list_model_files, read_angel_model
from tests.fuzz.targets import TARGETS

BOUNDS = ("-runs=20000", "-max_total_time=8")
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 2**31 - 1, 2**31, 2**62, 2**63, 1e300, "", "x", "../x", "1", [], {}, [[[[]]]], "relu",
    "input", ["embedding"] * 3, "T_DOUBLE_SPARSE_LONGKEY", "a.BinaryColumnFormat",
)  # fmt: skip


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this Python and platform")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_that_atheris_finds_breaks_the_target(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", name, *BOUNDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    tried = re.search(r"Done (\d+) runs", done.stderr)
    assert tried is not None
    with capsys.disabled():
        print(f" {name}: {tried[1]} inputs tried ", end="")
    assert int(tried[1]) > 50


def list_places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a JSON value with each of its keys or indices."""
    children = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in children] + [place for _, child in children for place in list_places(child)]


def mutate_json(data: st.DataObject, content: bytes) -> bytes:
    parsed = json.loads(content)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list_places(parsed)))
        if isinstance(container, dict) and data.draw(st.booleans()):
            container.pop(key, None)
        else:
            container[key] = data.draw(st.sampled_from(HOSTILE))
        if not list_places(parsed):
            break
    return json.dumps(parsed).encode()


def mutate_bytes(data: st.DataObject, content: bytes) -> bytes:
    changed = bytearray(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    return bytes(changed)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_changed_model_is_refused_or_served_in_bounded_time_and_memory(data: st.DataObject) -> None:
    files = list_model_files()
    number = data.draw(st.integers(0, len(files) - 1))
    path: Path = files[number][1]
    content = path.read_bytes()
    is_structured = path.name in {"graph.json", "meta"} and data.draw(st.booleans())
    if is_structured and path.name == "meta":
        changed = mutate_json(data, content[4:])
        changed = struct.pack(">i", len(changed)) + changed
    else:
        changed = mutate_json(data, content) if is_structured else mutate_bytes(data, content)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    read_angel_model(bytes([number]) + changed)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # in KiB
