"""For whom remembered values may be shown: central's grant per token and resource.

A resource is an execution, by its id, or a workflow, by `workflow_key`.
"""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto

from cachetools import LRUCache

from sidecar.cache.invalidation import InvalidationToken

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
    """Central's grant is older than its term; good only while central cannot be asked."""
    EXPIRED = auto()
    """The token's own `exp` has passed."""
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Grant:
    user_id: int
    granted_at: float
    expires_at: int
    token: InvalidationToken = field(default_factory=InvalidationToken, compare=False)


@dataclass(frozen=True, slots=True)
class FreshnessWindow:
    """From when to when, on the wall clock, a grant is fresh, unless its token falls."""

    token: InvalidationToken
    begins_at: float
    ends_at: float


class AccessCache:
    """Central's yeses. Times are wall-clock seconds, because `exp` is one."""

    def __init__(self, *, ttl_s: float, stale_s: float, wall_clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._wall_clock = wall_clock
        self._grants = _GrantLru(ACCESS_ENTRIES_MAX)
        self._users: LRUCache[bytes, _Grant] = LRUCache(ACCESS_ENTRIES_MAX)

    def grant(self, digest: bytes, resource: Hashable, user_id: int, expires_at: int) -> None:
        """Central answered this token's call on this resource."""
        grant = _Grant(user_id, self._wall_clock(), expires_at)
        self.revoke(digest, resource)
        self._grants[digest, resource] = grant
        self._users[digest] = grant

    def record_user(self, digest: bytes, user_id: int, expires_at: int) -> None:
        """Central told whose token this is."""
        self._users[digest] = _Grant(user_id, self._wall_clock(), expires_at)

    def revoke(self, digest: bytes, resource: Hashable) -> None:
        grant = self._grants.pop((digest, resource), None)
        if grant is not None:
            grant.token.is_valid = False

    def state_of(self, digest: bytes, resource: Hashable) -> AccessState:
        return self._classify(self._grants.get((digest, resource)))

    def term(self, digest: bytes, resource: Hashable) -> FreshnessWindow | None:
        """How long the grant for the resource stays FRESH; None if there is none."""
        grant = self._grants.get((digest, resource))
        if grant is None:
            return None
        return FreshnessWindow(
            grant.token, grant.granted_at, min(grant.granted_at + self._ttl_s, grant.expires_at)
        )

    def user_of(self, digest: bytes) -> int | None:
        """The user of a token seen within the term and not expired."""
        grant = self._users.get(digest)
        return (
            grant.user_id
            if grant is not None and self._classify(grant) is AccessState.FRESH
            else None
        )

    def _classify(self, grant: _Grant | None) -> AccessState:
        if grant is None:
            return AccessState.UNKNOWN
        now = self._wall_clock()
        if now >= grant.expires_at:
            return AccessState.EXPIRED
        age = now - grant.granted_at
        # A clock that was set back makes the age negative: ask again rather than trust it.
        if 0 <= age < self._ttl_s:
            return AccessState.FRESH
        return AccessState.STALE if 0 <= age < self._ttl_s + self._stale_s else AccessState.UNKNOWN


class _GrantLru(LRUCache[tuple[bytes, Hashable], _Grant]):
    def popitem(self) -> tuple[tuple[bytes, Hashable], _Grant]:
        key, grant = super().popitem()
        grant.token.is_valid = False
        return key, grant
