"""PMML files that are odd, broken or hostile: read as meant, or refused with the reason; never anything else."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_timl.entities import Resources
from airflow_provider_timl.exceptions import InvalidModelError
from airflow_provider_timl.runtimes.contract import RuntimeOptions
from airflow_provider_timl.runtimes.pmml.document import read_pmml
from airflow_provider_timl.runtimes.pmml.program import inspect_pmml, load_pmml
from tests.contract.test_pmml_kinds import predict
from tests.pmml_kinds import CASES, FRAME, TWO_NUMBERS, tree

TREE = FRAME.format(tree('missingValueStrategy="defaultChild"'))
CLUSTERS = FRAME.format(CASES["clusters"][0])
SMALL = [FRAME.format(CASES[name][0]) for name in ("regression_binary", "tree_sets", "mining_sum", "rules_firstHit")]


def declare(encoding: str, text: str = TREE) -> bytes:
    return text.replace('version="1.0"', f'version="1.0" encoding="{encoding}"', 1).replace("yes", "é").encode(encoding)


@pytest.mark.parametrize(
    "content",
    [
        declare("utf-8"),
        declare("utf-16"),
        declare("iso-8859-1"),
        declare("gb18030"),
        b"\xef\xbb\xbf" + declare("utf-8"),
        re.sub(r"<(/?)(\w)", r"<\1p:\2", TREE).replace("xmlns=", "xmlns:p=").replace("yes", "é").encode(),
        TREE.replace("<Node ", '<Extension name="x"><Node score="?"/></Extension><Node ', 1)
        .replace("yes", "é")
        .encode(),
    ],
    ids=["utf-8", "utf-16", "latin-1", "gb18030", "mark", "prefix", "extension"],
)
def test_encoding_prefix_and_extensions_do_not_matter(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pmml").write_bytes(content)
    engine = load_pmml(tmp_path, Resources(), RuntimeOptions())
    assert predict(engine, {"a": 0, "b": 0})[0]["y"] == "é"


def test_array_may_go_over_several_lines(tmp_path: Path) -> None:
    (tmp_path / "model.pmml").write_text(CLUSTERS.replace(">0 0<", ">\n0\n0\n<"))
    assert predict(load_pmml(tmp_path, Resources(), RuntimeOptions()), {"a": 1, "b": 2})[0]["nearest"] == "1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (declare("utf-8").replace(b"utf-8", b"klingon"), "encoding 'klingon', which is unknown"),
        (declare("utf-8").replace(b"utf-8", b"base64"), "unknown"),
        (declare("iso-8859-1").replace(b"iso-8859-1", b"utf-8"), "the file is not in utf-8"),
        (TREE.replace("4_4", "4_4<").encode(), "not well-formed"),
        (TREE.replace("http://www.dmg.org/PMML-4_4", "urn:other").encode(), "the root element is 'PMML', not PMML"),
        (TREE.replace('version="4.4"', 'version="2.1"').encode(), "PMML version '2.1' is not supported"),
        (TREE.replace("<Header>", "<Header>" + "<a>" * 2000).encode(), "more than 1000 deep"),
        (
            TREE.replace("<PMML", "<!DOCTYPE PMML SYSTEM 'file:///etc/passwd'><PMML").encode(),
            "document type or entities",
        ),
        (TREE.replace("<PMML", "<!DOCTYPE PMML [<!ENTITY a 'b'>]><PMML").encode(), "document type or entities"),
        (
            FRAME.format(TWO_NUMBERS.replace("</", '<DataField name="{}"/></', 1)).encode(),
            "not well-formed|no model element",
        ),
        (
            b'<PMML version="4.4"><DataDictionary>'
            + b"".join(b'<DataField name="f%d"/>' % number for number in range(100_001)),
            "more than 100000 fields",
        ),
        (b"\xff\xfe\x00\xd8<\x00", "not in utf-16|not well-formed"),
        (b"", "not well-formed"),
    ],
)
def test_file_is_refused_with_the_reason(content: bytes, words: str) -> None:
    with pytest.raises(InvalidModelError, match=words):
        read_pmml(io.BytesIO(content))


def test_inclusion_and_unknown_functions_are_no_way_out(tmp_path: Path) -> None:
    include = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/passwd"/>'
    (tmp_path / "model.pmml").write_text(TREE.replace("<Header>", f"{include}<Header>"))
    with pytest.raises(InvalidModelError, match="unknown model element 'include'"):
        inspect_pmml(tmp_path, Resources())
    derived = (
        '<TransformationDictionary><DerivedField name="n" optype="continuous" dataType="double">'
        '<Apply function="exec"><FieldRef field="a"/></Apply></DerivedField></TransformationDictionary><TreeModel'
    )
    (tmp_path / "model.pmml").write_text(TREE.replace("<TreeModel", derived))
    with pytest.raises(InvalidModelError, match="'exec' is not defined"):
        inspect_pmml(tmp_path, Resources())


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"<PMML>{text}</PMML>".encode()))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(InvalidModelError):
        read_pmml(io.BytesIO(content))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_document_is_inspected_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SMALL))
    spans = [match.span(1) for match in re.finditer(r'"([^"]*)"', text)]
    words = [*sorted({text[start:end] for start, end in spans}), "", "NaN", "-1", "1e999", "x" * 300]
    for _ in range(data.draw(st.integers(1, 3))):
        start, end = data.draw(st.sampled_from(spans))
        text = text[:start] + data.draw(st.sampled_from(words)) + text[end:]
    (tmp_path / "model.pmml").write_text(text)
    with suppress(InvalidModelError):
        inspect_pmml(tmp_path, Resources())
