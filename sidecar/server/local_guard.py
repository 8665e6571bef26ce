"""The local guard: accepts only requests that come straight from a process of this pod.

The API listens on loopback, but a browser or a proxy in the pod can be made to call loopback
for someone else (DNS rebinding, request smuggling, SSRF). So the request itself must look
local: a local Host, no Origin, no header of a proxy (docs/security.md).
"""

import re
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from sidecar.api.services import TOKEN
from sidecar.problems import NotLocal, TokenMissing

UNAUTHENTICATED_PATHS = frozenset({"/openapi.json"})
"""The API's description alone needs no token."""

_LOCAL_AUTHORITY = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)")
_BEARER = re.compile(r"Bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE)
TOKEN_MAX_LENGTH = 8 * 1024


@web.middleware
async def guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Raises `NotLocal` or `TokenMissing`; stores the token in `request[TOKEN]`."""
    check_local(request)
    if request.path not in UNAUTHENTICATED_PATHS:
        request[TOKEN] = bearer_token(request)
    return await handler(request)


def check_local(request: web.BaseRequest) -> None:
    """Raises `NotLocal`, naming the header that is not local."""
    for name in request.headers:
        lowered = name.lower()
        if lowered in {"origin", "forwarded"} or lowered.startswith("x-forwarded-"):
            raise NotLocal(f"{name}: this API serves only processes of its own pod")
    hosts = request.headers.getall(hdrs.HOST, [])
    # An absolute-form target carries the authority that counts (RFC 9112, section 3.2.2).
    absolute = _ABSOLUTE_FORM.match(request.raw_path)
    authority = absolute.group(1) if absolute else (hosts[0] if len(hosts) == 1 else "")
    if not _LOCAL_AUTHORITY.fullmatch(authority):
        raise NotLocal("Host: expected 127.0.0.1, localhost or [::1]")


def bearer_token(request: web.BaseRequest) -> str:
    """The token of the one `Authorization` header; central decides whether it is valid."""
    values = request.headers.getall(hdrs.AUTHORIZATION, [])
    match = _BEARER.fullmatch(values[0].strip()) if len(values) == 1 else None
    if match is None or len(match.group(1)) > TOKEN_MAX_LENGTH:
        raise TokenMissing("Authorization: expected one header, Bearer and the user's token")
    return match.group(1)
