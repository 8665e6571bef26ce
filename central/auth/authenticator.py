"""Authentication of calls: the caller, from the credentials of a request.

The caller type in a handler's annotation says which credentials its route needs. What the
caller may do with the rows it names is decided by the store's statements, in the same round
trip as the work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Protocol, TypeAlias

from aiohttp import web

from central.auth.rate_limits import RateLimits
from central.auth.run_tokens import Run, RunTokens
from central.auth.source_assertions import HEADER, AssertionVerifier, SignedCall
from central.auth.source_certificates import SourceCertificates
from central.auth.user_tokens import (
    AccountRoleCache,
    TokenVerifier,
    challenge,
    invalid_token,
)
from central.auth.workload_tokens import HEADER as WORKLOAD_HEADER
from central.auth.workload_tokens import WorkloadVerifier
from central.domain.callers import UNRESTRICTED, User, Workload
from central.problems import (
    AssertionInvalid,
    AssertionMissing,
    CertificateMismatch,
    DatabaseUnavailable,
    IdempotencyKeyReused,
    KeysUnavailable,
    RateLimited,
    RoleNotAllowed,
    RunTokenScope,
    SourceRevoked,
    SourceSucceeded,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    UserDemoted,
    ValueOutOfRange,
    WorkloadInvalid,
    WorkloadMissing,
    WrongComputingUnit,
)
from kit.http.body_reader import UNCOUNTED_BODY_BYTES, RequestBody
from kit.http.problems import Problem, invalid_field
from kit.http.routing import Header as Described
from kit.http.routing import Route
from kit.http.validation import (
    IDEMPOTENCY_KEY,
    IDEMPOTENCY_KEY_SCHEMA,
    idempotency_key,
    single_header,
)

USER: web.RequestKey[User] = web.RequestKey("user", User)
"""The user of a valid token, for the headers that each response to them carries."""

RELEASE_SLOT: web.RequestKey[Callable[[], None]] = web.RequestKey("release_slot")
"""Frees the caller's concurrency slot; called once the response is complete."""

MUTATING_CALLER: web.RequestKey["MutatingCaller"] = web.RequestKey("mutating_caller")
"""The caller of a mutating call, for the refusal log; set before authorization is known."""


def is_verified(request: web.Request) -> bool:
    """Whether a request that was served had a valid token, or a valid signature of a source."""
    return USER in request or MUTATING_CALLER in request


class CredentialPolicy(Enum):
    """The credentials that a route needs."""

    USER = auto()  # a user's token; an assertion is verified if one is sent
    USER_AND_SOURCE = auto()  # both, and an idempotency key: the call is mutating
    SOURCE = auto()  # an assertion alone: a binding has authorized the call


@dataclass(frozen=True, slots=True)
class MutatingCaller:
    """The source of a mutating call, and its user if a token was sent."""

    source_id: str
    user_id: int | None


@dataclass(frozen=True, slots=True)
class Reader:
    """A user who reads."""

    user: User


@dataclass(frozen=True, slots=True)
class RunReader(Reader):
    """A user who reads one execution, which the path names: a run token of it will do."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A user who writes through a sidecar."""

    user: User
    source_id: str
    idempotency_key: str
    workload: Workload = UNRESTRICTED


@dataclass(frozen=True, slots=True)
class Source:
    """A sidecar that acts on its own bindings."""

    source_id: str
    workload: Workload = UNRESTRICTED


Caller: TypeAlias = Reader | Writer | Source

_POLICY_OF_CALLER: Mapping[type[Caller], CredentialPolicy] = MappingProxyType(
    {
        Reader: CredentialPolicy.USER,
        RunReader: CredentialPolicy.USER,
        Writer: CredentialPolicy.USER_AND_SOURCE,
        Source: CredentialPolicy.SOURCE,
    }
)

_USER_PROBLEMS: tuple[type[Problem], ...] = (
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    RoleNotAllowed,
    RunTokenScope,
    UserDemoted,
    KeysUnavailable,
    RateLimited,
)
_SOURCE_PROBLEMS: tuple[type[Problem], ...] = (
    AssertionMissing,
    AssertionInvalid,
    CertificateMismatch,
    RateLimited,
    SourceRevoked,
    SourceSucceeded,
    WorkloadMissing,
    WorkloadInvalid,
    WrongComputingUnit,
)
_PROBLEMS: Mapping[CredentialPolicy, tuple[type[Problem], ...]] = MappingProxyType(
    {
        CredentialPolicy.USER: (
            *_USER_PROBLEMS,
            AssertionMissing,
            AssertionInvalid,
            CertificateMismatch,
        ),
        CredentialPolicy.USER_AND_SOURCE: (
            *_USER_PROBLEMS,
            *_SOURCE_PROBLEMS,
            IdempotencyKeyReused,
            ValueOutOfRange,
        ),
        CredentialPolicy.SOURCE: _SOURCE_PROBLEMS,
    }
)
SCHEMES = MappingProxyType(
    {
        "source": {
            "type": "apiKey",
            "in": "header",
            "name": HEADER,
            "description": "The sidecar's signature over this call: a JWT, valid for a minute.",
        }
    }
)
_SECURITY: Mapping[CredentialPolicy, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        CredentialPolicy.USER: (("user",), ("user", "source")),
        CredentialPolicy.USER_AND_SOURCE: (("user", "source"),),
        CredentialPolicy.SOURCE: (("source",),),
    }
)
_KEY = {
    IDEMPOTENCY_KEY: Described(
        "A repeat with the same key gets the first response, for 24 h.",
        IDEMPOTENCY_KEY_SCHEMA,
        is_required=True,
    )
}


@dataclass(frozen=True, kw_only=True)
class AuthenticatedRoute(Route):
    """A route whose handler's caller type decides which credentials it needs.

    The problems, the security and the headers of those credentials are added to the document.
    """

    needs: CredentialPolicy = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", _POLICY_OF_CALLER[self.caller_type])
        problems = (*self.problems, *_PROBLEMS[self.needs], DatabaseUnavailable)
        object.__setattr__(self, "problems", problems)
        object.__setattr__(self, "security", _SECURITY[self.needs])
        if self.needs is CredentialPolicy.USER_AND_SOURCE:
            object.__setattr__(self, "headers", {**_KEY, **self.headers})


class Sources(Protocol):
    async def is_bound(self, source_id: str) -> bool:
        """Whether the source was bound to something at some time."""


class Authenticator:
    """Promise: a handler runs only for a caller with the credentials that its route needs."""

    def __init__(
        self,
        tokens: TokenVerifier,
        assertions: AssertionVerifier,
        accounts: AccountRoleCache | None = None,
        workloads: WorkloadVerifier | None = None,
        limits: RateLimits | None = None,
        sources: Sources | None = None,
        run_tokens: RunTokens | None = None,
        certificates: SourceCertificates | None = None,
    ) -> None:
        """`accounts` None: a token's role is trusted until the token expires.

        `workloads` None: a source may call from any pod; `limits` None: calls are
        unlimited; `sources` None: a source that is bound to nothing may send bodies of any size;
        `run_tokens` None: only users' own tokens are accepted; `certificates` None: a source may
        call over any connection.
        """
        self.assertions = assertions
        self.run_tokens = run_tokens
        self._tokens = tokens
        self._accounts = accounts
        self._workloads = workloads
        self._limits = limits
        self._sources = sources
        self._certificates = certificates

    async def authenticate(self, request: web.Request, route: Route, body: RequestBody) -> Caller:
        """The caller of the request, with a concurrency slot if those are limited.

        Token, signature and rates are checked before the body is read, the account last: a caller
        who sends many calls waits for a slot, and must not keep a role by that. Raises the problems
        of the route's policy.
        """
        caller = await self._identify(request, route, body)
        if self._limits is not None:
            key = caller.source_id if isinstance(caller, Source) else caller.user.user_id
            request[RELEASE_SLOT] = await self._limits.acquire_slot(key)
        if self._accounts is None or isinstance(caller, Source):
            return caller
        user = await self._accounts.with_current_role(caller.user)
        return caller if user is caller.user else replace(caller, user=user)

    async def _identify(self, request: web.Request, route: Route, body: RequestBody) -> Caller:
        needs = (
            route.needs
            if isinstance(route, AuthenticatedRoute)
            else CredentialPolicy.USER_AND_SOURCE
        )
        token = bearer_token(request)
        user = run = None
        if needs is not CredentialPolicy.SOURCE:
            if token is not None and self.run_tokens is not None:
                run = self.run_tokens.verify(token)
            if run is not None:
                is_read_of_run = route.caller_type is RunReader
                run.check_execution(request.match_info["execution_id"] if is_read_of_run else None)
            user = await self._verify_user(request, token, run)
            if self._limits is not None:
                self._limits.check_user(user.user_id)
        assertion = single_header(request.headers, HEADER)
        if needs is CredentialPolicy.USER and assertion is None and run is None:
            assert user is not None  # noqa: S101 (for the type checker)
            await self._read(body, user, None)
            return RunReader(user)
        key = idempotency_key(request.headers)
        call = SignedCall(request.method, request.raw_path, token, key)
        head = self.assertions.verify(assertion, call)
        source_id = head.source_id
        if run is not None:
            run.check_source(source_id)
        if self._limits is not None:
            self._limits.check_source(source_id)
        if user is None:
            await self._limit_unbound(source_id, body)
        self.assertions.check_body(head, await self._read(body, user, source_id))
        if needs is not CredentialPolicy.USER:
            user_id = None if user is None else user.user_id
            request[MUTATING_CALLER] = MutatingCaller(source_id, user_id)
        if self._certificates is not None:
            certificate = request.get_extra_info("peercert")
            await self._certificates.check(source_id, certificate, has_user=user is not None)
        if needs is CredentialPolicy.USER:
            assert user is not None  # noqa: S101 (for the type checker)
            return RunReader(user)
        workload = await self._workload(request)
        if user is None:
            return Source(source_id, workload)
        if key is None:
            raise invalid_field(IDEMPOTENCY_KEY, "is required for a mutating call")
        return Writer(user, source_id, key, workload)

    async def _limit_unbound(self, source_id: str, body: RequestBody) -> None:
        """What a source that is bound to nothing sends is refused anyhow, and anyone can be one."""
        if self._sources is None or not body.may_exceed(UNCOUNTED_BODY_BYTES):
            return
        if not await self._sources.is_bound(source_id):
            body.limit(UNCOUNTED_BODY_BYTES)

    async def _read(self, body: RequestBody, user: User | None, source_id: str | None) -> bytes:
        """The body, charged to the user, or to the source where no user calls."""
        raw_body = await body.read(source_id if user is None else user.user_id)
        if self._limits is not None:
            if user is not None:
                self._limits.check_user_bytes(user.user_id, len(raw_body))
            if source_id is not None:
                self._limits.check_source_bytes(source_id, len(raw_body))
        return raw_body

    async def _workload(self, request: web.Request) -> Workload:
        if self._workloads is None:
            return UNRESTRICTED
        workload = await self._workloads.verify(single_header(request.headers, WORKLOAD_HEADER))
        # A unit in the path must be the pod's own, whatever the handler does with it.
        unit_id = request.match_info.get("computing_unit_id")
        if unit_id is not None:
            workload.check(int(unit_id) if unit_id.isascii() and unit_id.isdigit() else None)
        return workload

    async def _verify_user(self, request: web.Request, token: str | None, run: Run | None) -> User:
        if token is None:
            raise TokenMissing("expected Authorization: Bearer <token>", headers=challenge())
        user = await self._tokens.verify(token) if run is None else run.user
        request[USER] = user
        user.check_role()
        return user


def bearer_token(request: web.Request) -> str | None:
    """The token of `Authorization`. Raises `TokenInvalid` for another scheme or two headers."""
    value = single_header(request.headers, "Authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.isascii():
        raise invalid_token("expected Authorization: Bearer <token>")
    return token or None
