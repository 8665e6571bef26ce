"""Both services under valid and invalid requests generated from their OpenAPI documents.

No 5xx and no hang; a documented problem for every refusal, a body that fits its schema for every
success; metrics that do not grow with what callers send.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from yarl import URL

import central.app
import sidecar.server.app
from dev.tokens import mint
from dev.vfs_uri import global_port_id, result_uri
from dev.world import WORLD
from tests.databases import Template, copy_of, open_folder
from tests.integration.fuzzing import Operation, Request, operations
from tests.stacks import Stack, running_stack

LOCAL = operations(sidecar.server.app.openapi())
CENTRAL = operations(central.app.openapi())
RESPONSE_TIMEOUT_S = 30.0
"""Longer is a hang, however busy the machine: none of these calls waits for long."""
FUZZED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,  # the same requests each time: a failure in CI is a failure everywhere
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TOKENS = [
    *[mint(user.user_id, user.role) for user in WORLD.all_users()],
    *[mint(WORLD.owner.user_id)] * 20,
    mint(1, ttl_s=-60),
    "x",
    "",
]
UNLIMITED = {
    "CENTRAL_LIMIT_USER_CALLS_PER_S": "0",
    "CENTRAL_LIMIT_SOURCE_CALLS_PER_S": "0",
    "CENTRAL_LIMIT_USER_BYTES_PER_S": "0",
    "CENTRAL_LIMIT_SOURCE_BYTES_PER_S": "0",
    "SIDECAR_LIMIT_WRITES_PER_S": "0",
    "SIDECAR_LIMIT_WRITE_BYTES_PER_S": "0",
}


class Fuzzed:
    """A stack on its own event loop, which outlives the examples of one test."""

    def __init__(self, runner: asyncio.Runner, stack: Stack, execution_id: int) -> None:
        self.runner = runner
        self.stack = stack
        port = global_port_id("op-1", 0)
        uri = result_uri(WORLD.workflow_id, execution_id, port)
        self.known: dict[str, Any] = {
            "execution_id": execution_id,
            "eid": execution_id,
            "execution_ids": [execution_id],
            "workflow_id": WORLD.workflow_id,
            "workflowId": WORLD.workflow_id,
            "wid": WORLD.workflow_id,
            "computing_unit_id": WORLD.computing_unit_id,
            "computingUnitId": WORLD.computing_unit_id,
            "cuid": WORLD.computing_unit_id,
            "operator_id": "op-1",
            "operatorId": "op-1",
            "opId": "op-1",
            "global_port_id": port,
            "globalPortId": port,
            "result_uri": uri,
            "uri": uri,
        }

    def local(self, request: Request, token: str) -> tuple[int, str, bytes]:
        return self.runner.run(self._send(self.stack.client, request, token, {}))

    def central(self, request: Request, token: str) -> tuple[int, str, bytes]:
        caller = self.stack.central
        target = URL(request.target, encoded=True).raw_path_qs
        headers = caller.key.headers(
            request.method,
            target,
            request.body or b"",
            token=token or None,
            idempotency_key="fuzz-key" if request.method == "GET" else str(hash(request.target)),
        )
        return self.runner.run(self._send(caller.client, request, token, headers))

    async def _send(
        self, client: Any, request: Request, token: str, headers: dict[str, str]
    ) -> tuple[int, str, bytes]:
        headers = {"Content-Type": request.content_type, **headers}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = client.make_url("").join(URL(request.target, encoded=True))
        try:
            async with (
                asyncio.timeout(RESPONSE_TIMEOUT_S),
                client.session.request(
                    request.method, url, data=request.body, headers=headers
                ) as response,
            ):
                return (
                    response.status,
                    response.headers.get("Content-Type", ""),
                    await response.read(),
                )
        except aiohttp.ClientError:
            await asyncio.sleep(0)
            raise


@pytest.fixture(scope="module")
def fuzzed(template: Template) -> Iterator[Fuzzed]:
    with open_folder() as folder, asyncio.Runner() as runner:
        stack_exit = AsyncExitStack()

        async def start() -> Fuzzed:
            database = await stack_exit.enter_async_context(copy_of(template))
            stack = await stack_exit.enter_async_context(
                running_stack(database.central_url, Path(folder), UNLIMITED)
            )
            return Fuzzed(runner, stack, await stack.create())

        try:
            yield runner.run(start())
        finally:
            runner.run(stack_exit.aclose())


@pytest.mark.parametrize("operation", LOCAL, ids=str)
def test_any_request_to_the_sidecar_gets_a_documented_response(
    fuzzed: Fuzzed, operation: Operation
) -> None:
    @FUZZED
    @given(operation.requests(fuzzed.known), st.sampled_from(TOKENS))
    def check(request: Request, token: str) -> None:
        assume(request.fits_a_head)
        operation.check(*fuzzed.local(request, token))

    check()


@pytest.mark.parametrize("operation", CENTRAL, ids=str)
def test_any_request_to_central_gets_a_documented_response(
    fuzzed: Fuzzed, operation: Operation
) -> None:
    @FUZZED
    @given(operation.requests(fuzzed.known), st.sampled_from(TOKENS))
    def check(request: Request, token: str) -> None:
        assume(request.fits_a_head)
        operation.check(*fuzzed.central(request, token))

    check()


def test_metrics_do_not_grow_with_what_callers_send(fuzzed: Fuzzed) -> None:
    """Runs last in this file: after thousands of random ids, paths, fields and tokens."""
    paths = {operation.path for operation in [*LOCAL, *CENTRAL]} | {"none"}
    for registry in (fuzzed.stack.sidecar.metrics.registry, fuzzed.stack.central.metrics.registry):
        samples = [sample for metric in registry.collect() for sample in metric.samples]
        assert len(samples) < 6_000
        assert {s.labels["route"] for s in samples if "route" in s.labels} <= paths
