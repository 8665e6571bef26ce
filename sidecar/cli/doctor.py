"""`python -m sidecar doctor`: whether this pod keeps the promises that a sidecar makes.

Run in the sidecar's container. What the computing unit's own container shows to users' code is
judged from its variables: `--unit-environment FILE`, `-` for standard input:

    kubectl exec POD -c computing-unit-master -- env |
        kubectl exec -i POD -c sidecar -- python -m sidecar doctor --unit-environment -

Changes nothing, and may run beside a sidecar.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from kit.http.checks import Check, exit_code, fail, format_checks, ok, warn
from sidecar.cli.credentials import Whose, check_credentials, parse_environment
from sidecar.cli.volume import check_key, check_sync, check_volume
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.settings import Settings
from sidecar.upstream.client import CallContext, CentralClient, open_session
from sidecar.upstream.credentials import TrustStore, WorkloadToken
from sidecar.upstream.source_identity import SourceIdentity, has_key

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
CLOCK_WARN_S = 2.0
CLOCK_FAIL_S = 30.0


def add_parser(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="check credentials, central, clock, volume and fsync; 1 if one is bad"
    )
    doctor.add_argument(
        "--unit-environment",
        metavar="FILE",
        help="also judge the computing unit's variables: /proc/PID/environ, or what `env` printed",
    )
    doctor.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`, and OSError for a file that cannot be read."""
    settings = Settings.from_environment(variables)
    checks = check_credentials(variables, Whose.SIDECAR)
    if options.unit_environment is not None:
        unit = parse_environment(_text(options.unit_environment))
        checks += check_credentials(unit, Whose.COMPUTING_UNIT)
    checks += [check_service_account(SERVICE_ACCOUNT), *asyncio.run(check_central(settings))]
    checks += check_volume(settings.spool_dir, settings.spool_max_bytes)
    if settings.spool_dir.is_dir():
        checks.append(check_key(settings.spool_dir))
        checks.append(check_sync(settings.spool_dir, time.perf_counter))
    print(format_checks(checks, as_json=options.json))
    return exit_code(checks)


def _text(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    return Path(path).read_text(errors="replace")


def check_service_account(token: Path) -> Check:
    name = "service account"
    if token.exists():
        return warn(name, "the pod's own token is mounted: set automountServiceAccountToken: false")
    return ok(name, "no token of the pod's own is mounted")


async def check_central(
    settings: Settings, *, wall_clock: Callable[[], float] = time.time
) -> list[Check]:
    """One signed call, as every call of the sidecar is: reachable, trusted, and at what time."""
    token_file = settings.workload_token_file
    try:
        trust = None if settings.central_ca_file is None else TrustStore(settings.central_ca_file)
    except OSError as error:
        return [fail("central", f"SIDECAR_CENTRAL_CA_FILE: {error}")]
    async with open_session(trust) as session:
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
            answered = ok("central", f"{settings.central_url} takes this sidecar's signature")
        except CentralUnavailable as problem:
            return [fail("central", f"{settings.central_url}: {problem.detail}")]
        except UpstreamProblem as problem:
            answered = fail("central", f"{settings.central_url}: {problem.slug}: {problem.detail}")
        return [answered, _clock(client.clock_offset_s)]


def _identity(settings: Settings) -> SourceIdentity:
    """The sidecar's own; one of the moment where there is none that could be read."""
    if has_key(settings.spool_dir):
        try:
            return SourceIdentity.from_volume(settings.spool_dir, settings.assertion_audience)
        except (OSError, ValueError):
            pass  # `check_key` says so; whether central answers can be told all the same
    return SourceIdentity(SigningKey.generate(), settings.assertion_audience)


def _clock(offset_s: float) -> Check:
    if abs(offset_s) <= CLOCK_WARN_S:
        return ok("clock", f"within {CLOCK_WARN_S:g} s of central's")
    detail = f"central's is {offset_s:+.0f} s from ours"
    return warn("clock", detail) if abs(offset_s) <= CLOCK_FAIL_S else fail("clock", detail)
