"""Workload identity: a pod of one unit touches executions of that unit, and shows which it is."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import jwt
import pytest

from dev.vfs_uri import console_uri
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.central_fixtures import Sidecar, running_central
from tests.integration.central.issuer import OTHER_RSA_KEY, RSA_KEY, Issuer

NAMESPACE = "texera-workflow-computing-unit-pool"
HERE = f"computing-unit-{WORLD.computing_unit_id}"
ELSEWHERE = f"computing-unit-{WORLD.other_computing_unit_id}"
HEADER = "Sidecar-Workload-Token"


def token(
    pod: str | None = HERE, key: Any = RSA_KEY, namespace: str = NAMESPACE, **changes: Any
) -> str:
    """As the kubelet projects it."""
    now = int(time.time())
    kubernetes: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": "cu"}}
    if pod is not None:
        kubernetes["pod"] = {"name": pod, "uid": "4f1c"}
    claims = {
        "aud": ["texera-execution-metadata"],
        "exp": now + 3600,
        "iat": now,
        "nbf": now,
        "iss": "https://kubernetes.default.svc",
        "sub": f"system:serviceaccount:{NAMESPACE}:cu",
        "kubernetes.io": kubernetes,
    }
    return jwt.encode(claims | changes, key, "RS256", headers={"kid": "one"})


def serving(
    database: Database, issuer: Issuer, mode: str
) -> "AbstractAsyncContextManager[Sidecar]":
    variables = {
        "CENTRAL_WORKLOAD_IDENTITY": mode,
        "CENTRAL_WORKLOAD_JWKS": issuer.url,
        "CENTRAL_WORKLOAD_ISSUER": "https://kubernetes.default.svc",
        "CENTRAL_RUN_TOKEN_KEYS": "test:a-secret-of-run-tokens-and-nothing-else",
    }
    return running_central(database.central_url, variables=variables)


@pytest.fixture
async def closed(database: Database, issuer: Issuer) -> AsyncIterator[Sidecar]:
    """A sidecar in the owner's unit, at a central that requires to know the pod."""
    async with serving(database, issuer, "require") as sidecar:
        sidecar.pod = {HEADER: token()}
        yield sidecar


async def test_pod_of_the_unit_is_accepted_everywhere(closed: Sidecar) -> None:
    execution_id = (await closed.create()).body["execution_id"]
    run = f"/v1/executions/{execution_id}"

    assert (await closed.bind(execution_id)).status == 200
    written = await closed.call("PATCH", run, {"status": "RUNNING"}, user=WORLD.owner)
    assert written.status == 200
    change = {"execution_id": execution_id, "op": "update_execution", "name": "x"}
    assert (await closed.deliver(change)).outcomes == ["applied"]


BAD = {
    "none": (None, "workload-missing"),
    "nonsense": ("nonsense", "workload-invalid"),
    "another key": (token(key=OTHER_RSA_KEY), "workload-invalid"),
    "expired": (token(exp=int(time.time()) - 31), "workload-invalid"),
    "not yet": (token(nbf=int(time.time()) + 3600), "workload-invalid"),
    "for somebody else": (token(aud=["kubernetes.default.svc"]), "workload-invalid"),
    "another cluster": (token(iss="https://other"), "workload-invalid"),
    "no pod": (token(pod=None), "workload-invalid"),
    "another namespace": (token(namespace="default"), "workload-invalid"),
    "another kind of pod": (token("texera-webserver-5f7"), "workload-invalid"),
    "a longer name": (token(f"{HERE}-debug"), "workload-invalid"),
    "a name within": (token(f"x-{HERE}"), "workload-invalid"),
    "a leading zero": (token("computing-unit-0201"), "workload-invalid"),
    "too large a number": (token("computing-unit-9999999999"), "workload-invalid"),
    "digits of another script": (token("computing-unit-\u0662\u0660\u0661"), "workload-invalid"),
    "a user's token": (
        jwt.encode({"sub": "a", "exp": 4_000_000_000}, RSA_KEY, "RS256", {"kid": "one"}),
        "workload-invalid",
    ),
}


@pytest.mark.parametrize(("shown", "slug"), BAD.values(), ids=BAD)
async def test_call_without_a_valid_workload_token_is_refused(
    closed: Sidecar, shown: str | None, slug: str
) -> None:
    execution_id = (await closed.create()).body["execution_id"]
    run = f"/v1/executions/{execution_id}"
    closed.pod = {} if shown is None else {HEADER: shown}

    refusals = [
        await closed.create(),
        await closed.bind(execution_id),
        await closed.call("PATCH", run, {"status": "KILLED"}, user=WORLD.owner),
        await closed.call("POST", "/v1/batches", {}),
        await closed.call("GET", "/v1/bindings"),
    ]

    assert [reply.outcome for reply in refusals] == [(401, slug)] * 5
    assert (await closed.get(run)).body["status"] == "READY"  # reading takes the user's token only


async def test_pod_of_another_unit_is_refused(closed: Sidecar) -> None:
    """Although it has the sidecar's own key, and the token of the execution's own user."""
    execution_id = (await closed.create()).body["execution_id"]
    run = f"/v1/executions/{execution_id}"
    closed.pod = {HEADER: token(ELSEWHERE)}

    refusals = [
        await closed.create(),
        await closed.bind(execution_id),
        await closed.call("PATCH", run, {"status": "KILLED"}, user=WORLD.owner),
        await closed.call(
            "PUT",
            f"{run}/operators/op-1/console",
            {"uri": console_uri(WORLD.workflow_id, execution_id, "op-1")},
            user=WORLD.owner,
        ),
        await closed.call("DELETE", f"{run}/uris", user=WORLD.owner),
    ]
    kill = {"execution_id": execution_id, "op": "update_execution", "status": "KILLED"}

    # A replica that has just applied a batch takes the next one in a single statement.
    name = {"execution_id": execution_id, "op": "update_execution", "name": "x"}
    epoch = "e" * 32
    elsewhere, closed.pod = closed.pod, {HEADER: token()}
    assert (await closed.deliver(name, epoch=epoch)).outcomes == ["applied"]
    closed.pod = elsewhere

    refused = await closed.deliver(kill, epoch=epoch, number=2)
    assert refused.outcomes == ["wrong-computing-unit"]
    assert [reply.outcome for reply in refusals] == [(403, "wrong-computing-unit")] * 5
    assert (await closed.get(run)).body["status"] == "READY"


async def test_a_copied_key_is_replaced_from_its_own_pod_only(closed: Sidecar) -> None:
    execution_id = (await closed.create()).body["execution_id"]
    successor = closed.another()
    closed.pod = {HEADER: token(ELSEWHERE)}

    from_elsewhere = await closed.succeed(successor.key)
    closed.pod = {HEADER: token()}
    still_bound = await closed.bind(execution_id)
    from_here = await closed.succeed(successor.key)

    assert from_elsewhere.outcome == (403, "wrong-computing-unit")
    assert (still_bound.status, from_here.status) == (200, 200)


async def test_unit_in_the_path_must_be_the_pods(closed: Sidecar) -> None:
    closed.pod = {HEADER: token(ELSEWHERE)}
    target = f"/v1/computing-units/{WORLD.computing_unit_id}/expired-executions/clear"

    cleared = await closed.call("POST", target, {"execution_ids": [1]}, user=WORLD.owner)

    assert cleared.outcome == (403, "wrong-computing-unit")


async def test_warn_mode_refuses_nothing_and_counts_all(
    database: Database, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(database, issuer, "warn") as sidecar:
        without = await sidecar.create()
        sidecar.pod = {HEADER: "nonsense"}
        nonsense = await sidecar.create()
        sidecar.pod = {HEADER: token(ELSEWHERE)}
        elsewhere = await sidecar.create()
        sidecar.pod = {HEADER: token()}
        right = await sidecar.create()

    assert [r.status for r in (without, nonsense, elsewhere, right)] == [201] * 4
    refusals = [
        record.__dict__["fields"]["problem"]
        for record in caplog.records
        if record.message == "workload would be refused"
    ]
    assert refusals == ["workload-missing", "workload-invalid", "wrong-computing-unit"]


async def test_unavailable_cluster_keys_stop_writes_not_reads(
    closed: Sidecar, issuer: Issuer
) -> None:
    issuer.status = 500

    assert (await closed.create()).outcome == (503, "keys-unavailable")
    assert (await closed.get(f"/v1/executions/{WORLD.completed_execution_id}")).status == 200


async def test_a_run_token_is_issued_to_a_pod_of_the_executions_unit_alone(
    closed: Sidecar,
) -> None:
    execution_id = (await closed.create()).body["execution_id"]
    exchange = f"/v1/executions/{execution_id}/run-token"

    of_the_unit = await closed.call("POST", exchange)
    closed.pod = {HEADER: token(ELSEWHERE)}
    of_another = await closed.call("POST", exchange)

    assert of_the_unit.status == 200
    assert of_another.outcome == (403, "wrong-computing-unit")
