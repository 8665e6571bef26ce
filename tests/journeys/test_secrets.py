"""Nothing secret in what the processes write: logs, `/status`, metrics, responses, the spool.

A whole system is used, misused, crashed and started again; then everything that it wrote is
searched for every secret that it was given.
"""

import json
import os
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import pytest

from dev.polling import wait_until
from dev.tokens import JWT_SECRET, mint
from tests.databases import open_folder
from tests.journeys.calls import call, create, create_with_token
from tests.systems import Up, running_system, wait_until_gone

BODY = "canary-of-a-body-4f1c"
"""Texts of users belong in the database and, until then, in the spool; never in a log."""


@pytest.fixture(scope="module")
def artifacts() -> Iterator[tuple[dict[str, str], dict[str, bytes]]]:
    """The secrets by name, and everything that was written by where."""
    with open_folder() as folder, running_system(folder) as up:
        responses = used_and_misused(up)
        crashed(up, folder)
        responses += used_and_misused(up)
        run_token, more = used_by_run_token(up)
        written = {"responses": (responses + more).encode(), **pages(up), **files(folder)}
        yield {**secrets_of(up, folder), "a run token": run_token}, written


def used_and_misused(up: Up) -> str:
    """The text of every response."""
    ready, responses = up.ready, []
    owner, stranger = ready["users"]["owner"]["token"], ready["users"]["stranger"]["token"]
    run = f"/v1/executions/{create(ready)}"
    forged = mint(1, secret="canary-of-a-forger")
    for method, path, body, token in (
        ("PATCH", run, {"status": "RUNNING", "result": BODY}, owner),
        ("GET", run, None, owner),
        ("GET", f"{run}/uris", None, owner),
        ("GET", "/v1/writes", None, owner),
        ("PATCH", run, {"status": "KILLED"}, stranger),
        ("PATCH", run, {"status": BODY, BODY: 1}, owner),
        ("GET", run, None, forged),
        ("GET", run, None, owner[:-4] + "AAAA"),
        ("GET", run, None, mint(1, ttl_s=-3600)),
        ("PUT", f"{run}/operators/op-1/console", {"uri": f"vfs:///{BODY}"}, owner),
        ("PATCH", run, {"status": "COMPLETED"}, owner),
        ("PATCH", run, {"status": "FAILED"}, owner),
        ("POST", "/v1/flush?timeout=20", None, owner),
    ):
        status, response, headers = call(ready, method, path, body, token=token)
        if response.get("type") == "invalid-request":
            response = {}  # it names the caller's own fields to the caller
        responses.append(f"{status} {json.dumps(response)} {headers}")
    responses.append(direct(ready["central"] + run, owner))
    responses.append(direct(ready["central"] + "/v1/batches", owner, b'{"wire": "' + b"x" * 99))
    return "\n".join(responses).replace(BODY, "")


def used_by_run_token(up: Up) -> tuple[str, str]:
    """A run token's secret, and the text of the responses to calls with it."""
    execution_id, token = create_with_token(up.ready)
    run = f"/v1/executions/{execution_id}"
    calls: tuple[tuple[str, str, Any], ...] = (
        ("PATCH", run, {"status": "RUNNING"}),
        ("GET", run, None),
        ("GET", "/v1/writes", None),
        ("GET", "/v1/executions/1", None),
    )
    responses = [call(up.ready, *given, token=token) for given in calls]
    responses += [call(up.ready, *given, token=token + "x") for given in calls]
    text = json.dumps(responses) + direct(up.ready["central"] + run, token)
    return token.split("_", 2)[2], text


def direct(url: str, token: str, body: bytes | None = None) -> str:
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return f"{response.headers}{response.read().decode()}"
    except HTTPError as error:
        with error:
            return f"{error.headers}{error.read().decode()}"


def crashed(up: Up, folder: Path) -> None:
    """Both services die with a signal that dumps what a process has at hand, and come back."""
    for role in ("sidecar", "central"):
        pid = up.published(role)["pid"]
        os.kill(pid, signal.SIGABRT)
        assert wait_until_gone([pid], 20) == []
    for role in ("central", "sidecar"):
        up.restart(role, folder / f"{role}-again.log")
    ready = up.ready
    assert wait_until(lambda: serves(ready["central_ops"]) and serves(ready["sidecar_ops"]), 30)


def serves(ops: str) -> bool:
    try:
        with urllib.request.urlopen(f"{ops}/readyz", timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def pages(up: Up) -> dict[str, bytes]:
    """What the listeners show to whoever asks."""
    found = {}
    for base in (up.ready["sidecar_ops"], up.ready["central_ops"]):
        for path in ("/", "/page.json", "/status", "/metrics", "/readyz", "/livez", "/nothing"):
            found[base + path] = direct(base + path, "none").encode()
    for base in (up.ready["sidecar"], up.ready["central"]):
        found[base + "/openapi.json"] = direct(base + "/openapi.json", "none").encode()
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the system but Postgres's own, the ready file and the sidecar's key."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in {"ready.json", "source-key.pem"}
        and "postgres" not in path.relative_to(folder).parts
    }


def secrets_of(up: Up, folder: Path) -> dict[str, str]:
    environment = up.published("central")["env"]
    (key,) = folder.rglob("source-key.pem")
    found = {
        "the key that signs tokens": JWT_SECRET,
        "the key that signs run tokens": environment["CENTRAL_RUN_TOKEN_KEYS"].partition(":")[2],
        "central's database password": unquote(
            urlsplit(environment["CENTRAL_DATABASE_URL"]).password or ""
        ),
        "the owner's database password": unquote(urlsplit(up.ready["database"]).password or ""),
        "the sidecar's private key": key.read_text().splitlines()[1],
    }
    for name, account in up.ready["users"].items():
        found[f"the signature of {name}'s token"] = account["token"].rpartition(".")[2]
    assert all(len(secret) >= 12 for secret in found.values()), found.keys()
    return found


def places(written: dict[str, bytes], secret: str) -> list[str]:
    return [where for where, text in written.items() if secret.lower().encode() in text.lower()]


def test_no_secret_is_written_anywhere(artifacts: tuple[dict[str, str], dict[str, bytes]]) -> None:
    secrets, written = artifacts

    found = {name: places(written, secret) for name, secret in secrets.items()}
    assert {name: where for name, where in found.items() if where} == {}


def test_no_body_is_in_a_log_or_on_a_page(
    artifacts: tuple[dict[str, str], dict[str, bytes]],
) -> None:
    _, written = artifacts

    assert [where for where in places(written, BODY) if "spool" not in where] == []


def test_the_search_looked_at_what_it_should(
    artifacts: tuple[dict[str, str], dict[str, bytes]],
) -> None:
    """A search of the wrong files would find nothing either."""
    _, written = artifacts

    names = {Path(where).name for where in written}
    assert {"sidecar.log", "central.log", "sidecar-again.log", "spool.sqlite3"} <= names
    assert any(b"write refused" in text for text in written.values())
    assert any(where.endswith("/metrics") and b"_total" in text for where, text in written.items())


def test_the_spool_keeps_digests_and_no_tokens(up: Up) -> None:
    ready = up.ready
    create(ready)
    (spool,) = [
        Path(up.published("sidecar")["env"]["SIDECAR_SPOOL_DIR"]) / "spool.sqlite3",
    ]
    with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as file:
        rows: list[Any] = file.execute("SELECT token_digest FROM grants").fetchall()

    assert rows
    assert all(len(digest) == 32 for (digest,) in rows)
