"""Requests, plain and odd, with which the server is compared to aiohttp alone."""

from tests.unit.sidecar.server_fixtures import get

EID = 7
URIS = f"/v1/executions/{EID}/uris"
KNOWN = get(URIS)
TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = b'{"name":"renamed"}'


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode() + body


def patch(*headers: str, body: bytes = BODY) -> bytes:
    """Refused by central as not found, after its body was read."""
    return request(
        "PATCH /v1/executions/999 HTTP/1.1",
        "Host: localhost",
        "Authorization: Bearer a",
        "Content-Type: application/json",
        *headers,
        body=body,
    )


LOCAL = ("Host: localhost", "Authorization: Bearer a")
CASES: dict[str, bytes] = {
    "known": KNOWN,
    "known twice in one piece": KNOWN * 2,
    "known thrice, the second traced": KNOWN + get(URIS, TRACE) + KNOWN,
    "known, unknown, known": KNOWN + get("/v1/executions/999") + KNOWN,
    "unknown, known": get("/nowhere") + KNOWN,
    "traced": get(URIS, TRACE, "tracestate: a=b,c=d"),
    "traced in capitals": get(URIS, TRACE.upper()),
    "traced badly": get(URIS, "traceparent: nonsense"),
    "an empty trace": get(URIS, "traceparent:"),
    "a trace folded": get(URIS, TRACE, " folded"),
    "a trace with a zero byte": get(URIS, "traceparent: a\x00b"),
    "a trace in bytes beyond ASCII": get(URIS, "traceparent: a\xe9b"),
    "a trace with a space before the colon": get(URIS, "traceparent : a"),
    "a trace with a bare line feed": get(URIS, "traceparent: a\nOrigin: b"),
    "a trace with a bare carriage return": get(URIS, "traceparent: a\rOrigin: b"),
    "four traces": get(URIS, *[TRACE] * 4),
    "two hundred traces": get(URIS, *["traceparent: a"] * 200),
    "request id": get(URIS, "X-Request-Id: mine"),
    "request id in lower case": get(URIS, "x-request-id:mine "),
    "two request ids": get(URIS, "X-Request-Id: mine", "X-Request-Id: other"),
    "no request id": get(URIS, "X-Request-Id: not an id"),
    "long request id": get(URIS, "X-Request-Id: " + "a" * 129),
    "HEAD": KNOWN.replace(b"GET", b"HEAD"),
    "POST to a known path": KNOWN.replace(b"GET", b"POST"),
    "OPTIONS *": request("OPTIONS * HTTP/1.1", *LOCAL),
    "HTTP/1.0": KNOWN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 kept": get(URIS, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/0.9": b"GET " + URIS.encode() + b"\r\n\r\n",
    "HTTP/2.0": KNOWN.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "Connection: close": get(URIS, "Connection: close"),
    "known, then close": KNOWN + get(URIS, "Connection: close") + KNOWN,
    "Connection: keep-alive": get(URIS, "Connection: keep-alive"),
    "Upgrade": get(URIS, "Connection: Upgrade", "Upgrade: websocket"),
    "Upgrade, then known": get(URIS, "Connection: Upgrade", "Upgrade: h2c") + KNOWN,
    "Expect": patch(f"Content-Length: {len(BODY)}", "Expect: 100-continue"),
    "Origin": get(URIS, "Origin: http://localhost"),
    "X-Forwarded-For": get(URIS, "X-Forwarded-For: 127.0.0.1"),
    "another host": KNOWN.replace(b"localhost", b"example.org"),
    "two hosts": get(URIS, "Host: localhost"),
    "no host": KNOWN.replace(b"Host: localhost\r\n", b""),
    "two tokens": get(URIS, "Authorization: Bearer a"),
    "another token": get(URIS, token="b"),
    "no token": request(f"GET {URIS} HTTP/1.1", "Host: localhost"),
    "a token cut short": KNOWN.replace(b"Bearer a", b"Bearer "),
    "absolute form": KNOWN.replace(URIS.encode(), b"http://localhost" + URIS.encode()),
    "a query": get(URIS + "?x=1"),
    "a fragment": get(URIS + "#x"),
    "escaped path": get(URIS.replace("uris", "uri%73")),
    "doubled slash": get("/" + URIS),
    "a body with GET": get(URIS, "Content-Length: 2") + b"{}",
    "an empty body with GET": get(URIS, "Content-Length: 0"),
    "a body": patch(f"Content-Length: {len(BODY)}"),
    "a body, then known": patch(f"Content-Length: {len(BODY)}") + KNOWN,
    "a chunked body": patch(
        "Transfer-Encoding: chunked", body=b"12\r\n" + BODY + b"\r\n0\r\n\r\n"
    ),
    "a chunked body, then known": patch(
        "Transfer-Encoding: chunked", body=b"12\r\n" + BODY + b"\r\n0\r\n\r\n"
    )
    + KNOWN,
    "a known request inside a body": patch(f"Content-Length: {len(KNOWN)}", body=KNOWN) + KNOWN,
    "two lengths": patch(f"Content-Length: {len(BODY)}", "Content-Length: 0"),
    "a length and chunks": patch(
        "Content-Length: 3", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "a signed length": patch(f"Content-Length: +{len(BODY)}"),
    "a length that is none": patch("Content-Length: x"),
    "a negative length": patch("Content-Length: -1"),
    "a length with a space before the colon": patch(f"Content-Length : {len(BODY)}"),
    "too large a body": patch("Content-Length: 2000000", body=b""),
    "an unknown coding": patch("Transfer-Encoding: gzip"),
    "a long head": get(URIS, "X-Filler: " + "a" * 8000),  # longer: 431, which aiohttp does not know
    "a long path": get("/" + "a" * 8000),
    "many small headers": get(URIS, *[f"X-{n}: a" for n in range(200)]),
    "sixteen kilobytes of head": get(URIS, *[f"X-{n}: " + "a" * 8000 for n in range(2)]),
    "an id behind the end": KNOWN + b"X-Request-Id: a\r\n",
    "a trace behind the end": get(URIS, TRACE) + b"traceparent: a\r\n",
    "trailing garbage": KNOWN + b"\x00\x01garbage\r\n\r\n",
    "garbage first": b"\x16\x03\x01garbage\r\n\r\n" + KNOWN,
    "an empty line first": b"\r\n" + KNOWN,
    "two empty lines first": b"\r\n\r\n" + KNOWN,
    "an empty line between": KNOWN + b"\r\n" + KNOWN,
    "bare line feeds": KNOWN.replace(b"\r\n", b"\n"),
    "one bare line feed": KNOWN.replace(b"\r\n", b"\n", 1),
    "a head that ends bare": KNOWN[:-4] + b"\n\n" + KNOWN,
    "a folded header": get(URIS, "X-A: b", " c"),
    "a header without a colon": get(URIS, "nonsense"),
    "a header without a name": get(URIS, ": nonsense"),
    "a space in the method": b" " + KNOWN,
    "a method in lower case": KNOWN.replace(b"GET", b"get"),
    "CONNECT": request("CONNECT localhost:80 HTTP/1.1", *LOCAL),
    "a zero byte in a header": get(URIS, "X-A: a\x00b"),
}  # fmt: skip
