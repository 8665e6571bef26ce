"""The local guard on the wire: requests that are not local or not plain are refused."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from dev.ready import Ready
from tests.journeys.calls import create

MIB = 2**20
TOO_BIG = f"/v1/executions/{2**31}"


def exchange(ready: Ready, head: str, body: bytes = b"", *, over: str = "TCP") -> tuple[int, Any]:
    """Status and JSON body of the response to these bytes, sent at once."""
    with connected(ready, over) as line:
        line.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        raw = b""
        while b"\r\n\r\n" not in raw or len(raw.partition(b"\r\n\r\n")[2]) < _length(raw):
            received = line.recv(65536)
            if not received:
                break
            raw += received
    top, _, content = raw.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(content)


def connected(ready: Ready, over: str) -> socket.socket:
    if over == "unix socket":
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(20)
        line.connect(ready["processes"]["sidecar"]["env"]["SIDECAR_UNIX_SOCKET"])
        return line
    address = urlsplit(ready["sidecar"])
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=20)


def _length(response: bytes) -> int:
    for line in response.partition(b"\r\n\r\n")[0].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@pytest.fixture
def run(system: Ready) -> str:
    return f"/v1/executions/{create(system)}"


@pytest.mark.parametrize("over", ["TCP", "unix socket"])
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("GET {run} HTTP/1.1\nHost: localhost", (401, "token-missing")),
        ("GET {run} HTTP/1.1\nHost: localhost\nAuthorization: Basic YTpi", (401, "token-missing")),
        ("GET {run} HTTP/1.1\nHost: evil.example\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: localhost.evil.example\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: 10.0.0.7:7070\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.0\n{token}", (403, "not-local")),
        ("GET http://evil.example{run} HTTP/1.1\nHost: localhost\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: localhost\nOrigin: http://a\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: localhost\nOrigin: null\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: localhost\nX-Forwarded-For: ::1\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: localhost\nx-forwarded-host: a\n{token}", (403, "not-local")),
        ("GET {run} HTTP/1.1\nHost: localhost\nForwarded: for=::1\n{token}", (403, "not-local")),
        ("GET /v1/executions/0 HTTP/1.1\nHost: localhost\n{token}", (400, "invalid-request")),
        ("GET {big} HTTP/1.1\nHost: localhost\n{token}", (400, "invalid-request")),
        ("GET /v1/executions/one HTTP/1.1\nHost: localhost\n{token}", (400, "invalid-request")),
        ("GET {run}?colour=red HTTP/1.1\nHost: localhost\n{token}", (400, "invalid-request")),
        ("GET /nothing HTTP/1.1\nHost: localhost\n{token}", (404, "no-such-route")),
        ("TRACE {run} HTTP/1.1\nHost: localhost\n{token}", (405, "method-not-allowed")),
    ],
)  # fmt: skip
def test_a_request_that_is_not_plain_and_local_is_refused(
    system: Ready, run: str, head: str, expected: tuple[int, str], over: str
) -> None:
    token = f"Authorization: Bearer {system['users']['owner']['token']}"
    # Once known, the same read would be answered from memory: the guard comes before that too.
    plain = f"GET {run} HTTP/1.1\nHost: localhost\n{token}"
    assert [exchange(system, plain, over=over)[0] for _ in range(2)] == [200, 200]

    status, problem = exchange(system, head.format(run=run, token=token, big=TOO_BIG), over=over)

    assert (status, problem["type"]) == expected


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ("Content-Type: text/plain", b'{"name":"x"}', (415, "unsupported-media-type")),
        ("", b'{"name":"x"}', (415, "unsupported-media-type")),
        ("Content-Type: application/json", b'{"name":', (400, "invalid-request")),
        ("Content-Type: application/json", b"[]", (400, "invalid-request")),
        ("Content-Type: application/json", b'{"colour":"red"}', (400, "invalid-request")),
        ("Content-Type: application/json", b'{"name":"\\ud800"}', (400, "invalid-request")),
        ("Content-Type: application/json", b'{"name":"\\u0000"}', (400, "invalid-request")),
        ("Content-Type: application/json", b"[" * 100_000, (400, "invalid-request")),
    ],
)
def test_a_body_that_is_not_plain_json_is_refused(
    system: Ready, run: str, headers: str, body: bytes, expected: tuple[int, str]
) -> None:
    token = system["users"]["owner"]["token"]
    lines = [f"PATCH {run} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    lines += [f"Content-Length: {len(body)}", *([headers] if headers else [])]

    status, problem = exchange(system, "\n".join(lines), body)

    assert (status, problem["type"]) == expected


@pytest.mark.parametrize("over", ["TCP", "unix socket"])
def test_an_announced_body_above_the_limit_is_413_before_it_is_sent(
    system: Ready, run: str, over: str
) -> None:
    token = system["users"]["owner"]["token"]
    head = (
        f"PATCH {run} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {token}\n"
        f"Content-Type: application/json\nContent-Length: {MIB + 1}"
    )

    status, problem = exchange(system, head, over=over)

    assert (status, problem["type"]) == (413, "body-too-large")


def test_a_chunked_body_is_413_once_it_exceeds_the_limit(system: Ready, run: str) -> None:
    token = system["users"]["owner"]["token"]
    head = (
        f"PATCH {run} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {token}\n"
        "Content-Type: application/json\nTransfer-Encoding: chunked"
    )
    chunk = b"%x\r\n%s\r\n" % (65_536, b" " * 65_536)

    status, problem = exchange(system, head, chunk * 17 + b"0\r\n\r\n")

    assert (status, problem["type"]) == (413, "body-too-large")
