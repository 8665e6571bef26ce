"""TLS between the two services: contexts that follow their files, and what `doctor` says of those.

Whoever rotates certificates (cert-manager, a SPIFFE helper, the kubelet) replaces files. A
`ReloadingContext` is built anew as a whole when one of them changes: a new connection is made with
what was read last, an open one keeps what it began with, and files that do not fit together (half
of a renewal, a truncated bundle) change nothing until they do. As a whole, because a context can
only be added to: in one that is kept, a withdrawn CA would stay trusted until the restart.
"""

import datetime as dt
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.http.checks import Fail, Warn
from kit.http.reloading_files import ReloadingFiles
from kit.http.settings import EnvReader

NEAR_EXPIRY_SHARE = 0.2
NEAR_EXPIRY_MAX_S = 14 * 86_400.0
"""`doctor` warns with a fifth of the lifetime left, and two weeks before the end at the earliest.
cert-manager renews with a third left and SPIRE with half: by then a renewal has failed."""
HANDSHAKE_ROUNDS = 4
"""A handshake in memory takes two."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate with its chain, and its key, in PEM."""

    certificate: Path
    key: Path


def read_certificate_files(
    environment: EnvReader, certificate_name: str, key_name: str
) -> CertificateFiles | None:
    """Two settings that go together; None if neither is set."""
    certificate = environment.optional_path(certificate_name)
    key = environment.optional_path(key_name)
    if certificate is not None and key is not None:
        return CertificateFiles(certificate, key)
    if certificate is not None or key is not None:
        missing = certificate_name if certificate is None else key_name
        environment.error(missing, "must be set: a certificate and its key go together")
    return None


class ReloadingContext(ssl.SSLContext):
    """The TLS context of a listener or a connection pool, built anew when its files change.

    Raises what `build` raises, at construction only: OSError (`ssl.SSLError` is one).
    """

    _current: ssl.SSLContext

    def __new__(cls, *_: Any) -> "ReloadingContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)  # its own settings are never used

    def __init__(self, build: Callable[[], ssl.SSLContext], files: Iterable[Path | None]) -> None:
        self._build = build
        self.files = ReloadingFiles([file for file in files if file is not None], self._load)

    def _load(self) -> None:
        self._current = self._build()

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """What asyncio and uvloop call, once for each connection."""
        return self._current.wrap_bio(*arguments, **named)


def server_context(
    own: CertificateFiles, client_ca: Path | None = None, *, is_required: bool = True
) -> ReloadingContext:
    """For a listener. With `client_ca` clients have to show a certificate of one of those CAs, or,
    if it is not required, either none or such a one.

    That takes TLS 1.3 without session tickets: a session that is resumed is not verified again, so
    that it would outlive a certificate's end or a CA's withdrawal by hours.
    """

    def build() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # TLS 1.2 or newer
        context.load_cert_chain(own.certificate, own.key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
        return context

    return ReloadingContext(build, (own.certificate, own.key, client_ca))


def client_context(ca: Path | None, own: CertificateFiles | None = None) -> ReloadingContext:
    """For a connection pool. `ca` None trusts the system's CAs; servers that ask get `own`."""

    def build() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ca)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context

    return ReloadingContext(build, (ca, *((own.certificate, own.key) if own else ())))


def certificate_identity(certificate: Mapping[str, Any] | None) -> str | None:
    """Whom a verified certificate names: its first URI (a SPIFFE id), else its first DNS name.

    `certificate` as `SSLObject.getpeercert` returns it; None for no certificate or other names.
    The common name is not looked at (RFC 9525, section 2).
    """
    names = certificate.get("subjectAltName", ()) if certificate else ()
    for kind in ("URI", "DNS"):
        for name_kind, name in names:
            if name_kind == kind and name.isascii() and name.isprintable():
                return f"{kind}:{name}"
    return None


# --- checks of `doctor`


def check_certificate(
    own: CertificateFiles, *, is_server: bool, now: Callable[[], float] = time.time
) -> str:
    """Whether a peer would accept the pair, its issuer apart: key, validity, purpose, names."""
    try:
        certificate = _shown(own, is_server=is_server)
    except OSError as error:
        raise Fail(f"{own.certificate} with {own.key}: {_reason(error)}") from error
    identity = certificate_identity(certificate)
    if identity is None:
        raise Fail(f"{own.certificate}: names neither a URI nor a DNS name")
    return f"{identity}, {_check_expiry(own.certificate, certificate, now())}"


def check_ca(path: Path, *, now: Callable[[], float] = time.time) -> str:
    """Whether the file has CA certificates, and until when the first of them to expire is valid."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise Fail(f"{path}: {_reason(error)}") from error
    authorities = context.get_ca_certs()
    if not authorities:
        raise Fail(f"{path}: none of its certificates is a CA's")
    first = min(authorities, key=lambda found: ssl.cert_time_to_seconds(str(found["notAfter"])))
    return f"{len(authorities)} in {path}, {_check_expiry(path, first, now())}"


def _shown(own: CertificateFiles, *, is_server: bool) -> Mapping[str, Any]:
    """The certificate as a peer reads it that trusts this very one, by a handshake in memory.

    Python has no public function that reads a certificate. Raises OSError with what is wrong.
    """
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    for context in (server, client):
        context.load_cert_chain(own.certificate, own.key)
    verifier = client if is_server else server
    verifier.load_verify_locations(own.certificate)
    verifier.verify_mode = ssl.CERT_REQUIRED
    verifier.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = {
        client: client.wrap_bio(to_client, to_server),
        server: server.wrap_bio(to_server, to_client, server_side=True),
    }
    for _ in range(HANDSHAKE_ROUNDS):
        for side in sides.values():
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return sides[verifier].getpeercert() or {}


def _check_expiry(path: Path, certificate: Mapping[str, Any], now: float) -> str:
    begin, end = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    until = f"{dt.datetime.fromtimestamp(end, dt.UTC):%Y-%m-%d %H:%M:%S}Z"
    if now >= end:
        raise Fail(f"{path}: expired at {until}")
    if end - now < min(NEAR_EXPIRY_MAX_S, NEAR_EXPIRY_SHARE * (end - begin)):
        raise Warn(f"{path}: expires soon, at {until}; was it not renewed?")
    return f"valid until {until}"


def _reason(error: OSError) -> str:
    """OpenSSL's own words, without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).lower().replace("_", " ")
    return error.strerror or str(error)
