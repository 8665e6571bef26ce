"""When central is left alone, by times and chances given by hand."""

import pytest

from sidecar.upstream.resilience import Backoff, CircuitBreaker, RetryBudget


def opened(threshold: int = 3, cool_down_s: float = 2.0) -> CircuitBreaker:
    """A circuit that opened at second 0."""
    circuit = CircuitBreaker(threshold=threshold, cool_down_s=cool_down_s)
    for _ in range(threshold):
        circuit.failed(0.0)
    return circuit


def test_the_limit_of_the_wait_doubles_up_to_the_greatest() -> None:
    backoff = Backoff(0.1, 1.0, uniform=lambda _, high: high)

    assert [backoff.next_s() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_wait_is_anything_down_to_nothing() -> None:
    assert Backoff(0.1, 1.0, uniform=lambda low, _: low).next_s() == 0
    assert 0 <= Backoff(0.1, 1.0).next_s() <= 0.1


def test_success_starts_the_wait_over() -> None:
    backoff = Backoff(0.1, 1.0, uniform=lambda _, high: high)
    for _ in range(5000):
        backoff.next_s()

    backoff.reset()

    assert backoff.failure_count == 0
    assert backoff.next_s() == pytest.approx(0.1)


def test_failures_in_a_row_open_the_circuit() -> None:
    circuit = CircuitBreaker(threshold=3)
    for now in (0.0, 1.0):
        circuit.failed(now)
    assert circuit.allows(1.0)
    assert not circuit.is_open

    circuit.failed(2.0)

    assert circuit.is_open
    assert not circuit.allows(2.0)


def test_a_success_between_them_keeps_it_closed() -> None:
    circuit = CircuitBreaker(threshold=2)

    for _ in range(5):
        circuit.failed(0.0)
        circuit.succeeded()

    assert not circuit.is_open


def test_an_open_circuit_lets_one_probe_through_after_a_while() -> None:
    circuit = opened()

    assert not circuit.allows(1.9)
    assert [circuit.allows(2.0) for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it() -> None:
    circuit = opened()
    circuit.allows(2.0)

    circuit.succeeded()

    assert not circuit.is_open
    assert circuit.allows(2.0)
    circuit.failed(2.0)
    assert not circuit.is_open


def test_a_probe_that_fails_opens_it_at_once_for_another_while() -> None:
    circuit = opened()
    circuit.allows(2.0)

    circuit.failed(3.0)

    assert not circuit.allows(4.9)
    assert circuit.allows(5.0)


def test_a_probe_that_never_returns_does_not_shut_it_for_good() -> None:
    circuit = opened()

    assert circuit.allows(2.0)
    assert not circuit.allows(3.9)
    assert circuit.allows(4.0)


def test_it_says_when_to_come_back() -> None:
    assert CircuitBreaker().retry_after_s(0.0) == 0
    assert opened().retry_after_s(0.5) == 1.5
    assert opened().retry_after_s(9.0) == 0


def test_a_budget_starts_with_its_burst_and_then_has_a_share() -> None:
    budget = RetryBudget(share=0.5, burst=2.0)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]

    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()

    assert [budget.withdraw() for _ in range(2)] == [True, False]


def test_a_budget_saves_no_more_than_its_burst() -> None:
    budget = RetryBudget(share=0.5, burst=2.0)

    for _ in range(100):
        budget.deposit()

    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
