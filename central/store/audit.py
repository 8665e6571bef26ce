"""The audit of privileged calls that took effect, and the chain that shows whether it was altered.

## Events

An event (create, bind, take-over, boot, delete, revoke, close) is inserted by the statement that
it records: there is none without the other, and no call makes a statement more. The service's role
may insert events, and neither change nor delete them.

## The chain

    events   1   2   4   3   5   6        4 was committed before 3, 6 just now
    links    1 - 2 - 3 - 4 - 5            of 1, 2, 4, 3, 5; hash n = SHA-256(hash n-1, event)

A call does not extend the chain itself, or each would wait for the commit of the one before (ADR
64). A job links committed events every few seconds, in one replica at a time. An event whose
transaction is still open is linked by a later pass. No transaction of the service is open for
`MAX_COMMIT_DELAY`, so that an older event without a link is not the service's.

Whoever may write both tables can make a new chain. It ends differently: `verify` compares it with
ends that were exported or logged before (`Anchor`).
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

import asyncpg
import msgspec

from central.store.database import Database, Transaction
from central.store.queries import load

CHUNK = 1000
MAX_COMMIT_DELAY = timedelta(seconds=600)
"""Much longer than a transaction of the service: a statement of it ends after 10 s."""
MAX_FINDINGS = 100
GENESIS = b""


class AuditEvent(msgspec.Struct, frozen=True):
    """`user_id` is None for an operator; `detail` is a boot, a revoked source or a reason."""

    id: int
    recorded_at: datetime
    action: str
    user_id: int | None
    source_id: str | None
    execution_id: int | None
    computing_unit_id: int | None
    detail: str | None

    def hash_after(self, previous: bytes) -> bytes:
        return hashlib.sha256(
            previous + msgspec.json.encode(msgspec.structs.astuple(self))
        ).digest()


class Link(msgspec.Struct, frozen=True):
    """`event` is None if it is gone."""

    position: int
    event_id: int
    hash: bytes
    event: AuditEvent | None


class Anchor(msgspec.Struct, frozen=True):
    """An end that the chain had: an old one shows whether what was before it is unchanged."""

    position: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.position}:{self.hash.hex()}"


class Verification(msgspec.Struct, frozen=True):
    """`findings` is empty if nothing was altered. `end` is None for an empty chain."""

    findings: list[str]
    end: Anchor | None
    linked_count: int
    unlinked_count: int


class EventFilter(msgspec.Struct, frozen=True):
    """Selects events by every field that is not None."""

    action: str | None = None
    user_id: int | None = None
    execution_id: int | None = None
    source_id: str | None = None


class Audit:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("audit")

    async def extend(self) -> Anchor | None:
        """Links the committed events. Returns the new end; None if there was nothing to link, or
        while another replica does it. An idle pass costs one statement."""
        rows = await self._database.read(self._queries["has_unlinked_events"], MAX_COMMIT_DELAY)
        return await self._database.run(self._extend) if rows[0]["has_events"] else None

    async def _extend(self, transaction: Transaction) -> Anchor | None:
        lock = await transaction.fetch_row(self._queries["try_chain_lock"])
        if lock is None or not lock["is_locked"]:
            return None
        last = await transaction.fetch_row(self._queries["last_link"])
        before = Anchor(last["position"], last["hash"]) if last is not None else Anchor(0, GENESIS)
        since = _oldest_unlinked(last["linked_at"]) if last is not None else None
        end = before
        # All of them in this transaction: the next pass reads only what is younger than this one.
        while events := await self._unlinked(transaction, since):
            hashes: list[bytes] = []
            for event in events:
                hashes.append(event.hash_after(hashes[-1] if hashes else end.hash))
            ids = [event.id for event in events]
            await transaction.execute(self._queries["add_links"], end.position, ids, hashes)
            end = Anchor(end.position + len(hashes), hashes[-1])
        return end if end != before else None

    async def verify(self, anchors: Sequence[Anchor] = (), first: int = 1) -> Verification:
        """Recomputes the chain from the link `first` on; earlier ones were deleted on purpose."""
        verifier = _Verifier(first, anchors)
        linked_at: datetime | None = None
        async for row in self._rows(first - 1):
            verifier.check(_link_of(row))
            linked_at = row["linked_at"]
        unlinked = await self._database.run(partial(self._unlinked, since=None))
        for event in unlinked:
            if linked_at is not None and event.recorded_at <= _oldest_unlinked(linked_at):
                verifier.report(f"event {event.id} is not in the chain: it was inserted later")
        return Verification(verifier.finish(), verifier.end, verifier.linked_count, len(unlinked))

    async def links(self) -> AsyncIterator[Link]:
        """All, from the first on."""
        async for row in self._rows(0):
            yield _link_of(row)

    async def find(self, event_filter: EventFilter, limit: int) -> list[AuditEvent]:
        """The newest first."""
        values = msgspec.structs.astuple(event_filter)
        rows = await self._database.read(self._queries["list_events"], *values, limit)
        return [_event_of(row) for row in rows]

    async def _unlinked(self, transaction: Transaction, since: datetime | None) -> list[AuditEvent]:
        rows = await transaction.fetch(self._queries["unlinked_events"], since, CHUNK)
        return [_event_of(row) for row in rows]

    async def _rows(self, position: int) -> AsyncIterator[asyncpg.Record]:
        while rows := await self._database.read(self._queries["links"], position, CHUNK):
            for row in rows:
                yield row
            position = rows[-1]["position"]


class _Verifier:
    """Checks links in their order."""

    def __init__(self, first: int, anchors: Iterable[Anchor]) -> None:
        self.end: Anchor | None = None
        self.linked_count = 0
        self._expected = first
        self._anchors = {anchor.position: anchor.hash for anchor in anchors}
        self._findings: list[str] = []
        self._is_first = first > 1  # the hash before it is not known

    def report(self, finding: str) -> None:
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(finding)

    def check(self, link: Link) -> None:
        if link.position != self._expected:
            self.report(f"links {self._expected} to {link.position - 1} are gone")
        elif link.event is None:
            self.report(f"link {link.position}: event {link.event_id} is gone")
        elif not self._is_first:
            previous = self.end.hash if self.end is not None else GENESIS
            if link.event.hash_after(previous) != link.hash:
                self.report(f"link {link.position}: event {link.event_id} or the link was changed")
        if self._anchors.pop(link.position, link.hash) != link.hash:
            self.report(f"link {link.position}: the chain up to here is not the one of the anchor")
        # From the stored hash on, so that one changed row is one finding.
        self.end, self._is_first = Anchor(link.position, link.hash), False
        self._expected = link.position + 1
        self.linked_count += 1

    def finish(self) -> list[str]:
        for position in self._anchors:
            self.report(f"the chain does not reach the anchor at link {position}")
        return self._findings


def _oldest_unlinked(linked_at: datetime) -> datetime:
    """The events before were visible to the pass that made a link at that time."""
    return linked_at - MAX_COMMIT_DELAY


def _event_of(row: asyncpg.Record) -> AuditEvent:
    return AuditEvent(*(row[name] for name in AuditEvent.__struct_fields__))


def _link_of(row: asyncpg.Record) -> Link:
    event = _event_of(row) if row["id"] is not None else None
    return Link(row["position"], row["event_id"], row["hash"], event)
