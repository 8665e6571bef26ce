"""What authorizes a write: bindings of executions to this sidecar, grants of users' tokens.

A grant is central's authorization of one token (by digest) for one execution. It admits durable
writes through restarts, outages and past the token's own `exp`, until the execution is terminal and
ten minutes more. The token itself is never kept. The computing unit's present
boot is kept here too.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sidecar.spool import schema
from sidecar.spool.entry import Entry, Outcome, Priority

GRACE_AFTER_END_MS = 10 * 60 * 1000

ENDING_REFUSALS = frozenset({"status-conflict"})
"""Refusals after which the run is over. Not `late`: a run that was closed as an orphan may still be
running, and its own terminal status must be admitted whenever it comes."""
REVOKING_REFUSALS = frozenset(
    {"not-bound", "binding-revoked", "user-demoted", "execution-not-found"}
)
"""Refusals that end central's authorization: the next write has to bind again."""


@dataclass(frozen=True, slots=True)
class Binding:
    """An execution this sidecar may write to. `created_here`: no other source ever wrote it.
    `generation` is set when it is stored, and grows each time central binds the execution again."""

    execution_id: int
    workflow_id: int
    computing_unit_id: int | None
    user_id: int
    warehouse: str | None
    created_here: bool
    ended_at_ms: int | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """Central's authorization of one token for one execution. `expires_at` is the token's `exp`."""

    token_digest: bytes
    execution_id: int
    user_id: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of a computing unit's master process, by the name it gave itself."""

    computing_unit_id: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class PermissionChanges:
    """What a batch's outcomes mean for bindings and grants, as execution ids."""

    ended: frozenset[int]
    """Terminal: its grants expire after the grace."""
    revoked: frozenset[int]

    @classmethod
    def of(cls, entries: Iterable[Entry], outcomes: Mapping[int, Outcome]) -> "PermissionChanges":
        ended: set[int] = set()
        revoked: set[int] = set()
        for entry in entries:
            outcome = outcomes.get(entry.seq)
            if outcome is None:
                continue
            slug = (outcome.problem or {}).get("type")
            is_end = entry.priority is Priority.TERMINAL and outcome.outcome == "applied"
            if is_end or slug in ENDING_REFUSALS:
                ended.add(entry.execution_id)
            if slug in REVOKING_REFUSALS:
                revoked.add(entry.execution_id)
        return cls(frozenset(ended), frozenset(revoked))


class BindingIndex:
    """Bindings and grants in memory, the same as in the file."""

    def __init__(self) -> None:
        self._bindings: dict[int, Binding] = {}
        self._grants: dict[int, dict[bytes, Grant]] = {}

    def load(self, bindings: Iterable[Binding], grants: Iterable[Grant], now_ms: int) -> None:
        """Replaces all by what the file holds. An end in the future was dated by a clock that has
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
        """The user of a token with any grant."""
        for grants in self._grants.values():
            if token_digest in grants:
                return grants[token_digest].user_id
        return None

    def add(self, binding: Binding, grant: Grant) -> None:
        self._bindings[binding.execution_id] = binding
        self._grants.setdefault(binding.execution_id, {})[grant.token_digest] = grant

    def apply(self, changes: PermissionChanges, now_ms: int) -> None:
        self.mark_ended(self.known(changes.ended), now_ms)
        self.forget(changes.revoked)

    def known(self, execution_ids: Iterable[int]) -> list[Binding]:
        return [self._bindings[eid] for eid in execution_ids if eid in self._bindings]

    def mark_ended(self, ended: Iterable[Binding], now_ms: int) -> None:
        """Ends these, except those that were bound again in the meantime."""
        for binding in ended:
            known = self._bindings.get(binding.execution_id)
            if known == binding and binding.ended_at_ms is None:
                self._bindings[binding.execution_id] = replace(binding, ended_at_ms=now_ms)

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


# The same in the file


def load_bindings(connection: sqlite3.Connection) -> list[Binding]:
    rows = connection.execute(
        "SELECT execution_id, workflow_id, computing_unit_id, user_id, warehouse, created_here,"
        " ended_at_ms, generation FROM bindings"
    )
    return [
        Binding(eid, wid, unit_id, user_id, warehouse, bool(created_here), ended_at_ms, generation)
        for eid, wid, unit_id, user_id, warehouse, created_here, ended_at_ms, generation in rows
    ]


def forget_malformed(connection: sqlite3.Connection) -> int:
    """Forgets bindings with a value of a type that is never stored (damage); returns how many."""
    return connection.execute(
        "DELETE FROM bindings WHERE typeof(workflow_id) <> 'integer'"
        " OR typeof(computing_unit_id) NOT IN ('integer', 'null') OR typeof(user_id) <> 'integer'"
        " OR typeof(warehouse) NOT IN ('text', 'null') OR typeof(created_here) <> 'integer'"
        " OR typeof(ended_at_ms) NOT IN ('integer', 'null') OR typeof(generation) <> 'integer'"
    ).rowcount


def load_grants(connection: sqlite3.Connection) -> list[Grant]:
    rows = connection.execute(
        "SELECT token_digest, execution_id, user_id, expires_at FROM grants"
        " WHERE typeof(token_digest) = 'blob' AND typeof(execution_id) = 'integer'"
        " AND typeof(user_id) = 'integer' AND typeof(expires_at) = 'integer'"
    )
    return [Grant(*row) for row in rows]


def record(connection: sqlite3.Connection, binding: Binding, grant: Grant) -> Binding:
    """Stores both; returns the binding as it is stored."""
    ((generation,),) = connection.execute(
        "INSERT OR REPLACE INTO bindings (execution_id, workflow_id, computing_unit_id, user_id,"
        " warehouse, created_here, ended_at_ms, generation) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,"
        # Above that of its last binding, which may be forgotten by now except by the batch.
        " 1 + max((SELECT coalesce(max(generation), 0) FROM bindings WHERE execution_id = ?1),"
        " (SELECT coalesce(max(generation), 0) FROM in_flight))) RETURNING generation",
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
    return replace(binding, generation=generation)


def without_rebound(
    connection: sqlite3.Connection, changes: PermissionChanges
) -> PermissionChanges:
    """The changes that still hold when a batch's outcomes are stored.

    Central may have judged the batch before it bound an execution again, and repeats that outcome
    whenever the batch is sent again: such a refusal says nothing of the newer binding.
    """
    newer = (
        "SELECT 1 FROM bindings WHERE execution_id = ?1 AND generation > (SELECT"
        " max(in_flight.generation) FROM in_flight JOIN entries USING (seq)"
        " WHERE entries.execution_id = ?1)"
    )
    revoked = (
        execution_id
        for execution_id in changes.revoked
        if connection.execute(newer, (execution_id,)).fetchone() is None
    )
    return replace(changes, revoked=frozenset(revoked))


def end(connection: sqlite3.Connection, ended: Iterable[Binding], now_ms: int) -> None:
    """Ends these, unless they were bound again in the meantime."""
    connection.executemany(
        "UPDATE bindings SET ended_at_ms = ?"
        " WHERE execution_id = ? AND generation = ? AND ended_at_ms IS NULL",
        [(now_ms, binding.execution_id, binding.generation) for binding in ended],
    )


def apply(connection: sqlite3.Connection, changes: PermissionChanges, now_ms: int) -> None:
    connection.executemany(
        "UPDATE bindings SET ended_at_ms = ? WHERE execution_id = ? AND ended_at_ms IS NULL",
        [(now_ms, execution_id) for execution_id in changes.ended],
    )
    forget(connection, changes.revoked)


def forget(connection: sqlite3.Connection, execution_ids: Iterable[int]) -> None:
    keys = [(execution_id,) for execution_id in execution_ids]
    connection.executemany("DELETE FROM bindings WHERE execution_id = ?", keys)
    connection.executemany("DELETE FROM grants WHERE execution_id = ?", keys)


def forget_ended(connection: sqlite3.Connection, execution_ids: Iterable[int]) -> list[int]:
    """Forgets these, except those that were bound again meanwhile. Returns the forgotten."""
    is_open = "SELECT 1 FROM bindings WHERE execution_id = ? AND ended_at_ms IS NULL"
    ended = [eid for eid in execution_ids if connection.execute(is_open, (eid,)).fetchone() is None]
    forget(connection, ended)
    return ended


def load_boot(connection: sqlite3.Connection) -> Boot | None:
    value = schema.read_meta(connection).get(schema.BOOT)
    if value is None:
        return None
    unit_id, _, boot_id = value.partition(" ")
    return Boot(int(unit_id), boot_id)


def record_boot(connection: sqlite3.Connection, boot: Boot) -> None:
    schema.write_meta(connection, **{schema.BOOT: f"{boot.computing_unit_id} {boot.boot_id}"})
