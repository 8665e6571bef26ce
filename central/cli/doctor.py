"""`central doctor`: whether this environment is safe to run central in.

Changes nothing. Checks the keys that verify users' tokens, the API's certificate, and the database
as the service's own role sees it.
"""

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry

from central.auth_settings import JwksSettings, TokenSettings, redact
from central.metrics import Metrics
from central.migrations.grants import granted_privileges
from central.migrations.runner import read_migrations
from central.settings import Settings, TlsSettings, read_settings
from central.store.database import Database
from central.store.role import Privilege, RoleInspection, SessionFacts
from kit.http import checks
from kit.http.checks import Check, CheckFunction, CheckStatus, Fail, Warn
from kit.http.problems import Problem
from kit.http.tls import check_ca, check_certificate

SUPPORTED_VERSIONS = range(14, 19)
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: as long as the hash
MIN_SECRET_BITS = 128.0
PLACEHOLDERS = ("secret", "change", "example", "default", "password", "development", "test")
MAX_NAMED = 8
"""How many privileges one line names."""


def add_parser(commands: Any) -> None:
    checks.add_parser(commands, "check the database role, migrations, keys and clocks")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    found = asyncio.run(run_checks(read_settings(variables)))
    print(checks.format_checks(found, as_json=options.json))
    return checks.exit_code(found)


async def run_checks(settings: Settings, *, now: Callable[[], float] = time.time) -> list[Check]:
    found = await checks.run_checks(_key_checks(settings) | _tls_checks(settings.tls))
    database = Database(settings.database, Metrics(CollectorRegistry()))
    try:
        inspection, requested_at = RoleInspection(database), now()
        session = await inspection.session()
        offset_s = session.database_now.timestamp() - (requested_at + now()) / 2
    except Problem as problem:
        return [*found, Check("database", CheckStatus.FAIL, problem.detail)]
    else:
        return found + await checks.run_checks(
            {
                "database": lambda: _check_version(session),
                "clock": lambda: checks.check_clock(offset_s, "the database"),
                "encryption": lambda: check_encryption(session, settings.database.url),
                "timeouts": lambda: _check_timeouts(session),
                "role": lambda: _check_role(session),
                "privileges": lambda: _check_privileges(inspection),
                "migrations": lambda: _check_migrations(session, inspection),
            }
        )
    finally:
        await database.close()


def _key_checks(settings: Settings) -> dict[str, CheckFunction]:
    tokens, workloads = settings.tokens, settings.workloads
    named: dict[str, CheckFunction] = {}
    if (jwks := tokens.jwks) is not None:
        named["jwks of users"] = lambda: check_jwks(jwks, tokens.algorithms)
    else:
        named["jwt secret"] = lambda: check_secret(tokens)
    if workloads is not None:
        named["jwks of workloads"] = lambda: check_jwks(workloads.jwks, workloads.algorithms)
    return named


def _tls_checks(tls: TlsSettings | None) -> dict[str, CheckFunction]:
    named: dict[str, CheckFunction] = {}
    if tls is not None:
        named["certificate"] = lambda: check_certificate(tls.own, is_server=True)
        if (client_ca_file := tls.client_ca_file) is not None:
            named["ca of clients"] = lambda: check_ca(client_ca_file)
    return named


def check_secret(settings: TokenSettings) -> str:
    """How hard the shared secret is to guess, as it is used: lower-cased."""
    secret = settings.secret.lower() if settings.lowercase_secret else settings.secret
    bits = len(secret) * math.log2(max(2, len(set(secret))))
    if len(secret.encode()) < MIN_SECRET_BYTES or bits < MIN_SECRET_BITS:
        raise Fail(f"too weak: expected {MIN_SECRET_BYTES} random bytes, got {len(secret)}")
    if any(word in secret.lower() for word in PLACEHOLDERS):
        raise Warn("looks like a placeholder from a manual")
    return f"{len(secret)} characters"


async def check_jwks(settings: JwksSettings, algorithms: tuple[str, ...]) -> str:
    """Whether the key set can be fetched, and has keys for the algorithms."""
    # Here, because the other commands start in a third of the time without it.
    from central.auth.keys import FetchFailed, build_jwks_source, parse_jwks

    location = redact(settings.location)
    try:
        keys = parse_jwks(await build_jwks_source(settings).fetch(), algorithms)
    except (FetchFailed, ValueError) as error:
        raise Fail(f"{location}: {error}") from error
    if not keys:
        raise Fail(f"{location}: no key for {', '.join(algorithms)}")
    if settings.location.startswith("http://"):
        raise Warn(f"{location}: the keys can be replaced on the way; use https")
    return f"{location}: {len(keys)} keys"


def _check_version(session: SessionFacts) -> str:
    major = session.server_version // 10_000
    if major not in SUPPORTED_VERSIONS:
        raise Warn(f"this version was not tested with Postgres {major}")
    return f"Postgres {major}, as {session.role}"


def check_encryption(session: SessionFacts, url: str) -> str:
    """Whether somebody on the way could read or replace what the database says.

    The database sees its own end: behind a pooler that is not the connection of central's.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or ""])[0]
    if host.startswith("/") or checks.is_loopback(host):
        return "the connection does not leave this machine"
    if not session.is_encrypted:
        raise Warn(f"the connection to {host} is not encrypted: use sslmode=verify-full")
    mode = query.get("sslmode", ["prefer"])[0]
    if mode not in ("verify-ca", "verify-full"):
        raise Warn(f"sslmode is {mode}: the server is not verified; use verify-full")
    return f"encrypted, {mode}"


def _check_timeouts(session: SessionFacts) -> str:
    if session.missing_timeouts:
        raise Warn(f"the role has no {', '.join(session.missing_timeouts)}: run `migrate`")
    return "all are set on the role"


def _check_role(session: SessionFacts) -> str:
    if session.excess_rights:
        raise Fail(f"{session.role} {'; '.join(session.excess_rights)}")
    return f"{session.role} has no rights beyond its grants"


async def _check_privileges(inspection: RoleInspection) -> str:
    held = await inspection.held_privileges()
    # Which grants there are follows from the database's schema, with or without warehouses.
    if excess := held - granted_privileges(has_warehouses=True):
        raise Fail(f"more than needed: {_names(excess)}")
    if missing := granted_privileges(has_warehouses=False) - held:
        raise Fail(f"missing: {_names(missing)}; run `migrate`")
    if unreadable := await inspection.unreadable_tables():
        raise Fail(f"cannot read {', '.join(unreadable)}; run `migrate`")
    return f"{len(held)} on Texera's tables, each of them needed"


def _names(privileges: set[Privilege]) -> str:
    names = [str(privilege) for privilege in sorted(privileges)]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


async def _check_migrations(session: SessionFacts, inspection: RoleInspection) -> str:
    applied = await inspection.migrations() if session.is_migrated else {}
    known = {step.number: step for step in read_migrations()}
    missing = [step.name for number, step in known.items() if number not in applied]
    edited = [s.name for n, s in known.items() if applied.get(n, s.checksum) != s.checksum]
    newer = sorted(applied.keys() - known.keys())
    if missing:
        raise Fail(f"not applied: {', '.join(missing)}; run `migrate`")
    if edited:
        raise Fail(f"applied in another form: {', '.join(edited)}")
    if newer:
        raise Warn(f"the database is ahead of this version: {newer}")
    return f"all {len(known)} applied"
