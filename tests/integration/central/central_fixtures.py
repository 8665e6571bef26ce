"""Central, composed as `serve` composes it, and a sidecar that calls it."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDictProxy
from prometheus_client import CollectorRegistry
from yarl import URL

from central.app import build_app, build_authenticator, build_stores
from central.jobs.database_watch import DatabaseWatch
from central.metrics import Metrics
from central.settings import DatabaseSettings, read_settings
from central.store.database import Database
from central.wire.entries import digest_of
from dev.tokens import JWT_SECRET, mint
from dev.world import WORLD, User
from kit.http.service import Supervisor
from tests.integration.central.signing import SigningKey

LEASE_S = 90.0


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    headers: "CIMultiDictProxy[str]"

    @property
    def outcomes(self) -> list[str]:
        """Per entry of a batch: applied, deferred, or the slug of the refusal."""
        assert self.status == 200, self.body
        return [o.get("problem", {}).get("type", o["outcome"]) for o in self.body["outcomes"]]

    @property
    def outcome(self) -> tuple[int, str]:
        """The status, and the problem's slug if it is one."""
        is_problem = self.headers["Content-Type"].startswith("application/problem+json")
        return self.status, self.body["type"] if is_problem else ""


@dataclass
class Sidecar:
    """A client that signs its calls to central with a sidecar's key."""

    client: "TestClient[web.Request, web.Application]"
    key: SigningKey = field(default_factory=SigningKey)
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    """Central's."""
    pod: dict[str, str] = field(default_factory=dict)
    """Headers of every call: the token of the pod that the sidecar runs in."""
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def source_id(self) -> str:
        return self.key.source_id

    def another(self) -> "Sidecar":
        """Another sidecar that calls the same central."""
        return Sidecar(self.client, metrics=self.metrics, _numbers=self._numbers)

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        user: User | None = None,
        token: str | None = None,
        key: str | None = None,
        is_signed: bool = True,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Reply:
        """A call for `user`, or with any token. Every method but GET has an idempotency key."""
        if user is not None:
            token = mint(user.user_id, user.role)
        if key is None and method != "GET":
            key = f"key-{next(self._numbers)}"
        target = URL(target).raw_path_qs  # as in the request line
        content = b"" if body is None else json.dumps(body).encode()
        headers = self.key.headers(method, target, content, token=token, idempotency_key=key)
        headers |= {**self.pod, **more}
        if not is_signed:
            del headers["Sidecar-Assertion"]
        url = self.client.make_url("").join(URL(target, encoded=True))
        async with self.client.session.request(
            method, url, data=content or None, headers=headers
        ) as response:
            text = await response.read()
            return Reply(response.status, json.loads(text) if text else None, response.headers)

    async def create(self, user: User = WORLD.owner, **changes: Any) -> Reply:
        """A run of the private workflow on the owner's unit."""
        body = {
            "workflow_id": WORLD.workflow_id,
            "computing_unit_id": WORLD.computing_unit_id,
            "environment_version": "test",
        }
        return await self.call("POST", "/v1/executions", body | changes, user=user)

    async def bind(
        self, execution_id: int, user: User = WORLD.owner, key: str | None = None
    ) -> Reply:
        target = f"/v1/executions/{execution_id}/binding"
        return await self.call("POST", target, {}, user=user, key=key)

    async def deliver(
        self, *entries: dict[str, Any], number: int = 1, epoch: str | None = None
    ) -> Reply:
        """A batch of these entries, by default the first of an epoch of its own."""
        given = [{"seq": seq, "made_at_ms": 0} | entry for seq, entry in enumerate(entries)]
        batch = {
            "wire": 1,
            "epoch": epoch or secrets.token_hex(16),
            "batch": number,
            "digest": digest_of(msgspec.Raw(json.dumps(entry).encode()) for entry in given),
            "sent_at_ms": 0,
            "entries": given,
        }
        return await self.call("POST", "/v1/batches", batch)

    async def succeed(self, successor: SigningKey) -> Reply:
        """The call that replaces this sidecar's key; it goes on signing with the old one."""
        statement = successor.succession(self.source_id)
        return await self.call("POST", "/v1/successions", {"statement": statement})

    async def get(self, target: str, user: User = WORLD.owner) -> Reply:
        return await self.call("GET", target, user=user)


@asynccontextmanager
async def running_central(
    url: str,
    *,
    lease_s: float = LEASE_S,
    statement_cache_size: int = 256,
    connection_max_age_s: float = 300.0,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Sidecar]:
    """Central over the database of this URL, and a sidecar to call it with.

    `variables` are settings of central's by their names in the environment. With TLS the
    sidecar cannot call by itself: the test makes clients that can, of the same server.
    """
    settings = read_settings(
        {"CENTRAL_DATABASE_URL": url, "CENTRAL_JWT_SECRET": JWT_SECRET, **variables}
    )
    metrics = Metrics(CollectorRegistry())
    database = Database(DatabaseSettings(url, 0, 20, statement_cache_size), metrics)
    authenticator = build_authenticator(settings, database, metrics)
    watch, tasks = DatabaseWatch(database), Supervisor(metrics.restarts)
    app = build_app(
        authenticator,
        metrics,
        build_stores(database, metrics, lease_s, settings.limits),
        connection_max_age_s=connection_max_age_s,
        is_database_available=lambda: watch.is_available,
    )
    server = TestServer(app, host="localhost")  # which certificates of tests name
    try:
        if settings.tls is not None:
            await server.start_server(ssl=settings.tls.context())
        async with (
            tasks.supervise("database-watch", watch.run),
            TestClient(server) as client,
        ):
            yield Sidecar(client, metrics=metrics)
    finally:
        await database.close()
