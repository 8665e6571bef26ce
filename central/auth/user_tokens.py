"""Users' tokens: the JWTs that Texera signs with its shared key, and the roles they carry.

The algorithms come from the settings, never from the token (RFC 8725 section 3.1). Verified
tokens are cached (`CachedVerifier`); expiry is checked on every call.

A token lives for a week and names a role; the account may change meanwhile. The account check
(`AccountRoleCache`) reads an account's role once per `check_s`, so a demotion takes effect at most
that much later. If it is switched off, reads trust the token's role; creating, binding and batches
read the account anyway.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import msgspec
from cachetools import LRUCache

from central.auth.keys import (
    CachedVerifier,
    JwtInvalid,
    Keys,
    check_issuer_and_audience,
    decode_claims,
)
from central.auth_settings import TokenSettings
from central.domain.callers import User
from central.metrics import Metrics
from central.problems import TokenExpired, TokenInvalid, UserDemoted
from kit.http.problems import Problem
from kit.texera.fields import Id

MAX_CACHED_ROLES = 50_000
YEAR_9999 = 253_402_300_799  # the last second that RFC 3339 can express


class Claims(msgspec.Struct, frozen=True, rename={"user_id": "userId"}):
    """The claims in use; Texera's others (email, avatars) are ignored."""

    sub: Annotated[str, msgspec.Meta(min_length=1)]
    user_id: Id
    role: str
    exp: Annotated[float, msgspec.Meta(ge=0, le=YEAR_9999)]
    nbf: float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


class TokenVerifier:
    """Promise: a `User` is returned only for a token that is signed, complete and unexpired."""

    def __init__(
        self,
        keys: Keys,
        settings: TokenSettings,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = CachedVerifier(keys, self._parse, settings.cache_size, timer=timer)
        self._settings = settings
        self._leeway_s = settings.leeway_s
        self._metrics = metrics
        self._now = now

    async def verify(self, token: str) -> User:
        """Raises `TokenInvalid`, `TokenExpired` or `KeysUnavailable`. Does not check the role."""
        try:
            user, is_cached = await self._verifier.verify(token)
            self._check_time(user)
        except JwtInvalid as error:
            problem = invalid_token(str(error))
            self._metrics.credential("token", problem.slug)
            raise problem from error
        except Problem as problem:
            self._metrics.credential("token", problem.slug)
            raise
        self._metrics.credential("token", "cached" if is_cached else "accepted")
        return user

    def _parse(self, payload: bytes) -> User:
        claims = decode_claims(payload, Claims)
        check_issuer_and_audience(claims, self._settings.issuer, self._settings.audience)
        return User(claims.user_id, claims.role, claims.exp, claims.nbf or 0.0)

    def _check_time(self, user: User) -> None:
        now = self._now()
        if now >= user.expires_at + self._leeway_s:
            raise TokenExpired(
                f"the token expired {now - user.expires_at:.0f} s ago",
                headers=challenge("the token expired"),
            )
        if now + self._leeway_s < user.not_before:
            raise JwtInvalid("nbf: the token is not valid yet")


def invalid_token(detail: str) -> TokenInvalid:
    return TokenInvalid(detail, headers=challenge("the token is not valid"))


def challenge(description: str | None = None) -> dict[str, str]:
    """The header that RFC 6750 requires on a 401: bare where no token was sent."""
    error = f' error="invalid_token", error_description="{description}"' if description else ""
    return {"WWW-Authenticate": f"Bearer{error}"}


class Accounts(Protocol):
    async def role(self, user_id: int) -> str | None:
        """REGULAR or ADMIN; None for an account that is deleted or has another role."""


@dataclass(frozen=True, slots=True)
class _Role:
    """An account's role as of `asked_at`: a response that takes long is as old as its question."""

    role: str | None
    asked_at: float


class AccountRoleCache:
    """Promise: a user has no more rights than their account had `check_s` ago."""

    def __init__(
        self, accounts: Accounts, check_s: float, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._accounts = accounts
        self._check_s = check_s
        self._timer = timer
        self._roles: LRUCache[int, _Role] = LRUCache(MAX_CACHED_ROLES)

    async def with_current_role(self, user: User) -> User:
        """The user, with the lesser of the token's and the account's role. Raises `UserDemoted`.

        An account that was promoted since gets its new rights with its next token.
        """
        current = self._roles.get(user.user_id)
        now = self._timer()
        if current is None or now >= current.asked_at + self._check_s:
            current = _Role(await self._accounts.role(user.user_id), now)
            later = self._roles.get(user.user_id)
            if later is not None and later.asked_at > now:
                current = later  # a slow response must not undo what was asked after it
            self._roles[user.user_id] = current
        role = current.role
        if role is None:
            raise UserDemoted("the token's user is no longer REGULAR or ADMIN")
        return user if role in ("ADMIN", user.role) else replace(user, role=role)
