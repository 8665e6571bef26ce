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
        ("26000", Policy.UNAVAILABLE),
        ("40P01", Policy.RETRY),
        ("42501", Policy.UNPREPARED),
        ("42P01", Policy.UNPREPARED),
        ("42804", Policy.UNPREPARED),
        ("42883", Policy.UNPREPARED),
        ("42P05", Policy.UNAVAILABLE),
        ("42P10", Policy.UNPREPARED),
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
    ("sqlstate", "fields"),
    [
        ("42501", {"R": "ExecWithCheckOptions"}),
        ("42501", {"W": "PL/pgSQL function public.check() line 3"}),
        ("42883", {"W": "PL/pgSQL function public.check() line 3"}),
    ],
)
def test_what_a_row_policy_or_a_trigger_raises_is_the_rows_failure(
    sqlstate: str, fields: dict[str, str]
) -> None:
    assert policy_of(error(sqlstate, **fields)) is Policy.ISOLATE
