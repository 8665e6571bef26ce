"""The service's settings: read once from the environment, all errors reported together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from central.auth_settings import (
    AssertionSettings,
    LimitSettings,
    RunTokenSettings,
    TokenSettings,
    WorkloadSettings,
    read_assertion_settings,
    read_limit_settings,
    read_run_token_settings,
    read_token_settings,
    read_workload_settings,
)
from kit.http.settings import Address, EnvReader, without_secrets
from kit.http.tls import (
    CertificateFiles,
    ReloadingContext,
    read_certificate_files,
    server_context,
)

POSTGRES_SCHEMES = ("postgresql", "postgres")
DAY_S = 86_400
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The connection to the database, as the least-privilege role."""

    url: str
    pool_min_size: int = 2
    pool_max_size: int = 10
    statement_cache_size: int = 256
    timeout_s: float = 15.0
    """Our limit for a statement; the role's own (10 s) is reached first."""
    application_name: str = "texera-cu-central"

    def __repr__(self) -> str:
        return f"DatabaseSettings({without_secrets(self.url)})"


@dataclass(frozen=True, slots=True)
class CloserSettings:
    """The orphan closer."""

    is_enabled: bool = True
    period_s: float = 10.0


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The API's certificate, where central terminates TLS itself, and whether clients show one."""

    own: CertificateFiles
    client_ca_file: Path | None
    requires_clients: bool

    def context(self) -> ReloadingContext:
        """For the listener. Raises OSError for unusable files."""
        return server_context(self.own, self.client_ca_file, is_required=self.requires_clients)

    def describe(self) -> dict[str, Any]:
        client_auth = "require" if self.requires_clients else "request"
        return {
            "tls_certificate": str(self.own.certificate),
            "tls_client_auth": "off" if self.client_ca_file is None else client_auth,
        }


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """How long rows of our own are kept, in seconds."""

    cursors_s: float
    keys_s: float
    bindings_s: float
    refusals_s: float


@dataclass(frozen=True, slots=True)
class Settings:
    database: DatabaseSettings
    tokens: TokenSettings
    assertions: AssertionSettings
    workloads: WorkloadSettings | None
    run_tokens: RunTokenSettings | None
    limits: LimitSettings
    listen: Address
    tls: TlsSettings | None
    ops_listen: Address
    lease_s: float
    unstorable_after_s: float
    closer: CloserSettings
    retention: RetentionSettings
    connection_max_age_s: float
    drain_delay_s: float
    drain_timeout_s: float
    page_shows_ids: bool
    log_level: str

    def describe(self) -> dict[str, Any]:
        """The settings as `/status` shows them, without secrets."""
        return {
            "listen": str(self.listen),
            **({"tls_certificate": None} if self.tls is None else self.tls.describe()),
            "ops_listen": str(self.ops_listen),
            "database_url": without_secrets(self.database.url),
            "pool_min_size": self.database.pool_min_size,
            "pool_max_size": self.database.pool_max_size,
            "statement_cache_size": self.database.statement_cache_size,
            "database_timeout_s": self.database.timeout_s,
            **self.tokens.describe(),
            **self.assertions.describe(),
            "workload_identity": "off" if self.workloads is None else self.workloads.mode,
            **({} if self.workloads is None else self.workloads.describe()),
            "run_tokens": self.run_tokens is not None,
            **({} if self.run_tokens is None else self.run_tokens.describe()),
            **self.limits.describe(),
            "lease_s": self.lease_s,
            "unstorable_after_s": self.unstorable_after_s,
            "closer_enabled": self.closer.is_enabled,
            "closer_period_s": self.closer.period_s,
            "retain_cursors_s": self.retention.cursors_s,
            "retain_idempotency_keys_s": self.retention.keys_s,
            "retain_bindings_s": self.retention.bindings_s,
            "retain_refusals_s": self.retention.refusals_s,
            "connection_max_age_s": self.connection_max_age_s,
            "drain_delay_s": self.drain_delay_s,
            "drain_timeout_s": self.drain_timeout_s,
            "page_shows_ids": self.page_shows_ids,
            "log_level": self.log_level,
        }


@dataclass(frozen=True, slots=True)
class MigrateSettings:
    """What `migrate` needs: the owner's connection, and the role that `serve` will use."""

    owner_url: str
    role_url: str


def read_settings(variables: Mapping[str, str]) -> Settings:
    """Raises `SettingsError` with all errors."""
    environment = EnvReader(variables, "CENTRAL_")
    settings = Settings(
        database=_database(environment),
        tokens=(tokens := read_token_settings(environment)),
        assertions=(assertions := read_assertion_settings(environment)),
        workloads=read_workload_settings(environment, assertions.audience),
        run_tokens=read_run_token_settings(environment, tokens),
        limits=read_limit_settings(environment),
        listen=environment.address("LISTEN", "0.0.0.0:7080"),
        tls=_tls(environment),
        ops_listen=environment.address("OPS_LISTEN", "0.0.0.0:7081"),
        # Tests use 2 s, which is still longer than several renewals.
        lease_s=environment.seconds("LEASE_S", 90.0, 2.0, 3600.0),
        unstorable_after_s=environment.seconds("UNSTORABLE_AFTER_S", 3600.0, 0.0, 7 * DAY_S),
        closer=CloserSettings(
            is_enabled=environment.flag("CLOSER_ENABLED", True),
            period_s=environment.seconds("CLOSER_PERIOD_S", 10.0, 0.1, 600.0),
        ),
        retention=_retention(environment),
        connection_max_age_s=environment.seconds("CONNECTION_MAX_AGE_S", 300.0, 1.0, 86400.0),
        drain_delay_s=environment.seconds("DRAIN_DELAY_S", 0.0, 0.0, 300.0),
        drain_timeout_s=environment.seconds("DRAIN_TIMEOUT_S", 20.0, 0.0, 300.0),
        page_shows_ids=environment.flag("PAGE_SHOWS_IDS", False),
        log_level=environment.choice("LOG_LEVEL", "info", LOG_LEVELS),
    )
    environment.check()
    return settings


def _tls(environment: EnvReader) -> TlsSettings | None:
    own = read_certificate_files(environment, "TLS_CERT_FILE", "TLS_KEY_FILE")
    client_ca_file = environment.optional_path("TLS_CLIENT_CA_FILE")
    client_auth = environment.choice("TLS_CLIENT_AUTH", "require", ("require", "request"))
    if own is not None:
        return TlsSettings(own, client_ca_file, client_auth == "require")
    if client_ca_file is not None:
        environment.error("TLS_CERT_FILE", "must be set: clients show certificates over TLS only")
    return None


def read_database_settings(variables: Mapping[str, str]) -> DatabaseSettings:
    """For commands that need only the database. Raises `SettingsError`."""
    environment = EnvReader(variables, "CENTRAL_")
    settings = _database(environment)
    environment.check()
    name = f"{settings.application_name} command"
    return replace(settings, pool_min_size=0, pool_max_size=1, application_name=name)


def read_retention_settings(
    variables: Mapping[str, str],
) -> tuple[DatabaseSettings, RetentionSettings]:
    """For the command `retention`. Raises `SettingsError`."""
    environment = EnvReader(variables, "CENTRAL_")
    retention = _retention(environment)
    environment.check()
    return read_database_settings(variables), retention


def _retention(environment: EnvReader) -> RetentionSettings:
    def days(name: str, default: float, least: float) -> float:
        return environment.seconds(name, default * DAY_S, least * DAY_S, 3650 * DAY_S)

    # A key may be repeated for a day; a spool may need its cursor or binding after a long outage.
    return RetentionSettings(
        cursors_s=days("RETAIN_CURSORS_S", 30, 1),
        keys_s=days("RETAIN_IDEMPOTENCY_KEYS_S", 2, 1),
        bindings_s=days("RETAIN_BINDINGS_S", 90, 1),
        refusals_s=days("RETAIN_REFUSALS_S", 30, 1 / 24),
    )


def _database(environment: EnvReader) -> DatabaseSettings:
    min_size = environment.integer("POOL_MIN_SIZE", 2, 0, 1000)
    max_size = environment.integer("POOL_MAX_SIZE", 10, 1, 1000)
    if min_size > max_size:
        environment.error("POOL_MIN_SIZE", f"expected at most CENTRAL_POOL_MAX_SIZE ({max_size})")
    return DatabaseSettings(
        url=_postgres_url(environment, "DATABASE_URL"),
        pool_min_size=min_size,
        pool_max_size=max_size,
        statement_cache_size=environment.integer("STATEMENT_CACHE_SIZE", 256, 0, 100_000),
        timeout_s=environment.seconds("DATABASE_TIMEOUT_S", 15.0, 0.1, 300.0),
    )


def read_migrate_settings(variables: Mapping[str, str]) -> MigrateSettings:
    """Raises `SettingsError` with all errors."""
    environment = EnvReader(variables, "CENTRAL_")
    owner_url = _postgres_url(environment, "OWNER_DATABASE_URL")
    role_url = _postgres_url(environment, "DATABASE_URL")
    if role_url:
        role = urlsplit(role_url)
        if not (role.username and role.password):
            environment.error("DATABASE_URL", "must name the service's role and its password")
        elif owner_url and role.username == urlsplit(owner_url).username:
            environment.error("DATABASE_URL", "must name a role of its own, not the owner")
    environment.check()
    return MigrateSettings(owner_url, role_url)


def _postgres_url(environment: EnvReader, name: str) -> str:
    url = environment.url(name, POSTGRES_SCHEMES)
    try:
        _ = urlsplit(url).port
    except ValueError:
        environment.error(name, "expected a URL with a valid host and port")
        return ""
    return url
