"""Central with a certificate, and sidecars that trust its CA only."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from central.lifecycle import ServerCertificate
from sidecar.cli.doctor import check_central
from sidecar.problems import CentralUnavailable
from sidecar.settings import Settings
from sidecar.upstream.credentials import TrustStore
from tests.certificates import Authority, replace
from tests.databases import Database
from tests.integration.central.test_lifecycle import running


def sidecar_settings(url: str, ca_file: Path, folder: Path) -> Settings:
    return Settings.from_environment(
        {
            "SIDECAR_CENTRAL_URL": url,
            "SIDECAR_CENTRAL_CA_FILE": str(ca_file),
            "SIDECAR_SPOOL_DIR": str(folder),
        }
    )


async def test_sidecar_trusts_the_configured_ca_only(database: Database, tmp_path: Path) -> None:
    authority, other_authority = Authority(), Authority()
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    authority.issue(*files)
    variables = {"CENTRAL_TLS_CERT_FILE": str(files[0]), "CENTRAL_TLS_KEY_FILE": str(files[1])}

    with running(database.central_url, **variables) as central:
        url = f"localhost:{central.port}"
        trusted = sidecar_settings(f"https://{url}", authority.write(tmp_path / "ca"), tmp_path)
        other = sidecar_settings(
            f"https://{url}", other_authority.write(tmp_path / "other"), tmp_path
        )
        plain = sidecar_settings(f"http://{url}", tmp_path / "ca", tmp_path)

        assert "accepts this sidecar's signature" in await check_central(trusted)
        for refused in (other, plain):
            with pytest.raises(CentralUnavailable):
                await check_central(refused)
        assert central.is_ready()  # the ops listener is plain


class Listener:
    """A TLS listener; clients see which certificate it serves."""

    def __init__(self, certificate: ServerCertificate, port: int) -> None:
        self.certificate = certificate
        self.port = port

    async def shown_to(self, trust: TrustStore) -> int:
        """The serial number of the certificate that a new connection gets."""
        reader, writer = await asyncio.open_connection(
            "localhost", self.port, ssl=trust.context, server_hostname="localhost"
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await reader.read()
        return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture
async def authority() -> Authority:
    return Authority()


@pytest.fixture
async def listener(authority: Authority, tmp_path: Path) -> AsyncIterator[Listener]:
    authority.issue(tmp_path / "tls.crt", tmp_path / "tls.key")
    certificate = ServerCertificate(tmp_path / "tls.crt", tmp_path / "tls.key")

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang_up, "localhost", 0, ssl=certificate.context)
    async with server:
        yield Listener(certificate, server.sockets[0].getsockname()[1])


async def test_renewed_certificate_is_served_without_restart(
    listener: Listener, authority: Authority, tmp_path: Path
) -> None:
    trust = TrustStore(authority.write(tmp_path / "ca"))
    before = await listener.shown_to(trust)

    serial = authority.issue(tmp_path / "tls.crt", tmp_path / "tls.key")
    listener.certificate.files.check()

    assert before != serial
    assert await listener.shown_to(trust) == serial


async def test_mismatched_renewal_keeps_the_old_certificate(
    listener: Listener, authority: Authority, tmp_path: Path
) -> None:
    trust = TrustStore(authority.write(tmp_path / "ca"))
    before = await listener.shown_to(trust)
    key = (tmp_path / "tls.key").read_bytes()

    authority.issue(tmp_path / "tls.crt", tmp_path / "tls.key")
    replace(tmp_path / "tls.key", key)
    listener.certificate.files.check()

    assert await listener.shown_to(trust) == before


async def test_renewed_ca_is_trusted_without_restart(listener: Listener, tmp_path: Path) -> None:
    successor = Authority()
    trust = TrustStore(Authority().write(tmp_path / "ca"))
    with pytest.raises(ssl.SSLCertVerificationError):
        await listener.shown_to(trust)

    successor.write(tmp_path / "ca")
    trust.files.check()
    serial = successor.issue(tmp_path / "tls.crt", tmp_path / "tls.key")
    listener.certificate.files.check()

    assert await listener.shown_to(trust) == serial


def test_mismatched_certificate_and_key_raise(authority: Authority, tmp_path: Path) -> None:
    authority.issue(tmp_path / "tls.crt", tmp_path / "tls.key")
    authority.issue(tmp_path / "other.crt", tmp_path / "other.key")

    with pytest.raises(ssl.SSLError, match="MISMATCH"):
        ServerCertificate(tmp_path / "tls.crt", tmp_path / "other.key")
