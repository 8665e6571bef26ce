"""Backoff and the circuit breaker, with time and jitter as arguments."""

import pytest

from sidecar.upstream.resilience import Backoff, CircuitBreaker


def opened(threshold: int = 3, cool_down_s: float = 2.0) -> CircuitBreaker:
    """A circuit that opened at second 0."""
    circuit = CircuitBreaker(threshold=threshold, cool_down_s=cool_down_s)
    for _ in range(threshold):
        circuit.record_failure(0.0)
    return circuit


def test_the_backoff_limit_doubles_up_to_its_maximum() -> None:
    backoff = Backoff(0.1, 1.0, uniform=lambda _, high: high)

    assert [backoff.next_s() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_backoff_is_jittered_down_to_zero() -> None:
    assert Backoff(0.1, 1.0, uniform=lambda low, _: low).next_s() == 0
    assert 0 <= Backoff(0.1, 1.0).next_s() <= 0.1


def test_a_success_resets_the_backoff() -> None:
    backoff = Backoff(0.1, 1.0, uniform=lambda _, high: high)
    for _ in range(5000):
        backoff.next_s()

    backoff.reset()

    assert backoff.failure_count == 0
    assert backoff.next_s() == pytest.approx(0.1)


def test_failures_in_a_row_open_the_circuit() -> None:
    circuit = CircuitBreaker(threshold=3)
    for now in (0.0, 1.0):
        circuit.record_failure(now)
    assert circuit.allows(1.0)
    assert not circuit.is_open

    circuit.record_failure(2.0)

    assert circuit.is_open
    assert not circuit.allows(2.0)


def test_a_success_between_failures_keeps_the_circuit_closed() -> None:
    circuit = CircuitBreaker(threshold=2)

    for _ in range(5):
        circuit.record_failure(0.0)
        circuit.record_success()

    assert not circuit.is_open


def test_an_open_circuit_allows_one_probe_after_the_cool_down() -> None:
    circuit = opened()

    assert not circuit.allows(1.9)
    assert [circuit.allows(2.0) for _ in range(3)] == [True, False, False]


def test_a_successful_probe_closes_the_circuit() -> None:
    circuit = opened()
    circuit.allows(2.0)

    circuit.record_success()

    assert not circuit.is_open
    assert circuit.allows(2.0)
    circuit.record_failure(2.0)
    assert not circuit.is_open


def test_a_failed_probe_reopens_the_circuit_for_a_cool_down() -> None:
    circuit = opened()
    circuit.allows(2.0)

    circuit.record_failure(3.0)

    assert not circuit.allows(4.9)
    assert circuit.allows(5.0)


def test_a_probe_that_never_returns_allows_another_after_the_cool_down() -> None:
    circuit = opened()

    assert circuit.allows(2.0)
    assert not circuit.allows(3.9)
    assert circuit.allows(4.0)


def test_an_open_circuit_returns_the_time_to_its_next_probe() -> None:
    assert CircuitBreaker().retry_after_s(0.0) == 0
    assert opened().retry_after_s(0.5) == 1.5
    assert opened().retry_after_s(9.0) == 0
