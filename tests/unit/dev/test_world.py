"""The sample world's ids and rows, without a database."""

import json
from dataclasses import fields
from datetime import datetime

from dev.world import FIRST_NEW_ID, WORLD
from dev.world_rows import JOIN_OPERATOR, SCAN_OPERATOR, history, public_workflow_content, relations

NOW = datetime(2026, 11, 24, 12, 0)  # noqa: DTZ001  (Texera's timestamps have no zone)
RUNNING, TERMINAL = 1, {3, 4, 5}


def test_ids_of_different_kinds_never_coincide() -> None:
    numbers = [getattr(WORLD, field.name) for field in fields(WORLD) if field.type is int]
    ids = numbers + [user.user_id for user in WORLD.all_users()]

    assert len(set(ids)) == len(ids)
    assert max(ids) < FIRST_NEW_ID


def test_owners_unit_has_only_finished_runs() -> None:
    executions = history(WORLD, NOW)["workflow_executions"]

    on_the_owners_unit = [row for row in executions if row["cuid"] == WORLD.computing_unit_id]

    assert {row["status"] for row in on_the_owners_unit} <= TERMINAL
    assert all(row["starting_time"] < NOW for row in executions)


def test_stuck_run_is_the_strangers() -> None:
    (stuck,) = (r for r in history(WORLD, NOW)["workflow_executions"] if r["status"] == RUNNING)

    assert stuck["eid"] == WORLD.stuck_execution_id
    assert (stuck["uid"], stuck["cuid"]) == (
        WORLD.stranger.user_id,
        WORLD.other_computing_unit_id,
    )


def test_licensed_dataset_is_upstream_of_the_join() -> None:
    content = json.loads(public_workflow_content(WORLD))

    scan = next(o for o in content["operators"] if o["operatorID"] == SCAN_OPERATOR)
    links = {
        (link["source"]["operatorID"], link["target"]["operatorID"]) for link in content["links"]
    }

    assert scan["operatorProperties"]["fileName"].startswith("/stranger@example.org/licensed-")
    assert (SCAN_OPERATOR, JOIN_OPERATOR) in links


def test_rows_of_a_table_have_the_same_columns() -> None:
    tables = relations(WORLD, "{}") | history(WORLD, NOW)

    for table, rows in tables.items():
        assert {tuple(row) for row in rows} == {tuple(rows[0])}, table
