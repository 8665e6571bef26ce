"""`python -m central doctor`: each thing that can be wrong with an environment, made wrong."""

import json
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from central.auth_settings import TokenSettings
from central.cli.doctor import check_encryption, check_secret, run_checks
from central.metrics import Metrics
from central.migrations.grants import granted_privileges
from central.settings import DatabaseSettings, read_settings
from central.store.database import Database as StoreDatabase
from central.store.role import RoleInspection
from dev.tokens import JWT_SECRET
from kit.http.checks import Check, CheckStatus, Fail, Warn
from tests.certificates import CLIENTS_ONLY, DAY, Authority, files_in
from tests.databases import CENTRAL_ROLE, Database, connected
from tests.integration.central.command_fixtures import central
from tests.integration.central.issuer import EC_KEY, RSA_KEY, Issuer, jwk
from tests.integration.central.test_role import COLUMNS, TABLES

STRONG = "kq7v-2m9x-zr4t-8c1w-p6ya-0hgd-5ufb-3sne"


UNDO = [
    "REVOKE pg_read_all_data FROM {role}",
    "ALTER ROLE {role} NOSUPERUSER NOCREATEDB",
    "ALTER ROLE {role} SET lock_timeout = '3s'",
]


async def found(database: Database, **variables: str) -> dict[str, Check]:
    environment = {
        "CENTRAL_DATABASE_URL": database.central_url,
        "CENTRAL_JWT_SECRET": STRONG,
        **{f"CENTRAL_{name}": value for name, value in variables.items()},
    }
    settings = read_settings({name: value for name, value in environment.items() if value})
    return {check.name: check for check in await run_checks(settings)}


def bad(checks: dict[str, Check]) -> dict[str, str]:
    return {name: c.detail for name, c in checks.items() if c.status is not CheckStatus.OK}


async def test_a_migrated_database_and_a_strong_secret_pass(database: Database) -> None:
    checks = await found(database)

    assert bad(checks) == {}
    assert set(checks) == {
        *("jwt secret", "database", "clock", "encryption", "timeouts", "role", "privileges"),
        "migrations",
    }


async def test_grants_on_warehouses_are_no_excess(warehouse_database: Database) -> None:
    assert bad(await found(warehouse_database)) == {}


async def test_the_command_prints_lines_or_json(database: Database) -> None:
    lines = central(database.central_url, "doctor", CENTRAL_JWT_SECRET=STRONG)
    for_scripts = central(database.central_url, "doctor", "--json")

    assert lines.exit_code == for_scripts.exit_code == 0
    assert {line.split()[0] for line in lines.output.splitlines()} == {"OK"}
    by_name = {check["name"]: check for check in json.loads(for_scripts.output)["checks"]}
    assert by_name["jwt secret"]["status"] == "warn"  # `dev up`'s own says what it is
    for text in (lines.output + lines.errors, for_scripts.output + for_scripts.errors):
        assert STRONG not in text
        assert JWT_SECRET.lower() not in text.lower()


@pytest.mark.parametrize(
    ("statement", "name", "words"),
    [
        ('GRANT SELECT (password) ON texera_db."user" TO {role}', "privileges", "(password) on us"),
        ("GRANT TRUNCATE ON texera_db.workflow TO {role}", "privileges", "TRUNCATE on workflow"),
        ("GRANT SELECT ON texera_db.dataset TO PUBLIC", "privileges", "more than needed"),
        ("REVOKE SELECT (uid) ON texera_db.\"user\" FROM {role}", "privileges", "missing"),
        ("GRANT pg_read_all_data TO {role}", "role", "a member of pg_read_all_data"),
        ("ALTER ROLE {role} CREATEDB", "role", "may create"),
        ("GRANT DELETE ON cu_metadata.audit_events TO {role}", "role", "may alter cu_metadata"),
        ("GRANT UPDATE ON cu_metadata.audit_links TO {role}", "role", "may alter cu_metadata"),
        ("ALTER ROLE {role} SUPERUSER", "role", "superuser"),
        ("ALTER ROLE {role} SET lock_timeout = 0", "timeouts", "lock_timeout"),
        ("REVOKE SELECT ON cu_metadata.leases FROM {role}", "privileges", "cannot read leases"),
        ("DELETE FROM cu_metadata.migrations", "migrations", "not applied: 0001"),
        ("UPDATE cu_metadata.migrations SET checksum = ''", "migrations", "another form"),
        (
            "INSERT INTO cu_metadata.migrations VALUES (9999, 'x', 'y')",
            "migrations", "the database is ahead",
        ),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_the_database_is_named(
    database: Database, statement: str, name: str, words: str
) -> None:
    async with connected(database.superuser_url) as connection:
        await connection.execute(statement.format(role=CENTRAL_ROLE))
        try:
            lines = bad(await found(database))
        finally:
            for undo in UNDO:  # the whole cluster shares the role
                await connection.execute(undo.format(role=CENTRAL_ROLE))

    assert words in lines[name]


@pytest.mark.parametrize(
    ("server", "is_encrypted", "words"),
    [
        ("127.0.0.1", False, None),
        ("[::1]:5432", False, None),
        ("localhost", False, None),
        ("/x?host=/run/postgresql", False, None),
        ("db.example", False, "not encrypted"),
        ("10.0.0.7", False, "not encrypted"),
        ("db.example", True, "sslmode is prefer"),
        ("db.example/x?sslmode=require", True, "sslmode is require"),
        ("db.example/x?sslmode=verify-ca", True, None),
        ("db.example/x?sslmode=verify-full", True, None),
        ("127.0.0.1/x?host=db.example", False, "not encrypted"),
    ],
)
async def test_a_database_that_is_reached_without_tls_is_named(
    database: Database, server: str, is_encrypted: bool, words: str | None
) -> None:
    pool = StoreDatabase(DatabaseSettings(database.central_url), Metrics(CollectorRegistry()))
    session = await RoleInspection(pool).session()
    await pool.close()
    assert not session.is_encrypted  # this one, on loopback

    def check() -> str:
        facts = msgspec.structs.replace(session, is_encrypted=is_encrypted)
        return check_encryption(facts, f"postgresql://central:hidden@{server}")

    if words is None:
        assert check()
    else:
        with pytest.raises(Warn, match=words) as raised:
            check()
        assert "hidden" not in str(raised.value)


async def test_another_role_has_more_privileges_than_needed(database: Database) -> None:
    owner = await found(database, DATABASE_URL=database.owner_url)

    assert "more than needed" in owner["privileges"].detail


async def test_an_unreachable_database_is_one_failed_check() -> None:
    done = central("postgresql://nobody:hidden@127.0.0.1:9/x", "doctor", CENTRAL_JWT_SECRET=STRONG)

    assert done.exit_code == 1
    assert "FAIL  database" in done.output
    assert "hidden" not in done.output + done.errors


@pytest.mark.parametrize(
    ("secret", "raised"),
    [
        ("short", Fail),
        ("a" * 64, Fail),
        ("ab" * 40, Fail),
        ("Please-Change-This-Secret-In-Production-0123456789", Warn),
    ],
)
def test_a_guessable_secret_is_reported(secret: str, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught:
        check_secret(TokenSettings(secret))

    assert secret not in str(caught.value)
    assert check_secret(TokenSettings(STRONG)) == f"{len(STRONG)} characters"


async def test_a_key_set_is_checked(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    by_url = {"JWT_SECRET": "", "JWT_ALGORITHMS": "RS256", "JWT_JWKS": issuer.url}

    assert "use https" in bad(await found(database, **by_url))["jwks of users"]

    issuer.document = {"keys": [jwk(EC_KEY, "ec")]}
    assert "no key for RS256" in bad(await found(database, **by_url))["jwks of users"]

    issuer.status = 302
    assert "returned 302" in bad(await found(database, **by_url))["jwks of users"]

    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwk(RSA_KEY, "one")]}))
    by_file = by_url | {"JWT_JWKS": str(tmp_path / "jwks.json")}
    assert bad(await found(database, **by_file)) == {}


async def test_files_of_tls_that_cannot_work_are_named(database: Database, tmp_path: Path) -> None:
    authority, own, client = Authority(), files_in(tmp_path), files_in(tmp_path, "client")
    authority.issue(own, ends_in=30 * DAY)
    authority.issue(client, usage=CLIENTS_ONLY)
    ca_file = authority.write(tmp_path / "ca", ends_in=30 * DAY)
    tls = {"TLS_CERT_FILE": str(own.certificate), "TLS_KEY_FILE": str(own.key)}
    clients = {"TLS_CLIENT_CA_FILE": str(ca_file)}

    assert bad(await found(database, **tls, **clients)) == {}
    mixed = await found(database, **tls | {"TLS_KEY_FILE": str(client.key)})
    assert "key values mismatch" in bad(mixed)["certificate"]
    foreign = {"TLS_CERT_FILE": str(client.certificate), "TLS_KEY_FILE": str(client.key)}
    assert "purpose" in bad(await found(database, **foreign))["certificate"]
    missing = await found(database, **tls, TLS_CLIENT_CA_FILE=str(tmp_path / "none"))
    assert "No such file" in bad(missing)["ca of clients"]
    authority.issue(own, ends_in=DAY / 10)
    assert "expires soon" in bad(await found(database, **tls))["certificate"]


def test_granted_privileges_are_parsed_from_the_grants() -> None:
    granted = granted_privileges(has_warehouses=False)

    columns: dict[tuple[str, str], set[str]] = {}
    for privilege in granted:
        if privilege.column:
            columns.setdefault((privilege.table, privilege.privilege), set()).add(privilege.column)
    assert columns == COLUMNS
    assert {(p.table, p.privilege) for p in granted if not p.column} == TABLES
