"""The access cache: for which token and how long a grant counts, with a manual clock."""

import pytest

from sidecar.cache import access
from sidecar.cache.access import AccessCache, AccessState, token_digest

TOKEN, OTHER_TOKEN = token_digest("token"), token_digest("other")
EID, OTHER_EID = 7, 8
USER = 1
TTL_S, STALE_S = 60, 600
NEVER = 10**9
NOW = 1000.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> AccessCache:
    return AccessCache(ttl_s=TTL_S, stale_s=STALE_S, wall_clock=clock)


def test_a_digest_does_not_contain_its_token() -> None:
    assert len(TOKEN) == 32
    assert b"token" not in TOKEN
    assert TOKEN != OTHER_TOKEN


def test_access_is_unknown_before_a_grant(cache: AccessCache) -> None:
    assert cache.state_of(TOKEN, EID) is AccessState.UNKNOWN
    assert cache.user_of(TOKEN) is None


def test_a_grant_covers_one_token_and_one_execution(cache: AccessCache) -> None:
    cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)

    assert cache.state_of(TOKEN, EID) is AccessState.FRESH
    assert cache.state_of(OTHER_TOKEN, EID) is AccessState.UNKNOWN
    assert cache.state_of(TOKEN, OTHER_EID) is AccessState.UNKNOWN


@pytest.mark.parametrize(
    ("age_s", "state"),
    [
        (0, AccessState.FRESH),
        (TTL_S - 0.001, AccessState.FRESH),
        (TTL_S, AccessState.STALE),
        (TTL_S + STALE_S - 0.001, AccessState.STALE),
        (TTL_S + STALE_S, AccessState.UNKNOWN),
        (-0.001, AccessState.UNKNOWN),
    ],
)
def test_a_grant_is_fresh_then_stale_then_unknown(
    cache: AccessCache, clock: Clock, age_s: float, state: AccessState
) -> None:
    cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)

    clock.now_s += age_s

    assert cache.state_of(TOKEN, EID) is state


@pytest.mark.parametrize(
    ("took_s", "state"), [(TTL_S - 1, AccessState.FRESH), (TTL_S, AccessState.STALE)]
)
def test_a_grant_is_as_old_as_the_question(
    cache: AccessCache, clock: Clock, took_s: int, state: AccessState
) -> None:
    """Or a call that is made to take long prolongs what is withdrawn meanwhile."""
    clock.now_s += took_s

    cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)

    assert cache.state_of(TOKEN, EID) is state
    grant = cache.find(TOKEN, EID)
    assert grant is not None
    assert grant.fresh_until == NOW + TTL_S


@pytest.mark.parametrize("after_s", [10, TTL_S + 10])
def test_no_grant_outlives_its_token(cache: AccessCache, clock: Clock, after_s: int) -> None:
    cache.grant(TOKEN, EID, USER, int(clock.now_s) + after_s, asked_at=NOW)

    clock.now_s += after_s - 0.001
    assert cache.state_of(TOKEN, EID) in {AccessState.FRESH, AccessState.STALE}
    clock.now_s += 0.001

    assert cache.state_of(TOKEN, EID) is AccessState.EXPIRED
    assert cache.user_of(TOKEN) is None


def test_a_new_grant_is_fresh_again(cache: AccessCache, clock: Clock) -> None:
    cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)
    clock.now_s += TTL_S

    cache.grant(TOKEN, EID, USER, NEVER, asked_at=clock.now_s)

    assert cache.state_of(TOKEN, EID) is AccessState.FRESH


def test_a_refusal_revokes_one_grant(cache: AccessCache) -> None:
    cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)
    cache.grant(TOKEN, OTHER_EID, USER, NEVER, asked_at=NOW)

    cache.revoke(TOKEN, EID)
    cache.revoke(OTHER_TOKEN, EID)

    assert cache.state_of(TOKEN, EID) is AccessState.UNKNOWN
    assert cache.state_of(TOKEN, OTHER_EID) is AccessState.FRESH


@pytest.mark.parametrize("is_renewed", [False, True])
def test_a_revoked_or_renewed_grant_invalidates_its_token(
    cache: AccessCache, is_renewed: bool
) -> None:
    cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)
    grant = cache.find(TOKEN, EID)

    if is_renewed:
        cache.grant(TOKEN, EID, USER, NEVER, asked_at=NOW)
    else:
        cache.revoke(TOKEN, EID)

    assert grant is not None
    assert not grant.token.is_valid


def test_a_recorded_user_gets_no_access_to_an_execution(cache: AccessCache, clock: Clock) -> None:
    cache.record_user(TOKEN, USER, NEVER, asked_at=NOW)

    assert cache.user_of(TOKEN) == USER
    assert cache.state_of(TOKEN, EID) is AccessState.UNKNOWN
    clock.now_s += TTL_S
    assert cache.user_of(TOKEN) is None


def test_an_evicted_grant_invalidates_its_token(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ACCESS_ENTRIES_MAX", 2)
    cache = AccessCache(ttl_s=TTL_S, stale_s=STALE_S, wall_clock=clock)
    for number in (EID, OTHER_EID):
        cache.grant(TOKEN, number, USER, NEVER, asked_at=NOW)
    grants = [cache.find(TOKEN, number) for number in (EID, OTHER_EID)]

    cache.grant(OTHER_TOKEN, EID, USER, NEVER, asked_at=NOW)

    assert [grant and grant.token.is_valid for grant in grants] == [False, True]
