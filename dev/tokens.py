"""Mints users' tokens as Texera does: HS256, and the key is the *lower-cased* secret in UTF-8.

The development secret is fixed and public: it protects nothing but `dev up` on one machine.
"""

import argparse
import base64
import hashlib
import hmac
import json
import time

from dev.world import WORLD

# Mixed case on purpose: a service that forgets to lower-case it refuses every token.
JWT_SECRET = "Development-Only-Secret-Of-The-Texera-CU-Sidecar"
ROLES = ("INACTIVE", "RESTRICTED", "REGULAR", "ADMIN")
WEEK_S = 7 * 24 * 3600  # Texera's own default


def mint(
    user_id: int,
    role: str = "REGULAR",
    ttl_s: float = WEEK_S,
    *,
    name: str | None = None,
    email: str | None = None,
    now_s: float | None = None,
    secret: str = JWT_SECRET,
) -> str:
    """A signed token for the user. A negative `ttl_s` gives an expired one.

    `name` and `email` are derived from the id unless given; `now_s` is the issuer's clock.
    """
    issued_at = time.time() if now_s is None else now_s
    name = f"user-{user_id}" if name is None else name
    claims = {
        "sub": name,
        "userId": user_id,
        "email": f"{name}@example.org" if email is None else email,
        "role": role,
        "exp": int(issued_at + ttl_s),
    }
    return sign(claims, secret.lower().encode())


def sign(claims: dict[str, object], key: bytes) -> str:
    """The claims as a JWS in compact form (RFC 7515), HS256."""
    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    signature = hmac.new(key, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64url(signature)}"


def part(value: dict[str, object]) -> str:
    """A header or a payload."""
    return base64url(json.dumps(value, separators=(",", ":")).encode())


def base64url(octets: bytes) -> str:
    """Base64url without padding (RFC 7515)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def main(arguments: list[str]) -> int:
    """`python -m dev token`: print one token. Users of the sample world get their own names."""
    parser = argparse.ArgumentParser(prog="python -m dev token", description=__doc__)
    parser.add_argument("--user-id", type=int, required=True)
    parser.add_argument("--role", choices=ROLES, default="REGULAR")
    parser.add_argument("--ttl", type=float, default=WEEK_S, metavar="SECONDS")
    options = parser.parse_args(arguments)
    known = {user.user_id: user for user in WORLD.all_users()}
    user = known.get(options.user_id)
    if user is None:
        print(mint(options.user_id, options.role, options.ttl))
    else:
        print(mint(user.user_id, options.role, options.ttl, name=user.name, email=user.email))
    return 0
