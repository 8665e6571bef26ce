"""The unix socket of the local API: who may connect, by its mode and by the peer's uid.

A process needs write permission on the socket to connect. The mode alone admits the sidecar's own
uid, or a group that it shares with the computing unit; `SO_PEERCRED` tells the uid of each peer as
the kernel knows it.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Set
from typing import cast

from sidecar.settings import UnixSocket

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group: `struct ucred` of unix(7)."""


def bind(settings: UnixSocket) -> socket.socket:
    """The bound socket; nobody can connect before it listens. Raises OSError."""
    # A killed process leaves its socket behind, which would keep the next one from binding.
    settings.path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.setblocking(False)
        bound.bind(str(settings.path))
        if settings.group_id is not None:
            os.chown(settings.path, -1, settings.group_id)
        settings.path.chmod(settings.mode)
    except BaseException:
        bound.close()
        raise
    return bound


class PeerCheck(asyncio.Protocol):
    """Passes a connection on if its peer's uid is allowed, and aborts it otherwise."""

    def __init__(
        self,
        allowed_uids: Set[int],
        open_handler: Callable[[], asyncio.BaseProtocol],
        on_refused: Callable[[], None],
    ) -> None:
        self._allowed_uids = allowed_uids
        self._open_handler = open_handler
        self._on_refused = on_refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if _peer_uid(transport) in self._allowed_uids:
            handler = self._open_handler()
            transport.set_protocol(handler)
            handler.connection_made(transport)
        else:
            self._on_refused()
            cast("asyncio.Transport", transport).abort()


def _peer_uid(transport: asyncio.BaseTransport) -> int:
    peer = transport.get_extra_info("socket")
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return int(uid)
