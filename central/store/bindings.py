"""Bindings: which source may write to an execution, and for which user.

## One runner per execution

    (none) --create, bind--> bound --revoke--> revoked --bind with the user's token--> bound
                               |
                               +--another source binds, the lease has lapsed--> revoked (taken-over)

An open execution has at most one binding that is not revoked: that of its runner. Its lease is live
until it lapses (`store/leases.py`). Another source takes over only from a lapsed lease; the first
binding is revoked in the same transaction, so that its late entries are refused from then on. An
operator revokes with `central bindings revoke`.

After the end, also a provisional one, any source of the user may bind, for every field but the
status (`may_set_status` is false). That revokes nobody: the runner may still have its end to
deliver. An execution has at most one runner, the last source that was bound while it was open.

## What is cached

Workflow, warehouse and user of a binding never change; the fold needs them for every entry, so
that `BindingCache` keeps them. Whether the execution is open and the source may still write to it
is never cached: the statement that writes checks it (`store/batches.py`).

## Quota

Each open binding costs a renewal every 20 s and a row in the closer's scan. `BindingQuota` counts
them in the database, which all replicas share, but not for every create: after a count a replica
admits a quarter of what is left, for at most a minute. The limit is exceeded by at most what the
replicas admit at the same time.

A binding made after the end has no lease, and none of these costs, but its row is kept for months,
and sources are keys that anyone can make. So each execution has at most `MAX_LATE_BINDINGS` of
them: no setting, for only the execution's own user can bind, and no number of executions makes it
a wrong one. The count is exact, because the execution's row is locked. The newcomer is refused:
one that is bound may still hold acknowledged writes.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal, TypeAlias

import msgspec
from cachetools import LRUCache, TTLCache

from central.auth_settings import LimitSettings
from central.domain.callers import UNRESTRICTED, User, Workload
from central.domain.fold import Execution, WriterStatus
from central.metrics import Metrics
from central.problems import BoundElsewhere, NotBound, NotTheExecutionsUser, RateLimited
from central.store.access import boot_superseded, execution_not_found, user_demoted
from central.store.database import Database, Transaction
from central.store.orphans import CloseReason, ExecutionCloser
from central.store.queries import load
from central.store.sources import check_succeeded, lock_line, mark_revoked
from central.store.warehouses import Warehouses
from central.wire import calls
from central.wire.leases import AbandonedExecutions, AbandonReason, ClosedExecutions
from kit.texera.statuses import TERMINAL_CODES, Status, status_of_code

MAX_CACHED_BINDINGS = 20_000
"""About 300 bytes each; an evicted binding costs one batch that is applied under locks."""
MAX_TRACKED_QUOTAS = 50_000
RECOUNT_S = 60.0
MAX_LATE_BINDINGS = 16
"""Per execution, made after its end and not revoked: each restart of its unit with an empty volume
takes one, if it still writes to the execution."""
LATE_RETRY_AFTER_S = 3600.0  # an operator has to revoke one, or retention to purge it
RETRY_AFTER_S = 30.0  # an execution has to end, or a lease to lapse (90 s)

State: TypeAlias = Literal["open", "live", "revoked", "all"]


class Bindings:
    def __init__(
        self,
        database: Database,
        warehouses: Warehouses,
        execution_closer: ExecutionCloser,
        quota: "BindingQuota",
        lease_s: float,
    ) -> None:
        self._database = database
        self._execution_closer = execution_closer
        self._quota = quota
        self._lease_s = lease_s
        self._queries = load("bindings")
        self._warehouses = warehouses

    async def bind(
        self,
        transaction: Transaction,
        user: User,
        source_id: str,
        execution_id: int,
        boot_id: str | None = None,
        workload: Workload = UNRESTRICTED,
    ) -> calls.BoundExecution:
        """Binds the execution to the source. For a source that is bound it renews the lease.

        A boot that is unknown for the execution's unit counts as none. Raises
        `ExecutionNotFound`, `NotTheExecutionsUser`, `UserDemoted`, `WrongComputingUnit`,
        `BootSuperseded`, `RateLimited` or `BoundElsewhere`.
        """
        known_boot = None
        if boot_id is not None:
            known_boot = await transaction.fetch_row(
                self._queries["share_boot"], execution_id, boot_id
            )
        # Two sources that bind at the same time are serialized by the execution's row lock.
        await transaction.execute(self._queries["lock_execution"], execution_id)
        row = await transaction.fetch_row(
            self._queries["bindable_execution"],
            execution_id,
            user.user_id,
            user.reads_everything,
            source_id,
        )
        if row is None:
            raise execution_not_found(execution_id)
        if row["user_id"] != user.user_id:
            raise NotTheExecutionsUser("only the execution's own user may write to it")
        if not row["is_active"]:
            raise user_demoted()
        workload.check(row["computing_unit_id"])
        if known_boot is not None and known_boot["is_superseded"]:
            raise boot_superseded(str(boot_id))
        status = status_of_code(row["status_code"])
        warehouse = row["bound_warehouse"]
        if not status.is_terminal and not row["is_runner"]:
            await self._quota.acquire(transaction, user.user_id, source_id)
            if row["is_leased_elsewhere"]:
                raise BoundElsewhere("another sidecar is writing to this execution")
            await transaction.execute(
                self._queries["take_over"], execution_id, source_id, user.user_id
            )
        if status.is_terminal and not row["is_bound"]:
            self._quota.check_late(row["late_binding_count"])
        if not row["is_bound"]:
            warehouse = await self._warehouses.of_execution(transaction, execution_id)
        await transaction.execute(
            self._queries["bind"],
            execution_id,
            source_id,
            user.user_id,
            row["workflow_id"],
            row["computing_unit_id"],
            warehouse,
            not status.is_terminal,
            self._lease_s,
            boot_id if known_boot is not None else None,
        )
        return calls.BoundExecution(
            execution_id,
            row["workflow_id"],
            row["computing_unit_id"],
            user.user_id,
            status,
            row["status_code"],
            warehouse,
        )

    async def list_open(self, source_id: str, min_age_s: float) -> calls.OpenBindings:
        """The open executions that the source runs, bound at least `min_age_s` ago."""
        rows = await self._database.read(self._queries["open_bindings"], source_id, min_age_s)
        if not rows:
            await self._database.run(partial(check_succeeded, source_id=source_id))
        return calls.OpenBindings([calls.OpenBinding(**dict(row)) for row in rows])

    async def runs_user(self, source_id: str, execution_id: int, workload: Workload) -> int:
        """The user for whom the source runs the execution, which is open and has a live lease.

        Raises `NotBound`, `UserDemoted` or `WrongComputingUnit`.
        """
        rows = await self._database.read(self._queries["live_run"], source_id, execution_id)
        if not rows:
            await self._database.run(partial(check_succeeded, source_id=source_id))
            raise NotBound(f"this source does not run execution {execution_id}")
        (row,) = rows
        workload.check(row["computing_unit_id"])
        if not row["is_active"]:
            raise user_demoted()
        return int(row["user_id"])

    async def abandon(
        self, source_id: str, abandoned: AbandonedExecutions, unit_id: int | None = None
    ) -> ClosedExecutions:
        """Closes executions that the source reports as abandoned; others' are left alone.

        There are two cases. A run whose computing unit is down is closed. An execution that the
        source has no record of is closed only if it was bound at its creation: a later binding
        belongs to a unit that will write to it again. With `unit_id` only executions of that unit
        are closed.
        """
        work = partial(self._abandon, source_id=source_id, abandoned=abandoned, unit_id=unit_id)
        return ClosedExecutions(await self._database.run(work))

    async def _abandon(
        self,
        transaction: Transaction,
        *,
        source_id: str,
        abandoned: AbandonedExecutions,
        unit_id: int | None,
    ) -> list[int]:
        rows = await transaction.fetch(
            self._queries["lock_abandoned"],
            source_id,
            abandoned.execution_ids,
            unit_id,
            abandoned.reason is AbandonReason.ABANDONED_CREATE,
        )
        if not rows:
            await check_succeeded(transaction, source_id)
        reasons = {row["execution_id"]: CloseReason(abandoned.reason) for row in rows}
        return await self._execution_closer.close(transaction, reasons)


class BindingCache:
    """Executions by source and id, each as READY and without URIs."""

    def __init__(self, max_size: int = MAX_CACHED_BINDINGS) -> None:
        self._executions: LRUCache[tuple[str, int], Execution] = LRUCache(max_size)

    def add(
        self,
        source_id: str,
        execution_id: int,
        *,
        user_id: int,
        workflow_id: int,
        warehouse: str | None,
    ) -> None:
        self._executions[source_id, execution_id] = Execution(
            execution_id=execution_id,
            writer_status=WriterStatus.WRITER,
            user_id=user_id,
            workflow_id=workflow_id,
            warehouse=warehouse,
        )

    def update(self, source_id: str, executions: Mapping[int, Execution]) -> None:
        """Stores what was read under locks; evicts what ended or may not be written to."""
        for execution_id, execution in executions.items():
            is_writable = execution.writer_status is WriterStatus.WRITER
            if is_writable and execution.status not in TERMINAL_CODES:
                self._executions[source_id, execution_id] = msgspec.structs.replace(
                    execution, status=Status.READY.code, results={}, consoles={}
                )
            else:
                self._executions.pop((source_id, execution_id), None)

    def get(self, source_id: str, execution_id: int) -> Execution | None:
        return self._executions.get((source_id, execution_id))


@dataclass(slots=True)
class _Remaining:
    count: int


class BindingQuota:
    """Open bindings per user and per source."""

    def __init__(
        self,
        settings: LimitSettings,
        metrics: Metrics,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {
            "user": settings.user_open_bindings,
            "source": settings.source_open_bindings,
        }
        self._metrics = metrics
        self._remaining: TTLCache[Hashable, _Remaining] = TTLCache(
            MAX_TRACKED_QUOTAS, RECOUNT_S, timer=timer
        )
        self._queries = load("bindings")

    async def acquire(self, transaction: Transaction, user_id: int, source_id: str) -> None:
        """Admits one more binding. Raises `RateLimited`."""
        keys = {"user": user_id, "source": source_id}
        quotas = {owner: self._remaining.get((owner, key)) for owner, key in keys.items()}
        if any(self._limits[owner] and not (q and q.count) for owner, q in quotas.items()):
            row = await transaction.fetch_row(
                self._queries["count_open_bindings"], user_id, source_id
            )
            assert row is not None  # noqa: S101 (the statement returns one row)
            for owner, key in keys.items():
                quotas[owner] = self._remaining[owner, key] = self._share(owner, row[f"of_{owner}"])
        for quota in quotas.values():
            if quota is not None:
                quota.count -= 1

    def check_late(self, count: int) -> None:
        """Whether an ended execution may have one more binding. Raises `RateLimited`."""
        if count >= MAX_LATE_BINDINGS:
            self._metrics.rate_limited("user", "bindings")
            raise RateLimited(
                f"{count} sidecars were bound to this execution after its end, and no more may be",
                retry_after_s=LATE_RETRY_AFTER_S,
            )

    def _share(self, owner: str, count: int) -> _Remaining:
        limit = self._limits[owner]
        if limit and count >= limit:
            self._metrics.rate_limited(owner, "bindings")
            noun = "user" if owner == "user" else "sidecar"
            raise RateLimited(
                f"this {noun} has {count} unfinished executions, and may have {limit}",
                retry_after_s=RETRY_AFTER_S,
            )
        return _Remaining(max(1, (limit - count) // 4))


class BindingFilter(msgspec.Struct, frozen=True):
    """Selects bindings by every field that is not None."""

    execution_id: int | None = None
    source_id: str | None = None
    user_id: int | None = None
    workflow_id: int | None = None
    computing_unit_id: int | None = None

    @property
    def is_empty(self) -> bool:
        return self == BindingFilter()


class ListedBinding(msgspec.Struct, frozen=True):
    """`status` is None if the execution is deleted, `lease_expires_at` if it has no lease.
    `may_set_status`: the source runs the execution, or ran it until its end."""

    execution_id: int
    source_id: str
    user_id: int
    workflow_id: int
    computing_unit_id: int | None
    status: Status | None
    may_set_status: bool
    created_at: datetime
    lease_expires_at: datetime | None
    lease_is_live: bool
    revoked_at: datetime | None
    revoked_reason: str | None


class RevokedBinding(msgspec.Struct, frozen=True):
    execution_id: int
    source_id: str
    user_id: int


class RevokedSource(msgspec.Struct, frozen=True):
    """The key and those that came after it, and the bindings that one call revoked."""

    source_ids: list[str]
    bindings: list[RevokedBinding]


class Revocations:
    """Bindings as an operator lists and revokes them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("bindings")

    async def find(
        self, binding_filter: BindingFilter, state: State, limit: int
    ) -> list[ListedBinding]:
        """The newest first."""
        values = msgspec.structs.astuple(binding_filter)
        rows = await self._database.read(self._queries["list_bindings"], *values, state, limit)
        found = []
        for row in rows:
            columns = dict(row)
            code = columns.pop("status_code")
            status = None if code is None else status_of_code(code)
            found.append(ListedBinding(status=status, **columns))
        return found

    async def revoke(self, binding_filter: BindingFilter, reason: str) -> list[RevokedBinding]:
        """The bindings revoked by this call. Entries of their sources are refused from then on.

        A source stands for the keys that came after it as well.
        """
        return await self._database.run(
            partial(self._revoke, binding_filter=binding_filter, reason=reason)
        )

    async def revoke_source(self, source_id: str, reason: str) -> RevokedSource:
        """Ends a key and those that came after it: they bind, create and boot nothing from then on.

        Repeatable: what a first call left undone is done by the next.
        """
        # Marked first, and alone: the second transaction waits for calls of the key in progress.
        await self._database.run(partial(mark_revoked, source_id=source_id, reason=reason))
        return await self._database.run(
            partial(self._revoke_line, source_id=source_id, reason=reason)
        )

    async def _revoke_line(
        self, transaction: Transaction, *, source_id: str, reason: str
    ) -> RevokedSource:
        line = await lock_line(transaction, source_id)
        await mark_revoked(transaction, source_id, reason)
        of_source = BindingFilter(source_id=source_id)
        bindings = await self._revoke(transaction, binding_filter=of_source, reason=reason)
        return RevokedSource(line, bindings)

    async def _revoke(
        self, transaction: Transaction, *, binding_filter: BindingFilter, reason: str
    ) -> list[RevokedBinding]:
        execution_id, source_id, *others = msgspec.structs.astuple(binding_filter)
        line = None if source_id is None else await lock_line(transaction, source_id)
        rows = await transaction.fetch(
            self._queries["revoke_bindings"], execution_id, line, *others, reason
        )
        return [RevokedBinding(**dict(row)) for row in rows]
