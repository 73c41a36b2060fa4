"""What the ``tensorflow`` runtime is, without TensorFlow: every process that lists the runtimes imports this module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from airflow_provider_timl.entities import InspectionReport, Resources
from airflow_provider_timl.runtimes.contract import RuntimeOptions, RuntimeProgram

if TYPE_CHECKING:
    from airflow_provider_timl.runtimes.tensorflow.engine import TensorflowEngine


class TensorflowOptions(RuntimeOptions):
    """How requests that come together are joined into one run of the graph.

    ``max_batch_rows``: rows of a joined run; 1 runs each request by itself, as a model needs whose rows see each other.
    ``max_batch_delay_ms``: milliseconds that a request may wait for others to come; 0 joins only what waits anyway.
    ``allowed_batch_sizes``: row counts, ascending, that joined runs are padded up to, with copies of their first row;
    for models that are slow at every new size. Empty: none is padded.
    """

    max_batch_rows: int = Field(default=1024, ge=1, le=1_000_000)
    max_batch_delay_ms: float = Field(default=0.0, ge=0, le=10_000)
    allowed_batch_sizes: list[int] = Field(default=[])

    @field_validator("allowed_batch_sizes")
    @classmethod
    def _ascending(cls, sizes: list[int]) -> list[int]:
        if sizes != sorted(set(sizes)) or any(size < 1 for size in sizes):
            raise ValueError("batch sizes are positive and ascending")
        return sizes


def inspect_tensorflow(folder: Path, resources: Resources) -> InspectionReport:
    """Check, load and try the model. For a limited process: the files are hostile until this returned.

    :raises InvalidModelError: with the reason.
    """
    from airflow_provider_timl.runtimes.tensorflow.inspection import inspect_saved_model

    return inspect_saved_model(folder, resources)


def load_tensorflow(folder: Path, resources: Resources, options: TensorflowOptions) -> TensorflowEngine:
    """Load the model of an artifact, and replay its warm-up requests or run its example once.

    :raises InvalidModelError: it cannot be loaded, or a warm-up request fails.
    """
    from airflow_provider_timl.runtimes.tensorflow.engine import load_engine

    return load_engine(folder, resources, options)


RUNTIME = RuntimeProgram(
    name="tensorflow",
    model_type="tensorflow",
    requires=("httptools", "numpy", "orjson", "prometheus_client", "uvloop", "tensorflow", "tensorflow_serving"),
    extra="tensorflow",
    inspect=inspect_tensorflow,
    load=load_tensorflow,
    options=TensorflowOptions,
    has_rpc=True,
    memory_mb=1024,
)
