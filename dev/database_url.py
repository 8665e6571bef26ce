"""Changes one part of a database URL and leaves the others as they are."""

from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from dev.problems import DevProblem

DEFAULT_PORT = 5432


def with_login(url: str, user: str, password: str) -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{address}"))


def with_address(url: str, host: str, port: int) -> str:
    """The same database by way of another address."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{host}:{port}"))


def tcp_address(url: str) -> tuple[str, int]:
    """Host and port. DevProblem if it is a unix socket, which no TCP proxy can stand before."""
    parts = urlsplit(url)
    if not parts.hostname or "host" in parse_qs(parts.query):
        raise DevProblem("An added round trip needs a database URL with a host and a port.")
    return parts.hostname, parts.port or DEFAULT_PORT
