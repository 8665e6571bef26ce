"""Counters of a running system: the services' metrics and the database's statement statistics."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import asyncpg

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


async def scrape(session: aiohttp.ClientSession, ops_url: str) -> list[Sample]:
    async with session.get(f"{ops_url}/metrics") as response:
        text = await response.text()
    return [
        Sample(name, dict(_LABEL.findall(labels)), float(value))
        for name, labels, value in _SAMPLE.findall(text)
    ]


def total(samples: list[Sample], name: str, **labels: str) -> int:
    """The sum of the samples with this name and these labels."""
    return int(
        sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
    )


async def reset_statements(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute("SELECT pg_stat_statements_reset()")


async def statements_of(connection: "asyncpg.Connection[asyncpg.Record]", role: str) -> int:
    """The role's statements since the reset, BEGIN and COMMIT included.

    Postgres' own statements that check foreign keys run as the tables' owner and are excluded
    (`toplevel` is false): they would be counted for direct SQL only.
    """
    count = await connection.fetchval(
        "SELECT coalesce(sum(calls), 0)::int"
        " FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid"
        " WHERE r.rolname = $1 AND s.toplevel AND s.query NOT ILIKE '%pg_stat_statements%'",
        role,
    )
    return int(count)
