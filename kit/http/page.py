"""The page at the root of the ops listener: what a service does now, for eyes rather than machines.

One file, `page.html`, with its style and script, and one document that it polls, `page.json`, which
says what to draw: facts, plots, the lives of writes, tables. The page sets texts as text and needs
nothing from elsewhere; its Content-Security-Policy admits exactly its own style and script, by
their hashes, so that no text of the data can become a program.

Read only, and without credentials, as the rest of the listener: what names a user is in the
document only where a setting says so. The document is made for whoever asks, at most once a
second for all of them.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeAlias

import msgspec
from aiohttp import web

MAX_AGE_S = 1.0
"""Of the document: many who look cost as much as one."""
SAMPLE_PERIOD_S = 5.0
SAMPLE_COUNT = 180
"""Fifteen minutes: an outage shows from its beginning to whoever opens the page during it."""

DescribePage: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Read: TypeAlias = Callable[[], Mapping[str, float]]

_PROTECTED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class History:
    """The last values of gauges, and the rates of counters, sampled while the process runs."""

    def __init__(
        self,
        gauges: Read,
        counters: Read,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._gauges = gauges
        self._counters = counters
        self._monotonic = monotonic
        self._sleep = sleep
        self._series: dict[str, deque[float]] = {}
        self._counted: Mapping[str, float] = {}
        self._sampled_at = 0.0

    async def run(self) -> None:
        """Samples until cancelled."""
        while True:
            self.sample()
            await self._sleep(SAMPLE_PERIOD_S)

    def sample(self) -> None:
        now, counted = self._monotonic(), self._counters()
        elapsed_s = max(now - self._sampled_at, 1e-3)
        before = self._counted or counted  # the first sample is nobody's rate
        rates = {
            name: max(0.0, value - before.get(name, 0.0)) / elapsed_s
            for name, value in counted.items()
        }
        for name, value in {**self._gauges(), **rates}.items():
            self._series.setdefault(name, deque(maxlen=SAMPLE_COUNT)).append(float(value))
        self._counted, self._sampled_at = counted, now

    def plot(
        self, title: str, unit: str, names: Mapping[str, str], least_top: float = 1.0
    ) -> dict[str, Any]:
        """A plot of these series, by the names that it shows. The axis ends at `least_top` or, if
        a value is higher, there."""
        return {
            "title": title,
            "unit": unit,
            "period_s": SAMPLE_PERIOD_S,
            "least_top": least_top,
            "series": [
                {"name": shown, "values": list(self._series.get(name, ()))}
                for name, shown in names.items()
            ],
        }


def fact(label: str, value: object, state: str | None = None) -> dict[str, Any]:
    """A labelled value. `state`: ok, warn, bad, or None for neither."""
    return {"label": label, "value": value, "state": state}


def table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]], empty: str
) -> dict[str, Any]:
    """A table, or the sentence `empty` where it has no rows."""
    return {"title": title, "headings": headings, "rows": rows, "empty": empty}


def problems_table(problems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `problems` of `/status`."""
    rows = [
        [round(p["last_s_ago"]), p["level"], p["message"], p["reason"], p["count"]]
        for p in problems
    ]
    headings = ("seconds ago", "level", "message", "reason", "count")
    return table("Last problems", headings, rows, "No problems since the start.")


class _Document:
    """The encoded document, made again when it is too old."""

    def __init__(self, describe: DescribePage, monotonic: Callable[[], float]) -> None:
        self._describe = describe
        self._monotonic = monotonic
        self._making = asyncio.Lock()
        self._body = b""
        self._made_at = -MAX_AGE_S

    async def body(self) -> bytes:
        async with self._making:
            if self._monotonic() - self._made_at >= MAX_AGE_S:
                self._body = msgspec.json.encode(await self._describe())
                self._made_at = self._monotonic()
            return self._body


def add_page(
    app: web.Application, describe: DescribePage, monotonic: Callable[[], float] = time.monotonic
) -> None:
    html = files("kit.http").joinpath("page.html").read_text(encoding="utf-8")
    headers = {**_PROTECTED, "Content-Security-Policy": content_security_policy(html)}
    document = _Document(describe, monotonic)

    async def serve_page(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html", headers=headers)

    async def serve_document(_: web.Request) -> web.Response:
        return web.Response(
            body=await document.body(), content_type="application/json", headers=_PROTECTED
        )

    app.router.add_get("/", serve_page)
    app.router.add_get("/page.json", serve_document)


def content_security_policy(html: str) -> str:
    """Admits the inline style and script of `html`, by hash, and calls to the page's own origin."""
    style, script = (
        _hash(found)
        for tag in ("style", "script")
        for found in re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    )
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
