"""Makes the TensorFlow model: 64 inputs, 32 hidden, 10 outputs. ``FOLDER ROWS.json ANSWERS.json``.

A program of its own, because TensorFlow is not to be loaded by the one that measures. What TensorFlow itself answers
is the reference for all servers.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import tensorflow as tf


class Perceptron(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        sizes = (64, 32, 10)
        self.weights = [
            tf.Variable(tf.random.stateless_normal((rows, columns), seed=(1, rows), stddev=rows**-0.5))
            for rows, columns in pairwise(sizes)
        ]
        self.biases = [tf.Variable(tf.zeros(columns)) for columns in sizes[1:]]

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def predict(self, x: Any) -> dict[str, Any]:
        hidden = tf.nn.relu(x @ self.weights[0] + self.biases[0])
        return {"y": tf.nn.softmax(hidden @ self.weights[1] + self.biases[1])}


if __name__ == "__main__":
    folder, rows, answers = sys.argv[1:]
    model = Perceptron()
    tf.saved_model.save(model, folder, signatures={"serving_default": model.predict})
    given = tf.constant(json.loads(Path(rows).read_text()), tf.float32)
    Path(answers).write_text(json.dumps(model.predict(given)["y"].numpy().tolist()))
