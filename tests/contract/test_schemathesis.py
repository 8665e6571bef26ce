"""schemathesis over both OpenAPI documents: all its checks, real processes, a real Postgres.

Requests are drawn from the document that the service serves: its examples, the edges of every
schema, values that fit and values that do not, sequences of calls that use each other's answers.
What it understands the document to promise is its own reading. In tests/integration/test_fuzz.py
it is ours, of which the document is made, too.
"""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from dev.ready import Ready
from dev.vfs_uri import console_uri, global_port_id, result_uri
from tests.databases import open_folder
from tests.integration.central.signing import SigningKey
from tests.systems import ROOT, running_system

CONFIGURATION = Path(__file__).parent / "schemathesis" / "schemathesis.toml"
RUNS = range(1001, 1011)
"""The executions that the configuration names."""
PORT, OPERATOR = global_port_id("op-1", 0), "op-1"
UNLIMITED = [
    f"--set={name}=0"
    for name in (
        "CENTRAL_LIMIT_USER_CALLS_PER_S",
        "CENTRAL_LIMIT_SOURCE_CALLS_PER_S",
        "CENTRAL_LIMIT_USER_BYTES_PER_S",
        "CENTRAL_LIMIT_SOURCE_BYTES_PER_S",
        "SIDECAR_LIMIT_WRITES_PER_S",
        "SIDECAR_LIMIT_WRITE_BYTES_PER_S",
    )
]
RUN_TIMEOUT_S = 600.0  # 20 s where nothing else runs: only a hang reaches it

Headers = Callable[[str, str, bytes], dict[str, str]]
"""The headers of a call: of its method, target and body."""


@pytest.fixture
def system() -> Iterator[Ready]:
    with open_folder() as folder, running_system(folder, *UNLIMITED) as up:
        yield up.ready


def prepare(service: str, system: Ready, headers: Headers) -> None:
    """Make the runs, each with a result and console messages."""
    connection = http.client.HTTPConnection(urlsplit(service).netloc, timeout=60)

    def call(method: str, target: str, body: dict[str, Any]) -> Any:
        content = json.dumps(body).encode()
        connection.request(method, target, content, headers(method, target, content))
        with connection.getresponse() as response:
            assert response.status < 300, response.read()
            return json.loads(response.read())

    workflow_id = system["workflow_id"]
    for eid in RUNS:
        new = {
            "workflow_id": workflow_id,
            "computing_unit_id": system["computing_unit_id"],
            "environment_version": "1",
        }
        assert call("POST", "/v1/executions", new)["execution_id"] == eid
        run = f"/v1/executions/{eid}"
        result = {"result_uri": result_uri(workflow_id, eid, PORT)}
        call("PUT", f"{run}/ports/{quote(PORT, safe='')}", result)
        console = {"uri": console_uri(workflow_id, eid, OPERATOR)}
        call("PUT", f"{run}/operators/{OPERATOR}/console", console)
    connection.close()


def fuzz(service: str, token: str, key: SigningKey) -> None:
    """Run schemathesis; its own report is what a failure shows."""
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIGURATION}"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.contract.schemathesis.hooks",
        "FUZZ_TOKEN": token,
        "FUZZ_KEY": key.key.private_bytes_raw().hex(),
    }
    with open_folder() as folder:  # where it may leave what it remembers
        done = subprocess.run(
            [*command, "run", f"{service}/openapi.json", "--no-color"],
            check=False,
            cwd=folder,
            env=environment,
            timeout=RUN_TIMEOUT_S,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(660)
def test_the_sidecar_keeps_what_its_document_says(system: Ready) -> None:
    token = system["users"]["owner"]["token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    prepare(system["sidecar"], system, lambda *_: headers)

    fuzz(system["sidecar"], token, SigningKey())


@pytest.mark.timeout(660)
def test_central_keeps_what_its_document_says(system: Ready) -> None:
    token, key, numbers = system["users"]["owner"]["token"], SigningKey(), count()

    def signed(method: str, target: str, body: bytes) -> dict[str, str]:
        number = str(next(numbers))
        return key.headers(method, target, body, token=token, idempotency_key=number)

    prepare(system["central"], system, signed)

    fuzz(system["central"], token, key)
