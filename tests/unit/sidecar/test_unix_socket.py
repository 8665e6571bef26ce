"""Who of the pod gets at the unix socket and the spool's files: modes, groups and peers' uids."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from kit.http.settings import SettingsError
from sidecar.server.protocol import listening
from sidecar.settings import Settings, UnixSocket
from sidecar.spool.lock import make_private
from tests.databases import free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
URL = {"SIDECAR_CENTRAL_URL": "http://central"}


async def greet(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def exchange(socket: UnixSocket, refused: list[None]) -> bytes:
    """The response to a request over the socket; empty if the connection was aborted."""
    app = web.Application()
    app.router.add_get("/", greet)
    async with listening(
        app,
        None,
        ("127.0.0.1", free_port()),
        socket,
        shutdown_timeout_s=2.0,
        on_peer_refused=lambda: refused.append(None),
    ):
        reader, writer = await asyncio.open_unix_connection(socket.path)
        try:
            writer.write(REQUEST)
            return await asyncio.wait_for(reader.read(), 20)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("is_allowed", [True, False])
def test_only_peers_of_an_allowed_uid_are_served(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], is_allowed: bool
) -> None:
    uid = os.getuid() if is_allowed else os.getuid() + 1
    refused: list[None] = []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        socket = UnixSocket(tmp_path / "api.sock", 0o600, None, frozenset({uid}))
        response = runner.run(exchange(socket, refused))

    assert response.startswith(b"HTTP/1.1 200") is is_allowed
    assert refused == ([] if is_allowed else [None])


async def test_without_uids_the_mode_alone_decides(tmp_path: Path) -> None:
    socket = UnixSocket(tmp_path / "api.sock", 0o660, os.getgid(), frozenset())

    response = await exchange(socket, [])

    assert response.startswith(b"HTTP/1.1 200")
    found = socket.path.stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o660, os.getgid())


def test_the_folder_of_an_earlier_umask_becomes_private(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    (folder / "quarantine").mkdir(mode=0o755, parents=True)
    elsewhere = tmp_path / "elsewhere"
    for file in (folder / "spool.sqlite3", folder / "quarantine" / "entries.jsonl", elsewhere):
        file.touch(mode=0o644)
    (folder / "link").symlink_to(elsewhere)

    make_private(folder)

    modes = {path.name: path.lstat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}
    del modes["link"]
    assert modes == {
        "spool": 0o700,
        "quarantine": 0o700,
        "spool.sqlite3": 0o600,
        "entries.jsonl": 0o600,
    }
    assert elsewhere.stat().st_mode & 0o777 == 0o644


def test_settings_name_mode_group_and_uids() -> None:
    names = ("", "_MODE", "_GROUP", "_UIDS")
    values = ("/run/api.sock", "0660", "1000", "1000, 1001")
    given = {f"SIDECAR_UNIX_SOCKET{n}": value for n, value in zip(names, values, strict=True)}

    socket = Settings.from_environment(URL | given).unix_socket

    assert socket == UnixSocket(Path("/run/api.sock"), 0o660, 1000, frozenset({1000, 1001}))
    assert Settings.from_environment(URL).unix_socket is None
    alone = Settings.from_environment(URL | {"SIDECAR_UNIX_SOCKET": "/s"}).unix_socket
    assert alone == UnixSocket(Path("/s"), 0o600, None, frozenset())


@pytest.mark.parametrize(
    ("name", "value"), [("MODE", "u=rw"), ("MODE", "0999"), ("GROUP", "staff"), ("UIDS", "root")]
)
def test_an_invalid_setting_is_named(name: str, value: str) -> None:
    variable = f"SIDECAR_UNIX_SOCKET_{name}"

    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(URL | {"SIDECAR_UNIX_SOCKET": "/s", variable: value})

    assert [error.split(":")[0] for error in raised.value.errors] == [variable]
