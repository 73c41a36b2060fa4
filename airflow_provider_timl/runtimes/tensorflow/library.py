"""All that this package takes from TensorFlow, and the only place that imports it.

``import tensorflow`` takes four times as long as what is needed here, for it imports Keras and everything else. So an
empty module takes the place of the package's own ``__init__``, and only the parts are imported: the session, protocol
buffers, NumPy types. A process that has imported TensorFlow itself keeps it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types

from airflow_provider_timl.exceptions import ExternalSystemError


def _place_empty_package() -> None:
    if "tensorflow" in sys.modules:
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise ExternalSystemError("'tensorflow' is not installed; install airflow-provider-timl[tensorflow]")
    package = types.ModuleType("tensorflow")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["tensorflow"] = package


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when the library is loaded: errors only
_place_empty_package()

from tensorflow.core.example import example_pb2  # noqa: E402
from tensorflow.core.framework import attr_value_pb2, tensor_pb2, tensor_shape_pb2, types_pb2  # noqa: E402
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2  # noqa: E402
from tensorflow.python.client.session import Session  # noqa: E402
from tensorflow.python.framework import dtypes, importer, op_def_registry  # noqa: E402
from tensorflow.python.framework.errors_impl import InvalidArgumentError, OpError, OutOfRangeError  # noqa: E402
from tensorflow.python.framework.ops import Graph  # noqa: E402
from tensorflow.python.lib.io._pywrap_record_io import RecordIterator  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
    regression_pb2,
)

__all__ = [
    "Graph",
    "InvalidArgumentError",
    "OpError",
    "OutOfRangeError",
    "RecordIterator",
    "Session",
    "attr_value_pb2",
    "classification_pb2",
    "config_pb2",
    "dtypes",
    "example_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "importer",
    "inference_pb2",
    "input_pb2",
    "meta_graph_pb2",
    "model_pb2",
    "op_def_registry",
    "predict_pb2",
    "prediction_log_pb2",
    "regression_pb2",
    "saved_model_pb2",
    "tensor_pb2",
    "tensor_shape_pb2",
    "types_pb2",
]
