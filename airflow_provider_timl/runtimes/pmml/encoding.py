"""The characters of a PMML file: expat and PMML4S are both given the same ones.

PMML4S reads UTF-8 without a byte order mark only, and takes a line break inside an array for a part of a number (seen
with 1.5.8). XML has neither restriction.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from airflow_provider_timl.exceptions import InvalidModelError

_CHUNK_BYTES = 1024 * 1024
_HEAD_BYTES = 1024
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DECLARATION = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
#: Codecs of Python that decode characters from bytes but are no character set of a document.
_NOT_FOR_DOCUMENTS = frozenset({"idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined", "utf-7"})


def find_encoding(source: BinaryIO) -> str:
    """The codec that the file's first bytes ask for: a byte order mark, the XML declaration, or UTF-8.

    :raises InvalidModelError: the declared encoding is unknown.
    """
    head = source.read(_HEAD_BYTES)
    source.seek(0)
    marked = next((codec for mark, codec in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    declared = _DECLARATION.match(head)
    name = declared[1].decode() if declared else "utf-8"
    try:
        codec = codecs.lookup(name)
        "".encode(codec.name)  # codecs from bytes to bytes refuse this
    except (LookupError, TypeError, UnicodeError) as exc:
        raise InvalidModelError(f"the file declares the encoding {name!r}, which is unknown") from exc
    if codec.name in _NOT_FOR_DOCUMENTS:
        raise InvalidModelError(f"the file declares the encoding {name!r}, which is none of a document")
    return codec.name


def read_characters(source: BinaryIO, encoding: str) -> Iterator[str]:
    """The file in pieces.

    :raises InvalidModelError: it is not in that encoding.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := source.read(_CHUNK_BYTES):
            yield decoder.decode(chunk)
        yield decoder.decode(b"", True)
    except UnicodeError as exc:
        raise InvalidModelError(f"the file is not in {encoding}, which it declares or has to be in") from exc


def rewrite(source: BinaryIO, encoding: str) -> bytes:
    """The file as PMML4S reads it: UTF-8, in one line. Outside of strings a line break says as much as a space."""
    text = "".join(read_characters(source, encoding))
    return text.replace("\r", " ").replace("\n", " ").encode()
