"""What clients saw: operations with the times of their call and return, on one clock."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

NEVER = 1 << 60
"""The return of a call whose response was lost: it may take effect at any later time, or never."""


@dataclass
class Operation:
    """A read or a write of one register. `value` is what was read, or is to be written."""

    register: tuple[Any, ...]
    is_write: bool
    value: Any
    called: int
    returned: int = NEVER
    write_id: str | None = None
    """Of an acknowledged write."""
    refused_by: int | None = None
    """Central refuses it; the return of the first call that said so, or NEVER."""


@dataclass(frozen=True)
class StateSeen:
    """A call that said in which state a write is; None: it is not there (404, or not listed)."""

    write_id: str
    state: str | None
    called: int
    returned: int


@dataclass
class History:
    """Everything that the clients of one run did."""

    operations: list[Operation] = field(default_factory=list)
    states: list[StateSeen] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    """Writes that one list named twice."""
    _clock: Iterator[int] = field(default_factory=count)

    def now(self) -> int:
        """A later time at each call; clients are tasks of one event loop."""
        return next(self._clock)

    def write(self, register: tuple[Any, ...], value: Any, *, is_refused: bool) -> Operation:
        """Recorded before it is sent: its response may be lost."""
        refused_by = NEVER if is_refused else None
        operation = Operation(register, True, value, self.now(), refused_by=refused_by)
        self.operations.append(operation)
        return operation

    def read(self, register: tuple[Any, ...], value: Any, called: int, returned: int) -> None:
        self.operations.append(Operation(register, False, value, called, returned))

    def saw_state(self, write_id: str, state: str | None, called: int, returned: int) -> None:
        self.states.append(StateSeen(write_id, state, called, returned))

    def saw_list(
        self,
        asked: str | None,
        listed: list[tuple[str, str]],
        called: int,
        returned: int,
    ) -> None:
        """`asked`: the state that was asked for. A complete list also says what it lacks."""
        ids = [write_id for write_id, _ in listed]
        self.duplicates += sorted({write_id for write_id in ids if ids.count(write_id) > 1})
        for write_id, state in listed:
            self.saw_state(write_id, state, called, returned)
        if asked is None:
            for operation in self.operations:
                expected = operation.write_id
                if expected is not None and operation.returned < called and expected not in ids:
                    self.saw_state(expected, None, called, returned)
