"""The checker finds what is wrong in histories made by hand, and nothing in right ones."""

from tests.linearizability.checker import complaints
from tests.linearizability.history import NEVER, History, Operation

NAME = (7, "name")
INITIAL = {"name": "first"}


def write(value: str, called: int, returned: int, refused_by: int | None = None) -> Operation:
    return Operation(NAME, True, value, called, returned, f"id-{value}", refused_by)


def read(value: str, called: int, returned: int) -> Operation:
    return Operation(NAME, False, value, called, returned)


def check(*operations: Operation) -> list[str]:
    return complaints(History(list(operations)), INITIAL)


def test_reads_between_the_call_and_the_return_of_a_write_may_return_either() -> None:
    assert not check(write("a", 0, 9), read("first", 1, 2), read("a", 3, 4), read("a", 10, 11))


def test_stale_read_after_an_acknowledged_write_is_found() -> None:
    (text,) = check(write("a", 0, 1), read("first", 2, 3))

    assert "read of 'first'" in text


def test_value_that_goes_back_is_found() -> None:
    assert check(write("a", 0, 9), read("a", 1, 2), read("first", 3, 4))


def test_two_reads_that_order_concurrent_writes_differently_are_found() -> None:
    both = write("a", 0, 9), write("b", 0, 9)

    assert not check(*both, read("a", 10, 11), read("a", 12, 13))
    assert check(*both, read("a", 10, 11), read("b", 12, 13))


def test_value_that_nobody_wrote_is_found() -> None:
    assert check(write("a", 0, 1), read("b", 2, 3))


def test_write_whose_response_was_lost_takes_effect_at_any_time_or_never() -> None:
    lost = write("a", 0, NEVER)

    assert not check(lost, read("first", 5, 6))
    assert not check(lost, read("first", 5, 6), read("a", 7, 8))
    assert check(lost, read("a", 5, 6), read("first", 7, 8))


def test_refused_write_is_shown_at_most_until_a_call_said_that_it_is_refused() -> None:
    refused = write("a", 0, 1, refused_by=9)

    assert not check(refused, read("a", 2, 3), read("first", 3, 4))
    assert not check(refused, read("first", 2, 3), read("first", 10, 11))
    assert check(refused, read("a", 10, 11))
    assert check(refused, read("a", 2, 3), read("first", 4, 5), read("a", 6, 7))


def test_refusal_shows_what_was_shown_before_its_write() -> None:
    between = write("b", 2, 3, refused_by=20)

    assert not check(write("a", 0, 1), between, read("b", 4, 5), read("a", 6, 7))
    assert check(write("a", 0, 1), between, read("b", 4, 5), read("first", 10, 11))
    assert not check(write("a", 0, 1), between, write("c", 4, 5), read("c", 6, 7))


def states(*seen: tuple[str | None, int, int]) -> list[str]:
    history = History([write("a", 0, 1)])
    for state, called, returned in seen:
        history.saw_state("id-a", state, called, returned)
    return complaints(history, INITIAL)


def test_state_that_goes_back_is_found() -> None:
    assert not states(("durable", 2, 3), ("committed", 4, 5), ("committed", 6, 7))
    assert not states(("committed", 2, 9), ("durable", 3, 8))  # at the same time
    (text,) = states(("committed", 2, 3), ("durable", 4, 5))

    assert "is durable at 4 after it was committed" in text


def test_write_that_is_both_committed_and_refused_is_found() -> None:
    assert states(("committed", 2, 9), ("refused", 3, 8))


def test_404_for_an_acknowledged_write_is_found() -> None:
    (text,) = states((None, 2, 3))

    assert "is not found at 2" in text


def test_write_that_a_list_has_twice_or_lacks_is_found() -> None:
    twice, lacking = History([write("a", 0, 1)]), History([write("a", 0, 1)])
    twice.saw_list(None, [("id-a", "durable"), ("id-a", "committed")], 2, 3)
    lacking.saw_list(None, [], 2, 3)
    only_others = History([write("a", 0, 1)])
    only_others.saw_list("refused", [], 2, 3)

    assert "write id-a is listed twice" in complaints(twice, INITIAL)
    assert complaints(lacking, INITIAL)
    assert not complaints(only_others, INITIAL)
