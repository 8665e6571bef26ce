"""Who may write to what: the executions bound to this sidecar, and the tokens central allowed.

A grant is central's yes for one token (by digest) and one execution. It admits durable writes
through restarts, outages and past the token's own `exp`, until the execution is terminal and
ten minutes more (DESIGN.md section 2). The token itself is never kept.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sidecar.spool import properties
from sidecar.spool.entry import Entry, Outcome, Priority

GRACE_AFTER_END_MS = 10 * 60 * 1000

ENDING_REFUSALS = frozenset({"status-conflict"})
"""The run is over by another's word. Not `late`: a run that was closed as an orphan may
still be running, and its own end must be admitted whenever it comes."""
LOSING_REFUSALS = frozenset({"not-bound", "binding-revoked", "user-demoted", "execution-not-found"})
"""Central's yes no longer holds: the next write has to ask for it again."""


@dataclass(frozen=True, slots=True)
class Binding:
    """An execution this sidecar may write to. `created_here`: no other source ever wrote it."""

    execution_id: int
    workflow_id: int
    computing_unit_id: int | None
    user_id: int
    warehouse: str | None
    created_here: bool
    ended_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Central said yes to this token for this execution. `expires_at` is the token's `exp`."""

    token_digest: bytes
    execution_id: int
    user_id: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class PermissionChanges:
    """What the answer to a batch means for permits, as execution ids."""

    ended: frozenset[int]
    """Over: its grants run out after the grace."""
    lost: frozenset[int]
    """No longer this sidecar's to write to, as far as it knows."""


def consequences(entries: Iterable[Entry], answered: Mapping[int, Outcome]) -> PermissionChanges:
    ended: set[int] = set()
    lost: set[int] = set()
    for entry in entries:
        outcome = answered.get(entry.seq)
        if outcome is None:
            continue
        slug = (outcome.problem or {}).get("type")
        is_end = entry.priority is Priority.TERMINAL and outcome.outcome == "applied"
        if is_end or slug in ENDING_REFUSALS:
            ended.add(entry.execution_id)
        if slug in LOSING_REFUSALS:
            lost.add(entry.execution_id)
    return PermissionChanges(frozenset(ended), frozenset(lost))


class BindingIndex:
    """Bindings and grants in memory; the file has the same."""

    def __init__(self) -> None:
        self._bindings: dict[int, Binding] = {}
        self._grants: dict[int, dict[bytes, Grant]] = {}

    def load(self, bindings: Iterable[Binding], grants: Iterable[Grant], now_ms: int) -> None:
        """Takes what the file holds. An end that lies in the future was told by a clock that has
        been set back since: it counts from now."""
        self._bindings.clear()
        self._grants.clear()
        for binding in bindings:
            if binding.ended_at_ms is not None and binding.ended_at_ms > now_ms:
                binding = replace(binding, ended_at_ms=now_ms)  # noqa: PLW2901
            self._bindings[binding.execution_id] = binding
        for grant in grants:
            self._grants.setdefault(grant.execution_id, {})[grant.token_digest] = grant

    def binding(self, execution_id: int) -> Binding | None:
        return self._bindings.get(execution_id)

    def all(self) -> list[Binding]:
        return list(self._bindings.values())

    def grant(self, token_digest: bytes, execution_id: int) -> Grant | None:
        return self._grants.get(execution_id, {}).get(token_digest)

    def user_of(self, token_digest: bytes) -> int | None:
        """The user of a token that any grant is known for."""
        for grants in self._grants.values():
            if token_digest in grants:
                return grants[token_digest].user_id
        return None

    def add(self, binding: Binding, grant: Grant) -> None:
        self._bindings[binding.execution_id] = binding
        self._grants.setdefault(binding.execution_id, {})[grant.token_digest] = grant

    def settle(self, consequences: "PermissionChanges", now_ms: int) -> None:
        for execution_id in consequences.ended:
            binding = self._bindings.get(execution_id)
            if binding is not None and binding.ended_at_ms is None:
                self._bindings[execution_id] = replace(binding, ended_at_ms=now_ms)
        self.forget(consequences.lost)

    def expired(self, now_ms: int) -> list[int]:
        """Executions that ended more than the grace ago."""
        return [
            binding.execution_id
            for binding in self._bindings.values()
            if binding.ended_at_ms is not None
            and binding.ended_at_ms <= now_ms - GRACE_AFTER_END_MS
        ]

    def forget(self, execution_ids: Iterable[int]) -> None:
        for execution_id in execution_ids:
            self._bindings.pop(execution_id, None)
            self._grants.pop(execution_id, None)


def load_bindings(connection: sqlite3.Connection) -> list[Binding]:
    """What the file holds, without rows whose values no sidecar stores."""
    rows = connection.execute(
        "SELECT execution_id, workflow_id, computing_unit_id, user_id, warehouse, created_here,"
        " ended_at_ms FROM bindings WHERE typeof(workflow_id) = 'integer'"
        " AND typeof(computing_unit_id) IN ('integer', 'null') AND typeof(user_id) = 'integer'"
        " AND typeof(warehouse) IN ('text', 'null') AND typeof(created_here) = 'integer'"
        " AND typeof(ended_at_ms) IN ('integer', 'null')"
    )
    return [
        Binding(eid, wid, unit_id, user_id, warehouse, bool(created_here), ended_at_ms)
        for eid, wid, unit_id, user_id, warehouse, created_here, ended_at_ms in rows
    ]


def load_grants(connection: sqlite3.Connection) -> list[Grant]:
    rows = connection.execute(
        "SELECT token_digest, execution_id, user_id, expires_at FROM grants"
        " WHERE typeof(token_digest) = 'blob' AND typeof(execution_id) = 'integer'"
        " AND typeof(user_id) = 'integer' AND typeof(expires_at) = 'integer'"
    )
    return [Grant(*row) for row in rows]


def record(connection: sqlite3.Connection, binding: Binding, grant: Grant) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO bindings (execution_id, workflow_id, computing_unit_id, user_id,"
        " warehouse, created_here, ended_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            binding.execution_id,
            binding.workflow_id,
            binding.computing_unit_id,
            binding.user_id,
            binding.warehouse,
            int(binding.created_here),
            binding.ended_at_ms,
        ),
    )
    connection.execute(
        "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)",
        (grant.token_digest, grant.execution_id, grant.user_id, grant.expires_at),
    )


def settle(connection: sqlite3.Connection, consequences: PermissionChanges, now_ms: int) -> None:
    connection.executemany(
        "UPDATE bindings SET ended_at_ms = ? WHERE execution_id = ? AND ended_at_ms IS NULL",
        [(now_ms, execution_id) for execution_id in consequences.ended],
    )
    forget(connection, consequences.lost)


def forget(connection: sqlite3.Connection, execution_ids: Iterable[int]) -> None:
    """Takes away everything that admits writes to these executions."""
    keys = [(execution_id,) for execution_id in execution_ids]
    connection.executemany("DELETE FROM bindings WHERE execution_id = ?", keys)
    connection.executemany("DELETE FROM grants WHERE execution_id = ?", keys)


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of a computing unit's master process, by the name it gave itself."""

    computing_unit_id: int
    boot_id: str


def load_boot(connection: sqlite3.Connection) -> Boot | None:
    value = properties.read(connection).get(properties.BOOT)
    if value is None:
        return None
    unit_id, _, boot_id = value.partition(" ")
    return Boot(int(unit_id), boot_id)


def record_boot(connection: sqlite3.Connection, boot: Boot) -> None:
    properties.write(connection, **{properties.BOOT: f"{boot.computing_unit_id} {boot.boot_id}"})
