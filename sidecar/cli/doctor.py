"""`sidecar doctor`: whether this pod can keep the promises of a sidecar.

Run in the sidecar's container, also beside a running sidecar; changes nothing. With
`--unit-environment FILE` (`-` for standard input) it also judges what the computing unit's
container exposes to users' code, by the names of its variables:

    kubectl exec POD -c computing-unit-master -- env |
        kubectl exec -i POD -c cu-sidecar -- sidecar doctor --unit-environment -
"""

import argparse
import asyncio
import errno
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from nacl.signing import SigningKey

from kit.http import checks
from kit.http.checks import CheckFunction, Fail, Warn
from kit.http.tls import check_ca, check_certificate
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.settings import DAY_S, Settings
from sidecar.upstream.client import CallContext, CentralClient, open_session
from sidecar.upstream.credentials import WorkloadToken
from sidecar.upstream.source_identity import (
    KEY_FILE_NAME,
    NEXT_KEY_FILE_NAME,
    SourceIdentity,
    has_key,
)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
ROTATION_GRACE_S = 3600.0
"""For a sidecar that is stopped, or cannot reach central."""
SYNC_COUNT = 16
IMPLAUSIBLE_SYNC_S = 20e-6
"""The fastest drives with power-loss protection take about this long; RAM takes less."""

NEEDLESS = frozenset(
    {
        *("STORAGE_JDBC_URL", "STORAGE_JDBC_USERNAME", "STORAGE_JDBC_PASSWORD"),
        "AUTH_JWT_SECRET",
        "STORAGE_ICEBERG_CATALOG_POSTGRES_URI_WITHOUT_SCHEME",
        "STORAGE_ICEBERG_CATALOG_POSTGRES_USERNAME",
        "STORAGE_ICEBERG_CATALOG_POSTGRES_PASSWORD",
    }
)
"""The database and the JWT signing key: a CU beside a sidecar needs neither."""
STILL_USED = frozenset({"USER_JWT_TOKEN", "STORAGE_S3_AUTH_USERNAME", "STORAGE_S3_AUTH_PASSWORD"})
"""Texera reads datasets and large objects with these."""

_SECRET_NAME = re.compile(
    r"PASSW(?:OR)?D|SECRET|TOKEN|CREDENTIAL|PRIVATE_?KEY|API_?KEY|ACCESS_?KEY", re.IGNORECASE
)
_SECRET_VALUE = re.compile(
    r"[a-z][a-z0-9+.\-]*://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|\beyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"  # a JWT
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.IGNORECASE,
)
_PATH = re.compile(r"/[\w./\-]+")  # the location of a secret is none


def add_parser(commands: Any) -> None:
    parser = checks.add_parser(commands, "check credentials, TLS, central, clock, volume and fsync")
    parser.add_argument(
        "--unit-environment",
        metavar="FILE",
        help="also judge the computing unit's variables: /proc/PID/environ, or the output of `env`",
    )


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`, and OSError for an unreadable file."""
    settings = Settings.from_environment(variables)
    directory = settings.spool_dir
    named: dict[str, CheckFunction] = {"environment": lambda: check_environment(variables)}
    if options.unit_environment is not None:
        unit = parse_environment(_read(options.unit_environment))
        named["unit environment"] = lambda: check_unit_environment(unit)
    named |= {
        "service account": lambda: check_service_account(SERVICE_ACCOUNT),
        **tls_checks(settings),
        "central": lambda: check_central(settings),
        "volume": lambda: check_volume(directory, settings.spool_max_bytes),
        "source key": lambda: check_key(directory, settings.key_max_age_s),
        "fsync": lambda: check_fsync(directory, time.perf_counter),
    }
    found = asyncio.run(checks.run_checks(named))
    print(checks.format_checks(found, as_json=options.json))
    return checks.exit_code(found)


def _read(path: str) -> str:
    return sys.stdin.read() if path == "-" else Path(path).read_text(errors="replace")


def parse_environment(text: str) -> dict[str, str]:
    """The variables of `/proc/<pid>/environ` (NUL after each) or of `env` (a line each)."""
    pairs = (entry.partition("=") for entry in text.split("\0" if "\0" in text else "\n"))
    return {name: value for name, separator, value in pairs if separator}


def credentials(variables: Mapping[str, str]) -> set[str]:
    """The variables that hold a credential, judged by name and value."""
    return {
        name
        for name, value in variables.items()
        if value
        and not _PATH.fullmatch(value)
        and (
            name in NEEDLESS | STILL_USED
            or _SECRET_NAME.search(name)
            or _SECRET_VALUE.search(value)
        )
    }


def check_environment(variables: Mapping[str, str]) -> str:
    if found := credentials(variables):
        raise Fail(f"a sidecar needs no credential of others: {_names(found)}")
    return "holds no credential"


def check_unit_environment(variables: Mapping[str, str]) -> str:
    found = credentials(variables)
    kinds = {
        "needless, to be removed": found & NEEDLESS,
        "used by Texera": found & STILL_USED,
        "others": found - NEEDLESS - STILL_USED,
    }
    detail = "; ".join(f"{kind}: {_names(names)}" for kind, names in kinds.items() if names)
    if found & NEEDLESS:
        raise Fail(f"users' code can read {detail}")
    if found:
        raise Warn(f"users' code can read {detail}")
    return "exposes no credential"


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names))


def check_service_account(token: Path) -> str:
    if token.exists():
        raise Warn("the pod's own token is mounted: set automountServiceAccountToken: false")
    return "no token of the pod's own is mounted"


def tls_checks(settings: Settings) -> dict[str, CheckFunction]:
    """Of the way to central, and of the files that these settings name."""
    named: dict[str, CheckFunction] = {"encryption": lambda: check_encryption(settings.central_url)}
    if (ca_file := settings.central_ca_file) is not None:
        named["ca of central"] = lambda: check_ca(ca_file)
    if (certificate := settings.certificate) is not None:
        named["certificate"] = lambda: check_certificate(certificate, is_server=False)
    return named


def check_encryption(central_url: str) -> str:
    """Whether somebody on the way to central could read users' tokens."""
    if central_url.startswith("https://"):
        return "encrypted, and central is verified"
    host = urlsplit(central_url).hostname or ""
    if not checks.is_loopback(host):
        raise Warn(f"the connection to {host} is not encrypted, unless a service mesh does it")
    return "the connection does not leave this machine"


async def check_central(settings: Settings, *, wall_clock: Callable[[], float] = time.time) -> str:
    """One signed call: central is reachable and trusted, accepts the signature, agrees on time."""
    token_file = settings.workload_token_file
    async with open_session(settings.tls_context()) as session:
        client = CentralClient(
            session,
            settings.central_url,
            _identity(settings),
            Metrics(),
            timeout_s=settings.upstream_timeout_s,
            workload=None if token_file is None else WorkloadToken(token_file),
            wall_clock=wall_clock,
        )
        try:
            await client.call("doctor", "GET", "/v1/bindings", context=CallContext())
        except CentralUnavailable as problem:
            raise Fail(_why_unavailable(problem, settings.central_url)) from problem
        except UpstreamProblem as problem:
            clock = f"its clock is {client.clock_offset_s:+.0f} s from ours"
            raise Fail(f"{problem.slug}: {problem.detail}; {clock}") from problem
    clock = checks.check_clock(client.clock_offset_s, "central")
    return f"{settings.central_url} accepts this sidecar's signature; {clock}"


def _why_unavailable(problem: CentralUnavailable, central_url: str) -> str:
    """With TLS 1.3 a client that is refused for its certificate only sees the connection end."""
    reason = problem.__cause__
    is_reset = getattr(reason, "errno", None) == errno.ECONNRESET
    if is_reset or isinstance(reason, aiohttp.ServerDisconnectedError):
        hint = "central may require a client certificate, or refuse this one"
        return f"{problem.detail}: {hint if central_url.startswith('https://') else reason}"
    return problem.detail if reason is None else f"{problem.detail}: {reason}"


def _identity(settings: Settings) -> SourceIdentity:
    """The sidecar's own, or a temporary one before the first start."""
    if has_key(settings.spool_dir):
        return SourceIdentity.from_volume(settings.spool_dir, settings.assertion_audience)
    return SourceIdentity(SigningKey.generate(), settings.assertion_audience)


def check_volume(directory: Path, needed_bytes: int, container: Path = Path("/")) -> str:
    space = os.statvfs(directory)
    free = f"{space.f_bavail * space.f_frsize // 2**20} MiB free"
    if directory.stat().st_dev == container.stat().st_dev:
        raise Fail(f"{directory} is on no volume of its own: it is lost with the container")
    if space.f_bavail * space.f_frsize < needed_bytes:
        raise Warn(f"{free}, less than SIDECAR_SPOOL_MAX_BYTES ({needed_bytes // 2**20} MiB)")
    return free


def check_key(
    directory: Path, max_age_s: float, *, wall_clock: Callable[[], float] = time.time
) -> str:
    """Whoever else can read a key can act as this sidecar; an old one may be known elsewhere."""
    if not has_key(directory):
        raise Warn("none yet: the first `serve` creates it")
    for name in (KEY_FILE_NAME, NEXT_KEY_FILE_NAME):
        path = directory / name
        if not path.exists():
            continue
        found = path.stat()
        if found.st_mode & 0o077 or found.st_uid != os.geteuid():
            mode, owner = found.st_mode & 0o777, found.st_uid
            expected = f"0600, {os.geteuid()}"
            raise Fail(f"{path} has mode {mode:04o} and owner {owner}, expected {expected}")
    age_s = wall_clock() - (directory / KEY_FILE_NAME).stat().st_mtime
    detail = f"only this user can read it; {age_s / DAY_S:.1f} days old"
    if (directory / NEXT_KEY_FILE_NAME).exists():
        raise Warn(f"{detail}; its replacement waits for central")
    if 0 < max_age_s < age_s - ROTATION_GRACE_S:
        raise Warn(f"{detail}: it should have been replaced after {max_age_s / DAY_S:.1f}")
    return detail


def check_fsync(directory: Path, clock: Callable[[], float]) -> str:
    """Writes and syncs as the spool does before it acknowledges a write."""
    took_s = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(SYNC_COUNT):
            file.write(bytes(4096))
            file.flush()
            started_at = clock()
            os.fdatasync(file.fileno())
            took_s.append(clock() - started_at)
    median_s = statistics.median(took_s)
    detail = f"{median_s * 1000:.3f} ms, median of {SYNC_COUNT}"
    if median_s < IMPLAUSIBLE_SYNC_S:
        raise Warn(f"{detail}: too fast for a disk, a power cut may lose acknowledged writes")
    return detail
