"""The pages of SQLite's file format, as far as salvage has to read them without SQLite.

Where a tree's inner pages are damaged SQLite reaches none of the leaves below them; the rows are
there all the same. Source: "Database File Format", sections 1.6 (b-tree pages), 2.1 (records).
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sidecar.spool.schema import PAGE_BYTES

Value = int | float | str | bytes | None

_INDEX_INTERIOR, _TABLE_LEAF, _INDEX_LEAF = 0x02, 0x0D, 0x0A
_LARGEST_RECORD = 64 * 1024 * 1024
_MIN_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
_MAX_LOCAL_TABLE = PAGE_BYTES - 35
_MAX_LOCAL_INDEX = (PAGE_BYTES - 12) * 64 // 255 - 23
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

PageReader = Callable[[int], bytes | None]
"""A page's newest image by its number, None beyond the file."""


class Row(NamedTuple):
    """A row as it lies on a leaf. `key` is its integer key, None in a table without one."""

    key: int | None
    values: list[Value]


def rows_on(page: bytes, read_page: PageReader, *, is_first: bool = False) -> Iterator[Row]:
    """The rows of a leaf, or of an index's inner page. Those that cannot be read are left out."""
    start = 100 if is_first else 0
    kind = page[start]
    if kind not in {_INDEX_INTERIOR, _TABLE_LEAF, _INDEX_LEAF}:
        return
    array = start + (12 if kind == _INDEX_INTERIOR else 8)
    count = min(int.from_bytes(page[start + 3 : start + 5]), (PAGE_BYTES - array) // 2)
    for (offset,) in struct.iter_unpack(">H", page[array : array + 2 * count]):
        if kind == _TABLE_LEAF:
            row = row_at(page, offset, read_page)
        else:
            row = _key_at(page, offset + (4 if kind == _INDEX_INTERIOR else 0), read_page)
        if row is not None:
            yield row


def row_at(page: bytes, offset: int, read_page: PageReader) -> Row | None:
    """The row of a table whose cell begins here, None if none does."""
    try:
        size, offset = _varint(page, offset)
        key, offset = _varint(page, offset)
        payload = _payload(page, offset, size, _MAX_LOCAL_TABLE, read_page)
        return Row(key, _record(payload))
    except (IndexError, ValueError, struct.error):
        return None


def _key_at(page: bytes, offset: int, read_page: PageReader) -> Row | None:
    try:
        size, offset = _varint(page, offset)
        return Row(None, _record(_payload(page, offset, size, _MAX_LOCAL_INDEX, read_page)))
    except (IndexError, ValueError, struct.error):
        return None


def _payload(page: bytes, offset: int, size: int, max_local: int, read_page: PageReader) -> bytes:
    if not 0 < size <= _LARGEST_RECORD:
        raise ValueError(size)
    if size <= max_local:
        local = size
    else:
        local = _MIN_LOCAL + (size - _MIN_LOCAL) % (PAGE_BYTES - 4)
        local = local if local <= max_local else _MIN_LOCAL
    if offset + local > len(page):
        raise ValueError(offset)
    payload = bytearray(page[offset : offset + local])
    rest = page[offset + local : offset + local + 4]
    while len(payload) < size:
        overflow = read_page(int.from_bytes(rest))
        if overflow is None or len(rest) < 4:
            raise ValueError("broken overflow chain")
        rest = overflow[:4]
        payload += overflow[4 : 4 + size - len(payload)]
    return bytes(payload)


def _record(payload: bytes) -> list[Value]:
    header_size, offset = _varint(payload, 0)
    body = header_size
    values: list[Value] = []
    while offset < header_size:
        kind, offset = _varint(payload, offset)
        value, body = _value(payload, kind, body)
        values.append(value)
    if offset != header_size or body != len(payload):
        raise ValueError("no record")
    return values


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in _INTEGER_BYTES:
        end = at + _INTEGER_BYTES[kind]
        if end > len(payload):
            raise ValueError(kind)
        return int.from_bytes(payload[at:end], signed=True), end
    if kind == 7:
        return float(struct.unpack_from(">d", payload, at)[0]), at + 8
    if kind in {8, 9}:
        return kind - 8, at
    if kind < 12:
        raise ValueError(kind)
    end = at + (kind - 12) // 2
    if end > len(payload):
        raise ValueError(kind)
    raw = payload[at:end]
    return (raw if kind % 2 == 0 else raw.decode(errors="backslashreplace")), end


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A big-endian integer of one to nine bytes, and where the next thing begins."""
    value = 0
    for place in range(at, at + 8):
        byte = raw[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    value = value << 8 | raw[at + 8]
    return (value - (1 << 64) if value >= 1 << 63 else value), at + 9
