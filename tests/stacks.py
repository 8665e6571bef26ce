"""A sidecar with its own central, in this process, over one database.

The real applications put together as `serve` does, on loopback sockets; only signals and ops
listeners are left out. A call goes the whole way: local API, spool, delivery, central, Postgres.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDictProxy
from yarl import URL

import sidecar.lifecycle
from dev.tokens import mint
from dev.world import WORLD, User
from sidecar.server.app import build_app
from sidecar.settings import Settings
from tests.integration.central.central_fixtures import Sidecar as CentralCaller
from tests.integration.central.central_fixtures import running_central

COMMITTED = {"Prefer": "wait=20"}
"""For writes: respond once central has committed."""


@dataclass(frozen=True)
class LocalReply:
    status: int
    body: Any
    headers: "CIMultiDictProxy[str]"

    @property
    def outcome(self) -> tuple[int, str]:
        """The status, and the problem's slug if it is one."""
        is_problem = self.headers["Content-Type"].startswith("application/problem+json")
        return self.status, self.body["type"] if is_problem else ""


@dataclass
class Stack:
    """A client of the sidecar as a CU has it, and the parts behind it that tests inspect."""

    client: "TestClient[web.Request, web.Application]"
    sidecar: sidecar.lifecycle.Sidecar
    central: CentralCaller
    _tokens: dict[User, str] = field(default_factory=dict)

    def token(self, user: User) -> str:
        """The same for every call, because each new token costs a call to central."""
        return self._tokens.setdefault(user, mint(user.user_id, user.role))

    @property
    def url(self) -> str:
        return str(self.client.make_url("")).rstrip("/")

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        user: User = WORLD.owner,
        headers: Mapping[str, str] | None = None,
    ) -> LocalReply:
        """A call with the user's token, as any HTTP client sends it."""
        sent = {"Authorization": f"Bearer {self.token(user)}", **(headers or {})}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        url = self.client.make_url("").join(URL(target, encoded="%" in target))
        async with self.client.session.request(method, url, data=content, headers=sent) as response:
            text = await response.read()
            return LocalReply(response.status, json.loads(text) if text else None, response.headers)

    async def get(self, target: str, user: User = WORLD.owner) -> LocalReply:
        return await self.call("GET", target, user=user)

    async def create(self, user: User = WORLD.owner, **changes: Any) -> int:
        """A run of the private workflow on the owner's unit."""
        body = {
            "workflow_id": WORLD.workflow_id,
            "computing_unit_id": WORLD.computing_unit_id,
            "environment_version": "test",
        }
        response = await self.call("POST", "/v1/executions", body | changes, user=user)
        assert response.status == 201, response.body
        return int(response.body["execution_id"])

    async def write(
        self, method: str, target: str, body: Any, *, user: User = WORLD.owner
    ) -> LocalReply:
        """A write that waits until central has committed; fails if it is not."""
        response = await self.call(method, target, body, user=user, headers=COMMITTED)
        assert (response.status, response.body.get("state")) == (200, "committed"), response.body
        return response


@asynccontextmanager
async def running_stack(
    central_url: str,
    folder: Path,
    variables: Mapping[str, str] = MappingProxyType({}),
    *,
    is_delivering: bool = True,
) -> AsyncIterator[Stack]:
    """A sidecar with its spool in `folder`, before central over the database of this URL.

    `variables` are settings of either, by their names in the environment. One that is not
    delivering keeps what it acknowledges in its spool.
    """
    async with running_central(central_url, variables=variables) as central:
        settings = Settings.from_environment(
            {
                "SIDECAR_CENTRAL_URL": str(central.client.make_url("")),
                "SIDECAR_SPOOL_DIR": str(folder),
                **variables,
            }
        )
        async with (
            sidecar.lifecycle.build_sidecar(settings) as running,
            running.tasks.supervise("delivery", running.delivery.run)
            if is_delivering
            else nullcontext(),
            TestClient(TestServer(build_app(running.services, running.metrics))) as client,
        ):
            yield Stack(client, running, central)
