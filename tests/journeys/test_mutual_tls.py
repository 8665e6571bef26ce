"""Both services with certificates, and every file of theirs replaced while they run."""

import socket
import ssl
from functools import partial
from pathlib import Path

from dev.polling import wait_until
from kit.http.tls import CertificateFiles
from tests.certificates import Authority, files_in, spiffe
from tests.journeys.calls import call, create
from tests.systems import Up, running_system

RELOADED_WITHIN_S = 60.0
"""Files are looked at every 30 s."""
SETTINGS = ("CENTRAL_CONNECTION_MAX_AGE_S=1", "SIDECAR_UPSTREAM_TIMEOUT_S=5")


class Issued:
    """A CA for central, one for its clients, and what they have signed."""

    def __init__(self, folder: Path, server: CertificateFiles, client: CertificateFiles) -> None:
        server_ca, client_ca = Authority(), Authority()
        server_ca.issue(server)
        client_ca.issue(client, names=spiffe("unit"))
        server_ca.write(folder / "server-ca")
        client_ca.write(folder / "client-ca")


def test_certificates_and_cas_are_replaced_while_both_run(system_folder: Path) -> None:
    server, client = files_in(system_folder, "server"), files_in(system_folder, "client")
    Issued(system_folder, server, client)
    with running_system(system_folder, *(f"--set={setting}" for setting in SETTINGS)) as up:
        port = int(up.ready["central"].rpartition(":")[2])
        with_certificates(up, system_folder, server, client, port)
        execution_id = create(up.ready)
        assert is_committed(up, execution_id, "RUNNING")
        old = client_of(system_folder, client)
        assert answers(old, port)

        Issued(system_folder, server, client)
        new = client_of(system_folder, client)

        assert wait_until(lambda: answers(new, port), RELOADED_WITHIN_S)
        assert not answers(old, port)
        # The first goes over the connection that is still open, and is the last one there.
        for status in ("PAUSED", "RUNNING"):
            assert wait_until(partial(is_committed, up, execution_id, status), RELOADED_WITHIN_S)


def with_certificates(
    up: Up, folder: Path, server: CertificateFiles, client: CertificateFiles, port: int
) -> None:
    """Starts both again, with TLS."""
    up.published("central")["env"].update(
        CENTRAL_TLS_CERT_FILE=str(server.certificate),
        CENTRAL_TLS_KEY_FILE=str(server.key),
        CENTRAL_TLS_CLIENT_CA_FILE=str(folder / "client-ca"),
    )
    up.published("sidecar")["env"].update(
        SIDECAR_CENTRAL_URL=f"https://localhost:{port}",
        SIDECAR_CENTRAL_CA_FILE=str(folder / "server-ca"),
        SIDECAR_TLS_CERT_FILE=str(client.certificate),
        SIDECAR_TLS_KEY_FILE=str(client.key),
    )
    for role in ("central", "sidecar"):
        up.kill_and_restart(role)


def is_committed(up: Up, execution_id: int, status: str) -> bool:
    """Writes the status; whether central has it in time."""
    path, change = f"/v1/executions/{execution_id}", {"status": status}
    token = up.ready["users"]["owner"]["token"]
    got, body, _ = call(up.ready, "PATCH", path, change, token=token, prefer="wait=20")
    return (got, body.get("state")) == (200, "committed")


def client_of(folder: Path, own: CertificateFiles) -> ssl.SSLContext:
    """A client with the certificate and the trusted CA of now."""
    context = ssl.create_default_context(cafile=str(folder / "server-ca"))
    context.load_cert_chain(own.certificate, own.key)
    return context


def answers(context: ssl.SSLContext, port: int) -> bool:
    """Whether central serves a new connection of this client."""
    try:
        with (
            socket.create_connection(("localhost", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False
