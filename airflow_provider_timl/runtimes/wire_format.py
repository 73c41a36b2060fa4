"""The wire format of protobuf, for finding a few fields of a message without its class and without copying it.

:source: protobuf's encoding; wire types 3 and 4 (groups) are in no message that is read here.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _BYTES = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}
_END_OF_KEYS = 2**32
_MOST_VARINT_BYTES = 10
_END_OF_NUMBERS = 2**64

Field = tuple[int, int | memoryview]


def read_fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field in turn; what is no variable-length number comes as it lies there.

    :raises ValueError: where the bytes are no message, or end early.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _read_varint(message, position)
        kind, number = key & 7, key >> 3
        if kind == _VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        size = _FIXED_SIZES.get(kind)
        if kind == _BYTES:
            size, position = _read_varint(message, position)
        if size is None or key >= _END_OF_KEYS:  # protobuf's readers would drop the high bits, and see another field
            raise ValueError(f"no field begins at byte {position} of a message")
        if size > end - position:
            raise ValueError(f"a field of {size} bytes ends {size - end + position} bytes behind its message")
        yield number, message[position : position + size]
        position += size


def build_varint(number: int) -> bytes:
    """:param number: not negative."""
    built = bytearray()
    while number >= 0x80:
        built.append(number & 0x7F | 0x80)
        number >>= 7
    built.append(number)
    return bytes(built)


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = 0
    for index, byte in enumerate(message[position : position + _MOST_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number % _END_OF_NUMBERS, position + index + 1
    raise ValueError(f"no number ends within {_MOST_VARINT_BYTES} bytes of byte {position} of a message")
