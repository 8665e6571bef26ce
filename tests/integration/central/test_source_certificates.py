"""A source is accepted with the certificate identity only that it was first used with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import TCPConnector, web
from aiohttp.test_utils import TestClient, TestServer

from dev.world import WORLD
from kit.http.tls import client_context
from tests.certificates import Authority, files_in, spiffe
from tests.databases import Database
from tests.integration.central.batching import Connection
from tests.integration.central.central_fixtures import Sidecar, running_central
from tests.integration.central.command_fixtures import central


@dataclass
class Fleet:
    """Central with mutual TLS, and sidecars' clients by the certificate that they show."""

    sidecar: Sidecar
    folder: Path
    authority: Authority
    clients: list["TestClient[web.Request, web.Application]"] = field(default_factory=list)

    async def showing(self, name: str | None, sidecar: Sidecar | None = None) -> Sidecar:
        """The sidecar's key, used over connections with this certificate."""
        own = None
        if name is not None:
            own = files_in(self.folder, name)
            self.authority.issue(own, names=spiffe(name))
        server = self.sidecar.client.server
        assert isinstance(server, TestServer)
        connector = TCPConnector(ssl=client_context(self.folder / "ca", own))
        client = TestClient(server, connector=connector)
        self.clients.append(client)
        key = (sidecar or self.sidecar).key
        return Sidecar(client, key=key, metrics=self.sidecar.metrics)


@asynccontextmanager
async def fleet(database: Database, folder: Path, mode: str) -> AsyncIterator[Fleet]:
    authority, server = Authority(), files_in(folder, "server")
    authority.issue(server)
    authority.write(folder / "ca")
    variables = {
        "CENTRAL_TLS_CERT_FILE": str(server.certificate),
        "CENTRAL_TLS_KEY_FILE": str(server.key),
        "CENTRAL_TLS_CLIENT_CA_FILE": str(folder / "ca"),
        "CENTRAL_TLS_CLIENT_AUTH": mode,
    }
    async with running_central(database.central_url, variables=variables) as sidecar:
        found = Fleet(sidecar, folder, authority)
        try:
            yield found
        finally:
            for client in found.clients:
                await client.session.close()


@pytest.fixture
async def required(database: Database, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(database, tmp_path, "require") as found:
        yield found


@pytest.fixture
async def requested(database: Database, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(database, tmp_path, "request") as found:
        yield found


async def refusals(sidecar: Sidecar, execution_id: int) -> set[tuple[int, str]]:
    """Of a call of each kind that the source signs."""
    run = f"/v1/executions/{execution_id}"
    change = {"execution_id": execution_id, "op": "update_execution", "name": "stolen"}
    replies = [
        await sidecar.create(),
        await sidecar.bind(execution_id),
        await sidecar.call("PATCH", run, {"name": "stolen"}, user=WORLD.owner),
        await sidecar.call("GET", run, user=WORLD.owner),
        await sidecar.call("GET", "/v1/bindings"),
        await sidecar.call("POST", "/v1/batches", {"entries": [change]}),
    ]
    return {reply.outcome for reply in replies}


async def test_a_source_works_with_its_own_certificate_and_a_renewed_one(
    required: Fleet,
) -> None:
    here = await required.showing("unit-7")
    execution_id = (await here.create()).body["execution_id"]

    renewed = await required.showing("unit-7")  # another serial number, the same identity

    change = {"execution_id": execution_id, "op": "update_execution", "name": "x"}
    assert (await renewed.deliver(change)).outcomes == ["applied"]


async def test_a_source_key_with_another_certificate_is_refused_and_audited(
    required: Fleet, owner_connection: Connection
) -> None:
    here = await required.showing("unit-7")
    execution_id = (await here.create()).body["execution_id"]
    thief = await required.showing("unit-8")

    assert await refusals(thief, execution_id) == {(403, "certificate-mismatch")}

    rows = await owner_connection.fetch(
        "select op, detail from cu_metadata.refusals where source_id = $1 and slug = $2",
        here.source_id,
        "certificate-mismatch",
    )
    assert {row["op"] for row in rows} >= {"POST /v1/executions", "POST /v1/batches"}
    assert all("spiffe://texera.example/unit-8" in row["detail"] for row in rows)
    assert not any("unit-7" in row["detail"] for row in rows)
    assert (await here.call("GET", "/v1/bindings")).status == 200


async def test_a_source_that_has_used_a_certificate_is_refused_without_one(
    requested: Fleet,
) -> None:
    bare = await requested.showing(None)
    execution_id = (await bare.create()).body["execution_id"]  # before its pod has a certificate
    assert (await bare.call("GET", "/v1/bindings")).status == 200

    here = await requested.showing("unit-7")
    assert (await here.bind(execution_id)).status == 200

    assert await refusals(bare, execution_id) == {(403, "certificate-mismatch")}


async def test_a_source_is_pinned_once_somebody_vouches_for_it(
    requested: Fleet, owner_connection: Connection
) -> None:
    async def pinned() -> set[str]:
        rows = await owner_connection.fetch("select source_id from cu_metadata.source_certificates")
        return {row["source_id"] for row in rows}

    stranger = await requested.showing("unit-7", requested.sidecar.another())
    assert (await stranger.call("GET", "/v1/bindings")).status == 200
    assert await pinned() == set()  # anyone can make a key

    assert (await stranger.create()).status == 201
    assert await pinned() == {stranger.source_id}


async def test_a_bound_source_that_only_delivers_is_pinned_too(
    requested: Fleet,
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    owner_connection: Connection,
) -> None:
    """Its runs began before its pod had a certificate."""
    bare = await requested.showing(None)
    await bare.create()

    async with fleet(database, tmp_path_factory.mktemp("replica"), "request") as replica:
        here = await replica.showing("unit-7", bare)
        assert (await here.call("GET", "/v1/bindings")).status == 200

        (row,) = await owner_connection.fetch("select * from cu_metadata.source_certificates")
        assert row["source_id"] == here.source_id
        assert row["identity"] == "URI:spiffe://texera.example/unit-7"


async def test_two_first_calls_at_once_pin_one_certificate(required: Fleet) -> None:
    here, there = await required.showing("unit-7"), await required.showing("unit-8")

    replies = await asyncio.gather(*(s.create() for s in (here, there) * 4))

    outcomes = [{reply.outcome for reply in replies[first::2]} for first in (0, 1)]
    assert sorted(outcomes, key=str) == [{(201, "")}, {(403, "certificate-mismatch")}]


async def test_a_key_that_replaces_another_keeps_its_certificate(
    required: Fleet, owner_connection: Connection
) -> None:
    here = await required.showing("unit-7")
    execution_id = (await here.create()).body["execution_id"]
    successor = await required.showing("unit-7", required.sidecar.another())
    thief = await required.showing("unit-8", successor)

    assert (await here.succeed(successor.key)).status == 200

    rows = await owner_connection.fetch("select source_id from cu_metadata.source_certificates")
    assert [row["source_id"] for row in rows] == [successor.source_id]
    assert await refusals(thief, execution_id) == {(403, "certificate-mismatch")}
    change = {"execution_id": execution_id, "op": "update_execution", "name": "x"}
    assert (await successor.deliver(change)).outcomes == ["applied"]


async def test_an_operator_unpins_a_source(
    required: Fleet, database: Database, owner_connection: Connection
) -> None:
    here = await required.showing("unit-7")
    await here.create()

    unpin = ("sources", "unpin", f"--source={here.source_id}")
    done, again = (central(database.central_url, *unpin) for _ in range(2))

    assert done.output.startswith("forgot URI:spiffe://texera.example/unit-7")
    assert (done.exit_code, again.exit_code) == (0, 1)
    event = await owner_connection.fetchrow(
        "select source_id, detail from cu_metadata.audit_events where action = 'unpin'"
    )
    assert tuple(event or ()) == (here.source_id, "URI:spiffe://texera.example/unit-7")
