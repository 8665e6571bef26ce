"""A registry: the URI rows of one execution in one table (port results or consoles)."""

from collections.abc import Mapping

import msgspec

from central import problems
from kit.texera.uris import is_same_uri


class UriRow(msgspec.Struct, frozen=True):
    """A stored row. Rows of older Texeras may lack either value."""

    uri: str | None
    size_bytes: int | None


class RegistryChange(msgspec.Struct, frozen=True):
    """A row to store or, if `uri` is None, the new size of a stored row."""

    uri: str | None
    size_bytes: int


class Registry:
    """Rows by key (a global port id or an operator id), and their changes.

    Promise: a stored URI is never replaced, only deleted.
    """

    __slots__ = ("_copy", "changes", "rows")

    def __init__(self, rows: Mapping[str, UriRow]) -> None:
        self.rows = rows
        self.changes: dict[str, RegistryChange | None] = {}
        self._copy: dict[str, UriRow] | None = None

    def put(self, key: str, uri: str, size_bytes: int | None) -> None:
        """Stores a URI. Raises `UriConflict` if another is stored."""
        # ## Cases: no URI is stored, another one is, the same one is (and maybe its size changes).
        row = self.rows.get(key)
        if row is None or not row.uri:
            size = size_bytes if size_bytes is not None else (row and row.size_bytes) or 0
            self._mutable_rows()[key] = UriRow(uri, size)
            self.changes[key] = RegistryChange(uri, size)
        elif not is_same_uri(row.uri, _with_lower_kind(uri)):
            raise problems.UriConflict(f"stored is {row.uri}")
        elif size_bytes is not None:
            self.resize(key, size_bytes)

    def resize(self, key: str, size_bytes: int) -> bool:
        """Sets the size of a row; False if there is no row."""
        row = self.rows.get(key)
        if row is None:
            return False
        self._mutable_rows()[key] = UriRow(row.uri, size_bytes)
        earlier = self.changes.get(key)
        self.changes[key] = RegistryChange(earlier.uri if earlier else None, size_bytes)
        return True

    def clear(self) -> list[tuple[str, UriRow]]:
        """Deletes every row, and returns them in the order of their keys."""
        removed = sorted(self.rows.items())
        self.changes.update(dict.fromkeys([*self.changes, *self.rows]))
        self._mutable_rows().clear()
        return removed

    def _mutable_rows(self) -> dict[str, UriRow]:
        # Copied at the first change: most registries of a batch are not changed.
        if self._copy is None:
            self.rows = self._copy = dict(self.rows)
        return self._copy


def _with_lower_kind(uri: str) -> str:
    head, slash, kind = uri.rpartition("/")
    return head + slash + kind.lower()
