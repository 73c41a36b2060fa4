"""The models, and the requests that they are asked: one row, and a thousand rows of which that one is the first."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "tests" / "data"
ROW_COUNTS = (1, 1000)
_SEED = 20
_TREES = 100
_TREE_DEPTH = 4
_TREE_FIELDS = 10


@dataclass(frozen=True)
class Case:
    """A model and its rows.

    :param runtime: ours that serves it.
    :param rows: a thousand instances as our server takes them.
    :param read: one prediction of our server as numbers, to compare.
    :param expected: numbers of the first rows, from a source other than our server.
    """

    name: str
    title: str
    runtime: str
    folder: Path
    rows: list[Any]
    read: Callable[[Any], list[float]]
    expected: list[list[float]]


class NoModelError(Exception):
    """The model of a case cannot be made here; the message says why."""


def make_iris(folder: Path, _: Path) -> Case:
    flower = {"x1": 6.2, "x2": 2.2, "x3": 1.1, "x4": 1.1}
    noise = random.Random(_SEED)
    rows = [flower] + [{name: round(noise.uniform(0.1, 8), 1) for name in flower} for _ in range(999)]
    title = "logistic regression of 4 fields"
    return Case("pmml", title, "pmml", DATA / "pmml_lr", rows, read_probability, [[0.07969969495447403]])


def make_trees(folder: Path, _: Path) -> Case:
    """A hundred boosted trees of four levels: more arithmetic, the same way through the server."""
    noise = random.Random(_SEED)
    names = [f"x{number}" for number in range(_TREE_FIELDS)]
    fields = "".join(f'<DataField name="{name}" optype="continuous" dataType="double"/>' for name in names)
    mined = "".join(f'<MiningField name="{name}"/>' for name in names)
    schema = f"<MiningSchema>{mined}</MiningSchema>"
    target = '<MiningField name="y" usageType="target"/>'
    segments = "".join(
        f'<Segment id="{number}"><True/><TreeModel functionName="regression" splitCharacteristic="binarySplit">'
        f'{schema}<Node score="0"><True/>{_grow(noise, names, _TREE_DEPTH)}</Node></TreeModel></Segment>'
        for number in range(_TREES)
    )
    folder.mkdir()
    (folder / "trees.pmml").write_text(
        '<PMML version="4.4" xmlns="http://www.dmg.org/PMML-4_4"><Header/>'
        f'<DataDictionary>{fields}<DataField name="y" optype="continuous" dataType="double"/></DataDictionary>'
        f'<MiningModel functionName="regression"><MiningSchema>{mined}{target}</MiningSchema>'
        '<Output><OutputField name="score" optype="continuous" dataType="double" feature="predictedValue"/></Output>'
        f'<Segmentation multipleModelMethod="sum">{segments}</Segmentation></MiningModel></PMML>'
    )
    rows = [{name: round(noise.random(), 3) for name in names} for _ in range(1000)]
    return Case("trees", f"{_TREES} boosted trees of {_TREE_FIELDS} fields", "pmml", folder, rows, read_score, [])


def make_perceptron(folder: Path, python: Path) -> Case:
    noise = random.Random(_SEED)
    rows = [[round(noise.random(), 4) for _ in range(64)] for _ in range(1000)]
    folder.mkdir()
    given, answers, model = folder / "rows.json", folder / "answers.json", folder / "model"
    given.write_text(json.dumps(rows))
    program = Path(__file__).with_name("make_tensorflow_model.py")
    command = [str(python), str(program), str(model), str(given), str(answers)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise NoModelError(made.stderr.strip().splitlines()[-1])
    expected = json.loads(answers.read_text())
    return Case("tensorflow", "perceptron 64, 32, 10", "tensorflow", model, rows, read_list, expected)


def make_angel_lr(folder: Path, _: Path) -> Case:
    published = _read_published("lr/6", 0)
    noise = random.Random(_SEED)
    first = published["request"]["instances"][0]
    rows = [first] + [[round(noise.random(), 6) for _ in first] for _ in range(999)]
    expected = [[float(published["angel_engine"][0]["proba"])]]
    model = DATA / "angel" / "published" / "lr" / "6"
    return Case("angel", "logistic regression, 123 dense", "angel", model, rows, read_proba, expected)


def make_angel_deepfm(folder: Path, _: Path) -> Case:
    published = _read_published("deepFM/0", 0)
    noise = random.Random(_SEED)
    first = published["request"]["instances"][0]
    rows = [first] + [
        {**first, "sparseValues": [round(noise.random(), 2) for _ in first["sparseValues"]]} for _ in range(999)
    ]
    expected = [[float(published["angel_engine_patched"][0]["proba"])]]
    model = DATA / "angel" / "published" / "deepFM" / "0"
    return Case("angel-deepfm", "deepFM, 13 sparse", "angel", model, rows, read_proba, expected)


#: By type, as ``--types`` names them.
MAKERS: dict[str, list[Callable[[Path, Path], Case]]] = {
    "pmml": [make_iris],
    "trees": [make_trees],
    "tensorflow": [make_perceptron],
    "angel": [make_angel_lr, make_angel_deepfm],
}


def read_probability(prediction: dict[str, Any]) -> list[float]:
    return [prediction["probability(1)"]]


def read_score(prediction: dict[str, Any]) -> list[float]:
    return [prediction["score"]]


def read_proba(prediction: dict[str, Any]) -> list[float]:
    return [float(prediction["proba"])]


def read_list(prediction: list[float]) -> list[float]:
    return prediction


def _read_published(model: str, number: int) -> dict[str, Any]:
    cases = json.loads((DATA / "angel" / "published" / "requests.json").read_text())["cases"]
    found: dict[str, Any] = [case for case in cases if case.get("model") == model][number]
    return found


def _grow(noise: random.Random, names: list[str], depth: int) -> str:
    """Two nodes of a tree, with those below them."""
    name, threshold = noise.choice(names), noise.random()
    return "".join(
        f'<Node score="{noise.gauss(0, 1):.6f}">'
        f'<SimplePredicate field="{name}" operator="{operator}" value="{threshold:.6f}"/>'
        f"{_grow(noise, names, depth - 1) if depth > 1 else ''}</Node>"
        for operator in ("lessOrEqual", "greaterThan")
    )
