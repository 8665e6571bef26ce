"""Central's yeses: for whom, and for how long, by a clock that is set by hand."""

import pytest

from sidecar.cache import access
from sidecar.cache.access import AccessCache, AccessState, token_digest

TOKEN, OTHER_TOKEN = token_digest("token"), token_digest("other")
EID, OTHER_EID = 7, 8
USER = 1
TTL_S, STALE_S = 60, 600
NEVER = 10**9


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> AccessCache:
    return AccessCache(ttl_s=TTL_S, stale_s=STALE_S, wall_clock=clock)


def test_a_digest_does_not_show_its_token() -> None:
    assert len(TOKEN) == 32
    assert b"token" not in TOKEN
    assert TOKEN != OTHER_TOKEN


def test_nothing_is_known_before_central_said_yes(memory: AccessCache) -> None:
    assert memory.state_of(TOKEN, EID) is AccessState.UNKNOWN
    assert memory.user_of(TOKEN) is None


def test_a_yes_is_for_one_token_and_one_execution(memory: AccessCache) -> None:
    memory.grant(TOKEN, EID, USER, NEVER)

    assert memory.state_of(TOKEN, EID) is AccessState.FRESH
    assert memory.state_of(OTHER_TOKEN, EID) is AccessState.UNKNOWN
    assert memory.state_of(TOKEN, OTHER_EID) is AccessState.UNKNOWN


@pytest.mark.parametrize(
    ("age_s", "verdict"),
    [
        (0, AccessState.FRESH),
        (TTL_S - 0.001, AccessState.FRESH),
        (TTL_S, AccessState.STALE),
        (TTL_S + STALE_S - 0.001, AccessState.STALE),
        (TTL_S + STALE_S, AccessState.UNKNOWN),
        (-0.001, AccessState.UNKNOWN),
    ],
)
def test_a_yes_is_fresh_then_stale_then_forgotten(
    memory: AccessCache, clock: Clock, age_s: float, verdict: AccessState
) -> None:
    memory.grant(TOKEN, EID, USER, NEVER)

    clock.now_s += age_s

    assert memory.state_of(TOKEN, EID) is verdict


@pytest.mark.parametrize("after_s", [10, TTL_S + 10])
def test_no_yes_outlives_the_token(memory: AccessCache, clock: Clock, after_s: int) -> None:
    memory.grant(TOKEN, EID, USER, int(clock.now_s) + after_s)

    clock.now_s += after_s - 0.001
    assert memory.state_of(TOKEN, EID) in {AccessState.FRESH, AccessState.STALE}
    clock.now_s += 0.001

    assert memory.state_of(TOKEN, EID) is AccessState.EXPIRED
    assert memory.user_of(TOKEN) is None


def test_a_new_yes_starts_a_new_term(memory: AccessCache, clock: Clock) -> None:
    memory.grant(TOKEN, EID, USER, NEVER)
    clock.now_s += TTL_S

    memory.grant(TOKEN, EID, USER, NEVER)

    assert memory.state_of(TOKEN, EID) is AccessState.FRESH


def test_a_no_takes_back_one_yes(memory: AccessCache) -> None:
    memory.grant(TOKEN, EID, USER, NEVER)
    memory.grant(TOKEN, OTHER_EID, USER, NEVER)

    memory.revoke(TOKEN, EID)
    memory.revoke(OTHER_TOKEN, EID)

    assert memory.state_of(TOKEN, EID) is AccessState.UNKNOWN
    assert memory.state_of(TOKEN, OTHER_EID) is AccessState.FRESH


def test_knowing_the_user_opens_no_execution(memory: AccessCache, clock: Clock) -> None:
    memory.record_user(TOKEN, USER, NEVER)

    assert memory.user_of(TOKEN) == USER
    assert memory.state_of(TOKEN, EID) is AccessState.UNKNOWN
    clock.now_s += TTL_S
    assert memory.user_of(TOKEN) is None


def test_a_yes_that_had_to_make_room_ends_whatever_was_kept_on_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ACCESS_ENTRIES_MAX", 2)
    memory = AccessCache(ttl_s=TTL_S, stale_s=STALE_S, wall_clock=clock)
    for number in (EID, OTHER_EID):
        memory.grant(TOKEN, number, USER, NEVER)
    grants = [memory.find(TOKEN, number) for number in (EID, OTHER_EID)]

    memory.grant(OTHER_TOKEN, EID, USER, NEVER)

    assert [grant and grant.token.is_valid for grant in grants] == [False, True]
