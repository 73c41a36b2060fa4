"""What the ``tensorflow_model_server`` runtime is, without TensorFlow: all who list the runtimes import this module.

TensorFlow Serving's own program runs the graph in the place of our session; all else is that of the ``tensorflow``
runtime: which requests there are, what is joined, and what is answered. ``load_model_server`` starts the program; the
engine's ``close`` stops it, and it ends with the process that started it, whatever becomes of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.runtimes.contract import RuntimeProgram
from airflow_provider_timl.runtimes.tensorflow.runtime import RUNTIME as TENSORFLOW
from airflow_provider_timl.runtimes.tensorflow.runtime import TensorflowOptions, inspect_tensorflow

if TYPE_CHECKING:
    from airflow_provider_timl.runtimes.tensorflow.engine import TensorflowEngine

PROGRAM = "tensorflow_model_server"


def load_model_server(folder: Path, resources: Resources, options: TensorflowOptions) -> TensorflowEngine:
    """Start the program on the model of an artifact, and replay the model's warm-up requests or run its example once.

    :raises InvalidModelError: the program does not take the model, or a warm-up request fails.
    :raises ExternalSystemError: the program is not there, or not ready in time.
    """
    from airflow_provider_timl.runtimes.tensorflow.engine import build_engine
    from airflow_provider_timl.runtimes.tensorflow.model_server_process import start_model_server
    from airflow_provider_timl.runtimes.tensorflow.model_server_session import ModelServerSession
    from airflow_provider_timl.runtimes.tensorflow.saved_model import check_files, choose_graph, read_saved_model

    check_files(folder)
    graph = choose_graph(read_saved_model(folder))
    return build_engine(
        folder,
        graph,
        lambda signatures: ModelServerSession(start_model_server(PROGRAM, folder, resources), signatures),
        options,
    )


RUNTIME = RuntimeProgram(
    name="tensorflow_model_server",
    model_type="tensorflow",
    requires=(*TENSORFLOW.requires, "grpc"),
    programs=(PROGRAM,),
    stands_for=TENSORFLOW.name,
    extra="tensorflow",
    inspect=inspect_tensorflow,
    load=load_model_server,
    options=TensorflowOptions,
    has_rpc=True,
    memory_mb=1536,  # two processes with TensorFlow, at 400 MB each before the model
)
