"""What schemathesis cannot know of these services. Runs in its process, not in the tests'."""

import os
from itertools import count
from typing import Any

import requests.auth
import schemathesis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.integration.central.signing import SigningKey

SIGN = "to be signed"
"""A placeholder for the assertion, which is over the request as it will be sent."""

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(os.environ["FUZZ_KEY"])))
IN_WORDS = [
    # In JSON Schema it would make of the type a union that generators of clients cannot read.
    ("invalid-request", "nothing to change: expected at least one of"),
    # A replica of another version may speak it: for a sidecar it is a reason to ask again.
    ("wire-version-not-supported", "wire: this replica speaks 1, got"),
    # A flush that may wait only briefly finds what was written just before.
    ("delivery-timeout", "are still pending"),
]
WAITS = {"wait", "timeout"}
SHORT_S = "0.05"
LONG_KEY = 200  # of 255 characters
NUMBERS = count()


class Signature(requests.auth.AuthBase):
    """Signs what is to be signed. A check that leaves the signature out, or spoils it, may."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if request.headers.get("Sidecar-Assertion") == SIGN:
            body: Any = request.body or b""
            token: Any = request.headers.get("Authorization", "")
            key: Any = request.headers.get("Idempotency-Key")
            signed = KEY.headers(
                request.method or "",
                request.path_url,
                body.encode() if isinstance(body, str) else body,
                token=token.removeprefix("Bearer ") or None,
                idempotency_key=key.decode("latin-1") if isinstance(key, bytes) else key,
            )
            request.headers["Sidecar-Assertion"] = signed["Sidecar-Assertion"]
        return request


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Make each call short, for the services keep waits, and a call of its own, by its key."""
    for name in WAITS & (case.query or {}).keys():
        if is_longer(case.query[name]):
            case.query[name] = SHORT_S
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and 0 < len(key) < LONG_KEY:
        case.headers["Idempotency-Key"] = f"{key}-{next(NUMBERS)}"
    kwargs["auth"] = Signature()


def is_longer(value: Any) -> bool:
    """Whether it is a wait that the service takes, and a long one."""
    try:
        return float(SHORT_S) < float(value) <= 60
    except (TypeError, ValueError):
        return False


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is a failure of the service: not what a schema can say in words only."""
    problem = response.json() if response.status_code in {400, 503, 504} else {}
    return not any(
        problem.get("type") == slug and words in problem["detail"] for slug, words in IN_WORDS
    )
