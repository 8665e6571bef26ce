"""Whom the sidecar takes for central, where it is reached by https."""

import ssl
from pathlib import Path

from kit.http.reloading_files import ReloadingFiles


class TrustStore:
    """Certificates of a file, in place of the system's; those it is renewed with are added.

    One that was withdrawn is trusted until the restart. Raises OSError (`ssl.SSLError` is one)
    for a file that holds none.
    """

    def __init__(self, ca_file: Path) -> None:
        self._ca_file = ca_file
        self.context = ssl.create_default_context(cafile=ca_file)
        self.renewed = ReloadingFiles([ca_file], self._load)

    def _load(self) -> None:
        self.context.load_verify_locations(cafile=self._ca_file)
