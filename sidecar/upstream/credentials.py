"""The pod's workload token, as the kubelet mounts it."""

import logging
from pathlib import Path

from kit.http.logs import fields
from kit.http.reloading_files import FileVersion, file_version

logger = logging.getLogger(__name__)

WORKLOAD_HEADER = "Sidecar-Workload-Token"
TOKEN_MAX_BYTES = 16 * 1024
"""The maximum that central accepts."""


class WorkloadToken:
    """The projected service-account token, which the kubelet replaces every hour or so.

    Re-read at the next call after the file was replaced. While it cannot be read, the last token
    is sent, or none if there never was one: central decides whether that is enough. Each such
    period is logged once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: FileVersion | None = None
        self._token: str | None = None
        self._is_unreadable = False

    def read(self) -> str | None:
        try:
            version = file_version(self._path)
            if version != self._version:
                self._token, self._version = self._load(), version
            self._is_unreadable = False
        except (OSError, ValueError) as error:
            if not self._is_unreadable:
                details = fields(path=str(self._path), reason=str(error))
                logger.error("workload token unreadable", extra=details)
            self._is_unreadable = True
        return self._token

    def _load(self) -> str:
        with self._path.open("rb") as file:
            content = file.read(TOKEN_MAX_BYTES + 1)
        text = content.decode("ascii").strip()
        if not 0 < len(text) <= TOKEN_MAX_BYTES or not text.isprintable() or " " in text:
            raise ValueError("expected one token")
        return text
