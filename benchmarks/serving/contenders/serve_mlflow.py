"""MLflow ``models serve``: its TensorFlow flavour, and a ``PythonModel`` for PMML, which it has no flavour for.

``serve_mlflow.py prepare`` saves the model in MLflow's form, which a user does once; without it, serves that.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
from predictors import load_signature, read_job

job = read_job()
saved = Path(job.folder) / "model"


class PmmlModel(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        from pypmml import Model

        (path,) = Path(context.artifacts["model"]).glob("*.pmml")
        self.model = Model.fromFile(str(path))

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return json.loads(self.model.predict(model_input.to_json(orient="records")))


def save_tensorflow() -> None:
    import numpy as np
    import tensorflow as tf

    class Wrapper(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = load_signature(job.model).model

        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32)])
        def __call__(self, x: Any) -> Any:
            return self.inner.signatures["serving_default"](x=x)["y"]

    example = np.zeros((2, 64), np.float32)
    signature = mlflow.models.infer_signature(example, np.zeros((2, 10), np.float32))
    mlflow.tensorflow.save_model(Wrapper(), str(saved), signature=signature, pip_requirements=["tensorflow"])


if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        if job.kind == "pmml":
            mlflow.pyfunc.save_model(
                str(saved),
                python_model=PmmlModel(),
                artifacts={"model": job.model},
                pip_requirements=["pypmml"],
            )
        else:
            save_tensorflow()
    else:
        program = str(Path(sys.executable).with_name("mlflow"))
        arguments = ["models", "serve", "-m", str(saved), "-h", "127.0.0.1", "-p", str(job.port), "--workers", "1"]
        os.execv(program, [program, *arguments, "--env-manager", "local"])  # noqa: S606 - no shell is wanted
