"""Fetched tools are made once and whole, or are missing with a reason."""

import threading
from pathlib import Path

import pytest

from dev.kube import binaries, tools
from dev.kube.tools import ToolMissing, filling


def test_folder_is_filled_once_by_concurrent_callers(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "tool"
    made: list[int] = []

    def want(number: int) -> None:
        with filling(folder) as scratch:
            if scratch is not None:
                (scratch / "program").write_text(str(number))
                made.append(number)

    threads = [threading.Thread(target=want, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert (folder / "program").read_text() == str(made[0])


def test_failed_fill_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tool"

    def download() -> None:
        with filling(folder) as scratch:
            assert scratch is not None
            (scratch / "half").write_text("")
            raise ToolMissing("the network went away")

    with pytest.raises(ToolMissing, match="network"):
        download()

    assert not folder.exists()
    with filling(folder) as scratch:
        assert scratch is not None


def test_helm_on_another_platform_is_missing_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")

    with pytest.raises(ToolMissing, match="x86_64 Linux only"):
        tools.helm()


def test_api_server_without_go_is_missing_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ToolMissing, match="is not installed"):
        binaries.build()


def test_changed_go_mod_is_another_build(tmp_path: Path) -> None:
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_text((binaries.NEWEST / name).read_text())
    before = binaries.folder(binaries.NEWEST)

    assert binaries.folder(tmp_path) == before
    (tmp_path / "go.sum").write_text("")

    assert binaries.folder(tmp_path) != before
    assert binaries.kubernetes_version(tmp_path) in before.name
    assert binaries.folder(binaries.BETA) != before
