"""What a token with few rights, and keys of one's own making, reach of others."""

import asyncio
import http.client
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from dev.polling import wait_until
from dev.ready import Ready
from tests.attacks.conftest import Record
from tests.attacks.hostile import TIMEOUT_S
from tests.databases import ROOT, open_folder
from tests.integration.central.signing import SigningKey, base64url
from tests.systems import Up, running_system

ACCOUNT_CHECK_S = 2


@pytest.fixture(scope="module")
def attacked() -> Iterator[Up]:
    setting = f"CENTRAL_ACCOUNT_CHECK_S={ACCOUNT_CHECK_S}"
    with open_folder() as folder, running_system(folder, "--set", setting) as up:
        yield up


def local(system: Ready, user: str, method: str, target: str, body: Any = None) -> tuple[int, Any]:
    """A call of the unit, through its sidecar."""
    token = system["users"][user]["token"]
    headers = {"Authorization": f"Bearer {token}", "Prefer": "wait=10"}
    return exchange(system["sidecar"], method, target, body, headers)


def direct(
    system: Ready, key: SigningKey, user: str, method: str, target: str, body: Any = None
) -> tuple[int, Any]:
    """A call to central, with a key of the attacker's."""
    content = b"" if body is None else json.dumps(body).encode()
    idempotency_key = None if method == "GET" else secrets.token_hex(8)
    token = system["users"][user]["token"]
    headers = key.headers(method, target, content, token=token, idempotency_key=idempotency_key)
    return exchange(system["central"], method, target, body, headers)


def exchange(
    url: str, method: str, target: str, body: Any, headers: dict[str, str]
) -> tuple[int, Any]:
    host = urlsplit(url)
    connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=TIMEOUT_S)
    content = None if body is None else json.dumps(body)
    if content is not None:
        headers = headers | {"Content-Type": "application/json"}
    connection.request(method, target, content, headers)
    response = connection.getresponse()
    received = response.read()
    connection.close()
    return response.status, json.loads(received) if received else None


def create(system: Ready, workflow_id: int, **more: Any) -> tuple[int, Any]:
    """A run of the unit's owner on the unit."""
    unit = system["computing_unit_id"]
    body = {"workflow_id": workflow_id, "computing_unit_id": unit, "environment_version": "x"}
    return local(system, "owner", "POST", "/v1/executions", body | more)


def query(system: Ready, statement: str, *values: Any) -> Any:
    """The first value, as the tables' owner."""

    async def fetch() -> Any:
        connection = await asyncpg.connect(system["database"])
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def test_a_boot_from_outside_bricks_no_unit(system: Ready, record: Record, rounds: int) -> None:
    boots = f"/v1/computing-units/{system['computing_unit_id']}/boots"
    assert local(system, "owner", "POST", boots, {"boot_id": "real"})[0] == 200
    assert create(system, system["workflow_id"])[0] == 201

    refused = [
        direct(system, SigningKey(), "writer", "POST", boots, {"boot_id": f"evil-{number}"})
        for number in range(rounds)
    ]

    assert {(status, body["type"]) for status, body in refused} == {(403, "boot-forbidden")}
    assert create(system, system["workflow_id"])[0] == 201
    record("403 boot-forbidden; the unit creates as before, its runs go on")


def test_a_readers_run_steers_nobody(system: Ready, record: Record) -> None:
    """The public workflow is the stranger's; the owner of the unit may only read and run it."""
    workflow = f"/v1/workflows/{system['public_workflow_id']}"
    paths = (f"{workflow}/operator-costs", f"{workflow}/executions/latest")
    before = [local(system, "stranger", "GET", path) for path in paths]
    _, run = create(system, system["public_workflow_id"])
    run_path = f"/v1/executions/{run['execution_id']}"
    costs = {"operators": {"op-1": 1e9}}
    assert local(system, "owner", "PUT", f"{run_path}/operator-costs", costs)[0] == 200
    assert local(system, "owner", "PATCH", run_path, {"status": "COMPLETED"})[0] == 200

    after = [local(system, "stranger", "GET", path) for path in paths]

    assert after == before
    record("its owner sees the costs, and the latest run, of the workflow's writers")


def test_a_name_is_shown_as_it_is(system: Ready, record: Record) -> None:
    refused = [
        create(system, system["workflow_id"], name=name)
        for name in ("report\u202efdp.exe", "a\x1b[2Jb", "a\nb", "a\u2066b")
    ]

    assert {(status, body["type"]) for status, body in refused} == {(400, "invalid-request")}
    record("400 invalid-request that names the field")


def test_refusals_do_not_drown_the_audit(system: Ready, record: Record, rounds: int) -> None:
    key, count = SigningKey(), 120 * rounds
    target = f"/v1/executions/{system['workflow_id']}/binding"  # no execution has this id
    for _ in range(count):
        assert direct(system, key, "stranger", "POST", target, {})[0] == 404

    def is_all_recorded() -> bool:
        total = query(
            system,
            "select (select count(*) from cu_metadata.refusals where user_id = $1)"
            " + (select coalesce(sum(refused_count), 0) from cu_metadata.refusal_counts"
            "    where user_id = $1)",
            system["users"]["stranger"]["user_id"],
        )
        return bool(total == count)

    assert wait_until(is_all_recorded, 30)
    record(f"all {count} are recorded: 100 as rows, the others as counts")


def test_an_altered_audit_is_found(system: Ready, record: Record) -> None:
    _, run = create(system, system["workflow_id"])

    def verify() -> subprocess.CompletedProcess[str]:
        environment = os.environ | system["processes"]["central"]["env"]
        return subprocess.run(
            [sys.executable, "-m", "central", "audit", "verify"],
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def is_linked() -> bool:
        return bool(
            query(
                system,
                "select not exists (select from cu_metadata.audit_events event where not exists"
                " (select from cu_metadata.audit_links link where link.event_id = event.id))",
            )
        )

    assert wait_until(is_linked, 60)
    intact = verify()
    query(
        system,
        "update cu_metadata.audit_events set user_id = 99 where execution_id = $1",
        run["execution_id"],
    )

    done = verify()

    assert intact.returncode == 0
    assert ", 0 not yet" in intact.stdout
    assert done.returncode == 1
    assert "was changed" in done.stderr
    record("creates, binds, take-overs, boots, deletions and revocations are in a chain: found")


def test_an_id_has_one_spelling(system: Ready, record: Record) -> None:
    key, spellings = SigningKey(), ("502.0", "+502", "0502", "5.02e2", "%2B502", "0502.0")
    for spelling in spellings:
        target = f"/v1/executions/{spelling}"
        assert local(system, "owner", "GET", target)[0] == 400
        assert direct(system, key, "owner", "GET", target)[0] == 400
    _, run = create(system, system["workflow_id"])
    for identifier in ("..", ".", "a%2Fb", "%2e%2e", "a\u202eb"):
        path = (
            f"/v1/executions/{run['execution_id']}/operators/{quote(identifier, safe='')}/console"
        )
        assert local(system, "owner", "PUT", path, {"uri": "vfs:///x"})[1]["errors"][0][
            "field"
        ] == ("operator_id")
    record("400 invalid-request on both services")


def test_a_stolen_run_token_reaches_its_run_alone(
    system: Ready, record: Record, rounds: int
) -> None:
    workflow, unit = system["workflow_id"], system["computing_unit_id"]
    _, run = create(system, workflow, run_token=True)
    _, other = create(system, workflow, run_token=True)
    stolen = {"Authorization": f"Bearer {run['run_token']}"}
    own, others = (f"/v1/executions/{which['execution_id']}" for which in (run, other))
    new = {"workflow_id": workflow, "computing_unit_id": unit, "environment_version": "x"}
    several = {"workflow_id": workflow, "execution_ids": [run["execution_id"]]}
    calls = [
        ("POST", "/v1/executions", new),
        ("GET", others, None),
        ("PATCH", others, {"status": "KILLED"}),
        ("DELETE", f"{others}/uris", None),
        ("GET", f"/v1/workflows/{workflow}/executions", None),
        ("GET", f"/v1/workflows/{workflow}/executions/latest", None),
        ("POST", "/v1/executions/delete", several),
        ("POST", f"/v1/computing-units/{unit}/boots", {"boot_id": "evil"}),
        ("GET", "/v1/writes", None),
    ]

    by_sidecar = {
        exchange(system["sidecar"], method, target, body, stolen)[1]["type"]
        for method, target, body in calls * rounds
    }
    key = SigningKey()
    signed = key.headers("GET", own, b"", token=run["run_token"])
    by_central = {
        exchange(system["central"], "GET", own, None, headers)[1]["type"]
        for headers in (stolen, signed)
    }

    assert exchange(system["sidecar"], "GET", own, None, stolen)[0] == 200
    assert by_sidecar == {"run-token-scope"}
    assert by_central == {"token-invalid"}
    record("one run: 403 for every other call of the sidecar, 401 at central")


def test_a_key_of_small_order_signs_nothing(system: Ready, record: Record) -> None:
    target, token = "/v1/executions/502", system["users"]["owner"]["token"]
    headers = SigningKey().headers("GET", target, token=token)
    _, claims, _ = headers["Sidecar-Assertion"].split(".")
    identity = bytes([1]) + bytes(31)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(identity)}
    header = {"alg": "EdDSA", "typ": "sidecar-assertion+jwt", "jwk": jwk}
    signature = identity + bytes(32)
    forged = ".".join([base64url(json.dumps(header).encode()), claims, base64url(signature)])

    status, body = exchange(
        system["central"], "GET", target, None, headers | {"Sidecar-Assertion": forged}
    )

    assert (status, body["type"]) == (401, "assertion-invalid")
    record("401 assertion-invalid")


def test_a_demoted_user_reads_no_longer(system: Ready, record: Record) -> None:
    role = (
        """update texera_db."user" set role = $1::text::texera_db.user_role_enum where uid = $2"""
    )
    reader, key = system["users"]["reader"]["user_id"], SigningKey()
    assert direct(system, key, "reader", "GET", "/v1/executions/502")[0] == 200
    query(system, role, "RESTRICTED", reader)

    def is_refused() -> bool:
        return direct(system, key, "reader", "GET", "/v1/executions/502")[0] == 403

    assert wait_until(is_refused, ACCOUNT_CHECK_S + 10)
    query(system, role, "REGULAR", reader)
    record("403 user-demoted within CENTRAL_ACCOUNT_CHECK_S")
