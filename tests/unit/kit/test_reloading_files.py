"""Changed files are reloaded, and a failed reload changes nothing."""

import asyncio
from pathlib import Path

import pytest

from kit.http.reloading_files import WATCH_PERIOD_S, ReloadingFiles
from tests.certificates import replace


class Loaded:
    """Records what was loaded; refuses the word `half`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []

    def load(self) -> None:
        text = self.path.read_text()
        if text == "half":
            raise ValueError("half of a pair")
        self.texts.append(text)


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    (tmp_path / "file").write_text("one")
    return Loaded(tmp_path / "file")


def test_a_file_is_loaded_at_construction_and_when_it_changes(loaded: Loaded) -> None:
    files = ReloadingFiles([loaded.path], loaded.load)
    assert loaded.texts == ["one"]

    assert not files.check()
    replace(loaded.path, b"two")
    assert files.check()
    assert not files.check()

    assert loaded.texts == ["one", "two"]


def test_a_failed_reload_is_retried(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    files = ReloadingFiles([loaded.path], loaded.load)

    replace(loaded.path, b"half")
    assert not files.check()
    assert "reload failed" in caplog.text
    loaded.path.unlink()
    assert not files.check()
    replace(loaded.path, b"two")
    assert files.check()

    assert loaded.texts == ["one", "two"]


def test_a_failed_first_load_raises(loaded: Loaded, tmp_path: Path) -> None:
    loaded.path.write_text("half")
    with pytest.raises(ValueError, match="half of a pair"):
        ReloadingFiles([loaded.path], loaded.load)
    with pytest.raises(FileNotFoundError):
        ReloadingFiles([tmp_path / "missing"], loaded.load)


async def test_the_watch_checks_periodically(loaded: Loaded) -> None:
    files = ReloadingFiles([loaded.path], loaded.load)
    replace(loaded.path, b"two")
    waits_s: list[float] = []

    async def sleep(seconds: float) -> None:
        waits_s.append(seconds)
        if len(waits_s) > 1:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await files.watch(sleep)

    assert waits_s == [WATCH_PERIOD_S, WATCH_PERIOD_S]
    assert loaded.texts == ["one", "two"]
