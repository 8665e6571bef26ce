"""What has to be true once the faults have stopped, whatever they were.

- Every acknowledged write was applied or refused by central exactly once, or shares the fate of the
  one that replaced it; one that was not acknowledged, at most once. What was acknowledged under a
  number is what central got under it.
- Per execution, central settled in the order of the numbers, and numbers follow acknowledgements.
- Nothing waits any more, and all was sent under the epoch of the beginning.
- The sidecar's history says of each write what central did, and so did whoever waited for it.
- The lease of each open run is held by the sidecar that knows itself bound, and has not lapsed.
- No task and no callback ended by an exception that nobody expected.
"""

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from central.wire.entries import InvalidEntry, op_of
from kit.texera.statuses import TERMINAL_CODES
from sidecar.spool.entry import WriteRecord, WriteState
from tests.simulation.central import MemoryCentral, Settled
from tests.simulation.computing_unit import Acknowledged, ComputingUnit


async def violations(central: MemoryCentral, units: list[ComputingUnit], now: float) -> list[str]:
    found = [*_of_order(central)]
    for unit in units:
        of_unit = [*_of_spool(unit), *_of_leases(central, unit, now)]
        of_unit += await _of_writes(central, unit)
        found += [f"{unit.sidecar.source_id[:4]}: {text}" for text in of_unit]
    return found


def _of_order(central: MemoryCentral) -> Iterator[str]:
    last: dict[tuple[str, int], int] = {}
    for settled in central.settled:
        key = settled.source_id, settled.execution_id
        if settled.seq <= last.get(key, 0):
            yield f"execution {key[1]}: {settled.seq} was settled after {last[key]}"
        last[key] = settled.seq


def _of_leases(central: MemoryCentral, unit: ComputingUnit, now: float) -> Iterator[str]:
    """Of the bindings that the spool knows: others, whose responses were lost, may lapse."""
    for binding in unit.sidecar.spool.bindings.all():
        execution_id, source_id = binding.execution_id, unit.sidecar.source_id
        is_open = central.executions[execution_id].status not in TERMINAL_CODES
        if not is_open or binding.ended_at_ms is not None:
            continue
        lease = central.leases.get(execution_id)
        if central.sources_of(execution_id) == [source_id] and (
            lease is None or lease.source_id != source_id or lease.expires_at <= now
        ):
            yield f"execution {execution_id} is open, and its lease is {lease} at {now:.0f}"


def _of_spool(unit: ComputingUnit) -> Iterator[str]:
    spool = unit.sidecar.spool
    yield from unit.sidecar.violations
    if spool.queues.entry_count or spool.queues.coalesced_count:
        yield f"{spool.queues.entry_count} writes still wait"
    if spool.epochs_started:
        yield f"{spool.epochs_started} new epochs"


async def _of_writes(central: MemoryCentral, unit: ComputingUnit) -> list[str]:
    by_seq: dict[int, list[Settled]] = defaultdict(list)
    for settled in central.settled:
        if settled.source_id == unit.sidecar.source_id:
            by_seq[settled.seq].append(settled)
    found = [
        f"write {seq} was settled {len(all_settled)} times"
        for seq, all_settled in by_seq.items()
        if len(all_settled) > 1
    ]
    if len({settled.epoch for each in by_seq.values() for settled in each}) > 1:
        found.append("more than one epoch")
    last: dict[int, int] = {}
    process = unit.sidecar.process
    assert process is not None
    for write in unit.acknowledged:
        execution_id = write.new.execution_id
        if write.seq <= last.get(execution_id, 0):
            found.append(f"write {write.seq} was acknowledged after {last[execution_id]}")
        last[execution_id] = write.seq
        record = await unit.sidecar.call(process.spool.find(write.seq))
        settled_once = by_seq.get(write.seq)
        found += _of_write(write, record, settled_once[0] if settled_once else None)
    return found


def _of_write(
    write: Acknowledged, record: WriteRecord | None, settled: Settled | None
) -> Iterator[str]:
    name = f"write {write.seq} ({write.new.op} to {write.new.execution_id})"
    if record is None or record.state is WriteState.DURABLE:
        yield f"{name} is {record and record.state} in the history"
        return
    if settled is None:
        if write.new.coalesce_key is None:
            yield f"{name} was acknowledged, and central never got it"
        return
    if not _is_of(settled, write):
        yield f"{name} is not what central got: {settled.entry}"
    slug = "applied" if record.problem is None else record.problem["type"]
    if slug != settled.result:
        yield f"{name} is {slug} in the history, and central said {settled.result}"
    if write.settled is not None and write.settled.state is not record.state:
        yield f"{name} is {record.state}, and its waiter got {write.settled.state}"


def _is_of(settled: Settled, write: Acknowledged) -> bool:
    entry = settled.entry
    if isinstance(entry, InvalidEntry):
        return False
    got = msgspec.to_builtins(entry)
    named = {name: got.get(name) for name in write.new.fields}
    is_same = (entry.execution_id, op_of(entry)) == (write.new.execution_id, write.new.op)
    return is_same and named == write.new.fields
