"""Measurements in interleaved rounds: medians and quartiles, over samples and over ratios."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median, quantiles

WARM_UP_COUNT = 50

Variant = Callable[[], Awaitable[list[float]]]
"""One of the compared ways to do something; a call measures it once and returns the samples."""


@dataclass(frozen=True)
class Quartiles:
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: list[float]) -> "Quartiles":
        if len(samples) < 2:
            return cls(samples[0], samples[0], samples[0])
        low, middle, high = quantiles(samples, n=4, method="inclusive")
        return cls(low, middle, high)

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True)
class Measurement:
    """One variant's samples, by round, in `unit`."""

    name: str
    unit: str
    rounds: list[list[float]]
    digits: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.rounds))

    @property
    def quartiles(self) -> Quartiles:
        """Of all samples together."""
        return Quartiles.of([sample for samples in self.rounds for sample in samples])

    def ratios_to(self, other: "Measurement") -> Quartiles:
        """Over the rounds' ratios of medians: what slows a whole round cancels out."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Quartiles.of([median(mine) / median(theirs) for mine, theirs in pairs])


@dataclass(frozen=True)
class Goal:
    """`measured` must not exceed `limit`; both are printed with `digits` digits."""

    what: str
    measured: Quartiles
    limit: float
    unit: str
    digits: int

    @property
    def is_met(self) -> bool:
        return self.measured.median <= self.limit

    @property
    def result(self) -> str:
        if self.is_met:
            return "met"
        return f"missed by {(self.measured.median / self.limit - 1) * 100:.0f} %"


@dataclass(frozen=True)
class Section:
    """One comparison: the method, the measurements and their goals."""

    title: str
    how: str
    measurements: list[Measurement]
    goals: list[Goal]


async def timed_us(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Microseconds of each of `count` calls, one after the other."""
    samples = []
    for _ in range(count):
        started_at = time.perf_counter_ns()
        await call()
        samples.append((time.perf_counter_ns() - started_at) / 1000)
    return samples


async def interleaved(variants: list[Variant], round_count: int) -> list[list[list[float]]]:
    """Each variant's rounds. Variants take turns in a round; each round starts with another."""
    rounds: list[list[list[float]]] = [[] for _ in variants]
    for number in range(round_count):
        for place in range(len(variants)):
            index = (number + place) % len(variants)
            rounds[index].append(await variants[index]())
    return rounds
