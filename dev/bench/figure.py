"""What was measured: medians and quartiles, over all samples and over the rounds' ratios."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median, quantiles


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
    """One way of doing something. `rounds` holds each round's samples, in `unit`."""

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
        """Of the rounds' own ratios, median to median: what slows a whole round cancels out."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return Quartiles.of([median(mine) / median(theirs) for mine, theirs in pairs])


@dataclass(frozen=True)
class Goal:
    """`measured` must not be above `limit`; `digits` is how exactly both are shown."""

    what: str
    measured: Quartiles
    limit: float
    unit: str
    digits: int

    @property
    def is_met(self) -> bool:
        return self.measured.median <= self.limit

    @property
    def verdict(self) -> str:
        if self.is_met:
            return "met"
        return f"missed by {(self.measured.median / self.limit - 1) * 100:.0f} %"


@dataclass(frozen=True)
class Section:
    """One question: what was compared, the figures, the goals they answer to."""

    title: str
    how: str
    figures: list[Measurement]
    goals: list[Goal]


async def timed_us(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Microseconds of each of `count` calls, one after the other."""
    samples = []
    for _ in range(count):
        began_at = time.perf_counter_ns()
        await call()
        samples.append((time.perf_counter_ns() - began_at) / 1000)
    return samples
