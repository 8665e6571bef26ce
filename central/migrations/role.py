"""The login role of `serve`: made if missing, given what `central/sql/role.sql` lists, no more.

The password travels as a SCRAM verifier, as psql's \\password sends it, so that no server log
can hold it. Where the owner may not create roles, whoever may has to; the sentence says how.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import asyncpg

from central.migrations import MigrationFailed
from central.migrations.grants import grants
from central.store.queries import Query, load

SCRAM_ITERATIONS = 4096  # Postgres' own default


async def prepare_role(
    connection: "asyncpg.Connection[asyncpg.Record]",
    role_url: str,
    report: Callable[[str], None],
) -> None:
    """Makes the role of `role_url` exactly what the service needs. Raises `MigrationFailed`."""
    parts = urlsplit(role_url)
    role, password = unquote(parts.username or ""), unquote(parts.password or "")
    queries = load("role")
    facts = await connection.fetchrow(queries["role_facts"].text, role)
    assert facts is not None  # noqa: S101 (the statement always answers one row)
    if facts["is_superuser"] or facts["owns_tables"]:
        raise MigrationFailed(
            f"CENTRAL_DATABASE_URL names {role}, which is a superuser or owns Texera's tables: "
            "the service takes a role of its own, name one and it will be created"
        )
    if facts["may_create_roles"]:
        if not facts["exists"]:
            await connection.execute(_filled(queries["create_role"], role))
            report(f"created the role {role}")
        verifier = scram_verifier(password, secrets.token_bytes(16))
        await connection.execute(_filled(queries["set_up_role"], role, verifier))
    elif not facts["exists"]:
        raise MigrationFailed(
            f"the role {role} does not exist and the owner may not create it: "
            f"have `create role {_identifier(role)} login password '...'` run, then try again"
        )
    else:
        report(f"the owner may not alter roles: password and timeouts of {role} are left alone")
    for statement in grants(
        has_warehouse_column=facts["has_warehouse_column"],
        has_warehouse_table=facts["has_warehouse_table"],
    ):
        await connection.execute(_filled(statement, role))
    report(f"the role {role} has what the service needs")


def scram_verifier(password: str, salt: bytes) -> str:
    """What Postgres stores for a password (RFC 5803), made here instead of there.

    Non-ASCII passwords would need SASLprep first; they are refused.
    """
    if not password.isascii():
        raise MigrationFailed("the password in CENTRAL_DATABASE_URL must be ASCII")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    salt64, stored64, server64 = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt64}${stored64}:{server64}"


def _filled(query: Query, role: str, verifier: str = "") -> str:
    """The statements with psql's variables filled in: utility statements take no parameters.

    `:"role"` becomes a quoted identifier, `:'verifier'` a quoted literal.
    """
    values = {':"role"': _identifier(role), ":'verifier'": _literal(verifier)}
    return re.sub(r""":"role"|:'verifier'""", lambda match: values[match.group()], query.text)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
