"""Rounds: in each, all ways of a measurement take turns, and another one begins."""

from collections.abc import Awaitable, Callable

WARM_UP_COUNT = 50

Variant = Callable[[], Awaitable[list[float]]]


async def interleaved(ways: list[Variant], round_count: int) -> list[list[list[float]]]:
    """The rounds of each way. Another way begins each round."""
    rounds: list[list[list[float]]] = [[] for _ in ways]
    for number in range(round_count):
        for place in range(len(ways)):
            way = (number + place) % len(ways)
            rounds[way].append(await ways[way]())
    return rounds
