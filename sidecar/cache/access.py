"""For whom remembered values may be shown: central's yes per token and resource.

A resource is an execution, by its id, or a workflow, by `workflow_key`.
"""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto

from cachetools import LRUCache

from sidecar.cache.invalidation import Mark

ACCESS_ENTRIES_MAX = 20_000
"""About 10 MB at most; a pod has a handful of users and one execution at a time."""


def token_digest(token: str) -> bytes:
    """What stands for a token wherever it must not be kept."""
    return hashlib.sha256(token.encode()).digest()


def workflow_key(workflow_id: int) -> Hashable:
    """A workflow among the resources, beside executions' plain ids."""
    return ("workflow", workflow_id)


class AccessState(Enum):
    FRESH = auto()
    STALE = auto()
    """Central's yes is older than its term; good only while central cannot be asked."""
    EXPIRED = auto()
    """The token's own `exp` has passed."""
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Grant:
    user_id: int
    granted_at: float
    expires_at: int
    mark: Mark = field(default_factory=Mark, compare=False)


@dataclass(frozen=True, slots=True)
class FreshnessWindow:
    """From when to when, on the wall clock, a yes is fresh, unless its mark falls."""

    mark: Mark
    begins_at: float
    ends_at: float


class AccessCache:
    """Central's yeses. Times are wall-clock seconds, because `exp` is one."""

    def __init__(self, *, ttl_s: float, stale_s: float, wall_clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._wall_clock = wall_clock
        self._yeses = _GrantLru(ACCESS_ENTRIES_MAX)
        self._users: LRUCache[bytes, _Grant] = LRUCache(ACCESS_ENTRIES_MAX)

    def allow(self, digest: bytes, resource: Hashable, user_id: int, expires_at: int) -> None:
        """Central answered this token's call on this resource."""
        yes = _Grant(user_id, self._wall_clock(), expires_at)
        self.deny(digest, resource)
        self._yeses[digest, resource] = yes
        self._users[digest] = yes

    def identify(self, digest: bytes, user_id: int, expires_at: int) -> None:
        """Central told whose token this is."""
        self._users[digest] = _Grant(user_id, self._wall_clock(), expires_at)

    def deny(self, digest: bytes, resource: Hashable) -> None:
        yes = self._yeses.pop((digest, resource), None)
        if yes is not None:
            yes.mark.holds = False

    def verdict(self, digest: bytes, resource: Hashable) -> AccessState:
        return self._classify(self._yeses.get((digest, resource)))

    def term(self, digest: bytes, resource: Hashable) -> FreshnessWindow | None:
        """How long the yes for the resource stays FRESH; None if there is none."""
        yes = self._yeses.get((digest, resource))
        if yes is None:
            return None
        return FreshnessWindow(
            yes.mark, yes.granted_at, min(yes.granted_at + self._ttl_s, yes.expires_at)
        )

    def user_of(self, digest: bytes) -> int | None:
        """The user of a token seen within the term and not expired."""
        yes = self._users.get(digest)
        return yes.user_id if yes is not None and self._classify(yes) is AccessState.FRESH else None

    def _classify(self, yes: _Grant | None) -> AccessState:
        if yes is None:
            return AccessState.UNKNOWN
        now = self._wall_clock()
        if now >= yes.expires_at:
            return AccessState.EXPIRED
        age = now - yes.granted_at
        # A clock that was set back makes the age negative: ask again rather than trust it.
        if 0 <= age < self._ttl_s:
            return AccessState.FRESH
        return AccessState.STALE if 0 <= age < self._ttl_s + self._stale_s else AccessState.UNKNOWN


class _GrantLru(LRUCache[tuple[bytes, Hashable], _Grant]):
    def popitem(self) -> tuple[tuple[bytes, Hashable], _Grant]:
        key, yes = super().popitem()
        yes.mark.holds = False
        return key, yes
