"""`helm test`: the program in its pod tells central from anything else that answers."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import Authority, files_in
from tests.chart.rendering import Chart
from tests.databases import free_port
from tests.integration.central.test_lifecycle import running

TIMEOUT_S = 30
NO_DATABASE = "postgresql://nobody:none@127.0.0.1:9/none"


@pytest.fixture(scope="module")
def program(chart: Chart) -> str:
    (container,) = chart.render().one("Pod")["spec"]["containers"]
    assert container["command"] == ["/opt/venv/bin/python", "-c"]
    program, url, clients = container["args"]
    assert clients == "none"
    assert url == "http://metadata-texera-cu-sidecar-central.texera.svc.cluster.local:7080"
    return str(program)


def exit_code(program: str, url: str, clients: str = "none") -> int:
    command = [sys.executable, "-c", program, url, clients]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False).returncode


@contextmanager
def something_else() -> Iterator[str]:
    """A server that answers 200 to everything, such as a proxy's sign-in page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"Please sign in")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_helm_test_passes_without_the_database(program: str) -> None:
    with running(NO_DATABASE) as central:
        assert exit_code(program, f"http://127.0.0.1:{central.port}") == 0


def test_helm_test_fails_without_central(program: str) -> None:
    assert exit_code(program, f"http://127.0.0.1:{free_port()}") != 0
    with something_else() as url:
        assert exit_code(program, url) != 0


def test_helm_test_passes_where_clients_have_to_show_certificates(
    program: str, tmp_path: Path
) -> None:
    authority, files = Authority(), files_in(tmp_path)
    authority.issue(files)
    tls = {"CENTRAL_TLS_CERT_FILE": str(files.certificate), "CENTRAL_TLS_KEY_FILE": str(files.key)}
    required = {"CENTRAL_TLS_CLIENT_CA_FILE": str(authority.write(tmp_path / "ca"))}

    with running(NO_DATABASE, **tls, **required) as central:
        assert exit_code(program, f"https://localhost:{central.port}", "require") == 0
    with running(NO_DATABASE, **tls) as central:
        assert exit_code(program, f"https://localhost:{central.port}", "none") == 0
        assert exit_code(program, f"https://localhost:{central.port}", "require") != 0
    assert exit_code(program, f"https://localhost:{free_port()}", "require") != 0
