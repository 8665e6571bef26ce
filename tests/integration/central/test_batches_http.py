"""The route: who may call it, and what is wrong with a call as a whole."""

import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from central.api.batches import BATCHES, LIMITS, routes
from central.auth_settings import LimitSettings
from central.wire.entries import digest_of
from dev.tokens import mint
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import Connection, Source, add_runs, replica, run
from tests.integration.central.signing import SigningKey, served

PATH = "/v1/batches"


@dataclass
class Line:
    """From one sidecar to central."""

    client: TestClient[web.Request, web.Application]
    key: SigningKey
    source: Source

    async def send(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        signed = self.key.headers("POST", PATH, body)
        data = io.BytesIO(body)  # aiohttp warns of large bytes, which hold up its loop
        async with self.client.post(PATH, data=data, headers=signed | headers) as response:
            return response.status, await response.json(content_type=None)

    def body(self, number: int, *entries: dict[str, Any], **envelope: Any) -> bytes:
        batch = self.source.batch(number, *entries)
        members: dict[str, Any] = {
            "wire": 1,
            "epoch": batch.epoch,
            "batch": number,
            "digest": digest_of(batch.entries),
            "sent_at_ms": batch.sent_at_ms,
            "entries": list(entries),
        }
        return json.dumps(members | envelope).encode()


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Line]:
    key = SigningKey()
    async with (
        replica(database) as central,
        served(routes, {BATCHES: central.batches, LIMITS: LimitSettings()}) as client,
    ):
        yield Line(client, key, Source(key.source_id))


async def test_a_batch_is_applied_for_the_source_that_signed_it(
    line: Line, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1, source_id=line.source.source_id)

    status, content = await line.send(line.body(1, line.source.update(eid, status="COMPLETED")))

    assert (status, content) == (200, {"batch": 1, "outcomes": [{"seq": 1, "outcome": "applied"}]})
    assert (await run(owner_connection, eid))["status"] == 3


async def test_another_source_with_the_same_batch_is_refused_entry_by_entry(
    line: Line, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1, source_id="someone else")

    status, content = await line.send(line.body(1, line.source.update(eid, status="COMPLETED")))

    (outcome,) = content["outcomes"]
    assert (status, outcome["outcome"], outcome["problem"]["type"]) == (200, "refused", "not-bound")


async def test_out_of_step_is_a_409_that_names_the_last_batch(line: Line) -> None:
    status, content = await line.send(line.body(3))

    assert (status, content["type"], content["last_batch"]) == (409, "batch-out-of-step", 0)


async def test_another_wire_version_is_to_be_tried_elsewhere(line: Line) -> None:
    body = line.body(1, wire=2, entries=[["of", "another", "kind"]], members="new")
    headers = line.key.headers("POST", PATH, body)

    async with line.client.post(PATH, data=body, headers=headers) as response:
        content = await response.json(content_type=None)

    assert (response.status, content["type"]) == (503, "wire-version-not-supported")
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": "0" * 64},
        {"digest": "short"},
        {"epoch": "A" * 32},
        {"batch": 0},
        {"batch": "1"},
        {"entries": {}},
        {"entries": [{"seq": 1}]},
        {"sent_at_ms": None},
        {"withdraws": "short"},
        {"withdraws": "0" * 64},
    ],
)
async def test_a_damaged_envelope_is_refused_as_a_whole(line: Line, wrong: dict[str, Any]) -> None:
    status, content = await line.send(line.body(1, line.source.update(1, name="n"), **wrong))

    assert (status, content["type"]) == (400, "invalid-request")
    assert (await line.send(line.body(1)))[0] == 200


async def test_an_entry_that_says_not_which_it_is_spoils_its_batch(line: Line) -> None:
    status, content = await line.send(line.body(1, {"op": "delete_uris"}))

    assert (status, content["type"]) == (400, "invalid-request")
    assert content["errors"][0]["field"] == "entries[0]"


async def test_a_users_token_is_neither_needed_nor_enough(line: Line) -> None:
    token = mint(WORLD.owner.user_id)
    body = line.body(1)

    async with line.client.post(
        PATH,
        data=body,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    ) as response:
        content = await response.json(content_type=None)

    assert (response.status, content["type"]) == (401, "assertion-missing")


async def test_eight_mebibytes_are_taken_and_no_more(
    line: Line, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1, source_id=line.source.source_id)
    large = "x" * (8 * 2**20 - 1000)

    status, content = await line.send(line.body(1, line.source.update(eid, result=large)))
    too_large, refusal = await line.send(line.body(2, line.source.update(eid, result=large * 2)))

    assert (status, content["outcomes"][0]["outcome"]) == (200, "applied")
    assert (await run(owner_connection, eid))["result"] == large
    assert (too_large, refusal["type"]) == (413, "body-too-large")
