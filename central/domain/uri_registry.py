"""A registry: the URI rows of one execution in one table, ports' results or operators' consoles."""

from collections.abc import Mapping

import msgspec

from central import problems
from kit.texera.uris import is_same_uri


class UriRow(msgspec.Struct, frozen=True):
    """A row as stored. Texera's older rows may lack either value."""

    uri: str | None
    size_bytes: int | None


class RegistryChange(msgspec.Struct, frozen=True):
    """A row to be stored whole or, where `uri` is None, a size for the row that is there."""

    uri: str | None
    size_bytes: int


class Registry:
    """Rows by key (a global port id or an operator id) and how entries change them.

    Promise: a URI that is stored is never replaced, only deleted.
    """

    __slots__ = ("_own", "changes", "rows")

    def __init__(self, rows: Mapping[str, UriRow]) -> None:
        self.rows = rows
        self.changes: dict[str, RegistryChange | None] = {}
        self._own: dict[str, UriRow] | None = None

    def put(self, key: str, uri: str, size_bytes: int | None) -> None:
        """Stores a URI that fits. Raises `UriConflict` if another is stored."""
        row = self.rows.get(key)
        if row is None or not row.uri:
            size = size_bytes if size_bytes is not None else (row and row.size_bytes) or 0
            self._own_rows()[key] = UriRow(uri, size)
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
        self._own_rows()[key] = UriRow(row.uri, size_bytes)
        earlier = self.changes.get(key)
        self.changes[key] = RegistryChange(earlier.uri if earlier else None, size_bytes)
        return True

    def clear(self) -> list[tuple[str, UriRow]]:
        """Deletes every row and answers them in the order of their keys."""
        removed = sorted(self.rows.items())
        self.changes.update(dict.fromkeys([*self.changes, *self.rows]))
        self._own_rows().clear()
        return removed

    def _own_rows(self) -> dict[str, UriRow]:
        # Copied at the first change only: most registries of a batch are never touched.
        if self._own is None:
            self.rows = self._own = dict(self.rows)
        return self._own


def _with_lower_kind(uri: str) -> str:
    head, slash, kind = uri.rpartition("/")
    return head + slash + kind.lower()
