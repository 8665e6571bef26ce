"""The pod's projected service-account token, as the kubelet keeps it."""

import logging
from pathlib import Path

from kit.http.logs import fields

logger = logging.getLogger(__name__)

HEADER = "Sidecar-Workload-Token"
MAX_LENGTH = 16 * 1024  # what central takes


class WorkloadToken:
    """A file that is replaced every hour or so: read again whenever it is another one.

    While it cannot be read, the last token goes on being sent, or none if there never was one;
    what that means is central's to say. Each such spell is logged once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._token: str | None = None
        self._is_unreadable = False

    def current(self) -> str | None:
        try:
            found = self._path.stat()  # of what the kubelet's symbolic links lead to
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            if version != self._version:
                self._token, self._version = self._read(), version
            self._is_unreadable = False
        except (OSError, ValueError) as error:
            if not self._is_unreadable:
                told = fields(path=str(self._path), reason=str(error))
                logger.error("workload token unreadable", extra=told)
            self._is_unreadable = True
        return self._token

    def _read(self) -> str:
        with self._path.open("rb") as file:
            octets = file.read(MAX_LENGTH + 1)
        text = octets.decode("ascii").strip()
        if not 0 < len(text) <= MAX_LENGTH or not text.isprintable() or " " in text:
            raise ValueError("expected one token")
        return text
