"""The pages at the ops listeners, in a headless Chromium, beside a running system.

With traffic, with an outage while the page is open, with hostile names in the data, and for whom
it is made: on a phone, in the dark, by keyboard, by a screen reader.
"""

import json
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from dev import chromium
from dev.chromium import Tab, browsing
from kit.http.connection_limits import ConnectionLimiter
from kit.http.ops import ops_app
from tests.databases import open_folder
from tests.journeys.calls import call, create
from tests.systems import Up, running_system

WIDE, PHONE = (1280, 900), (360, 740)
SHOTS = os.environ.get("PAGE_SHOTS")
"""A folder for pictures of the pages, for docs and for eyes."""


@pytest.fixture(scope="session")
def program() -> str:
    found = chromium.find(install=True)
    if found is None:
        pytest.skip(f"not run: no Chromium (Debian: apt-get install {chromium.PACKAGE})")
    return found


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with open_folder() as folder, running_system(folder) as up:
        yield up


@pytest.fixture
async def tab(program: str) -> AsyncIterator[Tab]:
    async with browsing(program) as tab:
        await tab_screen(tab, WIDE, "light")
        yield tab


async def tab_screen(tab: Tab, size: tuple[int, int], scheme: str) -> None:
    await tab.set_screen(*size, scheme)


async def shoot(tab: Tab, name: str) -> None:
    if SHOTS is not None:
        await tab.screenshot(Path(SHOTS) / f"{name}.png")


def write(up: Up, execution_id: int, **members: Any) -> None:
    token = up.ready["users"]["owner"]["token"]
    status, answer, _ = call(
        up.ready, "PATCH", f"/v1/executions/{execution_id}", members, token=token
    )
    assert status == 202, answer


def document(ops: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{ops}/page.json", timeout=10) as response:  # noqa: S310
        found: dict[str, Any] = json.load(response)
        return found


def fact(label: str) -> str:
    """JavaScript: the text of the fact of this label."""
    return (
        "[...document.querySelectorAll('#facts div')].find("
        f"card => card.querySelector('dt').textContent === {json.dumps(label)})"
        "?.querySelector('dd').textContent"
    )


READING = "document.querySelector('#lives .reading')?.textContent"
WIDER_THAN_SCREEN = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


async def test_the_sidecars_page_shows_traffic_and_an_outage_while_it_is_open(
    up: Up, tab: Tab
) -> None:
    run, token = create(up.ready), up.ready["users"]["owner"]["token"]
    other_run = create(up.ready)
    for name in ("one", "two"):
        write(up, run, name=name)
        write(up, other_run, name=name)
    for state in ("COMPLETED", "FAILED"):  # the second is refused
        write(up, run, status=state)
    call(up.ready, "GET", f"/v1/executions/{run}", token=token)
    await tab.open(up.ready["sidecar_ops"] + "/")

    await tab.wait_for(f"{fact('Central')}?.includes('reachable')")
    await tab.wait_for(f"/committed/.test({READING}) && /1 refused/.test({READING})")
    await shoot(tab, "sidecar-light")

    central = up.published("central")["pid"]
    os.kill(central, signal.SIGSTOP)
    try:
        write(up, other_run, name="in the outage")
        await tab.wait_for(f"{fact('Central')}.includes('away')", 40)
        await tab.wait_for(f"/in flight|durable/.test({READING})")
        assert await tab.evaluate("document.querySelector('#facts .bad .mark').textContent") != ""
        await shoot(tab, "sidecar-outage")
    finally:
        os.kill(central, signal.SIGCONT)
    await tab.wait_for(f"{fact('Central')}.includes('reachable')", 40)
    await tab.wait_for(f"!/in flight|durable/.test({READING})", 40)

    assert tab.console == []
    allowed = up.ready["sidecar_ops"] + "/"
    assert {url for url in tab.requested if not url.startswith("data:")} == {
        allowed,
        f"{allowed}page.json",
    }


async def test_a_page_whose_service_ends_says_so(up: Up, tab: Tab) -> None:
    await tab.open(up.ready["sidecar_ops"] + "/")
    await tab.wait_for("document.querySelectorAll('#facts div').length > 5")
    sidecar = up.published("sidecar")["pid"]
    os.kill(sidecar, signal.SIGSTOP)
    try:
        await tab.wait_for("document.querySelector('#alert').textContent.includes('is old')", 30)
    finally:
        os.kill(sidecar, signal.SIGCONT)

    await tab.wait_for("document.querySelector('#alert').textContent === ''", 30)


async def test_centrals_page_shows_the_fleet(up: Up, tab: Tab) -> None:
    create(up.ready)
    await tab.open(up.ready["central_ops"] + "/")

    await tab.wait_for(f"{fact('Database')}?.includes('available')")
    await tab.wait_for(f"Number({fact('Sidecars with open runs')}) >= 1", 30)
    await tab.wait_for(
        "[...document.querySelectorAll('#tables td')].some(cell => cell.textContent === 'live')"
    )
    await shoot(tab, "central-light")
    await tab_screen(tab, PHONE, "dark")
    await shoot(tab, "central-phone-dark")
    assert await tab.evaluate(WIDER_THAN_SCREEN) is False
    assert tab.console == []


async def test_the_page_fits_a_phone_the_dark_a_keyboard_and_a_screen_reader(
    up: Up, tab: Tab
) -> None:
    await tab_screen(tab, PHONE, "dark")
    await tab.open(up.ready["sidecar_ops"] + "/")
    await tab.wait_for("document.querySelectorAll('#plots figure').length >= 4")

    assert await tab.evaluate(WIDER_THAN_SCREEN) is False
    ground = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(21, 24, 26)"
    unnamed = (
        "[...document.querySelectorAll('svg[role=img]')].filter(drawing =>"
        " !document.getElementById(drawing.getAttribute('aria-labelledby'))?.textContent).length"
    )
    assert await tab.evaluate(unnamed) == 0
    assert await tab.evaluate("document.querySelector('html').lang") == "en"
    tables = "document.querySelectorAll('figure details table').length"
    assert await tab.evaluate(f"{tables} === document.querySelectorAll('figure').length")

    await tab.evaluate("document.querySelector('#plots svg[role=img]').focus()")
    await tab.press("ArrowLeft")
    await tab.wait_for("/ago:/.test(document.querySelector('#plots .reading').textContent)")
    await tab.evaluate("document.querySelector('#plots summary').focus()")
    await tab.press("Enter")
    await shoot(tab, "sidecar-phone-dark")
    # The next polls fill it again and leave the focus where it is.
    before = await tab.evaluate("document.querySelector('#updated').textContent")
    await tab.wait_for(f"document.querySelector('#updated').textContent !== {json.dumps(before)}")
    assert await tab.evaluate("document.activeElement.localName") == "summary"


HOSTILE = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg onload='window.ran = 1'></svg>",
    '"><style>*{display:none}</style>',
    "javascript:window.ran=1",
    "\u202egnp.exe</td></tr></table>",
]


INJECTED = """
document.body.insertAdjacentHTML("beforeend", `<img src="data:," onerror="window.ran = 1">
    <iframe srcdoc="<script>parent.ran = 1</script>"></iframe>`);
const script = document.createElement("script");
script.textContent = "window.ran = 1";
document.body.append(script);
"""
"""What a text would do that had become markup."""


async def test_hostile_texts_in_the_data_stay_texts(tab: Tab) -> None:
    async def describe() -> dict[str, Any]:
        return {
            "title": HOSTILE[0],
            "version": HOSTILE[1],
            "facts": [{"label": t, "value": t, "state": t} for t in HOSTILE],
            "lives": {
                "title": HOSTILE[2],
                "window_s": 300,
                "more": 0,
                "ids": [HOSTILE[3]],
                "writes": [
                    {
                        "seq": t,
                        "op": t,
                        "state": t,
                        "problem": t,
                        "accepted_s_ago": 1,
                        "sent_s_ago": None,
                        "settled_s_ago": None,
                        HOSTILE[3]: t,
                    }
                    for t in HOSTILE
                ],
            },
            "plots": [
                {
                    "title": t,
                    "unit": t,
                    "period_s": 5,
                    "least_top": 1,
                    "series": [{"name": t, "values": [0, 1]}],
                }
                for t in HOSTILE
            ],
            "tables": [{"title": t, "headings": [t], "rows": [[t]], "empty": t} for t in HOSTILE],
        }

    app = ops_app(CollectorRegistry(), list, dict, describe, ConnectionLimiter(64))
    async with TestServer(app) as server:
        await tab.open(str(server.make_url("/")))
        await tab.wait_for("document.querySelectorAll('#tables section').length === 6")

        assert await tab.evaluate("window.ran") is None
        assert await tab.evaluate("document.querySelectorAll('img, td script, td svg').length") == 0
        cells = "[...document.querySelectorAll('#tables td')].map(cell => cell.textContent)"
        assert await tab.evaluate(cells) == HOSTILE
        await shoot(tab, "hostile")
        own = (str(server.make_url("/")), "data:")
        assert all(url.startswith(own) for url in tab.requested), tab.requested
        # And had a text become markup after all, the policy would have kept it from running.
        tab.console.clear()
        await tab.evaluate(INJECTED)
        await tab.wait_for("document.querySelector('iframe') !== null")
        assert await tab.evaluate("window.ran") is None
        try:
            await tab.evaluate("fetch('http://127.0.0.1:9/elsewhere').then(() => 1)")
        except RuntimeError:
            pass
        else:
            raise AssertionError("the page reached another origin")
        await tab.wait_for("true")
        assert any("Content Security Policy" in text for text in tab.console)


@pytest.mark.parametrize("role", ["sidecar", "central"])
def test_the_page_is_protected_and_names_nobody(up: Up, role: str) -> None:
    owner = up.ready["users"]["owner"]
    run = create(up.ready)
    write(up, run, name="canary-of-a-name")
    ops = str(up.ready["sidecar_ops"] if role == "sidecar" else up.ready["central_ops"])

    with urllib.request.urlopen(f"{ops}/", timeout=10) as response:  # noqa: S310
        policy = response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy

    shown = document(ops)
    text = json.dumps(shown)
    assert "canary-of-a-name" not in text
    assert "vfs:" not in text
    assert '"user_id"' not in text
    assert '"execution_id"' not in text
    assert owner["token"] not in text
    assert len(text) < 256 * 1024


async def test_ids_are_shown_where_the_setting_says_so() -> None:
    setting = ("--set", "SIDECAR_PAGE_SHOWS_IDS=true", "--set", "CENTRAL_PAGE_SHOWS_IDS=true")
    with open_folder() as folder, running_system(folder, *setting) as up:
        run = create(up.ready)
        write(up, run, name="shown by id")

        writes = document(up.ready["sidecar_ops"])["lives"]["writes"]
        sources = document(up.ready["central_ops"])["tables"][0]

    assert (writes[0]["execution_id"], writes[0]["user_id"]) == (
        run,
        up.ready["users"]["owner"]["user_id"],
    )
    assert sources["headings"][-1] == "source"


async def test_many_who_look_make_the_document_once() -> None:
    made = 0

    async def describe() -> dict[str, Any]:
        nonlocal made
        made += 1
        return {}

    app: web.Application = ops_app(CollectorRegistry(), list, dict, describe, ConnectionLimiter(64))
    async with TestServer(app) as server:
        url = str(server.make_url("/page.json"))
        async with aiohttp.ClientSession() as session:
            for _ in range(10):
                async with session.get(url) as response:
                    assert response.status == 200

    assert made == 1
