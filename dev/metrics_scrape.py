"""Figures of a running system, from the services' metrics and the database's own statistics."""

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
    """The sum of the samples of that name that have these labels."""
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
    """What the role has sent since the reset; BEGIN and COMMIT count as statements.

    Postgres checks foreign keys with statements of its own, as the tables' owner: they are nobody's
    (`toplevel` is false), else they would be counted against direct SQL only.
    """
    count = await connection.fetchval(
        "SELECT coalesce(sum(calls), 0)::int"
        " FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid"
        " WHERE r.rolname = $1 AND s.toplevel AND s.query NOT ILIKE '%pg_stat_statements%'",
        role,
    )
    return int(count)
