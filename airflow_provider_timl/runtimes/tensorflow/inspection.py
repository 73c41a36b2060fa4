"""Inspection of a SavedModel: its files, its operations, and whether it loads and answers.

Runs in the limited process. The files are hostile until this returned; nothing of them runs before their operations
are known.
"""

from __future__ import annotations

from pathlib import Path

from airflow_provider_timl.entities import InspectionReport, Resources
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.tensorflow.runtime import TensorflowOptions
from airflow_provider_timl.runtimes.tensorflow.saved_model import (
    check_files,
    choose_graph,
    list_assets,
    read_saved_model,
)


def inspect_saved_model(folder: Path, resources: Resources) -> InspectionReport:
    """:raises InvalidModelError: with the reason."""
    check_files(folder)
    saved_model = read_saved_model(folder)
    graph = choose_graph(saved_model)
    assets = list_assets(graph, folder)

    from airflow_provider_timl.runtimes.tensorflow.engine import build_engine
    from airflow_provider_timl.runtimes.tensorflow.operations import check_operations
    from airflow_provider_timl.runtimes.tensorflow.session import GraphSession

    for each in saved_model.meta_graphs:
        check_operations(each, assets if each is graph else list_assets(each, folder), is_served=each is graph)
    try:
        engine = build_engine(folder, graph, lambda _: GraphSession(graph, folder, resources), TensorflowOptions())
    except MemoryError as exc:
        raise InvalidModelError("the model needs more memory than an inspection has") from exc
    return InspectionReport(
        model_type="tensorflow",
        checks=["structure", "ops", "loaded", "warm-up" if engine.signature.example is None else "example"],
        signature=engine.signature,
        framework={
            "tensorflow": graph.meta_info_def.tensorflow_version or "unknown",
            "signatures": ", ".join(engine.signature_names),
        },
    )
