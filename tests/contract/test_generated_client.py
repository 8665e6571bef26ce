"""A client that openapi-python-client makes from the documents works against the services.

The generator must understand all of both documents (a warning fails the test), and what it
made of the sidecar's drives a run, with its own types for bodies and answers.
"""

import importlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

import central.app
import sidecar.server.app
from dev.vfs_uri import global_port_id, result_uri
from dev.world import WORLD
from tests.databases import Database
from tests.stacks import Stack, running_stack

DOCUMENTS = {"sidecar": sidecar.server.app.openapi, "central": central.app.openapi}
PORT = global_port_id("op-1", 0)


def generate(service: str, folder: Path) -> Path:
    """The generated package, named after the service."""
    document, config = folder / f"{service}.json", folder / "config.yml"
    document.write_bytes(msgspec.json.encode(DOCUMENTS[service]()))
    config.write_text("post_hooks: []\n")  # nobody reads it, so nothing has to format it
    package = folder / f"generated_{service}"
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    paths = ["--path", str(document), "--config", str(config), "--output-path", str(package)]
    made = subprocess.run(
        [*command, *paths, "--fail-on-warning"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return package


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path / "spool") as stack:
        yield stack


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the sidecar's generated client by its name within it."""
    package = generate("sidecar", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"{package.name}.{name}" if name else package.name)

    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == package.name]:
        del sys.modules[name]


def test_centrals_document_makes_a_client_without_a_warning(tmp_path: Path) -> None:
    package = generate("central", tmp_path)

    made = {path.stem for path in package.glob("api/*/*.py")} - {"__init__"}
    assert made == {route.handler.__name__ for route in central.app.ROUTES}


async def test_a_generated_client_drives_a_run(stack: Stack, generated: Any) -> None:
    models = generated("models")
    client = generated("").AuthenticatedClient(
        base_url=stack.url,
        token=stack.token(WORLD.owner),
        httpx_args={"trust_env": False},
        raise_on_unexpected_status=True,
    )

    def call(name: str) -> Any:
        return generated(f"api.{name}").asyncio

    async with client:
        new = models.NewExecutionRequest(
            workflow_id=WORLD.workflow_id,
            computing_unit_id=WORLD.computing_unit_id,
            environment_version="generated",
        )
        run = await call("executions.create_execution")(client=client, body=new)
        uri = result_uri(WORLD.workflow_id, run.execution_id, PORT)
        stored = await call("uris.put_port_result")(
            run.execution_id, PORT, client=client, body=models.PortResult(result_uri=uri)
        )
        found = await call("uris.fetch_result_uri")(
            run.execution_id, client=client, operator_id="op-1", wait=5.0
        )
        changes = models.ExecutionChanges(status=3, log_location="file:///log")
        ended = await call("executions.change_execution")(
            run.execution_id, client=client, body=changes, prefer="wait=20"
        )
        row = await call("executions.fetch_execution")(run.execution_id, client=client)
        plan = await call("workflows.plan_export")(
            WORLD.workflow_id,
            client=client,
            body=models.ExportRequest(
                computing_unit_id=WORLD.computing_unit_id,
                operators=[models.ExportedOperator(id="op-1", output_type="csv")],
            ),
        )
        refused = await call("executions.change_execution")(
            run.execution_id, client=client, body=models.ExecutionChanges(name="x" * 129)
        )
        await call("writes.flush_writes")(client=client, timeout=20.0)

    assert (run.user_id, run.status.value) == (WORLD.owner.user_id, "READY")
    assert stored.state == "durable"
    assert found.uri == uri
    assert ended.state == "committed"
    assert (row.status.value, row.log_location, row.name) == (
        "COMPLETED", "file:///log", "Untitled Execution",
    )  # fmt: skip
    assert (plan.execution_id, plan.operators[0].uri) == (run.execution_id, uri)
    assert (refused.type_, refused.errors[0].field) == ("invalid-request", "name")
