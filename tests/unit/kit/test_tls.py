"""TLS contexts: who is let in, what a renewal changes, and what `doctor` says of the files."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from kit.http.checks import Fail, Warn
from kit.http.tls import (
    CertificateFiles,
    ReloadingContext,
    certificate_identity,
    check_ca,
    check_certificate,
    client_context,
    server_context,
)
from tests.certificates import CLIENTS_ONLY, DAY, Authority, files_in, replace, spiffe

SIDECAR = "URI:spiffe://texera.example/sidecar"


@dataclass
class Pair:
    """A connection, and the identity that the server read at its handshake."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self) -> str:
        """One call: the server answers with the client's identity."""
        self.writer.write(b"?")
        return (await self.reader.readline()).decode().strip()

    @property
    def serial(self) -> int:
        """Of the server's certificate."""
        shown = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown).serial_number


@dataclass
class World:
    """A listener with a CA for its clients, and the files of both sides."""

    folder: Path
    server_ca: Authority
    client_ca: Authority
    listener: ReloadingContext
    connect: Callable[[ssl.SSLContext], Awaitable[Pair]]

    @property
    def server_files(self) -> CertificateFiles:
        return files_in(self.folder, "server")

    @property
    def client_files(self) -> CertificateFiles:
        return files_in(self.folder, "client")

    def client(self, own: CertificateFiles | None) -> ReloadingContext:
        return client_context(self.folder / "server-ca", own)

    async def is_refused(self, context: ssl.SSLContext) -> bool:
        """With TLS 1.3 a client learns it from its first read."""
        try:
            return await (await self.connect(context)).ask() == ""
        except OSError:
            return True


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with serving(tmp_path, is_required=True) as world:
        yield world


@asynccontextmanager
async def serving(folder: Path, *, is_required: bool) -> AsyncIterator[World]:
    server_ca, client_ca = Authority(), Authority()
    server_ca.write(folder / "server-ca")
    client_ca.write(folder / "client-ca")
    server_ca.issue(files_in(folder, "server"))
    client_ca.issue(files_in(folder, "client"), names=spiffe("sidecar"))
    listener = server_context(
        files_in(folder, "server"), folder / "client-ca", is_required=is_required
    )
    opened: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        identity = certificate_identity(writer.get_extra_info("peercert"))
        while await reader.read(1):
            writer.write(f"{identity}\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "localhost", 0, ssl=listener)

    async def connect(context: ssl.SSLContext) -> Pair:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        opened.append(writer)
        return Pair(reader, writer)

    try:
        yield World(folder, server_ca, client_ca, listener, connect)
    finally:
        for writer in opened:
            writer.transport.abort()
        server.close()


# --- who is let in


async def test_the_server_reads_whom_the_certificate_names(world: World) -> None:
    assert await (await world.connect(world.client(world.client_files))).ask() == SIDECAR


async def test_a_client_without_a_certificate_is_refused(world: World) -> None:
    assert await world.is_refused(world.client(None))


async def test_a_client_without_a_certificate_is_taken_where_it_is_only_requested(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, is_required=False) as world:
        assert await (await world.connect(world.client(None))).ask() == "None"
        assert await (await world.connect(world.client(world.client_files))).ask() == SIDECAR


@pytest.mark.parametrize("is_required", [True, False])
async def test_a_certificate_of_another_ca_or_time_is_refused(
    tmp_path: Path, is_required: bool
) -> None:
    async with serving(tmp_path, is_required=is_required) as world:
        other, expired = files_in(tmp_path, "other"), files_in(tmp_path, "expired")
        Authority().issue(other, names=spiffe("sidecar"))
        world.client_ca.issue(expired, names=spiffe("sidecar"), ends_in=dt.timedelta(seconds=-1))

        assert await world.is_refused(world.client(other))
        assert await world.is_refused(world.client(expired))


async def test_a_session_that_could_be_resumed_unverified_is_never_begun(world: World) -> None:
    pair = await world.connect(world.client(world.client_files))
    await pair.ask()

    session = pair.writer.get_extra_info("ssl_object").session
    assert session is None or not session.has_ticket

    old = ssl.create_default_context(cafile=str(world.folder / "server-ca"))
    old.load_cert_chain(world.client_files.certificate, world.client_files.key)
    old.maximum_version = ssl.TLSVersion.TLSv1_2  # which has sessions of another kind
    assert await world.is_refused(old)


# --- renewals


async def test_renewals_take_effect_without_restart_and_connections_live_on(world: World) -> None:
    client = world.client(world.client_files)
    before = await world.connect(client)
    assert await before.ask() == SIDECAR

    serial = world.server_ca.issue(world.server_files)
    world.client_ca.issue(world.client_files, names=spiffe("renewed"))
    assert world.listener.files.check()
    assert client.files.check()
    after = await world.connect(client)

    assert (await after.ask(), after.serial) == ("URI:spiffe://texera.example/renewed", serial)
    assert await before.ask() == SIDECAR
    assert before.serial != serial


async def test_a_withdrawn_ca_of_clients_is_refused(world: World) -> None:
    client = world.client(world.client_files)
    assert not await world.is_refused(client)

    Authority().write(world.folder / "client-ca")
    assert world.listener.files.check()

    assert await world.is_refused(client)


async def test_a_withdrawn_ca_of_the_server_is_refused(world: World) -> None:
    client = world.client(world.client_files)
    assert not await world.is_refused(client)

    Authority().write(world.folder / "server-ca")
    assert client.files.check()

    with pytest.raises(ssl.SSLCertVerificationError):
        await world.connect(client)


@pytest.mark.parametrize("name", ["server.crt", "server.key", "client-ca"])
async def test_a_half_written_file_keeps_the_old_ones(world: World, name: str) -> None:
    client = world.client(world.client_files)
    before = await world.connect(client)
    whole = (world.folder / name).read_bytes()

    (world.folder / name).write_bytes(whole[: len(whole) // 2])
    assert not world.listener.files.check()
    during = await world.connect(client)
    assert (await during.ask(), during.serial) == (SIDECAR, before.serial)

    (world.folder / name).write_bytes(whole)
    assert world.listener.files.check()


async def test_half_of_a_renewed_pair_keeps_the_old_one(world: World) -> None:
    client = world.client(world.client_files)
    key = world.client_files.key.read_bytes()

    world.client_ca.issue(world.client_files, names=spiffe("renewed"))
    renewed = world.client_files.key.read_bytes()
    replace(world.client_files.key, key)
    assert not client.files.check()
    assert await (await world.connect(client)).ask() == SIDECAR

    replace(world.client_files.key, renewed)
    assert client.files.check()
    assert (await (await world.connect(client)).ask()).endswith("/renewed")


def test_files_that_do_not_fit_at_the_start_raise(tmp_path: Path) -> None:
    own, other = files_in(tmp_path), files_in(tmp_path, "other")
    for files in (own, other):
        Authority().issue(files)

    with pytest.raises(ssl.SSLError, match="MISMATCH"):
        server_context(CertificateFiles(own.certificate, other.key))
    with pytest.raises(FileNotFoundError):
        client_context(tmp_path / "missing")


# --- identities


def test_an_identity_is_the_first_uri_or_else_the_first_dns_name() -> None:
    dns, uri = ("DNS", "a.example"), ("URI", "spiffe://b/c")

    assert certificate_identity({"subjectAltName": (dns, uri)}) == "URI:spiffe://b/c"
    assert certificate_identity({"subjectAltName": (dns, ("DNS", "z"))}) == "DNS:a.example"
    for nobody in (None, {}, {"subjectAltName": (("IP Address", "10.0.0.1"),)}):
        assert certificate_identity(nobody) is None
    assert certificate_identity({"subjectAltName": (("DNS", "a\0b"),)}) is None


# --- doctor


@pytest.mark.parametrize("is_server", [True, False])
def test_a_certificate_that_peers_accept_passes(tmp_path: Path, is_server: bool) -> None:
    files = files_in(tmp_path)
    Authority().issue(files, names=spiffe("sidecar"), ends_in=30 * DAY)

    found = check_certificate(files, is_server=is_server)

    assert found.startswith(f"{SIDECAR}, valid until 20")


def test_what_is_wrong_with_a_certificate_is_named(tmp_path: Path) -> None:
    authority, files, other = Authority(), files_in(tmp_path), files_in(tmp_path, "other")
    authority.issue(files)
    authority.issue(other, ends_in=-dt.timedelta(seconds=1))

    with pytest.raises(Fail, match=r"tls\.crt with .*other\.key: key values mismatch"):
        check_certificate(CertificateFiles(files.certificate, other.key), is_server=True)
    with pytest.raises(Fail, match=r"other\.crt .*certificate has expired"):
        check_certificate(other, is_server=False)
    authority.issue(other, names=())
    with pytest.raises(Fail, match=r"other\.crt: names neither"):
        check_certificate(other, is_server=True)
    authority.issue(other, usage=CLIENTS_ONLY)
    check_certificate(other, is_server=False)
    with pytest.raises(Fail, match="purpose"):
        check_certificate(other, is_server=True)
    other.key.unlink()
    with pytest.raises(Fail, match=r"other\.key: No such file"):
        check_certificate(other, is_server=True)


@pytest.mark.parametrize(
    ("began_ago", "ends_in", "is_near"),
    [
        (76 * DAY, 15 * DAY, False),  # at most two weeks before the end
        (76 * DAY, 13 * DAY, True),
        (DAY, 0.3 * DAY, False),  # of a short life, a fifth
        (DAY, 0.2 * DAY, True),
    ],
)
def test_a_renewal_that_is_late_is_reported(
    tmp_path: Path, began_ago: dt.timedelta, ends_in: dt.timedelta, is_near: bool
) -> None:
    files, authority = files_in(tmp_path), Authority()
    authority.issue(files, began_ago=began_ago, ends_in=ends_in)
    ca_file = authority.write(tmp_path / "ca", began_ago=began_ago, ends_in=ends_in)
    checks: list[Callable[[], str]] = [
        lambda: check_certificate(files, is_server=True),
        lambda: check_ca(ca_file),
    ]

    for check in checks:
        if is_near:
            with pytest.raises(Warn, match="expires soon, at 20"):
                check()
        else:
            assert "valid until" in check()


def test_a_ca_that_is_missing_is_none_or_has_expired_is_named(tmp_path: Path) -> None:
    authority, files = Authority(), files_in(tmp_path)
    authority.issue(files)

    assert check_ca(authority.write(tmp_path / "ca", ends_in=30 * DAY)).startswith("1 in ")
    with pytest.raises(Fail, match="missing: No such file"):
        check_ca(tmp_path / "missing")
    with pytest.raises(Fail, match="none of its certificates is a CA"):
        check_ca(files.certificate)
    with pytest.raises(Fail, match=r"tls\.key: no certificate"):
        check_ca(files.key)
    with pytest.raises(Fail, match="expired at"):
        check_ca(authority.write(tmp_path / "ca", ends_in=-dt.timedelta(seconds=1)))
