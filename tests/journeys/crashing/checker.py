"""Compares the history of the writers' calls with what Postgres recorded.

Every acknowledged write was applied exactly once; what was not acknowledged, at most once; per
execution in the order of the acknowledgements; under one numbering (a new epoch would mean that
exactly once was given up); and the rows are what these writes, in this order, make of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.journeys.crashing.history import History, Kind, Write
from tests.journeys.crashing.recorder import Execution, Observations

COMPLETED = 3
UNCHANGED = ""
"""An execution's `result` before anybody wrote one."""


def violations(history: History, seen: Observations) -> list[str]:
    """The promises that were broken, one sentence each."""
    by_execution: dict[int, list[Write]] = {}
    for write in history.writes:
        by_execution.setdefault(write.execution_id, []).append(write)
    found = [*_of_entries(history, seen), *_of_order(history, seen)]
    for execution_id, writes in sorted(by_execution.items()):
        execution = seen.executions[execution_id]
        texts = [
            *_of_history(seen.results.get(execution_id, [])),
            *_of_result(writes, execution),
            *_of_ports(writes, execution),
            *_of_end(writes, execution),
        ]
        found += [f"execution {execution_id}: {text}" for text in texts]
    return found


def _of_entries(history: History, seen: Observations) -> Iterator[str]:
    applied = Counter((s, seq) for s, _, seq, outcome in seen.entries if outcome == "applied")
    refused = {(s, seq) for s, _, seq, outcome in seen.entries if outcome == "refused"}
    yield from (
        f"{source} {seq}: applied {n} times" for (source, seq), n in applied.items() if n > 1
    )
    yield from (f"{source} {seq}: refused" for source, seq in sorted(refused))
    epochs = Counter(source for source, _ in {(s, epoch) for s, epoch, _, _ in seen.entries})
    yield from (f"{source}: {n} epochs" for source, n in epochs.items() if n > 1)
    for write in history.acknowledged():
        source = seen.executions[write.execution_id].source_id
        if write.kind is not Kind.SIZE and not applied[source, write.seq or 0]:
            yield f"{source} {write.seq}: acknowledged and lost ({write.kind} {write.value})"


def _of_order(history: History, seen: Observations) -> Iterator[str]:
    """Numbers follow acknowledgements, and applications follow numbers."""
    executions: dict[tuple[str, int], int] = {}
    for write in history.acknowledged():
        assert write.seq is not None
        entry = seen.executions[write.execution_id].source_id, write.seq
        if entry in executions:  # the first of the two was lost, and its number with it
            yield f"execution {write.execution_id}: {write.seq} was given twice"
        executions[entry] = write.execution_id
        if write.seq <= write.after:
            yield f"execution {write.execution_id}: {write.seq} was given after {write.after}"
    last: dict[int, int] = {}
    for source, _, seq, outcome in seen.entries:
        execution_id = executions.get((source, seq))
        if execution_id is None or outcome != "applied":
            continue
        if seq < last.get(execution_id, 0):
            yield f"execution {execution_id}: {seq} was applied after {last[execution_id]}"
        last[execution_id] = seq


def _of_history(values: list[str]) -> Iterator[str]:
    """A writer sends one at a time, so its numbers only grow; a smaller one was applied twice."""
    highest: dict[str, int] = {}
    for value in values:
        writer, _, number = value.partition("-")
        if int(number) <= highest.get(writer, -1):
            yield f"result {value} came after {writer}-{highest[writer]}"
        highest[writer] = int(number)


def _of_result(writes: Iterable[Write], execution: Execution) -> Iterator[str]:
    writes = [write for write in writes if write.kind is Kind.RESULT]
    last = max((write for write in writes if write.seq is not None), key=_seq, default=None)
    possible = {
        write.value
        for write in writes
        if write is last or (write.seq is None and (last is None or _ended(write) > last.sent))
    }
    if last is None:
        possible.add(UNCHANGED)
    if (execution.result or UNCHANGED) not in possible:
        yield f"result is {execution.result}, not {last and last.value}"


def _of_ports(writes: Iterable[Write], execution: Execution) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for write in writes:
        if write.seq is None:
            continue
        if write.kind is Kind.PORT and execution.ports.get(write.key, ("",))[0] != write.value:
            yield f"port {write.key} is not stored"
        if write.kind is Kind.SIZE:
            sizes[write.key] = max(sizes.get(write.key, 0), int(write.value))
    for key, size in sizes.items():
        stored = execution.ports.get(key, ("", None))[1] or 0
        if stored < size:  # more is a write whose acknowledgement was lost
            yield f"port {key} has {stored} bytes, not {size}"


def _of_end(writes: Iterable[Write], execution: Execution) -> Iterator[str]:
    ended = any(write.kind is Kind.END and write.seq is not None for write in writes)
    if ended and execution.status != COMPLETED:
        yield f"its status is {execution.status}"


def _seq(write: Write) -> int:
    return write.seq or 0


def _ended(write: Write) -> int:
    assert write.ended is not None
    return write.ended
