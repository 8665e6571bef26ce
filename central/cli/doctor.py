"""`python -m central doctor`: whether this environment describes a central that can be trusted.

Changes nothing. Looks at the database as the service's own role sees it, at the key that
verifies users' tokens, and at the clocks that decide about expiry.
"""

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from central.auth.keys import FetchFailed, build_jwks_source, parse_jwks
from central.auth_settings import JwksSettings, TokenSettings, redact
from central.metrics import Metrics
from central.migrations.grants import granted_privileges
from central.migrations.runner import read_migrations
from central.settings import Settings, read_settings
from central.store.database import Database
from central.store.role_inspection import RoleInspection, SessionFacts
from kit.http.checks import Check, exit_code, fail, format_checks, ok, warn
from kit.http.problems import Problem

SUPPORTED_VERSIONS = range(14, 19)
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: as long as the hash
MIN_SECRET_BITS = 128.0
CLOCK_WARN_S = 2.0
CLOCK_FAIL_S = 30.0  # the leeway of tokens and assertions
PLACEHOLDERS = ("secret", "change", "example", "default", "password", "development", "test")
SHOWN = 8
"""How many privileges one line names."""


def add_parser(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor", help="check the database role, migrations, keys and clocks; 1 if one is bad"
    )
    doctor.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    checks = asyncio.run(examine(read_settings(variables)))
    print(format_checks(checks, as_json=options.json))
    return exit_code(checks)


async def examine(settings: Settings, *, now: Callable[[], float] = time.time) -> list[Check]:
    keys = (
        [check_secret(settings.tokens)]
        if settings.tokens.jwks is None
        else [await check_jwks("jwks of users", settings.tokens.jwks, settings.tokens.algorithms)]
    )
    if (workloads := settings.workloads) is not None:
        keys.append(await check_jwks("jwks of workloads", workloads.jwks, workloads.algorithms))
    database = Database(settings.database, Metrics(CollectorRegistry()))
    try:
        return [*keys, *await _database_checks(RoleInspection(database), now)]
    finally:
        await database.close()


def check_secret(settings: TokenSettings) -> Check:
    """How hard the shared secret is to guess, as it is used: lower-cased."""
    name = "jwt secret"
    secret = settings.secret.lower() if settings.lowercase_secret else settings.secret
    bits = len(secret) * math.log2(max(2, len(set(secret))))
    if len(secret.encode()) < MIN_SECRET_BYTES or bits < MIN_SECRET_BITS:
        wanted = f"expected {MIN_SECRET_BYTES} random bytes"
        return fail(name, f"too weak: {wanted}, got {len(secret)} characters")
    if any(word in secret.lower() for word in PLACEHOLDERS):
        return warn(name, "looks like a placeholder from a manual")
    return ok(name, f"{len(secret)} characters")


async def check_jwks(name: str, settings: JwksSettings, algorithms: tuple[str, ...]) -> Check:
    """Whether the key set can be had now, and has keys for the algorithms."""
    where = redact(settings.location)
    try:
        keys = parse_jwks(await build_jwks_source(settings).fetch(), algorithms)
    except (FetchFailed, ValueError) as error:
        return fail(name, f"{where}: {error}")
    if not keys:
        return fail(name, f"{where}: no key for {', '.join(algorithms)}")
    if settings.location.startswith("http://"):
        return warn(name, f"{where}: whoever is on the way can replace the keys; use https")
    return ok(name, f"{where}: {len(keys)} keys")


async def _database_checks(examination: RoleInspection, now: Callable[[], float]) -> list[Check]:
    try:
        asked_at = now()
        session = await examination.session()
        offset_s = session.database_now.timestamp() - (asked_at + now()) / 2
        checks = [_server(session), _clock(offset_s), _timeouts(session), _role(session)]
        if not session.is_texeras:
            return [*checks, fail("schema", "there is no table texera_db.workflow_executions")]
        checks.append(await _privileges(examination))
        if not session.is_migrated:
            return [*checks, fail("migrations", "none was applied: run `migrate`")]
        return [*checks, await _own_tables(examination), await _migrations(examination)]
    except Problem as problem:
        return [fail("database", problem.detail)]


def _server(session: SessionFacts) -> Check:
    major = session.server_version // 10_000
    if major not in SUPPORTED_VERSIONS:
        return warn("database", f"Postgres {major} is none that this version was tested with")
    return ok("database", f"Postgres {major}, as {session.role}")


def _clock(offset_s: float) -> Check:
    detail = f"the database is {offset_s:+.2f} s from this machine"
    if abs(offset_s) > CLOCK_FAIL_S:
        return fail("clock", detail)
    return warn("clock", detail) if abs(offset_s) > CLOCK_WARN_S else ok("clock", detail)


def _timeouts(session: SessionFacts) -> Check:
    timeouts = {
        "statement_timeout": session.statement_timeout,
        "lock_timeout": session.lock_timeout,
        "idle_in_transaction_session_timeout": session.idle_timeout,
    }
    missing = [name for name, value in timeouts.items() if value == "0"]
    if missing:
        return warn("timeouts", f"the role has none for {', '.join(missing)}: run `migrate`")
    return ok("timeouts", ", ".join(f"{name} {value}" for name, value in timeouts.items()))


def _role(session: SessionFacts) -> Check:
    if session.is_superuser:
        return fail("role", f"{session.role} is a superuser")
    if session.has_cluster_rights:
        return fail("role", f"{session.role} may create roles or databases, or replicate")
    if session.member_of:
        return fail("role", f"{session.role} is a member of {', '.join(session.member_of)}")
    return ok("role", f"{session.role} has no rights beyond its grants")


async def _privileges(examination: RoleInspection) -> Check:
    held = await examination.held_privileges()
    # Whether there are warehouses is the database's to say: the grants follow its schema.
    warehouses = granted_privileges(has_warehouses=True)
    missing = granted_privileges(has_warehouses=False) - held
    excess = held - warehouses
    if excess:
        return fail("privileges", f"more than needed: {_some(excess)}")
    if missing:
        return fail("privileges", f"missing: {_some(missing)}; run `migrate`")
    return ok("privileges", f"{len(held)} on Texera's tables, each of them needed")


def _some(privileges: set[Any]) -> str:
    names = [str(privilege) for privilege in sorted(privileges)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


async def _own_tables(examination: RoleInspection) -> Check:
    unreadable = await examination.unreadable_tables()
    if unreadable:
        return fail("own tables", f"cannot be read: {', '.join(unreadable)}; run `migrate`")
    return ok("own tables", "all can be read")


async def _migrations(examination: RoleInspection) -> Check:
    applied = await examination.migrations()
    known = {step.number: step for step in read_migrations()}
    missing = [step.name for number, step in known.items() if number not in applied]
    edited = [s.name for n, s in known.items() if n in applied and applied[n] != s.checksum]
    if missing:
        return fail("migrations", f"not applied: {', '.join(missing)}; run `migrate`")
    if edited:
        return fail("migrations", f"applied in another form: {', '.join(edited)}")
    newer = sorted(applied.keys() - known.keys())
    if newer:
        return warn("migrations", f"the database is ahead of this version: {newer}")
    return ok("migrations", f"all {len(known)} applied")
