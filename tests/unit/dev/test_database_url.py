"""One part of a database URL changes, the others stay."""

import pytest

from dev.postgres import tcp_address, with_address, with_login
from dev.problems import DevProblem

URL = "postgresql://texera:s%40cret@db.example.org:6432/texera_db?sslmode=require"


def test_another_login_is_quoted_and_nothing_else_changes() -> None:
    changed = with_login(URL, "central", "p@ss/word")

    assert changed == (
        "postgresql://central:p%40ss%2Fword@db.example.org:6432/texera_db?sslmode=require"
    )


def test_another_address_keeps_the_login() -> None:
    changed = with_address(URL, "127.0.0.1", 7092)

    assert changed == "postgresql://texera:s%40cret@127.0.0.1:7092/texera_db?sslmode=require"


def test_the_port_may_be_left_out() -> None:
    assert tcp_address("postgresql://texera@db.example.org/texera_db") == ("db.example.org", 5432)


@pytest.mark.parametrize(
    "url", ["postgresql:///texera_db", "postgresql://texera@x/texera_db?host=/run/postgresql"]
)
def test_a_unix_socket_cannot_be_delayed(url: str) -> None:
    with pytest.raises(DevProblem, match="a host and a port"):
        tcp_address(url)
