"""What authorizes a write: bindings of executions to this sidecar, grants of tokens.

A grant is central's authorization of one token (by digest) for one execution. It admits durable
writes through restarts, outages and past the token's own `exp`, until the execution is terminal and
ten minutes more. The token itself is never kept. One of them may be the run token that the sidecar
has issued in place of its user's. The computing unit's present boot is kept here too.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sidecar.spool import schema
from sidecar.spool.entry import Entry, Outcome, Priority
from sidecar.spool.schema import BINDING_COLUMNS, GRANT_COLUMNS

GRACE_AFTER_END_MS = 10 * 60 * 1000
NO_EXPIRY = 253_402_300_799
"""The `expires_at` of a run token, which ends with its binding: 9999-12-31T23:59:59Z."""

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
    `generation` is set when it is stored. It grows with each binding of the spool: of two, the
    newer is known even after the older one was forgotten."""

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

    @property
    def is_run_token(self) -> bool:
        return self.expires_at == NO_EXPIRY


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


class Bindings:
    """Bindings, grants and the boot in memory, the same as in the file. Methods that change the
    file raise `SpoolUnavailable`. `write` is `SpoolFile.write`."""

    def __init__(self, write: Callable[..., Awaitable[Any]], now_ms: Callable[[], int]) -> None:
        self._write = write
        self._now_ms = now_ms
        self._bindings: dict[int, Binding] = {}
        self._grants: dict[int, dict[bytes, Grant]] = {}
        self._is_loaded = False
        self.boot: Boot | None = None
        """The computing unit's present boot, if it has registered one."""
        self.lost_at_ms: int | None = None
        """When bindings may have been lost, with other damage or the whole file. Kept in the file
        until `mark_complete`."""
        self.on_bound: Callable[[int], None] = lambda execution_id: None
        """Called with the execution of each new binding."""

    def load(self, stored: "StoredRows") -> None:
        """Replaces all by what the file holds. An end in the future was dated by a clock that has
        been set back since: it counts from now."""
        now_ms = self._now_ms()
        self._bindings.clear()
        self._grants.clear()
        for binding in stored.bindings:
            if binding.ended_at_ms is not None and binding.ended_at_ms > now_ms:
                binding = replace(binding, ended_at_ms=now_ms)  # noqa: PLW2901
            self._bindings[binding.execution_id] = binding
        for grant in stored.grants:
            self._grants.setdefault(grant.execution_id, {})[grant.token_digest] = grant
        self.boot = stored.boot
        self.lost_at_ms = stored.lost_at_ms
        self._is_loaded = True

    # Queries

    @property
    def is_complete(self) -> bool:
        """Whether it is known that no binding is missing: else one that central has and the spool
        does not know may be that of a running execution."""
        return self._is_loaded and self.lost_at_ms is None

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

    def has_run_token(self, token_digest: bytes, execution_id: int) -> bool:
        """Whether this is the run token of an execution that is bound here."""
        grant = self.grant(token_digest, execution_id)
        return grant is not None and grant.is_run_token and execution_id in self._bindings

    def runs_with_token(self) -> list[int]:
        """The executions that have a run token and have not ended, as far as is known."""
        return [
            execution_id
            for execution_id, binding in self._bindings.items()
            if binding.ended_at_ms is None
            and any(grant.is_run_token for grant in self._grants.get(execution_id, {}).values())
        ]

    # Changes of the file, and then in memory

    async def record(self, binding: Binding, *grants: Grant) -> None:
        """Stores central's authorization of this sidecar and of these tokens for an execution."""

        def store(connection: sqlite3.Connection) -> Binding:
            stored = store_binding(connection, binding)
            for grant in grants:
                store_grant(connection, grant)
            return stored

        def index(stored: Binding) -> None:
            self._bindings[stored.execution_id] = stored
            for grant in grants:
                self._index_grant(grant)
            self.on_bound(stored.execution_id)

        await self._write(store, index)

    async def record_grant(self, grant: Grant) -> None:
        """Stores a further token of an execution that is bound already."""
        await self._write(
            lambda connection: store_grant(connection, grant), lambda _: self._index_grant(grant)
        )

    def _index_grant(self, grant: Grant) -> None:
        grants = self._grants.setdefault(grant.execution_id, {})
        if grant.is_run_token:
            for earlier in [known for known in grants.values() if known.is_run_token]:
                del grants[earlier.token_digest]
        grants[grant.token_digest] = grant

    async def end(self, execution_ids: Iterable[int], *, boot: Boot | None = None) -> None:
        """Stores that these ended, or are no longer this sidecar's: forgotten after the grace.

        It says nothing of a binding that is being stored at the same time. With `boot`, central
        closed them for the unit's new boot, which is stored too.
        """
        ended = self._known(execution_ids)
        now_ms = self._now_ms()

        def store(connection: sqlite3.Connection) -> None:
            if boot is not None:
                store_boot(connection, boot)
            store_ends(connection, ended, now_ms)

        def index(_: None) -> None:
            self.boot = boot or self.boot
            self._mark_ended(ended, now_ms)

        await self._write(store, index)

    async def mark_complete(self, lost_at_ms: int) -> None:
        """Every binding from before that loss is known again, or ended. A later loss counts."""

        def store(connection: sqlite3.Connection) -> None:
            if schema.read_meta(connection).get(schema.BINDINGS_LOST) == lost_at_ms:
                schema.write_meta(connection, bindings_lost_at_ms=None)

        def index(_: None) -> None:
            if self.lost_at_ms == lost_at_ms:
                self.lost_at_ms = None

        await self._write(store, index)

    async def purge(self) -> None:
        """Forgets executions that ended more than the grace ago."""
        expired_at_ms = self._now_ms() - GRACE_AFTER_END_MS
        expired = [
            binding.execution_id
            for binding in self._bindings.values()
            if binding.ended_at_ms is not None and binding.ended_at_ms <= expired_at_ms
        ]
        if expired:
            await self._write(lambda connection: forget_ended(connection, expired), self.forget)

    # Of changes that are stored already

    def apply(self, changes: PermissionChanges, now_ms: int) -> None:
        self._mark_ended(self._known(changes.ended), now_ms)
        self.forget(changes.revoked)

    def _known(self, execution_ids: Iterable[int]) -> list[Binding]:
        return [self._bindings[eid] for eid in execution_ids if eid in self._bindings]

    def _mark_ended(self, ended: Iterable[Binding], now_ms: int) -> None:
        """Ends these, except those that were bound again in the meantime."""
        for binding in ended:
            known = self._bindings.get(binding.execution_id)
            if known == binding and binding.ended_at_ms is None:
                self._bindings[binding.execution_id] = replace(binding, ended_at_ms=now_ms)

    def forget(self, execution_ids: Iterable[int]) -> None:
        for execution_id in execution_ids:
            self._bindings.pop(execution_id, None)
            self._grants.pop(execution_id, None)


# The same in the file


@dataclass(frozen=True, slots=True)
class StoredRows:
    """All that the file holds of them."""

    bindings: list[Binding]
    grants: list[Grant]
    boot: Boot | None
    lost_at_ms: int | None

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "StoredRows":
        bindings = connection.execute(f"SELECT {BINDING_COLUMNS} FROM bindings")  # noqa: S608
        grants = connection.execute(
            f"SELECT {GRANT_COLUMNS} FROM grants"  # noqa: S608
            " WHERE typeof(token_digest) = 'blob' AND typeof(execution_id) = 'integer'"
            " AND typeof(user_id) = 'integer' AND typeof(expires_at) = 'integer'"
        )
        meta = schema.read_meta(connection)
        boot = None
        if meta.get(schema.BOOT) is not None:
            unit_id, _, boot_id = meta[schema.BOOT].partition(" ")
            boot = Boot(int(unit_id), boot_id)
        return cls(
            [replace(Binding(*row), created_here=bool(row[5])) for row in bindings],
            [Grant(*row) for row in grants],
            boot,
            meta.get(schema.BINDINGS_LOST),
        )


def forget_malformed(connection: sqlite3.Connection) -> int:
    """Forgets bindings with a value of a type that is never stored (damage); returns how many."""
    return connection.execute(
        "DELETE FROM bindings WHERE typeof(workflow_id) <> 'integer'"
        " OR typeof(computing_unit_id) NOT IN ('integer', 'null') OR typeof(user_id) <> 'integer'"
        " OR typeof(warehouse) NOT IN ('text', 'null') OR typeof(created_here) <> 'integer'"
        " OR typeof(ended_at_ms) NOT IN ('integer', 'null') OR typeof(generation) <> 'integer'"
    ).rowcount


def store_binding(connection: sqlite3.Connection, binding: Binding) -> Binding:
    """Returns the binding as it is stored."""
    generation = schema.read_meta(connection)["max_generation"] + 1
    schema.write_meta(connection, max_generation=generation)
    connection.execute(
        f"INSERT OR REPLACE INTO bindings ({BINDING_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            binding.execution_id,
            binding.workflow_id,
            binding.computing_unit_id,
            binding.user_id,
            binding.warehouse,
            int(binding.created_here),
            binding.ended_at_ms,
            generation,
        ),
    )
    return replace(binding, generation=generation)


def store_grant(connection: sqlite3.Connection, grant: Grant) -> None:
    """A run token takes the place of the execution's earlier one."""
    if grant.is_run_token:
        earlier = "DELETE FROM grants WHERE execution_id = ? AND expires_at = ?"
        connection.execute(earlier, (grant.execution_id, NO_EXPIRY))
    connection.execute(
        "INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)",
        (grant.token_digest, grant.execution_id, grant.user_id, grant.expires_at),
    )


def bump_max_generation(connection: sqlite3.Connection) -> None:
    """Called after bindings were copied from another file: the next one is newer than all."""
    (copied,) = connection.execute(
        "SELECT coalesce(max(generation), 0) FROM bindings WHERE typeof(generation) = 'integer'"
    ).fetchone()
    if copied > schema.read_meta(connection)["max_generation"]:
        schema.write_meta(connection, max_generation=copied)


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


def store_ends(connection: sqlite3.Connection, ended: Iterable[Binding], now_ms: int) -> None:
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


def store_boot(connection: sqlite3.Connection, boot: Boot) -> None:
    schema.write_meta(connection, **{schema.BOOT: f"{boot.computing_unit_id} {boot.boot_id}"})
