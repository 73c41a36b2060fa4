"""TensorFlow Serving's own message classes, without the ten seconds that ``import tensorflow`` takes.

Only what is below the package is imported; the package itself stays empty.
"""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec

if "tensorflow" not in sys.modules:
    spec = find_spec("tensorflow")
    assert spec is not None
    package = types.ModuleType("tensorflow")
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
    sys.modules["tensorflow"] = package

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

__all__ = [
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "inference_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "types_pb2",
]
