"""Says what is wrong with a history; nothing, if the promises of reads and writes were kept.

## Registers

A register is one field of one execution, or one port's URI or size. Each history of a register is
searched for an order of its operations that a single register could have executed one by one: every
operation takes effect at one time between its call and its return, and a read returns the newest
value (Wing and Gong, 1993; visited states are kept, as Lowe 2017 and Porcupine do). Registers are
independent: a history is linearizable if that of each register is.

Two kinds of writes differ from a plain register's:

    lost response   takes effect at any time after its call, or never
    refused         shown from its acknowledgement, or never shown at all, until the refusal takes
                    it back: at the latest when a call has said that it is refused

So the register's state is not one value but the shown writes in order: the newest that will not be
refused, and those after it that will be. A refusal removes its write, and what was shown before it
is the value again.

## States of writes

    durable --> committed
       +------> refused

What a call has seen holds for every later call: a state that has been left never comes back, an
acknowledged write is always found, and no list has it twice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from tests.linearizability.history import NEVER, History, Operation, StateSeen

SEARCH_MAX = 200_000
"""Visited states of one register: beyond it the workload has too much concurrency to be judged."""
INITIAL = -1
"""The register's value before any write, in a state."""

Shown: TypeAlias = tuple[int, ...]
"""Steps whose values are shown, oldest first; the last is the register's value."""


@dataclass(frozen=True)
class Step:
    """One point in time of an operation: a read, a write, or a refusal that takes a write back."""

    operation: Operation
    called: int
    returned: int
    takes_back: int | None = None
    """The step of the write that this refusal removes."""


def complaints(history: History, initial: dict[Any, Any]) -> list[str]:
    """In words. `initial`: the values of registers by the last part of their names."""
    found = [f"write {write_id} is listed twice" for write_id in history.duplicates]
    found += _of_states(history)
    by_register: dict[tuple[Any, ...], list[Operation]] = {}
    for operation in history.operations:
        by_register.setdefault(operation.register, []).append(operation)
    for register, operations in sorted(by_register.items()):
        if (stuck := unexplained(operations, initial[register[-1]])) is not None:
            found.append(f"{register}: no order explains {describe(stuck, operations)}")
    return found


# States of writes


def _of_states(history: History) -> Iterator[str]:
    acknowledged = {o.write_id: o.returned for o in history.operations if o.write_id is not None}
    by_write = sorted(history.states, key=lambda seen: seen.write_id)
    for write_id, group in groupby(by_write, key=lambda seen: seen.write_id):
        seen = sorted(group, key=lambda one: one.called)
        for one in seen:
            if one.state is None and acknowledged.get(write_id, NEVER) < one.called:
                yield f"write {write_id} was acknowledged and is not found at {one.called}"
        yield from _of_changes(write_id, seen)


def _of_changes(write_id: str, seen: Iterable[StateSeen]) -> Iterator[str]:
    final = [one for one in seen if one.state not in {None, "durable"}]
    first = min(final, key=lambda one: one.returned, default=None)
    if first is None:
        return
    for one in seen:
        if one.called > first.returned and one.state != first.state:
            yield f"write {write_id} is {one.state} at {one.called} after it was {first.state}"
    if len({one.state for one in final}) > 1:
        yield f"write {write_id} is both committed and refused"


# Registers


def steps_of(operations: Iterable[Operation]) -> list[Step]:
    """In the order of their calls.

    A write that may never have been shown, and whose value nobody read, needs no place.
    """
    operations = sorted(operations, key=lambda one: one.called)
    seen = {operation.value for operation in operations if not operation.is_write}
    steps: list[Step] = []
    for operation in operations:
        may_vanish = operation.returned == NEVER or operation.refused_by is not None
        if not operation.is_write or not may_vanish or operation.value in seen:
            steps.append(Step(operation, operation.called, operation.returned))
    for index, step in enumerate(tuple(steps)):
        refused_by = step.operation.refused_by
        if step.operation.is_write and refused_by is not None:
            steps.append(Step(step.operation, step.called, refused_by, takes_back=index))
    return steps


def unexplained(operations: Iterable[Operation], initial: Any) -> Operation | None:
    """The operation that no order gets past; None if the history is linearizable."""
    steps = steps_of(operations)
    refusals = {
        step.takes_back: index for index, step in enumerate(steps) if step.takes_back is not None
    }
    stack: list[tuple[int, Shown]] = [((1 << len(steps)) - 1, (INITIAL,))]
    visited = {stack[0]}
    furthest, fewest_left = None, len(steps) + 1
    while stack:
        undone, shown = stack.pop()
        left = [index for index in range(len(steps)) if undone >> index & 1]
        if all(steps[index].returned == NEVER for index in left):
            return None  # what is left need never take effect
        deadline, latest = min((steps[index].returned, index) for index in left)
        if len(left) < fewest_left:
            furthest, fewest_left = steps[latest].operation, len(left)
        value = initial if shown[-1] == INITIAL else steps[shown[-1]].operation.value
        callable_now = [index for index in left if steps[index].called <= deadline]
        reads = [index for index in callable_now if not steps[index].operation.is_write]
        fitting = [index for index in reads if steps[index].operation.value == value]
        if fitting:  # a read changes nothing, so one that fits is never too early
            following = [(undone & ~sum(1 << index for index in fitting), shown)]
        else:
            following = [
                after
                for index in callable_now
                if steps[index].operation.is_write
                for after in _after(index, steps, undone, shown, refusals)
            ]
        for state in following:
            if state not in visited:
                visited.add(state)
                stack.append(state)
        if len(visited) > SEARCH_MAX:
            raise AssertionError("too many concurrent operations to judge the history")
    return furthest


def _after(
    index: int, steps: list[Step], undone: int, shown: Shown, refusals: dict[int, int]
) -> Iterator[tuple[int, Shown]]:
    """The states after this write or refusal; none if it cannot come next."""
    left, step = undone & ~(1 << index), steps[index]
    if step.takes_back is not None:
        if step.takes_back in shown:
            yield left, tuple(one for one in shown if one != step.takes_back)
    elif index in refusals:
        yield left, (*shown, index)
        yield left & ~(1 << refusals[index]), shown  # refused, and never shown
    else:
        for hidden in shown:  # never shown again, whatever refuses them
            if hidden in refusals:
                left &= ~(1 << refusals[hidden])
        yield left, (index,)


def describe(stuck: Operation, operations: Iterable[Operation]) -> str:
    """The operation, with the writes that were called or acknowledged before it returned."""
    kind = "write of" if stuck.is_write else "read of"
    writes = [one for one in operations if one.is_write and one.called < stuck.returned]
    last = ", ".join(
        f"{one.value!r} [{one.called}, {'-' if one.returned == NEVER else one.returned}]"
        + (" refused" if one.refused_by is not None else "")
        for one in sorted(writes, key=lambda one: one.called)[-6:]
    )
    return f"{kind} {stuck.value!r} [{stuck.called}, {stuck.returned}]; last writes: {last}"
