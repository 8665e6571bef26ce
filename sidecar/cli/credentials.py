"""Which credentials an environment shows to whoever runs in it. Names only, never values.

A user's code reads the environment of its process, and those of its ancestors. What the
sidecar has made needless there is to be gone (TEXERA.md, section 6, lists what Texera hands
over today); what the computing unit still needs for other purposes is named, so that nobody
takes the pod for cleaner than it is.
"""

import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto

from kit.http.checks import Check, fail, ok, warn

NEEDLESS = frozenset(
    {
        *("STORAGE_JDBC_URL", "STORAGE_JDBC_USERNAME", "STORAGE_JDBC_PASSWORD"),
        "AUTH_JWT_SECRET",
        "STORAGE_ICEBERG_CATALOG_POSTGRES_URI_WITHOUT_SCHEME",
        "STORAGE_ICEBERG_CATALOG_POSTGRES_USERNAME",
        "STORAGE_ICEBERG_CATALOG_POSTGRES_PASSWORD",
    }
)
"""The database and the key that signs everybody's tokens: no unit needs them beside a sidecar."""

STILL_USED = frozenset({"USER_JWT_TOKEN", "STORAGE_S3_AUTH_USERNAME", "STORAGE_S3_AUTH_PASSWORD"})
"""Texera reads datasets and large objects with these; taking them away is another change."""

_TELLING_NAME = re.compile(
    r"PASSW(?:OR)?D|SECRET|TOKEN|CREDENTIAL|PRIVATE_?KEY|API_?KEY|ACCESS_?KEY", re.IGNORECASE
)
_TELLING_VALUE = re.compile(
    r"[a-z][a-z0-9+.\-]*://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|\beyJ[\w-]+\.eyJ[\w-]+\.[\w-]*"  # a JWT
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.IGNORECASE,
)
_PATH = re.compile(r"/[\w./\-]+")  # where a secret is, which is not the secret


class Whose(Enum):
    """In whose environment the credentials were found."""

    SIDECAR = auto()
    COMPUTING_UNIT = auto()


def parse_environment(text: str) -> dict[str, str]:
    """The variables of `/proc/<pid>/environ` (NUL after each) or of `env` (a line each)."""
    separator = "\0" if "\0" in text else "\n"
    pairs = (entry.partition("=") for entry in text.split(separator))
    return {name: value for name, separator, value in pairs if separator}


def credentials(variables: Mapping[str, str]) -> list[str]:
    """Names of the variables that hold a credential, by what they are called or look like."""
    return sorted(_credentials(variables))


def _credentials(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in variables.items():
        if not value or _PATH.fullmatch(value):
            continue
        known = name in NEEDLESS or name in STILL_USED
        if known or _TELLING_NAME.search(name) or _TELLING_VALUE.search(value):
            yield name


def check_credentials(variables: Mapping[str, str], whose: Whose) -> list[Check]:
    found = credentials(variables)
    if whose is Whose.SIDECAR:
        name = "sidecar's environment"
        if found:
            return [fail(name, f"a sidecar needs no credential of others: {', '.join(found)}")]
        return [ok(name, "holds no credential")]
    needless = [variable for variable in found if variable in NEEDLESS]
    used = [variable for variable in found if variable in STILL_USED]
    other = [v for v in found if v not in NEEDLESS and v not in STILL_USED]
    checks = []
    if needless:
        told = f"users' code can read: {', '.join(needless)}; take them away"
        checks.append(fail("unit's needless credentials", told))
    if used:
        told = f"still there, because Texera uses them: {', '.join(used)}"
        checks.append(warn("unit's own credentials", told))
    if other:
        checks.append(warn("unit's other credentials", f"looks like some: {', '.join(other)}"))
    return checks or [ok("unit's environment", "shows no credential")]
