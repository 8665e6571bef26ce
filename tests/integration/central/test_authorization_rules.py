"""What the rules of authorization mean where relations meet (the rest is generated)."""

from typing import Any

import pytest

from dev.world import WORLD, User
from dev.world_rows import JOIN_OPERATOR
from tests.integration.central.central_fixtures import Sidecar

EVERYBODY = (
    WORLD.owner,
    WORLD.writer,
    WORLD.reader,
    WORLD.colleague,
    WORLD.stranger,
    WORLD.admin,
)


@pytest.mark.parametrize("user", EVERYBODY, ids=str)
async def test_a_public_workflow_is_read_by_every_user(sidecar: Sidecar, user: User) -> None:
    run, workflow = WORLD.public_execution_id, WORLD.public_workflow_id

    for target in (
        f"/v1/executions/{run}",
        f"/v1/executions/{run}/uris",
        f"/v1/executions/{run}/result-uri?operator_id={JOIN_OPERATOR}",
        f"/v1/workflows/{workflow}/executions",
        f"/v1/workflows/{workflow}/executions/latest",
    ):
        assert (await sidecar.get(target, user)).status == 200, target


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (WORLD.stranger, (201, "")),
        (WORLD.owner, (404, "computing-unit-not-found")),
        (WORLD.writer, (404, "computing-unit-not-found")),
        (WORLD.admin, (403, "computing-unit-forbidden")),
    ],
    ids=str,
)
async def test_public_workflow_runs_on_a_permitted_unit(
    sidecar: Sidecar, user: User, expected: tuple[int, str]
) -> None:
    created = await sidecar.create(
        user,
        workflow_id=WORLD.public_workflow_id,
        computing_unit_id=WORLD.other_computing_unit_id,
    )

    assert created.outcome == expected


async def test_own_unit_does_not_run_an_unreadable_workflow(sidecar: Sidecar) -> None:
    created = await sidecar.create(WORLD.stranger, computing_unit_id=WORLD.other_computing_unit_id)

    assert created.outcome == (404, "workflow-not-found")


async def test_admin_needs_grants_to_create(sidecar: Sidecar, owner_connection: Any) -> None:
    admin = WORLD.admin
    unit = "INSERT INTO texera_db.computing_unit_user_access VALUES ($1, $2, 'WRITE')"
    workflow = "INSERT INTO texera_db.workflow_user_access VALUES ($1, $2, 'READ')"

    await owner_connection.execute(unit, WORLD.computing_unit_id, admin.user_id)
    assert (await sidecar.create(admin)).outcome == (403, "workflow-forbidden")

    await owner_connection.execute(workflow, admin.user_id, WORLD.workflow_id)
    assert (await sidecar.create(admin)).outcome == (201, "")


@pytest.mark.parametrize("demoted_to", ["RESTRICTED", "INACTIVE"])
async def test_demoted_user_with_a_valid_token_creates_nothing(
    sidecar: Sidecar, owner_connection: Any, demoted_to: str
) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    await owner_connection.execute(
        """UPDATE texera_db."user" SET role = $1::text::texera_db.user_role_enum WHERE uid = $2""",
        demoted_to,
        WORLD.owner.user_id,
    )

    assert (await sidecar.create()).outcome == (403, "user-demoted")
    assert (await sidecar.bind(eid)).outcome == (403, "user-demoted")


async def test_unreadable_row_gets_the_404_of_a_missing_one(sidecar: Sidecar) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    for hidden, missing in (
        (f"/v1/executions/{eid}", "/v1/executions/999999"),
        (f"/v1/workflows/{WORLD.workflow_id}/executions", "/v1/workflows/999999/executions"),
    ):
        number = hidden.split("/")[3]
        refused = await sidecar.get(hidden, WORLD.stranger)
        absent = await sidecar.get(missing, WORLD.stranger)

        assert refused.status == absent.status == 404
        assert refused.body["title"] == absent.body["title"]
        assert refused.body["detail"] == absent.body["detail"].replace("999999", number)


async def test_direct_grant_overrides_project_grants(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """The colleague reads through a project; a row of their own that says NONE ends that."""
    eid = (await sidecar.create()).body["execution_id"]
    before = await sidecar.get(f"/v1/executions/{eid}", WORLD.colleague)

    await owner_connection.execute(
        "INSERT INTO texera_db.workflow_user_access VALUES ($1, $2, 'NONE')",
        WORLD.colleague.user_id,
        WORLD.workflow_id,
    )

    assert before.status == 200
    assert (await sidecar.get(f"/v1/executions/{eid}", WORLD.colleague)).status == 404
