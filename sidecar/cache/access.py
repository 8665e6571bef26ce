"""Access: which token may see which resource, as central granted it.

grant() -> FRESH -- ttl_s --> STALE -- stale_s --> UNKNOWN
             \\-- the token's `exp` --> EXPIRED        ^
             \\-- revoke(), eviction ------------------/
"""

import hashlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto

from cachetools import LRUCache

from sidecar.cache.invalidation import EvictingLru, InvalidationToken

ACCESS_ENTRIES_MAX = 20_000
"""About 10 MB at most; a pod has a handful of users and one execution at a time."""


def token_digest(token: str) -> bytes:
    """The key of a token wherever the token itself must not be kept."""
    return hashlib.sha256(token.encode()).digest()


def workflow_key(workflow_id: int) -> Hashable:
    """The resource of a workflow; an execution's resource is its plain id."""
    return ("workflow", workflow_id)


class AccessState(Enum):
    FRESH = auto()
    STALE = auto()
    """Older than `ttl_s`; usable only while central is away, for what was stored before."""
    EXPIRED = auto()
    """The token's own `exp` has passed."""
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """Central's permission for one token, FRESH from `granted_at` to `fresh_until`.

    `lapses_at` is the latter on the monotonic clock, by which values are dated.
    """

    user_id: int
    granted_at: float
    fresh_until: float
    expires_at: int
    lapses_at: float
    token: InvalidationToken = field(default_factory=InvalidationToken, compare=False)


class AccessCache:
    """Central's grants. Times are wall-clock seconds, as a token's `exp` is."""

    def __init__(
        self,
        *,
        ttl_s: float,
        stale_s: float,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._grants = EvictingLru[tuple[bytes, Hashable], AccessGrant](
            ACCESS_ENTRIES_MAX, _invalidate
        )
        self._users: LRUCache[bytes, AccessGrant] = LRUCache(ACCESS_ENTRIES_MAX)

    def grant(
        self, digest: bytes, resource: Hashable, user_id: int, expires_at: int, asked_at: float
    ) -> None:
        """Central let this token read (or write) this resource, when it was asked at `asked_at`:
        a call that takes long must not prolong what is withdrawn meanwhile."""
        self.revoke(digest, resource)
        self._grants[digest, resource] = self.record_user(digest, user_id, expires_at, asked_at)

    def record_user(
        self, digest: bytes, user_id: int, expires_at: int, asked_at: float
    ) -> AccessGrant:
        """Central said whose token this is; that opens no resource."""
        fresh_until = min(asked_at + self._ttl_s, expires_at)
        lapses_at = self._monotonic() + (fresh_until - self._wall_clock())
        grant = AccessGrant(user_id, asked_at, fresh_until, expires_at, lapses_at)
        self._users[digest] = grant
        return grant

    def revoke(self, digest: bytes, resource: Hashable) -> None:
        grant = self._grants.pop((digest, resource), None)
        if grant is not None:
            grant.token.is_valid = False

    def state_of(self, digest: bytes, resource: Hashable) -> AccessState:
        return self._classify(self._grants.get((digest, resource)))

    def find(self, digest: bytes, resource: Hashable) -> AccessGrant | None:
        return self._grants.get((digest, resource))

    def last_user_of(self, digest: bytes) -> int | None:
        """The user of a token that central has ever identified. It counts whose call this is, and
        authorizes nothing."""
        grant = self._users.get(digest)
        return None if grant is None else grant.user_id

    def user_of(self, digest: bytes) -> int | None:
        """The user of a token that central identified within `ttl_s` and that has not expired."""
        grant = self._users.get(digest)
        if grant is None or self._classify(grant) is not AccessState.FRESH:
            return None
        return grant.user_id

    def _classify(self, grant: AccessGrant | None) -> AccessState:
        if grant is None:
            return AccessState.UNKNOWN
        now = self._wall_clock()
        if now >= grant.expires_at:
            return AccessState.EXPIRED
        # A clock that was set back makes the age negative: the grant is not trusted.
        if now < grant.granted_at:
            return AccessState.UNKNOWN
        if now < grant.fresh_until:
            return AccessState.FRESH
        is_stale = now < grant.fresh_until + self._stale_s
        return AccessState.STALE if is_stale else AccessState.UNKNOWN


def _invalidate(_: object, grant: AccessGrant) -> None:
    grant.token.is_valid = False
