"""The service's settings: read once from the environment, every fault reported at once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from central.kit.environment import Address, Environment

POSTGRES_SCHEMES = ("postgresql", "postgres")
LOG_LEVELS = ("debug", "info", "warning", "error")
HMAC_ALGORITHMS = ("HS256", "HS384", "HS512")
PUBLIC_KEY_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """How the database is reached, as the least-privilege role."""

    url: str
    pool_min_size: int = 2
    pool_max_size: int = 10
    statement_cache_size: int = 256
    timeout_s: float = 15.0
    """After which a statement is given up by us; the role's own timeout (10 s) comes first."""

    def __repr__(self) -> str:
        return f"DatabaseSettings({without_secrets(self.url)})"


@dataclass(frozen=True, slots=True)
class JwksSettings:
    """Where an issuer's public keys are, and how long they are believed."""

    location: str
    """A path, or a URL that begins with http:// or https://."""
    refresh_s: float = 300.0
    stale_s: float = 3600.0
    """How much longer than `refresh_s`, while the issuer cannot be reached."""
    timeout_s: float = 5.0
    ca_file: Path | None = None
    bearer_file: Path | None = None


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How users' tokens are verified. The algorithms are fixed here, never read from a token."""

    secret: str = ""
    lowercase_secret: bool = True
    algorithms: tuple[str, ...] = ("HS256",)
    jwks: JwksSettings | None = None
    """In place of the secret, where the algorithms are asymmetric."""
    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = 30.0
    cache_size: int = 10_000
    account_check_s: float = 0.0
    """How long an account's role is remembered; 0 does not look at accounts at all."""

    def __repr__(self) -> str:
        return f"TokenSettings(algorithms={self.algorithms})"


@dataclass(frozen=True, slots=True)
class AssertionSettings:
    """How sidecars' assertions are verified."""

    audience: str = "texera-execution-metadata"
    clock_skew_s: float = 30.0


@dataclass(frozen=True, slots=True)
class CloserSettings:
    """How runs are closed whose sidecar is gone."""

    is_enabled: bool = True
    period_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    database: DatabaseSettings
    tokens: TokenSettings
    assertions: AssertionSettings
    listen: Address
    ops_listen: Address
    lease_s: float
    closer: CloserSettings
    connection_max_age_s: float
    drain_delay_s: float
    drain_timeout_s: float
    log_level: str

    def describe(self) -> dict[str, Any]:
        """The settings as `/status` shows them: nothing that opens a door."""
        return {
            "listen": str(self.listen),
            "ops_listen": str(self.ops_listen),
            "database_url": without_secrets(self.database.url),
            "pool_min_size": self.database.pool_min_size,
            "pool_max_size": self.database.pool_max_size,
            "statement_cache_size": self.database.statement_cache_size,
            "database_timeout_s": self.database.timeout_s,
            "jwt_algorithms": self.tokens.algorithms,
            "jwt_lowercase_secret": self.tokens.lowercase_secret,
            "jwt_jwks": None if self.tokens.jwks is None else shown(self.tokens.jwks.location),
            "jwt_issuer": self.tokens.issuer,
            "jwt_audience": self.tokens.audience,
            "jwt_leeway_s": self.tokens.leeway_s,
            "account_check_s": self.tokens.account_check_s,
            "assertion_audience": self.assertions.audience,
            "assertion_clock_skew_s": self.assertions.clock_skew_s,
            "lease_s": self.lease_s,
            "closer_enabled": self.closer.is_enabled,
            "closer_period_s": self.closer.period_s,
            "connection_max_age_s": self.connection_max_age_s,
            "drain_delay_s": self.drain_delay_s,
            "drain_timeout_s": self.drain_timeout_s,
            "log_level": self.log_level,
        }


@dataclass(frozen=True, slots=True)
class MigrateSettings:
    """What `migrate` needs: the owner's connection, and the role that `serve` will use."""

    owner_url: str
    role_url: str


def read_settings(variables: Mapping[str, str]) -> Settings:
    """Raises `SettingsError` with every fault found."""
    environment = Environment(variables, "CENTRAL_")
    settings = Settings(
        database=_database(environment),
        tokens=_tokens(environment),
        assertions=AssertionSettings(
            audience=environment.text("ASSERTION_AUDIENCE", "texera-execution-metadata"),
            clock_skew_s=environment.seconds("ASSERTION_CLOCK_SKEW_S", 30.0, 0.0, 300.0),
        ),
        listen=environment.address("LISTEN", "0.0.0.0:7080"),
        ops_listen=environment.address("OPS_LISTEN", "0.0.0.0:7081"),
        # From 2 s for tests: a lease has to outlast some renewals.
        lease_s=environment.seconds("LEASE_S", 90.0, 2.0, 3600.0),
        closer=CloserSettings(
            is_enabled=environment.flag("CLOSER_ENABLED", True),
            period_s=environment.seconds("CLOSER_PERIOD_S", 10.0, 0.1, 600.0),
        ),
        connection_max_age_s=environment.seconds("CONNECTION_MAX_AGE_S", 300.0, 1.0, 86400.0),
        drain_delay_s=environment.seconds("DRAIN_DELAY_S", 0.0, 0.0, 300.0),
        drain_timeout_s=environment.seconds("DRAIN_TIMEOUT_S", 20.0, 0.0, 300.0),
        log_level=environment.choice("LOG_LEVEL", "info", LOG_LEVELS),
    )
    environment.check()
    return settings


def read_database_settings(variables: Mapping[str, str]) -> DatabaseSettings:
    """For commands that need nothing but the database. Raises `SettingsError`."""
    environment = Environment(variables, "CENTRAL_")
    settings = _database(environment)
    environment.check()
    return replace(settings, pool_min_size=0, pool_max_size=1)


def _database(environment: Environment) -> DatabaseSettings:
    min_size = environment.integer("POOL_MIN_SIZE", 2, 0, 1000)
    max_size = environment.integer("POOL_MAX_SIZE", 10, 1, 1000)
    if min_size > max_size:
        environment.fault("POOL_MIN_SIZE", f"expected at most CENTRAL_POOL_MAX_SIZE ({max_size})")
    return DatabaseSettings(
        url=_postgres_url(environment, "DATABASE_URL"),
        pool_min_size=min_size,
        pool_max_size=max_size,
        statement_cache_size=environment.integer("STATEMENT_CACHE_SIZE", 256, 0, 100_000),
        timeout_s=environment.seconds("DATABASE_TIMEOUT_S", 15.0, 0.1, 300.0),
    )


def _tokens(environment: Environment) -> TokenSettings:
    algorithms = _algorithms(environment)
    is_shared = algorithms[0] in HMAC_ALGORITHMS
    return TokenSettings(
        secret=_secret(environment) if is_shared else "",
        lowercase_secret=environment.flag("JWT_LOWERCASE_SECRET", True),
        algorithms=algorithms,
        jwks=None if is_shared else _jwks(environment, environment.text("JWT_JWKS")),
        issuer=environment.optional_text("JWT_ISSUER"),
        audience=environment.optional_text("JWT_AUDIENCE"),
        leeway_s=environment.seconds("JWT_LEEWAY_S", 30.0, 0.0, 300.0),
        cache_size=environment.integer("JWT_CACHE_SIZE", 10_000, 1, 10_000_000),
        account_check_s=environment.seconds("ACCOUNT_CHECK_S", 0.0, 0.0, 3600.0),
    )


def _algorithms(environment: Environment) -> tuple[str, ...]:
    """One or more of one kind: a set that mixes them would take a public key for a secret."""
    named = environment.text("JWT_ALGORITHMS", "hs256")
    known = {a.upper(): a for a in (*HMAC_ALGORITHMS, *PUBLIC_KEY_ALGORITHMS)}
    chosen = tuple(known.get(name.strip().upper(), "") for name in named.split(","))
    if "" in chosen:
        environment.fault("JWT_ALGORITHMS", f"expected some of {', '.join(known.values())}")
        return ("HS256",)
    if len({algorithm in HMAC_ALGORITHMS for algorithm in chosen}) > 1:
        environment.fault("JWT_ALGORITHMS", "expected shared-secret or public-key ones, not both")
    is_shared = chosen[0] in HMAC_ALGORITHMS
    for name, is_wanted in (("JWT_SECRET", is_shared), ("JWT_JWKS", not is_shared)):
        if not is_wanted and environment.optional_text(name) is not None:
            environment.fault(name, f"is not used with {named}")
    return chosen


def _secret(environment: Environment) -> str:
    secret = environment.text("JWT_SECRET")
    if secret.lower() == "random":
        # Texera then makes a secret per process, which no other service can know.
        environment.fault("JWT_SECRET", "expected Texera's own secret, got the word 'random'")
    return secret


def _jwks(environment: Environment, location: str) -> JwksSettings:
    return JwksSettings(
        location=location,
        refresh_s=environment.seconds("JWKS_REFRESH_S", 300.0, 1.0, 86_400.0),
        stale_s=environment.seconds("JWKS_STALE_S", 3600.0, 0.0, 604_800.0),
        timeout_s=environment.seconds("JWKS_TIMEOUT_S", 5.0, 0.1, 60.0),
    )


def read_migrate_settings(variables: Mapping[str, str]) -> MigrateSettings:
    """Raises `SettingsError` with every fault found."""
    environment = Environment(variables, "CENTRAL_")
    owner_url = _postgres_url(environment, "OWNER_DATABASE_URL")
    role_url = _postgres_url(environment, "DATABASE_URL")
    if role_url:
        role = urlsplit(role_url)
        if not (role.username and role.password):
            environment.fault("DATABASE_URL", "must name the service's role and its password")
        elif owner_url and role.username == urlsplit(owner_url).username:
            environment.fault("DATABASE_URL", "must name a role of its own, not the owner")
    environment.check()
    return MigrateSettings(owner_url, role_url)


def _postgres_url(environment: Environment, name: str) -> str:
    url = environment.url(name, POSTGRES_SCHEMES)
    try:
        _ = urlsplit(url).port
    except ValueError:
        environment.fault(name, "expected a URL with a valid host and port")
        return ""
    return url


def shown(location: str) -> str:
    """A path as it is; a URL without whoever logs in, and without its query."""
    return without_secrets(location) if "://" in location else location


def without_secrets(url: str) -> str:
    """User, host, port and path of a URL; no password, no options."""
    parts = urlsplit(url)
    role = f"{parts.username}@" if parts.username else ""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{role}{host}{port}{parts.path}"
