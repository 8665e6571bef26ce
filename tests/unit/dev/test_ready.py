"""The ready file appears whole, readable by its owner only, and says where everything is."""

import json
import stat
from pathlib import Path

import pytest

from dev.ports import Ports
from dev.problems import DevProblem
from dev.ready import ReadyFile, describe
from dev.world import WORLD

READY = describe(Ports(7070), "postgresql://texera:x@127.0.0.1:7090/texera_db", {})


def test_it_names_the_relations_and_publishes_six_users() -> None:
    assert set(READY["users"]) == {"owner", "writer", "reader", "stranger", "admin", "restricted"}
    assert READY["users"]["owner"]["user_id"] == WORLD.owner.user_id
    assert READY["workflow_id"] == WORLD.workflow_id
    assert READY["other_computing_unit_id"] == WORLD.other_computing_unit_id
    assert READY["sidecar"] == "http://127.0.0.1:7070"


def test_it_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"

    ReadyFile(path).write(READY)

    assert json.loads(path.read_text()) == READY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_earlier_run_left_is_gone_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("stale")

    ReadyFile(path).prepare()

    assert not path.exists()


def test_a_folder_that_is_missing_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(DevProblem, match="cannot be written"):
        ReadyFile(tmp_path / "missing" / "ready.json").prepare()
