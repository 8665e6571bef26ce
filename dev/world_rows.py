"""The rows of the sample world by table, in an order that foreign keys allow. No I/O."""

import json
from datetime import datetime, timedelta
from typing import Any

from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import World

MEASUREMENTS = "measurements"
LICENSED_PRICES = "licensed-prices"
SCAN_OPERATOR, FREE_SCAN_OPERATOR, JOIN_OPERATOR = "CSVFileScan-1", "CSVFileScan-2", "HashJoin-1"

READY, RUNNING, COMPLETED, FAILED = 0, 1, 3, 4


def public_workflow_content(world: World) -> str:
    """Two scans and a join of them. The first scan reads the dataset that may not be downloaded."""

    def operator(operator_id: str, dataset_path: str | None = None) -> dict[str, Any]:
        properties = {} if dataset_path is None else {"fileName": dataset_path}
        return {
            "operatorID": operator_id,
            "operatorType": operator_id.partition("-")[0],
            "operatorProperties": properties,
            "outputPorts": [{"portID": "output-0"}],
        }

    def link(source: str, target: str, port: int) -> dict[str, Any]:
        return {
            "linkID": f"{source}-to-{target}",
            "source": {"operatorID": source, "portID": "output-0"},
            "target": {"operatorID": target, "portID": f"input-{port}"},
        }

    licensed = f"/{world.stranger.email}/{LICENSED_PRICES}/v1/prices.csv"
    free = f"/{world.owner.email}/{MEASUREMENTS}/v1/measurements.csv"
    content = {
        "operators": [
            operator(SCAN_OPERATOR, licensed),
            operator(FREE_SCAN_OPERATOR, free),
            operator(JOIN_OPERATOR),
        ],
        "links": [
            link(SCAN_OPERATOR, JOIN_OPERATOR, 0),
            link(FREE_SCAN_OPERATOR, JOIN_OPERATOR, 1),
        ],
    }
    return json.dumps(content)


Row = dict[str, Any]


def relations(world: World, workflow_content: str) -> dict[str, list[Row]]:
    """People, workflows, units, grants and datasets: table -> rows, in an order that FKs allow."""
    owner, writer, reader = world.owner.user_id, world.writer.user_id, world.reader.user_id
    stranger, colleague = world.stranger.user_id, world.colleague.user_id
    wid, public_wid, pid = world.workflow_id, world.public_workflow_id, world.project_id
    cuid, other_cuid = world.computing_unit_id, world.other_computing_unit_id
    public_content = public_workflow_content(world)
    return {
        "user": [
            {
                "uid": user.user_id,
                "name": user.name,
                "email": user.email,
                "google_id": f"google-{user.user_id}",
                "role": user.role,
            }
            for user in world.all_users()
        ],
        "workflow": [
            {"wid": wid, "name": "Sample", "content": workflow_content, "is_public": False},
            {"wid": public_wid, "name": "Prices", "content": public_content, "is_public": True},
        ],
        "workflow_of_user": [{"uid": owner, "wid": wid}, {"uid": stranger, "wid": public_wid}],
        "workflow_user_access": [
            {"uid": owner, "wid": wid, "privilege": "WRITE"},
            {"uid": writer, "wid": wid, "privilege": "WRITE"},
            {"uid": reader, "wid": wid, "privilege": "READ"},
            {"uid": stranger, "wid": public_wid, "privilege": "WRITE"},
        ],
        "workflow_version": [
            {"vid": world.version_id - 1, "wid": wid, "content": "[]"},
            {"vid": world.version_id, "wid": wid, "content": "[]"},
            {"vid": world.public_version_id, "wid": public_wid, "content": "[]"},
        ],
        "project": [{"pid": pid, "name": "Field work", "owner_id": owner}],
        "workflow_of_project": [{"wid": wid, "pid": pid}],
        "project_user_access": [
            {"uid": owner, "pid": pid, "privilege": "WRITE"},
            {"uid": colleague, "pid": pid, "privilege": "READ"},
        ],
        "workflow_computing_unit": [
            {"cuid": cuid, "uid": owner, "name": "owner's unit", "type": "local"},
            {"cuid": other_cuid, "uid": stranger, "name": "stranger's unit", "type": "local"},
        ],
        "computing_unit_user_access": [
            {"cuid": cuid, "uid": writer, "privilege": "WRITE"},
            {"cuid": cuid, "uid": colleague, "privilege": "READ"},
        ],
        "dataset": [
            {
                "did": world.dataset_id,
                "owner_uid": owner,
                "name": MEASUREMENTS,
                "is_downloadable": True,
            },
            {
                "did": world.licensed_dataset_id,
                "owner_uid": stranger,
                "name": LICENSED_PRICES,
                "is_downloadable": False,
            },
        ],
    }


def history(world: World, now: datetime) -> dict[str, list[Row]]:
    """Earlier executions, relative to `now` (UTC without zone): table -> rows."""
    wid, public_wid = world.workflow_id, world.public_workflow_id

    def execution(eid: int, days_ago: int, status: int, **columns: Any) -> Row:
        started_at = now - timedelta(days=days_ago)
        private = {
            "eid": eid,
            "vid": world.version_id,
            "uid": world.owner.user_id,
            "cuid": world.computing_unit_id,
            "status": status,
            "starting_time": started_at,
            "last_update_time": started_at + timedelta(minutes=2),
            "environment_version": '{"engine_version":"sample"}',
            "log_location": None,
            "runtime_stats_uri": None,
            "runtime_stats_size": 0,
        }
        return private | columns

    def with_statistics(workflow_id: int, eid: int) -> Row:
        return {
            "runtime_stats_uri": runtime_stats_uri(workflow_id, eid),
            "runtime_stats_size": 4096,
        }

    def port_result(workflow_id: int, eid: int, operator_id: str) -> Row:
        port = global_port_id(operator_id, 0)
        return {
            "workflow_execution_id": eid,
            "global_port_id": port,
            "result_uri": result_uri(workflow_id, eid, port),
            "result_size": 1024,
        }

    public = {"vid": world.public_version_id}
    on_other_unit = public | {
        "uid": world.stranger.user_id,
        "cuid": world.other_computing_unit_id,
    }
    failed, completed = world.failed_execution_id, world.completed_execution_id
    public_eid, other_eid = world.public_execution_id, world.other_unit_execution_id
    return {
        "workflow_executions": [
            execution(failed, 4, FAILED, vid=world.version_id - 1, log_location="file:///logs/501"),
            execution(completed, 3, COMPLETED, **with_statistics(wid, completed)),
            execution(public_eid, 3, COMPLETED, **public),
            execution(world.stuck_execution_id, 5, RUNNING, **on_other_unit),
            execution(
                other_eid, 2, COMPLETED, **(on_other_unit | with_statistics(public_wid, other_eid))
            ),
        ],
        "operator_port_executions": [
            port_result(wid, completed, SCAN_OPERATOR),
            port_result(wid, completed, JOIN_OPERATOR),
            port_result(public_wid, public_eid, SCAN_OPERATOR),
            port_result(public_wid, public_eid, FREE_SCAN_OPERATOR),
            port_result(public_wid, public_eid, JOIN_OPERATOR),
            port_result(public_wid, other_eid, JOIN_OPERATOR),
        ],
        "operator_executions": [
            {
                "workflow_execution_id": completed,
                "operator_id": JOIN_OPERATOR,
                "console_messages_uri": console_uri(wid, completed, JOIN_OPERATOR),
                "console_messages_size": 256,
            }
        ],
    }
