"""Run tokens: JWTs that central signs, each good for the reads of one execution by one source.

    sidecar                                 central
    POST .../run-token, signed ----------->  not revoked, lease live, run open, user active?
         <------------- token (minutes) ---  signs {user_id, execution_id, cnf.jkt, exp}
    GET of the run, signed, token -------->  key, exp, route, execution, source; then the user's
                                             grants, in the statement that reads

Why
    A user's token lives for a week and is good for all that its user may do. With this exchange (in
    the manner of RFC 8693; what is exchanged is the binding, which the user's token has made) a
    sidecar reads for a run by a token that is worth nothing elsewhere: another source's call with
    it is refused (`cnf.jkt`, RFC 7800 section 3.4), and so is any route but the reads of that run.

Bounds
    Revoking the binding, losing the lease or ending the run ends the exchange at once, and so the
    reads after `lifetime_s` at most. Grants and roles are judged as for any token, by each call.

Keys
    HMAC secrets of their own, named by `kid`: the first signs, all verify. A header is compared
    with those that we write, octet by octet, so nothing in it is a choice of the sender's.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt
import msgspec

from central.auth.keys import JwtInvalid, decode_claims
from central.auth.user_tokens import challenge, invalid_token
from central.auth_settings import RunTokenSettings
from central.domain.callers import User
from central.metrics import Metrics
from central.problems import RunTokenScope, TokenExpired, TokenInvalid
from kit.texera.fields import Id

ALGORITHM = "HS256"
TYPE = "run+jwt"
ROLE = "REGULAR"
"""Of every run token: reading one's own run takes no more, whatever its user may do besides."""


class Confirmation(msgspec.Struct, frozen=True):
    jkt: str


class Claims(msgspec.Struct, frozen=True):
    user_id: Id
    execution_id: Id
    cnf: Confirmation
    exp: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a run token is good for."""

    user: User
    execution_id: int
    source_id: str

    def check_execution(self, named: str | None) -> None:
        """Raises `RunTokenScope` unless `named`, of the call's path, is the token's execution."""
        if named != str(self.execution_id):
            raise RunTokenScope(f"the token is good for reads of execution {self.execution_id}")

    def check_source(self, source_id: str) -> None:
        """Raises `RunTokenScope` for the call of another source than the token was issued to."""
        if source_id != self.source_id:
            raise RunTokenScope("cnf: the token was issued to another source")


class RunTokens:
    """Promise: a `Run` is returned only for an unexpired token that this deployment has signed."""

    def __init__(
        self,
        settings: RunTokenSettings,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._jws = jwt.PyJWS()  # signatures only: claims are validated here, by our clock
        self._key_id, self._secret = settings.keys[0]
        self._secrets = {
            _header_of(self._sign(b"", key_id, secret)): secret for key_id, secret in settings.keys
        }
        self._lifetime_s = settings.lifetime_s
        self._metrics = metrics
        self._now = now

    def issue(self, user_id: int, execution_id: int, source_id: str) -> tuple[str, int]:
        """A token, and its expiry in Unix seconds. Whether it may be issued is the caller's."""
        expires_at = int(self._now() + self._lifetime_s)
        claims = Claims(user_id, execution_id, Confirmation(source_id), expires_at)
        return self._sign(msgspec.json.encode(claims), self._key_id, self._secret), expires_at

    def verify(self, token: str) -> Run | None:
        """None for a token whose header is none of ours: it is no run token.

        Raises `TokenInvalid` or `TokenExpired`.
        """
        secret = self._secrets.get(_header_of(token))
        if secret is None:
            return None
        try:
            payload = self._jws.decode(token, secret, algorithms=[ALGORITHM])
            claims = decode_claims(payload, Claims)
            if self._now() >= claims.exp:
                raise TokenExpired("the run token expired", headers=challenge("the token expired"))
        except (jwt.InvalidTokenError, JwtInvalid) as error:
            self._metrics.credential("token", TokenInvalid.slug)
            raise invalid_token(str(error)) from error
        except TokenExpired as problem:
            self._metrics.credential("token", problem.slug)
            raise
        self._metrics.credential("token", "accepted")
        user = User(claims.user_id, ROLE, claims.exp)
        return Run(user, claims.execution_id, claims.cnf.jkt)

    def _sign(self, payload: bytes, key_id: str, secret: str) -> str:
        return self._jws.encode(payload, secret, ALGORITHM, {"kid": key_id, "typ": TYPE})


def _header_of(token: str) -> str:
    return token.partition(".")[0]
