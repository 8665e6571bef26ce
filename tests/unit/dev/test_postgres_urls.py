"""Database URLs: one part is replaced, the others are kept."""

import pytest

from dev.postgres import tcp_address, with_address, with_login
from dev.problems import DevProblem

URL = "postgresql://texera:s%40cret@db.example.org:6432/texera_db?sslmode=require"


def test_login_is_quoted_and_nothing_else_changes() -> None:
    changed = with_login(URL, "central", "p@ss/word")

    assert changed == (
        "postgresql://central:p%40ss%2Fword@db.example.org:6432/texera_db?sslmode=require"
    )


def test_address_is_replaced_and_the_login_kept() -> None:
    changed = with_address(URL, "127.0.0.1", 7092)

    assert changed == "postgresql://texera:s%40cret@127.0.0.1:7092/texera_db?sslmode=require"


def test_port_has_a_default() -> None:
    assert tcp_address("postgresql://texera@db.example.org/texera_db") == ("db.example.org", 5432)


@pytest.mark.parametrize(
    "url", ["postgresql:///texera_db", "postgresql://texera@x/texera_db?host=/run/postgresql"]
)
def test_unix_socket_has_no_tcp_address(url: str) -> None:
    with pytest.raises(DevProblem, match="a host and a port"):
        tcp_address(url)
