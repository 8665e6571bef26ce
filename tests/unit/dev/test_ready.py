"""The ready file is written atomically, readable by its owner only."""

import json
import stat
from pathlib import Path

import pytest

from dev.ports import Ports
from dev.problems import DevProblem
from dev.ready import ReadyFile, describe
from dev.world import WORLD

READY = describe(Ports(7070), "postgresql://texera:x@127.0.0.1:7090/texera_db", {})


def test_description_has_the_ids_and_six_users() -> None:
    assert set(READY["users"]) == {"owner", "writer", "reader", "stranger", "admin", "restricted"}
    assert READY["users"]["owner"]["user_id"] == WORLD.owner.user_id
    assert READY["workflow_id"] == WORLD.workflow_id
    assert READY["other_computing_unit_id"] == WORLD.other_computing_unit_id
    assert READY["sidecar"] == "http://127.0.0.1:7070"


def test_file_is_written_atomically_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"

    ReadyFile(path).write(READY)

    assert json.loads(path.read_text()) == READY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_prepare_removes_the_file_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("stale")

    ReadyFile(path).prepare()

    assert not path.exists()


def test_prepare_with_a_missing_folder_is_a_dev_problem(tmp_path: Path) -> None:
    with pytest.raises(DevProblem, match="cannot be written"):
        ReadyFile(tmp_path / "missing" / "ready.json").prepare()
