"""The projected token of the pod, re-read when the kubelet replaces it."""

import logging
from pathlib import Path

import pytest

from sidecar.upstream.credentials import TOKEN_MAX_BYTES, WorkloadToken


def project(volume: Path, token: str, generation: int) -> Path:
    """As the kubelet does: a new folder, then one rename of the link that leads to it."""
    folder = volume / f"..{generation}"
    folder.mkdir()
    (folder / "token").write_text(token)
    link = volume / "..data_tmp"
    link.symlink_to(folder.name)
    link.rename(volume / "..data")
    path = volume / "token"
    if not path.is_symlink():
        path.symlink_to("..data/token")
    return path


def test_a_rotated_token_is_read_at_the_next_call(tmp_path: Path) -> None:
    workload = WorkloadToken(project(tmp_path, "a.first.token\n", 1))
    assert workload.read() == "a.first.token"
    assert workload.read() == "a.first.token"

    project(tmp_path, "a.second.token", 2)

    assert workload.read() == "a.second.token"


def test_a_token_that_appears_later_is_read(tmp_path: Path) -> None:
    workload = WorkloadToken(tmp_path / "token")
    assert workload.read() is None

    project(tmp_path, "a.b.c", 1)

    assert workload.read() == "a.b.c"


@pytest.mark.parametrize("text", ["", "\n", "two tokens", "a\nb", "é", "a" * (TOKEN_MAX_BYTES + 1)])
def test_invalid_content_is_not_sent_and_logged_once(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    workload = WorkloadToken(path)

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert workload.read() is None

    assert [record.message for record in caplog.records] == ["workload token unreadable"]
    assert all(text not in str(record.__dict__) for record in caplog.records if len(text) > 1)


def test_the_last_token_is_sent_while_the_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a.b.c")
    workload = WorkloadToken(path)
    workload.read()

    path.unlink()

    assert workload.read() == "a.b.c"
