"""Evidence of damage, kept in `quarantine/` beside the file."""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from kit.http.logs import fields

logger = logging.getLogger(__name__)

FOLDER = "quarantine"
MAX_FOLDERS = 1
"""Each may be as large as the spool, and the volume is made for two of them (a pod whose emptyDir
grows beyond its limit is evicted, spool and all)."""
ROWS_FILE = "entries.jsonl"
ROWS_MAX_BYTES = 16 * 1024 * 1024


def keep_rows(directory: Path, rows: list[tuple[Any, ...]]) -> None:
    """Appends corrupted entries as they are to `quarantine/entries.jsonl`."""
    logger.error("corrupted entries quarantined", extra=fields(seqs=[row[0] for row in rows]))
    file = directory / FOLDER / ROWS_FILE
    try:
        file.parent.mkdir(exist_ok=True)
        if file.exists() and file.stat().st_size > ROWS_MAX_BYTES:
            file.unlink()
        with file.open("a") as opened:
            for row in rows:
                opened.write(json.dumps([_printable(value) for value in row]) + "\n")
    except OSError:
        logger.exception("corrupted entries could not be kept")


def _printable(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


class QuarantineFolder:
    """The folder of one recovery: `quarantine/<time>-<n>/`, made on first use. Older ones are
    deleted for it."""

    def __init__(self, directory: Path, now_ms: int) -> None:
        self._quarantine = directory / FOLDER
        self._now_ms = now_ms
        self._folder: Path | None = None

    def resume(self) -> None:
        """Continues with the newest folder, if there is one, after a crash."""
        self._folder = max(self._folders(), default=None)

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self.delete_older()
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._now_ms // 1000))
            number = 0
            while (folder := self._quarantine / f"{stamp}-{number}").exists():
                number += 1
            folder.mkdir(parents=True)
            self._folder = folder
        return self._folder

    def move(self, file: Path) -> None:
        if file.exists():
            file.rename(self.folder / file.name)

    def copy(self, file: Path) -> Path | None:
        """The copy; None if the volume has no room for it, which waiting writes need more."""
        try:
            return Path(shutil.copy(file, self.folder / file.name))
        except OSError:
            logger.exception("damaged file could not be kept", extra=fields(file=str(file)))
            return None

    def delete_older(self) -> None:
        folders = self._folders()
        for folder in folders[: len(folders) + 1 - MAX_FOLDERS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self._quarantine.glob("*-*") if path.is_dir())
