"""The sidecar holds no secret of others, and allows no more than central does."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dev.ready import Ready
from dev.tokens import JWT_SECRET, mint
from tests.journeys.calls import call, create
from tests.systems import Up

PORT = "(logicalOpId=op-1,layerName=main,portId=0,isInternal=false,isInput=false)"


def test_the_sidecars_process_holds_no_secret_of_others(up: Up) -> None:
    environment = Path(f"/proc/{up.published('sidecar')['pid']}/environ").read_bytes()
    maps = Path(f"/proc/{up.published('sidecar')['pid']}/maps").read_text()

    assert b"postgres" not in environment.lower()
    assert JWT_SECRET.lower().encode() not in environment.lower()
    assert "asyncpg" not in maps


def test_the_volume_is_for_the_sidecars_own_uid_alone(up: Up) -> None:
    create(up.ready)
    folder = Path(up.published("sidecar")["env"]["SIDECAR_SPOOL_DIR"])

    modes = {path.name: path.stat().st_mode for path in (folder, *folder.rglob("*"))}

    assert {"spool.sqlite3", "spool.sqlite3-wal"} <= modes.keys()
    assert {name for name, mode in modes.items() if mode & 0o077} == set()


def test_the_sidecar_imports_neither_asyncpg_nor_jwt() -> None:
    program = (
        "import sys, sidecar.lifecycle, sidecar.__main__;"
        "print(sorted({'asyncpg', 'jwt', 'central'} & sys.modules.keys()))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )

    assert done.stdout.strip() == "[]", done.stderr


def unsigned(token: str, header: str) -> str:
    return ".".join([header, token.split(".")[1], ""])


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        mint(1, "REGULAR", ttl_s=-3600),
        mint(1, "REGULAR")[:-4] + "AAAA",
        unsigned(mint(1, "REGULAR"), "eyJhbGciOiJub25lIn0"),
        unsigned(mint(1, "REGULAR"), mint(1, "REGULAR").split(".")[0]),
    ],
    ids=["nonsense", "expired", "wrong-signature", "alg-none", "unsigned"],
)
def test_a_bad_token_gets_401_whether_the_value_is_cached_or_not(system: Ready, token: str) -> None:
    execution_id = create(system)
    path = f"/v1/executions/{execution_id}"

    for method, target, body in (
        ("GET", f"{path}/uris", None),
        ("GET", path, None),
        ("PATCH", path, {"status": "RUNNING"}),
    ):
        status, problem, _ = call(system, method, target, body, token=token)
        assert (status, problem["status"]) == (401, 401), (method, target, problem)


def test_a_stranger_sees_and_changes_nothing_cached_or_not(system: Ready) -> None:
    execution_id = create(system)
    path, users = f"/v1/executions/{execution_id}", system["users"]
    uri = f"vfs:///wid/{system['workflow_id']}/eid/{execution_id}/globalportid/{PORT}/result"
    owner, stranger = users["owner"]["token"], users["stranger"]["token"]
    put = call(system, "PUT", f"{path}/ports/{PORT}", {"result_uri": uri}, token=owner)
    seen = call(system, "GET", f"{path}/uris", token=owner)

    statuses = [
        call(system, "GET", f"{path}/uris", token=stranger)[0],
        call(system, "GET", f"{path}/result-uri?operator_id=op-1", token=stranger)[0],
        call(system, "PATCH", path, {"status": "KILLED"}, token=stranger)[0],
        call(system, "GET", f"/v1/writes/{put[1]['write_id']}", token=stranger)[0],
    ]

    assert (put[0], seen[0], seen[1]["results"][0]["uri"]) == (202, 200, uri)
    assert statuses == [404, 404, 404, 404]
    assert (
        call(system, "PATCH", path, {"status": "KILLED"}, token=users["reader"]["token"])[0] == 403
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"status": "DONE"}, "status"),
        ({"runtime_stats_bytes": -1}, "runtime_stats_bytes"),
        ({"colour": "red"}, "colour"),
        ({"name": "x" * 129}, "name"),
        ({"result": "\x00"}, "result"),
    ],
)
def test_a_malformed_body_gets_a_problem_that_names_the_field(
    system: Ready, body: Any, field: str
) -> None:
    token = system["users"]["owner"]["token"]

    status, problem, headers = call(
        system, "PATCH", f"/v1/executions/{create(system)}", body, token=token
    )

    assert (status, problem["type"]) == (400, "invalid-request")
    assert headers["Content-Type"] == "application/problem+json"
    assert field in [error["field"] for error in problem["errors"]]


def test_own_writes_are_visible_at_once(system: Ready) -> None:
    token = system["users"]["owner"]["token"]
    execution_id = create(system)
    path = f"/v1/executions/{execution_id}"

    for status_name in ("RUNNING", "PAUSED", "RUNNING", "COMPLETED"):
        assert call(system, "PATCH", path, {"status": status_name}, token=token)[0] == 202
        assert call(system, "GET", path, token=token)[1]["status"] == status_name


def test_a_long_poll_returns_when_the_uri_appears(system: Ready) -> None:
    token = system["users"]["owner"]["token"]
    execution_id = create(system)
    path = f"/v1/executions/{execution_id}"
    uri = f"vfs:///wid/{system['workflow_id']}/eid/{execution_id}/globalportid/{PORT}/result"

    absent = call(system, "GET", f"{path}/result-uri?operator_id=op-1&wait=0.2", token=token)
    with ThreadPoolExecutor(1) as waiting:
        found = waiting.submit(
            call, system, "GET", f"{path}/result-uri?operator_id=op-1&wait=20", token=token
        )
        call(system, "PUT", f"{path}/ports/{PORT}", {"result_uri": uri}, token=token)

    assert (absent[0], absent[1]["type"]) == (404, "result-uri-not-found")
    assert found.result()[1]["uri"] == uri
