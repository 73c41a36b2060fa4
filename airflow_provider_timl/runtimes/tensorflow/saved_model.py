"""The files of a SavedModel: which there are, and the graph for serving among those in ``saved_model.pb``.

The files are checked before TensorFlow sees them: it follows links, and its messages name neither file nor remedy.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path, PurePosixPath
from typing import Any

from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.wire_format import read_fields

GRAPH_FILE = "saved_model.pb"
VARIABLES = "variables/variables"
ASSETS = "assets"
_SERVE = "serve"
_SCHEMA_VERSION, _META_GRAPHS = (1, int), (2, memoryview)
_SHARD = re.compile(r"variables\.data-[0-9]{5}-of-(?P<count>[0-9]{5})")


def check_files(folder: Path) -> None:
    """:raises InvalidModelError: a file is missing, is a link, or is not what its name says."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InvalidModelError(f"{path.relative_to(folder)} is a link or a special file; a model is plain files")
    path = folder / GRAPH_FILE
    if not path.is_file():
        raise InvalidModelError(f"a SavedModel has the file {GRAPH_FILE!r}; it is not there")
    if path.stat().st_size == 0:
        raise InvalidModelError(f"{GRAPH_FILE} is empty")
    fields = _list_fields(path)
    if not fields <= {_SCHEMA_VERSION, _META_GRAPHS}:
        raise InvalidModelError(f"{GRAPH_FILE} is another protocol buffer than a SavedModel")
    if _META_GRAPHS not in fields:
        raise InvalidModelError(f"{GRAPH_FILE} holds no graph")
    _check_variables(folder / "variables")


def read_saved_model(folder: Path) -> Any:
    """The ``SavedModel`` message.

    :raises InvalidModelError: it cannot be parsed.
    """
    from google.protobuf.message import DecodeError

    from airflow_provider_timl.runtimes.tensorflow.library import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    try:
        message.ParseFromString((folder / GRAPH_FILE).read_bytes())
    except (OSError, DecodeError) as exc:
        raise InvalidModelError(f"{GRAPH_FILE} cannot be read: {exc}") from exc
    return message


def choose_graph(saved_model: Any) -> Any:
    """The ``MetaGraphDef`` that TensorFlow Serving would take: that tagged ``serve`` and nothing else.

    :raises InvalidModelError: there is none.
    """
    tags = [sorted(graph.meta_info_def.tags) for graph in saved_model.meta_graphs]
    if [_SERVE] not in tags:
        found = ", ".join(str(each) for each in tags) or "none"
        raise InvalidModelError(f"the model has no graph with the tag {_SERVE!r}; the tags of its graphs are {found}")
    return saved_model.meta_graphs[tags.index([_SERVE])]


def list_assets(graph: Any, folder: Path) -> dict[str, str]:
    """Paths of the files that tables are read from, by the name of the tensor that takes the path.

    :raises InvalidModelError: one is outside of the model, or not there.
    """
    from airflow_provider_timl.runtimes.tensorflow.library import meta_graph_pb2

    found = list(graph.asset_file_def)
    if not found and "saved_model_assets" in graph.collection_def:
        for packed in graph.collection_def["saved_model_assets"].any_list.value:
            asset = meta_graph_pb2.AssetFileDef()
            if packed.Unpack(asset):
                found.append(asset)
    return {asset.tensor_info.name: str(_find_asset(asset.filename, folder)) for asset in found}


def _find_asset(name: str, folder: Path) -> Path:
    relative = PurePosixPath(name)
    if not name or "\0" in name or relative.is_absolute() or ".." in relative.parts:
        raise InvalidModelError(f"the asset {name!r} is not a file inside the model")
    path = folder / ASSETS / relative
    if not path.is_file():
        raise InvalidModelError(f"the asset {ASSETS}/{name} is not there")
    return path


def _check_variables(folder: Path) -> None:
    """A model without variables has no such folder, or an empty one; else index and every shard of it are there."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return
    if "variables.index" not in names:
        raise InvalidModelError("the folder 'variables' lacks its file 'variables.index'")
    counts = {int(match["count"]) for match in map(_SHARD.fullmatch, names) if match}
    if len(counts) != 1:
        raise InvalidModelError("the folder 'variables' needs one set of files 'variables.data-NNNNN-of-NNNNN'")
    (count,) = counts
    if count != sum(_SHARD.fullmatch(name) is not None for name in names):
        raise InvalidModelError(f"the folder 'variables' lacks some of its {count} files 'variables.data-...'")


def _list_fields(path: Path) -> set[tuple[int, type]]:
    """Number and type of the top-level fields: enough to know whose message the bytes are."""
    with path.open("rb") as file:
        message = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return {(number, type(value)) for number, value in read_fields(message)}
    except ValueError as exc:
        raise InvalidModelError(f"{GRAPH_FILE} is not a protocol buffer, or it is cut off: {exc}") from exc
