"""Marks: whether something remembered still stands, known without a look-up.

Whoever has taken a copy of a remembered value (the front door keeps whole answers) keeps its
marks and asks them before every use. Whatever ends the value, a write, an eviction, a refusal,
takes the mark away in the same step, so there is nothing to be told and nothing to be late.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from cachetools import LRUCache

GENERATIONS_KEPT = 10_000
"""About 3 MB at most. What falls out is taken to have moved, which costs a fetch."""


class Mark:
    """`holds` until what it stands for was replaced, evicted, refused or written to."""

    __slots__ = ("holds",)

    def __init__(self) -> None:
        self.holds = True


@dataclass(frozen=True, slots=True)
class Validity:
    """Until when an answer made from memory may be given again to the very same request."""

    generation: Mark
    value: Mark
    access: Mark
    until: float
    """On the monotonic clock: the value's own term."""
    access_from: float
    access_until: float
    """On the wall clock, where a token's `exp` is; a clock that was set back ends it too."""
    touch: Callable[[], None]
    """To be called now and then while it is used: what is used is not to be evicted."""

    def holds(self, monotonic: float, wall: float) -> bool:
        return (
            self.generation.holds
            and self.value.holds
            and self.access.holds
            and monotonic < self.until
            and self.access_from <= wall < self.access_until
        )


class GenerationTable:
    """A mark per key that a write moves: what was begun under an older one is out of date."""

    def __init__(self, kept: int | None = None) -> None:
        self._marks = _Marks(GENERATIONS_KEPT if kept is None else kept)

    def current(self, key: Hashable) -> Mark:
        mark: Mark | None = self._marks.get(key)
        if mark is None:
            mark = self._marks[key] = Mark()
        return mark

    def move(self, key: Hashable) -> None:
        mark = self._marks.pop(key, None)
        if mark is not None:
            mark.holds = False


class _Marks(LRUCache[Hashable, Mark]):
    def popitem(self) -> tuple[Hashable, Mark]:
        key, mark = super().popitem()
        mark.holds = False
        return key, mark
