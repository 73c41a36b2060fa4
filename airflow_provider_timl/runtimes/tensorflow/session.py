"""A loaded graph: runs fetches for feeds, by the names of tensors.

The steps of loading are those of TensorFlow's C++ loader, which TensorFlow Serving uses: the graph as it is, variables
by the graph's own restore operation, then its init operation, with the paths of assets fed. Nothing of the Python
objects that a SavedModel describes is built.

:source: TensorFlow 2.21, ``tensorflow/cc/saved_model/loader.cc``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidInputError, InvalidModelError, TimlError
from airflow_provider_timl.runtimes.tensorflow.library import (
    Graph,
    InvalidArgumentError,
    OpError,
    OutOfRangeError,
    Session,
    config_pb2,
    importer,
)
from airflow_provider_timl.runtimes.tensorflow.saved_model import VARIABLES, list_assets
from airflow_provider_timl.runtimes.tensors.spec import Array

_INIT_SIGNATURE = "__saved_model_init_op"
#: Prepared runs to keep: one for each signature, and one for each choice of outputs that callers ask for.
_MOST_PREPARED = 64
_MOST_MESSAGE = 1000


class ModelSession(Protocol):
    """What runs a model's graph: here, or in another process. Use from one thread at a time."""

    def run(self, feeds: tuple[str, ...], fetches: tuple[str, ...], arrays: Sequence[Array]) -> list[Array]:
        """Values of the tensors named in ``fetches``, same order.

        :raises InvalidInputError: the graph refuses the values.
        :raises TimlError: it fails for another reason.
        """

    def start(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], arrays: Sequence[Array]
    ) -> Callable[[], list[Array]]:
        """Begin a run beside others, where that is possible; what is returned waits for it, as ``run`` does."""

    def close(self) -> None:
        """Give back what it holds."""


class GraphSession:
    """A SavedModel's graph with its variables. Use from one thread at a time."""

    def __init__(self, graph: Any, folder: Path, resources: Resources) -> None:
        """:raises InvalidModelError: TensorFlow refuses the graph, its variables or its init operation."""
        threads = max(1, math.ceil(resources.cpu))
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=threads,
            inter_op_parallelism_threads=threads,
            use_per_session_threads=True,
            device_count={} if resources.gpu else {"GPU": 0},
        )
        config.gpu_options.allow_growth = True
        # with one core a pool only costs the change of threads, which is most of the time of a small model
        self._inter_op_pool = -1 if threads == 1 else 0
        self._prepared: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., list[Array]]] = OrderedDict()
        try:
            target = Graph()
            with target.as_default():
                importer.import_graph_def(
                    graph.graph_def, name="", producer_op_list=graph.meta_info_def.stripped_op_list
                )
            self._session = Session(graph=target, config=config)
            self._initialize(graph, folder)
        except (OpError, ValueError, TypeError, KeyError) as exc:
            raise InvalidModelError(f"TensorFlow refuses the model: {shorten(exc)}") from exc

    def run(self, feeds: tuple[str, ...], fetches: tuple[str, ...], arrays: Sequence[Array]) -> list[Array]:
        """As ``ModelSession`` says."""
        try:
            return self._prepare(feeds, fetches)(*arrays)
        except (InvalidArgumentError, OutOfRangeError) as exc:
            raise InvalidInputError(shorten(exc)) from exc
        except (OpError, ValueError, TypeError, UnicodeError) as exc:
            raise TimlError(f"the model failed: {shorten(exc)}") from exc

    def start(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], arrays: Sequence[Array]
    ) -> Callable[[], list[Array]]:
        """Nothing yet: it runs when it is waited for, with all threads that it has."""
        return partial(self.run, feeds, fetches, arrays)

    def close(self) -> None:
        self._prepared.clear()
        self._session.close()

    def _prepare(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., list[Array]]:
        key = (feeds, fetches)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepared[key] = self._build(feeds, fetches, ())
            if len(self._prepared) > _MOST_PREPARED:
                self._prepared.popitem(last=False)
        else:
            self._prepared.move_to_end(key)
        return prepared

    def _build(
        self, feeds: Sequence[str], fetches: Sequence[str], targets: Sequence[str]
    ) -> Callable[..., list[Array]]:
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches, target=targets)
        options.run_options.inter_op_thread_pool = self._inter_op_pool
        prepared: Callable[..., list[Array]] = self._session._make_callable_from_options(options)
        return prepared

    def _initialize(self, graph: Any, folder: Path) -> None:
        assets = list_assets(graph, folder)
        if (folder / f"{VARIABLES}.index").is_file():
            saver = graph.saver_def
            paths = {saver.filename_tensor_name: str(folder / VARIABLES), **assets}
            self._run_target(saver.restore_op_name, paths)
        init = find_init_op(graph)
        if init is not None:
            self._run_target(init, assets)

    def _run_target(self, operation: str, paths: Mapping[str, str]) -> None:
        run = self._build(list(paths), [], [operation.split(":", maxsplit=1)[0]])
        run(*(np.array(path.encode(), object) for path in paths.values()))


def find_init_op(graph: Any) -> str | None:
    """Name of the operation that makes tables and the like."""
    if _INIT_SIGNATURE in graph.signature_def:
        return str(graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name)
    for key in ("saved_model_main_op", "legacy_init_op"):
        if key in graph.collection_def and graph.collection_def[key].node_list.value:
            return str(graph.collection_def[key].node_list.value[0])
    return None


def shorten(error: Exception) -> str:
    """TensorFlow's message in one line, without the traceback of graph nodes."""
    return shorten_text(getattr(error, "message", None) or str(error) or type(error).__name__)


def shorten_text(message: str) -> str:
    return " ".join(message.split())[:_MOST_MESSAGE]
