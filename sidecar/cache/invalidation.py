"""Marks: whether something remembered still stands, known without a look-up.

Whoever has taken a copy of a remembered value (the front door keeps whole answers) keeps its
marks and asks them before every use. Whatever ends the value, a write, an eviction, a refusal,
takes the token away in the same step, so there is nothing to be told and nothing to be late.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from cachetools import LRUCache

GENERATIONS_KEPT = 10_000
"""About 3 MB at most. What falls out is taken to have moved, which costs a fetch."""


class InvalidationToken:
    """`holds` until what it stands for was replaced, evicted, refused or written to."""

    __slots__ = ("is_valid",)

    def __init__(self) -> None:
        self.is_valid = True


@dataclass(frozen=True, slots=True)
class Validity:
    """Until when an answer made from memory may be given again to the very same request."""

    generation: InvalidationToken
    value: InvalidationToken
    access: InvalidationToken
    until: float
    """On the monotonic clock: the value's own term."""
    access_from: float
    access_until: float
    """On the wall clock, where a token's `exp` is; a clock that was set back ends it too."""
    touch: Callable[[], None]
    """To be called now and then while it is used: what is used is not to be evicted."""

    def is_valid(self, monotonic: float, wall: float) -> bool:
        return (
            self.generation.is_valid
            and self.value.is_valid
            and self.access.is_valid
            and monotonic < self.until
            and self.access_from <= wall < self.access_until
        )


class GenerationTable:
    """A token per key that a write moves: what was begun under an older one is out of date."""

    def __init__(self, kept: int | None = None) -> None:
        self._tokens = _Tokens(GENERATIONS_KEPT if kept is None else kept)

    def current(self, key: Hashable) -> InvalidationToken:
        token: InvalidationToken | None = self._tokens.get(key)
        if token is None:
            token = self._tokens[key] = InvalidationToken()
        return token

    def invalidate(self, key: Hashable) -> None:
        token = self._tokens.pop(key, None)
        if token is not None:
            token.is_valid = False


class _Tokens(LRUCache[Hashable, InvalidationToken]):
    def popitem(self) -> tuple[Hashable, InvalidationToken]:
        key, token = super().popitem()
        token.is_valid = False
        return key, token
