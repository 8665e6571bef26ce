"""Settings of authentication and of callers' limits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kit.http.settings import EnvReader, without_secrets

_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
UNIT_PLACEHOLDER = "{computing_unit_id}"
HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
PUBLIC_KEY_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


@dataclass(frozen=True, slots=True)
class JwksSettings:
    """The location of an issuer's public keys, and how long they are valid."""

    location: str
    """A path, or an http or https URL."""
    refresh_s: float = 300.0
    stale_s: float = 3600.0
    """How much longer than `refresh_s` keys stay valid while the issuer cannot be reached."""
    timeout_s: float = 5.0
    ca_file: Path | None = None
    bearer_file: Path | None = None


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Verification of users' tokens. The algorithms are fixed here, never read from a token."""

    secret: str = ""
    lowercase_secret: bool = True
    algorithms: tuple[str, ...] = ("HS256",)
    jwks: JwksSettings | None = None
    """Replaces the secret if the algorithms are asymmetric."""
    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = 30.0
    cache_size: int = 10_000
    account_check_s: float = 30.0
    """How long an account's role is cached; 0 disables the account check."""

    def __repr__(self) -> str:
        return f"TokenSettings(algorithms={self.algorithms})"

    def describe(self) -> dict[str, Any]:
        return {
            "jwt_algorithms": self.algorithms,
            "jwt_lowercase_secret": self.lowercase_secret,
            "jwt_jwks": None if self.jwks is None else redact(self.jwks.location),
            "jwt_issuer": self.issuer,
            "jwt_audience": self.audience,
            "jwt_leeway_s": self.leeway_s,
            "account_check_s": self.account_check_s,
        }


@dataclass(frozen=True, slots=True)
class AssertionSettings:
    """Verification of sidecars' assertions."""

    audience: str = "texera-execution-metadata"
    clock_skew_s: float = 30.0

    def describe(self) -> dict[str, Any]:
        return {
            "assertion_audience": self.audience,
            "assertion_clock_skew_s": self.clock_skew_s,
        }


@dataclass(frozen=True, slots=True)
class RunTokenSettings:
    """Run tokens: which keys sign and verify them, and how long they live."""

    keys: tuple[tuple[str, str], ...]
    """Names (`kid`) with their secrets. The first signs, all verify."""
    lifetime_s: float = 300.0

    def __repr__(self) -> str:
        return f"RunTokenSettings(key_ids={[key_id for key_id, _ in self.keys]})"

    def describe(self) -> dict[str, Any]:
        return {
            "run_token_key_ids": [key_id for key_id, _ in self.keys],
            "run_token_lifetime_s": self.lifetime_s,
        }


WorkloadMode: TypeAlias = Literal["warn", "require"]


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """Verification of sidecars' pods, by the cluster's service-account tokens."""

    mode: WorkloadMode
    jwks: JwksSettings
    algorithms: tuple[str, ...] = ("RS256",)
    audience: str = "texera-execution-metadata"
    issuer: str | None = None
    namespace: str = "texera-workflow-computing-unit-pool"
    pod_name: str = "computing-unit-{computing_unit_id}"
    """A pod's name, with a placeholder for the unit's id."""
    leeway_s: float = 30.0

    def describe(self) -> dict[str, Any]:
        return {
            "workload_identity": self.mode,
            "workload_jwks": redact(self.jwks.location),
            "workload_algorithms": self.algorithms,
            "workload_audience": self.audience,
            "workload_issuer": self.issuer,
            "workload_namespace": self.namespace,
            "workload_pod_name": self.pod_name,
        }


FULL_BATCH_ENTRIES = 1_000
"""A sidecar may send this many, so every central has to accept them."""


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Limits per user and per source, in one replica. 0 is no limit."""

    user_calls_per_s: float = 500.0
    source_calls_per_s: float = 500.0
    user_bytes_per_s: float = 4.0 * 1024 * 1024
    source_bytes_per_s: float = 4.0 * 1024 * 1024
    new_sources_per_s: float = 50.0
    burst_s: float = 60.0
    """The burst, in seconds' worth of the rates."""
    user_open_bindings: int = 20_000
    source_open_bindings: int = 5_000
    batch_entries: int = 2_000
    """At least `FULL_BATCH_ENTRIES`; 0 is no limit."""
    concurrent_calls: int = 5
    """Of one user, or of one source; further calls wait. Half of the pool's connections."""
    connections: int = 2_048
    """Of all callers together, as is the next."""
    buffered_body_bytes: int = 32 * 1024 * 1024

    def describe(self) -> dict[str, Any]:
        return {f"limit_{name}": getattr(self, name) for name in self.__dataclass_fields__}


def read_limit_settings(environment: EnvReader) -> LimitSettings:
    most = 1e9
    return LimitSettings(
        user_calls_per_s=environment.number("LIMIT_USER_CALLS_PER_S", 500.0, 0.0, most),
        source_calls_per_s=environment.number("LIMIT_SOURCE_CALLS_PER_S", 500.0, 0.0, most),
        user_bytes_per_s=environment.number("LIMIT_USER_BYTES_PER_S", 4_194_304.0, 0.0, most),
        source_bytes_per_s=environment.number("LIMIT_SOURCE_BYTES_PER_S", 4_194_304.0, 0.0, most),
        new_sources_per_s=environment.number("LIMIT_NEW_SOURCES_PER_S", 50.0, 0.0, most),
        burst_s=environment.seconds("LIMIT_BURST_S", 60.0, 0.0, 3600.0),
        user_open_bindings=environment.integer("LIMIT_USER_OPEN_BINDINGS", 20_000, 0, 10**9),
        source_open_bindings=environment.integer("LIMIT_SOURCE_OPEN_BINDINGS", 5_000, 0, 10**9),
        batch_entries=_batch_entries(environment),
        concurrent_calls=environment.integer("LIMIT_CONCURRENT_CALLS", 5, 0, 10**6),
        connections=environment.integer("LIMIT_CONNECTIONS", 2_048, 0, 10**6),
        buffered_body_bytes=environment.integer(
            "LIMIT_BUFFERED_BODY_BYTES", 32 * 1024 * 1024, 0, 10**12
        ),
    )


def _batch_entries(environment: EnvReader) -> int:
    most = environment.integer("LIMIT_BATCH_ENTRIES", 2_000, 0, 10**9)
    if 0 < most < FULL_BATCH_ENTRIES:
        # A batch is retried unchanged until it is accepted; a full one never would be.
        environment.error(
            "LIMIT_BATCH_ENTRIES",
            f"expected 0 or at least {FULL_BATCH_ENTRIES}, which is a sidecar's full batch,"
            f" got {most}",
        )
    return most


def read_token_settings(environment: EnvReader) -> TokenSettings:
    algorithms = _algorithms(environment)
    is_shared = algorithms[0] in HMAC_ALGORITHMS
    return TokenSettings(
        secret=_secret(environment) if is_shared else "",
        lowercase_secret=environment.flag("JWT_LOWERCASE_SECRET", True),
        algorithms=algorithms,
        jwks=None if is_shared else _jwks(environment, "JWT_JWKS"),
        issuer=environment.optional_text("JWT_ISSUER"),
        audience=environment.optional_text("JWT_AUDIENCE"),
        leeway_s=environment.seconds("JWT_LEEWAY_S", 30.0, 0.0, 300.0),
        cache_size=environment.integer("JWT_CACHE_SIZE", 10_000, 1, 10_000_000),
        account_check_s=environment.seconds("ACCOUNT_CHECK_S", 30.0, 0.0, 3600.0),
    )


def _algorithms(environment: EnvReader) -> tuple[str, ...]:
    """One or more of one kind: in a mixed set a public key could be used as an HMAC secret."""
    known = (*HMAC_ALGORITHMS, *PUBLIC_KEY_ALGORITHMS)
    chosen = _named_algorithms(environment, "JWT_ALGORITHMS", "hs256", known)
    if not chosen:
        return ("HS256",)
    if len({algorithm in HMAC_ALGORITHMS for algorithm in chosen}) > 1:
        environment.error("JWT_ALGORITHMS", "expected shared-secret or public-key ones, not both")
    is_shared = chosen[0] in HMAC_ALGORITHMS
    for name, is_wanted in (("JWT_SECRET", is_shared), ("JWT_JWKS", not is_shared)):
        if not is_wanted and environment.optional_text(name) is not None:
            environment.error(name, f"is not used with {', '.join(chosen)}")
    return chosen


def _named_algorithms(
    environment: EnvReader, name: str, default: str, known: Sequence[str]
) -> tuple[str, ...]:
    """The algorithms of a comma-separated list, in any case; none if one is unknown."""
    by_name = {algorithm.upper(): algorithm for algorithm in known}
    named = environment.text(name, default).split(",")
    chosen = tuple(by_name.get(text.strip().upper(), "") for text in named)
    if "" in chosen:
        environment.error(name, f"expected some of {', '.join(known)}")
        return ()
    return chosen


def _secret(environment: EnvReader) -> str:
    secret = environment.text("JWT_SECRET")
    if secret.lower() == "random":
        # Texera then generates a secret per process, which no other service can know.
        environment.error("JWT_SECRET", "expected Texera's own secret, got the word 'random'")
    return secret


def _jwks(environment: EnvReader, name: str) -> JwksSettings:
    """`name` is the setting of the key set's location."""
    ca_file = environment.optional_text("JWKS_CA_FILE")
    bearer_file = environment.optional_text("WORKLOAD_JWKS_TOKEN_FILE")
    return JwksSettings(
        location=environment.text(name),
        refresh_s=environment.seconds("JWKS_REFRESH_S", 300.0, 1.0, 86_400.0),
        stale_s=environment.seconds("JWKS_STALE_S", 3600.0, 0.0, 604_800.0),
        timeout_s=environment.seconds("JWKS_TIMEOUT_S", 5.0, 0.1, 60.0),
        ca_file=Path(ca_file) if ca_file else None,
        # Only the cluster requires a token for its keys; it must be sent to nobody else.
        bearer_file=Path(bearer_file) if bearer_file and name == "WORKLOAD_JWKS" else None,
    )


def read_assertion_settings(environment: EnvReader) -> AssertionSettings:
    return AssertionSettings(
        audience=environment.text("ASSERTION_AUDIENCE", "texera-execution-metadata"),
        clock_skew_s=environment.seconds("ASSERTION_CLOCK_SKEW_S", 30.0, 0.0, 300.0),
    )


def read_run_token_settings(
    environment: EnvReader, tokens: TokenSettings
) -> RunTokenSettings | None:
    """None without keys: no run tokens are issued, and none is accepted."""
    lifetime_s = environment.seconds("RUN_TOKEN_LIFETIME_S", 300.0, 30.0, 3600.0)
    text = environment.optional_text("RUN_TOKEN_KEYS")
    if text is None:
        return None
    pairs = [key.strip().partition(":") for key in text.split(",")]
    keys = tuple((key_id, secret) for key_id, _, secret in pairs)
    expected = None
    if not all(_KEY_ID.fullmatch(key_id) and len(secret) >= 32 for key_id, secret in keys):
        expected = "expected <kid>:<secret of at least 32 characters>, more after commas"
    elif len({key_id for key_id, _ in keys}) < len(keys):
        expected = "expected a kid of its own for each key"
    elif tokens.secret.lower() in {secret.lower() for _, secret in keys}:
        # Else whoever may verify users' tokens, as every service of Texera does, could sign these.
        expected = "expected secrets of their own, got that of CENTRAL_JWT_SECRET"
    if expected is not None:
        environment.error("RUN_TOKEN_KEYS", expected)
        return None
    return RunTokenSettings(keys, lifetime_s)


def read_workload_settings(environment: EnvReader, audience: str) -> WorkloadSettings | None:
    """None where workload identity is off."""
    mode = environment.choice("WORKLOAD_IDENTITY", "off", ("off", "warn", "require"))
    if mode == "off":
        return None
    return WorkloadSettings(
        mode="require" if mode == "require" else "warn",
        jwks=_jwks(environment, "WORKLOAD_JWKS"),
        algorithms=_public_key_algorithms(environment),
        audience=environment.text("WORKLOAD_AUDIENCE", audience),
        issuer=environment.optional_text("WORKLOAD_ISSUER"),
        namespace=environment.text("WORKLOAD_NAMESPACE", "texera-workflow-computing-unit-pool"),
        pod_name=_pod_name(environment),
        leeway_s=environment.seconds("JWT_LEEWAY_S", 30.0, 0.0, 300.0),
    )


def _public_key_algorithms(environment: EnvReader) -> tuple[str, ...]:
    chosen = _named_algorithms(environment, "WORKLOAD_ALGORITHMS", "rs256", PUBLIC_KEY_ALGORITHMS)
    return chosen or ("RS256",)


def _pod_name(environment: EnvReader) -> str:
    pattern = environment.text("WORKLOAD_POD_NAME", f"computing-unit-{UNIT_PLACEHOLDER}")
    if pattern.count(UNIT_PLACEHOLDER) != 1:
        environment.error("WORKLOAD_POD_NAME", f"expected a name with one {UNIT_PLACEHOLDER}")
    return pattern


def redact(location: str) -> str:
    """A path unchanged; a URL without its password and query."""
    return without_secrets(location) if "://" in location else location
