"""Users' tokens: Texera's JWTs (TEXERA.md section 5), verified once and then remembered.

The algorithms come from the settings and never from the token (RFC 8725 section 3.1). A
verified token is remembered by the digest of its text, so the text itself is never kept;
its expiry is judged anew each time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cachetools import TTLCache

from central.auth.signatures import Keys, SignatureInvalid, SignatureVerifier, token_digest
from central.auth_settings import TokenSettings
from central.metrics import Metrics
from central.problems import RoleNotAllowed, TokenExpired, TokenInvalid
from kit.http.problems import Problem
from kit.http.validation import Id

REMEMBERED_S = 300.0  # bounds the memory's age; expiry is judged on every call
ROLES = frozenset({"REGULAR", "ADMIN"})
YEAR_9999 = 253_402_300_799  # the last moment that RFC 3339 can name


class Claims(msgspec.Struct, frozen=True, rename={"user_id": "userId"}):
    """The claims that count; Texera's others (email, avatars) are of no concern here."""

    sub: Annotated[str, msgspec.Meta(min_length=1)]
    user_id: Id
    role: str
    exp: Annotated[float, msgspec.Meta(ge=0, le=YEAR_9999)]
    nbf: float | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


@dataclass(frozen=True, slots=True)
class User:
    """The user a valid token speaks for. Texera's services take the role from the token."""

    user_id: int
    role: str
    expires_at: float
    """Unix seconds, as the token says; the leeway is not in it."""
    not_before: float = 0.0

    @property
    def reads_everything(self) -> bool:
        return self.role == "ADMIN"

    def check_role(self) -> None:
        """Raises `RoleNotAllowed` for whoever is neither REGULAR nor ADMIN."""
        if self.role not in ROLES:
            raise RoleNotAllowed(f"expected REGULAR or ADMIN, the token says {self.role[:32]!r}")


class TokenVerifier:
    """Promise: a `User` is answered only for a token that is signed, complete and in time."""

    def __init__(
        self,
        keys: Keys,
        settings: TokenSettings,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signatures = SignatureVerifier(keys)
        self._settings = settings
        self._leeway_s = settings.leeway_s
        self._metrics = metrics
        self._now = now
        self._remembered: TTLCache[bytes, tuple[int, User]] = TTLCache(
            settings.cache_size, REMEMBERED_S, timer=timer
        )

    async def verify(self, token: str) -> User:
        """Raises `TokenInvalid`, `TokenExpired` or `KeysUnavailable`. The role is not judged."""
        try:
            user, verdict = await self._verify(token)
        except Problem as problem:
            self._metrics.credential("token", problem.slug)
            raise
        self._metrics.credential("token", verdict)
        return user

    async def _verify(self, token: str) -> tuple[User, str]:
        digest = token_digest(token)
        generation = await self._signatures.generation()
        remembered = self._remembered.get(digest)
        # A key may have been withdrawn since: then the signature is looked at again.
        if remembered is not None and remembered[0] == generation:
            user = remembered[1]
            self._check_time(user)
            return user, "remembered"
        claims = await self._decode(token)
        user = User(claims.user_id, claims.role, claims.exp, claims.nbf or 0.0)
        self._check_time(user)
        self._remembered[digest] = (generation, user)
        return user, "accepted"

    def _check_time(self, user: User) -> None:
        now = self._now()
        if now >= user.expires_at + self._leeway_s:
            raise TokenExpired(
                f"the token expired {now - user.expires_at:.0f} s ago",
                headers=challenge("the token expired"),
            )
        if now + self._leeway_s < user.not_before:
            raise invalid_token("nbf: the token is not valid yet")

    async def _decode(self, token: str) -> Claims:
        try:
            payload = await self._signatures.payload(token)
        except SignatureInvalid as error:
            raise invalid_token(str(error)) from error
        try:
            claims = msgspec.json.decode(payload, type=Claims)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid_token(f"claims: {error}") from error
        if self._settings.issuer is not None and claims.iss != self._settings.issuer:
            raise invalid_token("iss: the token is another issuer's")
        audiences = claims.aud if isinstance(claims.aud, list) else [claims.aud]
        if self._settings.audience is not None and self._settings.audience not in audiences:
            raise invalid_token("aud: the token is for somebody else")
        return claims


def invalid_token(detail: str) -> TokenInvalid:
    return TokenInvalid(detail, headers=challenge("the token is not valid"))


def challenge(description: str | None = None) -> dict[str, str]:
    """The header that RFC 6750 wants on a 401: bare where no token was sent."""
    error = f' error="invalid_token", error_description="{description}"' if description else ""
    return {"WWW-Authenticate": f"Bearer{error}"}
