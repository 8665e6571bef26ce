"""The client's decisions, without I/O: what is sent, when it is retried, what is raised."""

from collections.abc import Iterable
from typing import TypeVar

import pytest

from cu_metadata_client import (
    Conflict,
    DeliveryTimeout,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    Unreachable,
    calls,
)
from cu_metadata_client.protocol import (
    MAX_ETAGS,
    Address,
    Call,
    Exchanges,
    Failure,
    Request,
    Response,
)

T = TypeVar("T")

VERSION = b'{"workflow_id":1,"version_id":7}'
RESULT = b'{"uri":"vfs:///x","global_port_id":"p","result_bytes":3}'
OK = Response(200, VERSION)
BUSY = Response(503, b'{"type":"spool-full"}', retry_after="2")
REFUSED = Failure(ConnectionRefusedError("refused"))
CLOSED = Failure(ConnectionResetError("closed"), was_reused=True)


class Transport:
    """Gives the exchange prepared responses; only its sleeps move its clock."""

    def __init__(self, deadline_s: float = 30.0, jitter: float = 1.0) -> None:
        self.slept: list[float] = []
        self.sent: list[Request] = []
        self.reasons: list[str] = []
        self.exchanges = Exchanges(
            "token", deadline_s, clock=lambda: sum(self.slept), jitter=lambda: jitter
        )

    def send(self, call: Call[T], responses: Iterable[Response | Failure]) -> T:
        prepared = iter(responses)
        exchange = self.exchanges.exchange(call, self.reasons.append)
        came: Response | Failure | None = None
        while True:
            try:
                step = exchange.send(came)
            except StopIteration as end:
                assert next(prepared, None) is None, "not every response was requested"
                result: T = end.value
                return result
            if isinstance(step, Request):
                self.sent.append(step)
                came = next(prepared)
            else:
                self.slept.append(step)
                came = None


def test_retry_after_is_waited_for_with_jitter_on_top() -> None:
    transport = Transport(jitter=0.5)

    assert transport.send(calls.latest_version(1), [BUSY, BUSY, OK]) == 7

    assert transport.slept == pytest.approx([2.05, 2.1])
    assert transport.reasons == ["spool-full", "spool-full"]


def test_refused_connection_is_retried_with_full_jitter_and_doubled_backoff() -> None:
    transport = Transport(jitter=1.0)

    assert transport.send(calls.latest_version(1), [REFUSED] * 6 + [OK]) == 7

    assert transport.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
    assert set(transport.reasons) == {"connection"}


def test_connection_closed_between_requests_is_retried_at_once_but_only_once() -> None:
    transport = Transport()

    assert transport.send(calls.latest_version(1), [CLOSED, CLOSED, OK]) == 7

    assert transport.slept == [0, 0.2]


def test_long_retry_after_is_bounded() -> None:
    transport = Transport(jitter=0.0)
    busy = Response(429, b"{}", retry_after="3600")

    assert transport.send(calls.latest_version(1), [busy, OK]) == 7

    assert transport.slept == [5.0]


def test_problem_is_raised_when_the_deadline_is_over() -> None:
    transport = Transport(deadline_s=3, jitter=0.0)

    with pytest.raises(Overloaded) as raised:
        transport.send(calls.latest_version(1), [BUSY, BUSY])

    assert raised.value.type == "spool-full"
    assert transport.slept == [2]


def test_unreachable_is_raised_when_the_deadline_is_over() -> None:
    transport = Transport(deadline_s=0.25)

    with pytest.raises(Unreachable, match="GET /v1/workflows/1/versions/latest: refused"):
        transport.send(calls.latest_version(1), [REFUSED, REFUSED])


def test_idempotency_key_is_minted_once_per_call_and_kept_over_retries() -> None:
    transport = Transport()
    created = b'{"closed":[5]}'
    call, other = calls.register_boot(1, "b"), calls.register_boot(1, "b")

    transport.send(call, [BUSY, REFUSED, Response(200, created)])
    transport.send(other, [Response(200, created)])

    keys = [request.headers["Idempotency-Key"] for request in transport.sent]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_prefer_wait_is_sent_with_a_write_that_waits() -> None:
    transport = Transport()
    committed = Response(200, b'{"write_id":"w","state":"committed"}')

    write = transport.send(calls.update_execution(1, status="RUNNING", wait_s=5), [committed])

    [request] = transport.sent
    assert request.headers["Prefer"] == "wait=5"
    assert (request.method, request.content) == ("PATCH", b'{"status": "RUNNING"}')
    assert write.state == "committed"


def test_not_modified_uri_is_served_from_the_last_value() -> None:
    transport = Transport()
    call = calls.result_uri(1, "op")
    first = transport.send(call, [Response(200, RESULT, etag='"1"')])

    second = transport.send(calls.result_uri(1, "op"), [Response(304, b"")])

    assert first == second
    assert [request.headers.get("If-None-Match") for request in transport.sent] == [None, '"1"']


def test_etag_is_dropped_with_the_value() -> None:
    transport = Transport()
    call = calls.result_uri(1, "op")
    transport.send(call, [Response(200, RESULT, etag='"1"')])

    assert transport.send(call, [Response(404, b'{"type":"result-uri-not-found"}')]) is None
    transport.send(call, [Response(200, RESULT)])

    assert "If-None-Match" not in transport.sent[-1].headers


def test_kept_etags_are_bounded_and_the_oldest_is_evicted() -> None:
    transport = Transport()
    for number in range(MAX_ETAGS + 1):
        transport.send(calls.result_uri(number, "op"), [Response(200, RESULT, etag='"1"')])

    for number in (0, MAX_ETAGS):
        transport.send(calls.result_uri(number, "op"), [Response(200, RESULT, etag='"1"')])

    evicted, kept = (request.headers.get("If-None-Match") for request in transport.sent[-2:])
    assert (evicted, kept) == (None, '"1"')


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, NotFound),
        (409, Conflict),
        (422, InvalidRequest),
        (504, DeliveryTimeout),
        (500, Problem),
    ],
)
def test_problem_has_the_class_of_its_status(status: int, kind: type[Problem]) -> None:
    document = b'{"type":"some-type","title":"T","detail":"d","write_id":"w"}'

    with pytest.raises(Problem) as raised:
        Transport().send(calls.latest_version(1), [Response(status, document)])

    assert type(raised.value) is kind
    assert (raised.value.type, raised.value.write_id) == ("some-type", "w")


def test_token_function_is_called_for_every_attempt() -> None:
    tokens = iter(["first", "second"])
    exchanges = Exchanges(lambda: next(tokens), 30, clock=lambda: 0.0, jitter=lambda: 0.0)
    exchange = exchanges.exchange(calls.latest_version(1))

    first = next(exchange)
    exchange.send(BUSY)
    second = next(exchange)

    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert first.headers["Authorization"] == "Bearer first"
    assert second.headers["Authorization"] == "Bearer second"


def test_global_port_id_is_sent_unescaped() -> None:
    port = "(logicalOpId=a,layerName=main,portId=0,isInternal=false,isInput=false)"

    call = calls.put_port_result(1, port, "vfs:///x")

    assert call.target == f"/v1/executions/1/ports/{port}"


@pytest.mark.parametrize("text", ["127.0.0.1:7070", "https://host", "unix:relative", "http://", ""])
def test_invalid_address_is_refused_before_any_call(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither http://host:port nor unix:/path"):
        Address.parse(text)


def test_address_is_a_port_or_a_unix_socket() -> None:
    assert Address.parse("http://[::1]:7070").origin == "http://[::1]:7070"
    assert Address.parse("unix:/run/api.sock").unix_socket == "/run/api.sock"
