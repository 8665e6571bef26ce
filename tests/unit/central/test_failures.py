"""Policies: which errors of the database concern one row, and which the database."""

import asyncpg
import pytest

from central.store.failures import Policy, policy_of


def error(sqlstate: str, **fields: str) -> asyncpg.PostgresError:
    made = asyncpg.PostgresError.new({"C": sqlstate, "M": "reason", **fields})
    assert isinstance(made, asyncpg.PostgresError)
    return made


@pytest.mark.parametrize(
    ("sqlstate", "policy"),
    [
        ("08006", Policy.UNAVAILABLE),
        ("22003", Policy.REFUSE),
        ("23514", Policy.REFUSE),
        ("25006", Policy.UNAVAILABLE),
        ("40P01", Policy.RETRY),
        ("42501", Policy.UNPREPARED),
        ("42P01", Policy.UNPREPARED),
        ("42883", Policy.ISOLATE),
        ("53100", Policy.UNAVAILABLE),
        ("55P03", Policy.UNAVAILABLE),
        ("57014", Policy.UNAVAILABLE),
        ("58030", Policy.UNAVAILABLE),
        ("P0001", Policy.ISOLATE),
        ("XX001", Policy.ISOLATE),
        ("ZZ999", Policy.ISOLATE),
    ],
)
def test_every_class_has_a_policy(sqlstate: str, policy: Policy) -> None:
    assert policy_of(error(sqlstate)) is policy


@pytest.mark.parametrize(
    "fields",
    [
        {"R": "ExecWithCheckOptions"},
        {"W": "PL/pgSQL function public.check() line 3"},
    ],
)
def test_a_privilege_that_a_row_lacks_is_the_rows_failure(fields: dict[str, str]) -> None:
    assert policy_of(error("42501", **fields)) is Policy.ISOLATE
