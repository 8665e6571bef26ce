"""The sidecar's settings: SIDECAR_* of the environment, validated all at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kit.http.settings import Address, EnvReader
from kit.http.tls import (
    CertificateFiles,
    ReloadingContext,
    client_context,
    read_certificate_files,
)

MIB = 1024 * 1024
DAY_S = 86_400.0
DEFAULT_MAX_ENTRIES = 500_000
"""Fills 256 MiB with ordinary writes: a few hundred bytes each, overhead included."""


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Limits of the local API. 0 is no limit."""

    writes_per_s: float = 2000.0
    write_bytes_per_s: float = 4.0 * MIB
    burst_s: float = 60.0
    """How many seconds of the rates may be used at once."""
    concurrent_calls: int = 128
    """Of one user: this many writes, and as many other calls."""
    connections: int = 640
    """Of all users together, as are buffered bodies. More than four users' concurrent calls."""
    buffered_body_bytes: int = 8 * MIB


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A unix socket and who may connect to it. No `allowed_uids`: whoever its mode admits."""

    path: Path
    mode: int
    group_id: int | None
    allowed_uids: frozenset[int]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The computing unit's health check: a TCP connection or, with a `target` (path and query), an
    HTTP GET."""

    address: Address
    target: str | None = None

    def __str__(self) -> str:
        return f"{self.address}" if self.target is None else f"http://{self.address}{self.target}"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. docs/operations.md describes each."""

    central_url: str
    central_ca_file: Path | None
    certificate: CertificateFiles | None
    listen: Address
    unix_socket: UnixSocket | None
    response_cache: bool
    ops_listen: Address
    spool_dir: Path
    spool_max_bytes: int
    spool_max_entries: int
    cache_max_bytes: int
    execution_cache_ttl_s: float
    access_ttl_s: float
    stale_access_s: float
    upstream_timeout_s: float
    drain_timeout_s: float
    cu_health: HealthCheck | None
    fail_runs_on_cu_restart: bool
    lease_renew_s: float
    assertion_audience: str
    key_max_age_s: float
    workload_token_file: Path | None
    limits: LimitSettings
    page_shows_ids: bool
    log_level: str

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> "Settings":
        """Raises `SettingsError` naming every missing or invalid variable."""
        env = EnvReader(variables, "SIDECAR_")
        settings = cls(
            central_url=env.url("CENTRAL_URL", ("http", "https")),
            central_ca_file=env.optional_path("CENTRAL_CA_FILE"),
            certificate=read_certificate_files(env, "TLS_CERT_FILE", "TLS_KEY_FILE"),
            listen=env.address("LISTEN", "127.0.0.1:7070"),
            unix_socket=_unix_socket(env),
            response_cache=env.flag("RESPONSE_CACHE", True),
            ops_listen=env.address("OPS_LISTEN", "0.0.0.0:7071"),
            spool_dir=env.path("SPOOL_DIR", "/var/lib/sidecar"),
            spool_max_bytes=env.integer("SPOOL_MAX_BYTES", 256 * MIB, MIB, 64 * 1024 * MIB),
            spool_max_entries=env.integer(
                "SPOOL_MAX_ENTRIES", DEFAULT_MAX_ENTRIES, 1_000, 100_000_000
            ),
            cache_max_bytes=env.integer("CACHE_MAX_BYTES", 16 * MIB, 64 * 1024, 1024 * MIB),
            execution_cache_ttl_s=env.seconds("EXECUTION_CACHE_TTL_S", 2, 0, 60),
            access_ttl_s=env.seconds("ACCESS_TTL_S", 60, 1, 60),
            stale_access_s=env.seconds("STALE_ACCESS_S", 3600, 0, 86_400),
            upstream_timeout_s=env.seconds("UPSTREAM_TIMEOUT_S", 10, 0.1, 60),
            drain_timeout_s=env.seconds("DRAIN_TIMEOUT_S", 10, 0, 600),
            cu_health=_health_check(env),
            fail_runs_on_cu_restart=env.flag("FAIL_RUNS_ON_CU_RESTART", False),
            lease_renew_s=env.seconds("LEASE_RENEW_S", 20, 0.1, 600),
            assertion_audience=env.text("ASSERTION_AUDIENCE", "texera-execution-metadata"),
            key_max_age_s=env.seconds("KEY_MAX_AGE_S", 30 * DAY_S, 0, 3650 * DAY_S),
            workload_token_file=env.optional_path("WORKLOAD_TOKEN_FILE"),
            limits=LimitSettings(
                writes_per_s=env.number("LIMIT_WRITES_PER_S", 2000.0, 0.0, 1e9),
                write_bytes_per_s=env.number("LIMIT_WRITE_BYTES_PER_S", 4.0 * MIB, 0.0, 1e12),
                burst_s=env.seconds("LIMIT_BURST_S", 60.0, 0.0, 3600.0),
                concurrent_calls=env.integer("LIMIT_CONCURRENT_CALLS", 128, 0, 1_000_000),
                connections=env.integer("LIMIT_CONNECTIONS", 640, 0, 1_000_000),
                buffered_body_bytes=env.integer("LIMIT_BUFFERED_BODY_BYTES", 8 * MIB, 0, 10**12),
            ),
            page_shows_ids=env.flag("PAGE_SHOWS_IDS", False),
            log_level=env.choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        )
        if settings.listen.host not in {"127.0.0.1", "::1", "localhost"}:
            env.error("LISTEN", "expected a loopback address: the CU's API is for this pod only")
        if settings.certificate is not None and settings.central_url.startswith("http://"):
            env.error("CENTRAL_URL", "must begin with https://: plain http shows no certificate")
        if "@" in settings.central_url.partition("://")[2].partition("/")[0]:
            env.error("CENTRAL_URL", "must not carry a login: a sidecar signs, and has no password")
        env.check()
        return settings

    def tls_context(self) -> ReloadingContext | None:
        """For connections to central; None where nothing of our own is trusted or shown.

        Raises OSError for unusable files.
        """
        if self.central_ca_file is None and self.certificate is None:
            return None
        return client_context(self.central_ca_file, self.certificate)


def _unix_socket(env: EnvReader) -> UnixSocket | None:
    path, group = env.optional_path("UNIX_SOCKET"), env.optional_text("UNIX_SOCKET_GROUP")
    mode = env.text("UNIX_SOCKET_MODE", "0600")
    if not re.fullmatch("0?[0-7]{3}", mode):
        env.error("UNIX_SOCKET_MODE", f"expected an octal mode such as 0660, got {mode!r}")
        mode = "0"
    uids = (env.optional_text("UNIX_SOCKET_UIDS") or "").replace(",", " ").split()
    for name, numbers in ("UNIX_SOCKET_GROUP", [group or "0"]), ("UNIX_SOCKET_UIDS", uids):
        if not all(re.fullmatch("[0-9]{1,10}", number) for number in numbers):
            env.error(name, f"expected ids as numbers, got {' '.join(numbers)!r}")
            return None
    group_id = None if group is None else int(group)
    allowed_uids = frozenset(map(int, uids))
    return None if path is None else UnixSocket(path, int(mode, 8), group_id, allowed_uids)


def _health_check(env: EnvReader) -> HealthCheck | None:
    text = env.optional_text("CU_HEALTH")
    if text is None or "://" not in text:
        return HealthCheck(env.address("CU_HEALTH", "")) if text else None
    try:
        parts = urlsplit(text)
        address = Address(parts.hostname or "", parts.port or 80)
    except ValueError:
        parts, address = urlsplit(""), Address("", 0)
    if parts.scheme != "http" or not address.host or not text.isprintable() or " " in text:
        env.error("CU_HEALTH", f"expected HOST:PORT or an http:// URL, got {text!r}")
    query = f"?{parts.query}" if parts.query else ""
    return HealthCheck(address, (parts.path or "/") + query)
