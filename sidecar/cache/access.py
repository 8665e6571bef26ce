"""For whom remembered values may be shown: central's yes per token and execution."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from cachetools import LRUCache

ACCESS_ENTRIES_MAX = 20_000
"""About 10 MB at most; a pod has a handful of users and one execution at a time."""


def token_digest(token: str) -> bytes:
    """What stands for a token wherever it must not be kept."""
    return hashlib.sha256(token.encode()).digest()


class Verdict(Enum):
    FRESH = auto()
    STALE = auto()
    """Central's yes is older than its term; good only while central cannot be asked."""
    EXPIRED = auto()
    """The token's own `exp` has passed."""
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Yes:
    user_id: int
    said_at: float
    expires_at: int


class AccessMemory:
    """Central's yeses. Times are wall-clock seconds, because `exp` is one."""

    def __init__(self, *, ttl_s: float, stale_s: float, wall_clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._wall_clock = wall_clock
        self._yeses: LRUCache[tuple[bytes, int], _Yes] = LRUCache(ACCESS_ENTRIES_MAX)
        self._users: LRUCache[bytes, _Yes] = LRUCache(ACCESS_ENTRIES_MAX)

    def allow(self, digest: bytes, execution_id: int, user_id: int, expires_at: int) -> None:
        """Central answered this token's call on this execution."""
        yes = _Yes(user_id, self._wall_clock(), expires_at)
        self._yeses[digest, execution_id] = yes
        self._users[digest] = yes

    def identify(self, digest: bytes, user_id: int, expires_at: int) -> None:
        """Central told whose token this is."""
        self._users[digest] = _Yes(user_id, self._wall_clock(), expires_at)

    def deny(self, digest: bytes, execution_id: int) -> None:
        self._yeses.pop((digest, execution_id), None)

    def verdict(self, digest: bytes, execution_id: int) -> Verdict:
        return self._judge(self._yeses.get((digest, execution_id)))

    def user_of(self, digest: bytes) -> int | None:
        """The user of a token seen within the term and not expired."""
        yes = self._users.get(digest)
        return yes.user_id if yes is not None and self._judge(yes) is Verdict.FRESH else None

    def _judge(self, yes: _Yes | None) -> Verdict:
        if yes is None:
            return Verdict.UNKNOWN
        now = self._wall_clock()
        if now >= yes.expires_at:
            return Verdict.EXPIRED
        age = now - yes.said_at
        # A clock that was set back makes the age negative: ask again rather than trust it.
        if 0 <= age < self._ttl_s:
            return Verdict.FRESH
        return Verdict.STALE if 0 <= age < self._ttl_s + self._stale_s else Verdict.UNKNOWN
