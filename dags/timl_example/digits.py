"""Handwritten digits by a small neural network, saved as TensorFlow SavedModels with a signature of named tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIXELS = 64
DIGITS = 10
HIDDEN = 32
BRIGHTEST = 16.0
TEST_SHARE = 0.2


@dataclass(frozen=True)
class TrainedDigits:
    """One saved network.

    :param probabilities: of the ten digits for the first image that it was not trained on, as TensorFlow says in the
        process that trained it.
    """

    folder: str
    accuracy: float
    image: list[float]
    probabilities: list[float]


def train(folder: Path, epochs: int) -> TrainedDigits:
    """Fit on four fifths of the 1,797 images of 8 x 8 pixels; the accuracy is that of the rest."""
    import tensorflow as tf

    train_x, test_x, train_y, test_y = split_images()
    tf.keras.utils.set_random_seed(0)
    network = tf.keras.Sequential(
        [
            tf.keras.layers.Input((PIXELS,)),
            tf.keras.layers.Rescaling(1 / BRIGHTEST),
            tf.keras.layers.Dense(HIDDEN, activation="relu"),
            tf.keras.layers.Dense(DIGITS, activation="softmax"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(train_x, train_y, epochs=epochs, verbose=0)
    save(network, folder)
    return TrainedDigits(
        folder=str(folder),
        accuracy=float(network.evaluate(test_x, test_y, verbose=0)[1]),
        image=[float(pixel) for pixel in test_x[0]],
        probabilities=[float(value) for value in network(test_x[:1]).numpy()[0]],
    )


def split_images() -> Any:
    """The data set that scikit-learn ships: images and digits to train on, and to test with."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, digits = load_digits(return_X_y=True)
    return train_test_split(images.astype("float32"), digits, test_size=TEST_SHARE, stratify=digits, random_state=0)


def save(network: Any, folder: Path) -> None:
    """With the input ``pixels`` and the outputs ``probabilities`` and ``digit``."""
    import tensorflow as tf

    def predict(pixels: Any) -> dict[str, Any]:
        probabilities = network(pixels)
        return {"probabilities": probabilities, "digit": tf.argmax(probabilities, axis=1)}

    archive = tf.keras.export.ExportArchive()
    archive.track(network)
    signature = [tf.TensorSpec([None, PIXELS], tf.float32, name="pixels")]
    archive.add_endpoint("serving_default", predict, input_signature=signature)
    archive.write_out(str(folder), verbose=False)
