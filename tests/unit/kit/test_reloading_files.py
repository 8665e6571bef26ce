"""Files that are renewed are loaded anew, and what cannot be loaded changes nothing."""

import asyncio
from pathlib import Path

import pytest

from kit.http.reloading_files import WATCH_PERIOD_S, ReloadingFiles
from tests.certificates import replace


class Loaded:
    """Remembers what was loaded; refuses the word `half`."""

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


def test_a_file_is_loaded_at_once_and_when_it_changes(loaded: Loaded) -> None:
    renewed = ReloadingFiles([loaded.path], loaded.load)
    assert loaded.texts == ["one"]

    assert not renewed.check()
    replace(loaded.path, b"two")
    assert renewed.check()
    assert not renewed.check()

    assert loaded.texts == ["one", "two"]


def test_what_cannot_be_loaded_is_tried_again(
    loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    renewed = ReloadingFiles([loaded.path], loaded.load)

    replace(loaded.path, b"half")
    assert not renewed.check()
    assert "reload failed" in caplog.text
    loaded.path.unlink()
    assert not renewed.check()
    replace(loaded.path, b"two")
    assert renewed.check()

    assert loaded.texts == ["one", "two"]


def test_a_first_file_that_cannot_be_loaded_is_an_error(loaded: Loaded, tmp_path: Path) -> None:
    loaded.path.write_text("half")
    with pytest.raises(ValueError, match="half of a pair"):
        ReloadingFiles([loaded.path], loaded.load)
    with pytest.raises(FileNotFoundError):
        ReloadingFiles([tmp_path / "missing"], loaded.load)


async def test_the_watch_checks_now_and_then(loaded: Loaded) -> None:
    renewed = ReloadingFiles([loaded.path], loaded.load)
    replace(loaded.path, b"two")
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 1:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await renewed.watch(sleep)

    assert pauses == [WATCH_PERIOD_S, WATCH_PERIOD_S]
    assert loaded.texts == ["one", "two"]
