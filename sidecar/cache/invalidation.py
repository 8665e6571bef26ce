"""Invalidation tokens: whether a copy of a cached value may still be used, without a look-up.

Whoever keeps a copy (the response cache keeps encoded responses) keeps its tokens and checks
them before each use. A write, an eviction or a refusal invalidates the token in the same step
in which it ends the value, so no notification can arrive late.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from cachetools import LRUCache

MAX_GENERATIONS = 10_000
"""About 1 MB. An evicted generation counts as invalidated, which costs a fetch."""

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class InvalidationToken:
    """`is_valid` until what it stands for was replaced, evicted, revoked or written to."""

    __slots__ = ("is_valid",)

    def __init__(self) -> None:
        self.is_valid = True


@dataclass(frozen=True, slots=True)
class Validity:
    """How long a response may be served again to the same request."""

    generation: InvalidationToken
    value: InvalidationToken
    access: InvalidationToken
    fresh_until: float
    """On the monotonic clock."""
    access_from: float
    access_until: float
    """On the wall clock, as a token's `exp` is; a clock that was set back ends it too."""
    touch: Callable[[], None]
    """Marks the value, its generation and its grant as recently used."""

    def is_valid(self, monotonic: float, wall: float) -> bool:
        return (
            self.generation.is_valid
            and self.value.is_valid
            and self.access.is_valid
            and monotonic < self.fresh_until
            and self.access_from <= wall < self.access_until
        )


class EvictingLru(LRUCache[KeyT, ValueT]):
    """Calls `on_evict` for each entry that leaves for lack of room."""

    def __init__(
        self,
        maxsize: float,
        on_evict: Callable[[KeyT, ValueT], None],
        getsizeof: Callable[[ValueT], float] | None = None,
    ) -> None:
        super().__init__(maxsize, getsizeof)
        self._on_evict = on_evict

    def popitem(self) -> tuple[KeyT, ValueT]:
        key, value = super().popitem()
        self._on_evict(key, value)
        return key, value


class GenerationTable:
    """One token per resource, invalidated by each write to it."""

    def __init__(self, max_count: int | None = None) -> None:
        self._tokens = EvictingLru[Hashable, InvalidationToken](
            MAX_GENERATIONS if max_count is None else max_count, _invalidate
        )

    def current(self, resource: Hashable) -> InvalidationToken:
        token: InvalidationToken | None = self._tokens.get(resource)
        if token is None:
            token = self._tokens[resource] = InvalidationToken()
        return token

    def invalidate(self, resource: Hashable) -> None:
        token = self._tokens.pop(resource, None)
        if token is not None:
            token.is_valid = False

    def clear(self) -> None:
        """All resources were written to."""
        for resource in list(self._tokens):
            self.invalidate(resource)


def _invalidate(_: Hashable, token: InvalidationToken) -> None:
    token.is_valid = False
