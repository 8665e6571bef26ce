"""The certificate of the API's listener. The ops listener has none: probes are plain HTTP."""

import ssl
from pathlib import Path

from kit.http.reloading_files import ReloadingFiles


class ServerCertificate:
    """A context for the listener, whose certificate is that of the files, also once renewed.

    Connections that are open keep the one they began with. Raises OSError (`ssl.SSLError` is
    one) for files that are no pair of certificate and key.
    """

    def __init__(self, certificate_file: Path, key_file: Path) -> None:
        self._files = (certificate_file, key_file)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # TLS 1.2 on
        self.files = ReloadingFiles(self._files, self._load)

    def _load(self) -> None:
        # A pair that does not fit would leave half of itself in the live context.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*self._files)
        self.context.load_cert_chain(*self._files)
