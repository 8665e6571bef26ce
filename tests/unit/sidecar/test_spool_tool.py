"""`python -m sidecar spool`: reads a spool, running or stopped, and changes nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.__main__ import main
from sidecar.spool.entry import Outcome, Priority
from sidecar.spool.schema import FILE_NAME
from sidecar.spool.spool import Spool
from tests.unit.sidecar.damage_fixtures import copy_as_killed
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    OTHER_USER,
    Spools,
    cut,
    numbers,
    size_only,
    state_of,
    update,
)


class Tool:
    """The command on one directory, and what it said last."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main(["spool", "--dir", str(self.directory), *arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def writes(self, *arguments: str) -> list[tuple[str, str]]:
        """Number and state of each write that `ls` shows."""
        assert self("ls", "--json", *arguments) == 0
        lines = json.loads(self.out)["writes"]
        return [(line["write_id"].partition("-")[2], line["state"]) for line in lines]


@pytest.fixture
def tool(spools: Spools, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(spools.directory, capsys)


async def lively(spools: Spools) -> Spool:
    """1 committed, 2 refused, 3 in flight, 4 replaced by 5, 6 the end of a run."""
    spool = await spools.open()
    await spool.append(update(name="one"))
    await spool.append(update(OTHER_EID, OTHER_USER, name="two"))
    problem = {"type": "late", "title": "t", "status": 409, "detail": "d"}
    outcomes = [Outcome(1, "applied"), Outcome(2, "refused", problem)]
    await spool.settle(await cut(spool), outcomes, lambda records: None)
    await spool.append(update(name="three"))
    await cut(spool)
    await spool.append(size_only(4))
    await spool.append(size_only(5))
    await spool.append(update(OTHER_EID, priority=Priority.TERMINAL, status="COMPLETED"))
    return spool


@pytest.mark.parametrize("is_running", [True, False])
async def test_ls_shows_waiting_writes_running_or_stopped(
    spools: Spools, tool: Tool, is_running: bool
) -> None:
    await lively(spools)
    if not is_running:
        await spools.close()

    waiting = [("3", "in-flight"), ("5", "durable"), ("6", "durable"), ("4", "durable")]
    assert tool.writes() == waiting
    assert tool.writes("--state", "in-flight") == [("3", "in-flight")]
    assert tool.writes("--state", "committed") == [("1", "committed")]
    assert tool.writes("--state", "refused") == [("2", "refused")]
    assert tool.writes("--state", "all", "--execution", str(OTHER_EID)) == [
        ("6", "durable"),
        ("2", "refused"),
    ]
    assert tool.writes("--limit", "1") == [("3", "in-flight")]
    assert tool("ls") == 0
    assert f"the sidecar is {'running' if is_running else 'not running'}" in tool.out
    assert "3 wait (1 in flight, 1 coalesced), 2 settled are kept" in tool.out


async def test_show_prints_payload_batch_and_outcome(spools: Spools, tool: Tool) -> None:
    spool = await lively(spools)
    batch = await spool.in_flight()
    assert batch is not None

    assert tool("show", spool.write_id(3), "--json") == 0
    shown = json.loads(tool.out)
    assert shown["payload"]["name"] == "three"
    assert shown["in_flight"] == {
        "epoch": batch.epoch,
        "batch": batch.number,
        "digest": batch.digest,
        "position": 0,
        "is_skipped": False,
    }
    assert tool("show", "4", "--json") == 0
    assert json.loads(tool.out)["replaced_by"] == spool.write_id(5)
    assert tool("show", "5", "--json") == 0
    assert json.loads(tool.out)["replaces"] == [spool.write_id(4)]
    assert tool("show", "2") == 0
    assert '"type": "late"' in tool.out


@pytest.mark.parametrize("write", ["99", "000000000000-3", "three", ""])
async def test_show_of_an_unknown_write_exits_66(spools: Spools, tool: Tool, write: str) -> None:
    await lively(spools)

    assert tool("show", write) == 66
    assert "no write of this spool" in tool.err


async def test_export_prints_waiting_writes_in_order(spools: Spools, tool: Tool) -> None:
    spool = await lively(spools)
    await spools.close()

    assert tool("export") == 0

    lines = [json.loads(line) for line in tool.out.splitlines()]
    assert [line["write_id"] for line in lines] == [spool.write_id(seq) for seq in (3, 5, 6)]
    assert [line["in_flight"] for line in lines] == [True, False, False]
    assert lines[2]["payload"]["status"] == "COMPLETED"
    assert lines[0]["execution_id"] == EID


async def test_tool_does_not_change_a_stopped_spool(spools: Spools, tool: Tool) -> None:
    await lively(spools)
    await spools.close()
    before = {path.name: path.read_bytes() for path in spools.directory.iterdir()}

    for action in (["ls"], ["show", "3"], ["export"]):
        assert tool(*action) == 0

    assert {path.name: path.read_bytes() for path in spools.directory.iterdir()} == before


async def test_tool_reads_the_log_of_a_killed_sidecar(
    spools: Spools, tool: Tool, tmp_path: Path
) -> None:
    await lively(spools)
    copy_as_killed(spools.directory, tmp_path / "killed")
    tool.directory = tmp_path / "killed"

    assert len(tool.writes()) == 4


async def test_damaged_file_is_named(spools: Spools, tool: Tool) -> None:
    await lively(spools)
    await spools.close()
    file = spools.directory / FILE_NAME
    file.write_bytes(b"no database at all" + file.read_bytes()[18:])

    for action in ("ls", "export"):
        assert tool(action) == 65
        assert FILE_NAME in tool.err


def test_directory_without_a_spool_exits_66(tool: Tool) -> None:
    assert tool("ls") == 66
    assert f"no {FILE_NAME} in" in tool.err


def test_directory_is_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "SIDECAR_SPOOL_DIR", str(tmp_path))

    assert main(["spool", "ls"]) == 66
    assert str(tmp_path) in capsys.readouterr().err


async def test_skip_of_a_write_in_flight_waits_for_the_withdrawal_of_its_batch(
    spools: Spools, tool: Tool
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=name)) for name in "abc"]
    batch = await cut(spool)
    write_id = spool.write_id(seqs[1])
    await spools.close()

    assert tool("skip", write_id) == 0

    assert "is in flight: the next start skips it, unless central has it already" in tool.out
    for seq in seqs:
        assert tool("show", str(seq), "--json") == 0
        assert json.loads(tool.out)["in_flight"]["is_skipped"] is (seq == seqs[1])
    spool = await spools.open()
    assert await state_of(spool, seqs[1]) == "durable"
    again = await spool.in_flight()
    assert again == replace(batch, is_withdrawn=True)
    await spool.settle(again, [], lambda records: None)
    record = await spool.find(seqs[1])
    assert record is not None
    assert (record.state, (record.problem or {})["type"]) == ("refused", "skipped-by-operator")
    assert (spool.skipped_count, spool.describe()["skipped"]) == (1, 1)
    following = await cut(spool)
    assert (following.epoch, following.number) == (batch.epoch, batch.number + 1)
    assert [entry.seq for entry in following.entries] == [seqs[0], seqs[2]]


async def test_skip_of_a_write_that_is_in_no_batch_ends_it_at_once(
    spools: Spools, tool: Tool
) -> None:
    spool = await spools.open()
    first = await spool.append(update(name="a"))
    await cut(spool)
    seq = await spool.append(update(name="b"))
    await spools.close()

    assert tool("skip", str(seq)) == 0

    spool = await spools.open()
    assert await state_of(spool, seq) == "refused"
    assert spool.skipped_count == 1
    batch = await spool.in_flight()
    assert batch is not None
    assert (numbers(batch), batch.is_withdrawn) == ([first], False)


async def test_skip_ends_replaced_writes_too(spools: Spools, tool: Tool) -> None:
    spool = await spools.open()
    seqs = [await spool.append(size_only(size)) for size in (4, 5)]
    await spools.close()

    assert tool("skip", str(seqs[1])) == 0

    assert tool.writes() == []
    assert tool.writes("--state", "refused") == [
        (str(seqs[1]), "refused"),
        (str(seqs[0]), "refused"),
    ]


async def test_skip_assigns_no_number_twice_after_a_crash(spools: Spools, tool: Tool) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=name)) for name in "ab"]
    copy_as_killed(spools.directory, spools.directory.with_name("killed"))
    await spools.close()
    killed = Spools(spools.directory.with_name("killed"), spools.limits)
    tool.directory = killed.directory

    assert tool("skip", str(seqs[0])) == 0

    spool = await killed.open()
    assert await spool.append(update(name="c")) > seqs[-1] + 1_000
    await killed.close()


async def test_skip_is_refused_beside_a_running_sidecar(spools: Spools, tool: Tool) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="a"))

    assert tool("skip", str(seq)) == 75

    assert "another sidecar uses" in tool.err
    assert (await spool.waiting(EID))[0].seq == seq


@pytest.mark.parametrize("name", ["99", "0", "x", "feedfeedfeed-1", "1"])
async def test_skip_changes_nothing_if_no_such_write_waits(
    spools: Spools, tool: Tool, name: str
) -> None:
    await lively(spools)
    await spools.close()

    assert tool("skip", name) == 66
    assert len(tool.writes()) == 4


def test_skip_creates_no_spool(tmp_path: Path, tool: Tool) -> None:
    tool.directory = tmp_path / "nothing"
    assert tool("skip", "1") == 66
    assert not tool.directory.exists()
