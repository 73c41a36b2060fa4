"""What this machine has, and who gets which part of it: CPUs, memory, GPUs."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence

import psutil

from airflow_provider_timl.entities import Resources

#: CUDA shows a process only the devices that this variable names.
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_GPU_QUERY = ("--query-gpu=uuid", "--format=csv,noheader")
_GPU_QUERY_SECONDS = 10.0


def find_missing_resource(resources: Resources) -> str | None:
    """Why this machine can never run an instance with these resources."""
    cpus = len(os.sched_getaffinity(0))
    if math.ceil(resources.cpu) > cpus:
        return f"it wants {resources.cpu:g} CPUs; this machine has {cpus}"
    memory_mb = psutil.virtual_memory().total // 2**20
    if resources.memory_mb > memory_mb:
        return f"it wants {resources.memory_mb} MB of memory; this machine has {memory_mb}"
    gpus = len(list_gpus()) if resources.gpu else 0
    if resources.gpu > gpus:
        return f"it wants {resources.gpu} GPU(s); this machine has {gpus}"
    return None


def choose_cpus(cpu: float, used: Sequence[Sequence[int]]) -> list[int]:
    """As many CPUs as asked for, those first that the fewest processes have.

    :param used: the CPUs of each running process.
    """
    available = sorted(os.sched_getaffinity(0))
    users = {number: sum(number in cpus for cpus in used) for number in available}
    return sorted(available, key=lambda number: users[number])[: math.ceil(cpu)]


def choose_gpus(count: int, used: Sequence[str]) -> list[str] | None:
    """So many devices that nobody has; ``None`` when there are fewer."""
    free = [gpu for gpu in list_gpus() if gpu not in used] if count else []
    return free[:count] if len(free) >= count else None


def list_gpus() -> list[str]:
    """UUIDs of this machine's NVIDIA devices; a machine without the driver has none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *_GPU_QUERY], capture_output=True, text=True, check=False, timeout=_GPU_QUERY_SECONDS
        )
    except subprocess.TimeoutExpired:  # a driver that hangs has no usable device
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
