"""The plan of an export against the sample world, where a licensed dataset is in the way."""

import re
from typing import Any

import pytest

from dev.vfs_uri import global_port_id, result_uri
from dev.world import WORLD, User
from dev.world_rows import FREE_SCAN_OPERATOR, JOIN_OPERATOR, SCAN_OPERATOR
from tests.integration.central.central_fixtures import Reply, Sidecar

OPERATORS = [SCAN_OPERATOR, FREE_SCAN_OPERATOR, JOIN_OPERATOR]
LABEL = f"licensed-prices ({WORLD.stranger.email})"
PLAN = f"/v1/workflows/{WORLD.public_workflow_id}/export-plan"


async def plan(
    sidecar: Sidecar, user: User = WORLD.owner, target: str = PLAN, **more: Any
) -> Reply:
    body = {
        "computing_unit_id": WORLD.computing_unit_id,
        "operators": [{"id": operator, "output_type": "csv"} for operator in OPERATORS],
    }
    return await sidecar.call("POST", target, body | more, user=user)


def uri(operator: str, eid: int = WORLD.public_execution_id) -> str:
    return result_uri(WORLD.public_workflow_id, eid, global_port_id(operator, 0))


async def test_the_plan_has_everything_and_no_uri_of_what_is_blocked(sidecar: Sidecar) -> None:
    response = await plan(sidecar)

    assert response.status == 200
    assert response.body["execution_id"] == WORLD.public_execution_id
    assert response.body["version_id"] == WORLD.public_version_id
    planned = {operator.pop("id"): operator for operator in response.body["operators"]}
    names = {operator: entry.pop("file_name") for operator, entry in planned.items()}
    assert planned == {
        SCAN_OPERATOR: {"uri": None, "blocked": True, "blocked_by": [LABEL]},
        FREE_SCAN_OPERATOR: {"uri": uri(FREE_SCAN_OPERATOR), "blocked": False, "blocked_by": []},
        JOIN_OPERATOR: {"uri": None, "blocked": True, "blocked_by": [LABEL]},
    }
    for operator, name in names.items():
        rule = rf"Prices-op{operator}-v403-\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d\.csv"
        assert re.fullmatch(rule, name)


async def test_a_dataset_blocks_nothing_for_its_owner(sidecar: Sidecar) -> None:
    response = await plan(sidecar, WORLD.stranger, computing_unit_id=WORLD.other_computing_unit_id)

    assert response.body["execution_id"] == WORLD.other_unit_execution_id
    planned = {operator["id"]: operator for operator in response.body["operators"]}
    assert planned[JOIN_OPERATOR]["uri"] == uri(JOIN_OPERATOR, WORLD.other_unit_execution_id)
    assert not any(operator["blocked"] for operator in planned.values())


async def test_an_admin_is_blocked_like_anyone(sidecar: Sidecar) -> None:
    response = await plan(sidecar, WORLD.admin)

    assert [operator["blocked"] for operator in response.body["operators"]] == [True, False, True]


@pytest.mark.parametrize("name", ["Ärzte", "İstanbul", "PREISE", "ΣΑΣ"])
async def test_a_dataset_blocks_however_its_name_is_written(
    sidecar: Sidecar, owner_connection: Any, name: str
) -> None:
    """Whatever this process and the database's locale each take for its lower case."""
    await owner_connection.execute("UPDATE texera_db.dataset SET name = $1", name)
    await owner_connection.execute(
        "UPDATE texera_db.workflow SET content = replace(content, 'licensed-prices', $1)", name
    )

    response = await plan(sidecar)

    assert [operator["blocked"] for operator in response.body["operators"]] == [True, False, True]


async def test_the_case_of_an_address_lets_nothing_through(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    await owner_connection.execute(
        "UPDATE texera_db.workflow SET content = replace(content, $1, upper($1))",
        WORLD.stranger.email,
    )

    response = await plan(sidecar)

    assert [operator["blocked"] for operator in response.body["operators"]] == [True, False, True]


async def test_a_dataset_made_downloadable_blocks_no_longer(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    await owner_connection.execute("UPDATE texera_db.dataset SET is_downloadable = true")

    response = await plan(sidecar)

    assert [operator["uri"] for operator in response.body["operators"]] == [
        uri(operator) for operator in OPERATORS
    ]


@pytest.mark.parametrize("name", ["mine.csv", "a/b.csv", " "])
async def test_a_name_that_was_given_is_taken_as_it_is(sidecar: Sidecar, name: str) -> None:
    response = await plan(sidecar, file_name=name)

    assert {operator["file_name"] for operator in response.body["operators"]} == {name}


async def test_an_empty_name_means_none(sidecar: Sidecar) -> None:
    response = await plan(sidecar, file_name="")

    assert response.body["operators"][0]["file_name"].startswith("Prices-op")


async def test_a_workflow_that_has_not_run_on_the_unit_has_a_plan_without_results(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    await owner_connection.execute(
        "DELETE FROM texera_db.workflow_executions WHERE eid = $1", WORLD.public_execution_id
    )

    response = await plan(sidecar)

    assert response.body["execution_id"] is None
    assert [operator["uri"] for operator in response.body["operators"]] == [None] * 3


async def test_a_workflow_without_versions_has_a_plan(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    await owner_connection.execute(
        "INSERT INTO texera_db.workflow (wid, name, content, is_public)"
        " VALUES (150, 'New/er', '', true)"
    )

    response = await plan(sidecar, target="/v1/workflows/150/export-plan")

    assert response.body["version_id"] is None
    assert "Newer-op" in response.body["operators"][0]["file_name"]
    assert "-v0-" in response.body["operators"][0]["file_name"]


async def test_what_cannot_be_read_is_not_exported(sidecar: Sidecar, owner_connection: Any) -> None:
    await owner_connection.execute("UPDATE texera_db.workflow SET content = '{\"operators\": ['")

    assert (await plan(sidecar)).outcome == (409, "workflow-unreadable")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"computing_unit_id": "201"}, "computing_unit_id"),
        ({"operators": []}, "operators"),
        ({"operators": [{"id": "a"}]}, "operators[0]"),
        ({"operators": [{"id": "", "output_type": "csv"}]}, "operators[0].id"),
        ({"operators": [{"id": "a%2Fb", "output_type": "csv"}]}, "operators[0].id"),
        ({"operators": [{"id": "a\n", "output_type": "csv"}]}, "operators[0].id"),
        ({"operators": [{"id": "a", "output_type": ""}]}, "operators[0].output_type"),
        ({"operators": [{"id": "a", "output_type": "csv", "port_id": -1}]}, "operators[0].port_id"),
        ({"filename": "x"}, "filename"),
        ({"file_name": "x" * 1025}, "file_name"),
    ],
)
async def test_bad_input_names_the_field(
    sidecar: Sidecar, changes: dict[str, Any], field: str
) -> None:
    response = await plan(sidecar, **changes)

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == [field]
