"""A headless Chromium for the tests of the pages: found, or fetched from Debian's packages.

Driven by the Chrome DevTools Protocol over its own WebSocket, so that no driver and no browser of a
package's own download is needed: https://chromedevtools.github.io/devtools-protocol/.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

PACKAGE = "chromium-headless-shell"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
INSTALL_TRIES, INSTALL_PAUSE_S = 3, 5.0
START_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 20.0


def find(*, install: bool) -> str | None:
    """The program; with `install`, as root on Debian, its package is fetched if there is none."""
    found = _installed()
    if found is None and install and os.geteuid() == 0 and shutil.which("apt-get"):
        for _ in range(INSTALL_TRIES):  # another test may hold a lock of apt's
            _apt("update")
            _apt("install", "--yes", "--no-install-recommends", PACKAGE)
            if (found := _installed()) is not None:
                break
            time.sleep(INSTALL_PAUSE_S)
    return found


def _installed() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def _apt(*arguments: str) -> None:
    subprocess.run(
        ["apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300", *arguments],
        check=False,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class Tab:
    """One page of the browser, and what its console and its security policy have said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last_id = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.console: list[str] = []
        self.requested: list[str] = []

    async def attach(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited. Raises for an exception."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def wait_for(self, expression: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Until the expression is true. Raises TimeoutError with it."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self.evaluate(f"Boolean({expression})"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise TimeoutError(expression) from error

    async def set_screen(self, width: int, height: int, scheme: str) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self, path: Path) -> None:
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        future = asyncio.get_running_loop().create_future()
        self._answers[self._last_id] = future
        await self._socket.send_json(message)
        async with asyncio.timeout(CALL_TIMEOUT_S):
            answer: dict[str, Any] = await future
        return answer

    async def listen(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                break
            document = json.loads(message.data)
            if (future := self._answers.pop(document.get("id", 0), None)) is not None:
                if "error" in document:
                    future.set_exception(RuntimeError(str(document["error"])))
                else:
                    future.set_result(document["result"])
            else:
                self._on_event(document.get("method", ""), document.get("params", {}))

    def _on_event(self, method: str, parameters: dict[str, Any]) -> None:
        match method:
            case "Log.entryAdded":
                self.console.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.console.append(str([a.get("value") for a in parameters["args"]]))
            case "Runtime.exceptionThrown":
                self.console.append(str(parameters["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requested.append(parameters["request"]["url"])


@asynccontextmanager
async def browsing(program: str) -> AsyncIterator[Tab]:
    """A tab of a browser of its own, without a profile, for the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            "--headless",
            "--no-sandbox",  # root has no sandbox; it opens pages of ours only
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            stderr=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = await _debugger_url(process, Path(profile))
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(url, max_msg_size=0) as socket,
            ):
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                try:
                    await tab.attach()
                    yield tab
                finally:
                    listening.cancel()
                    await asyncio.wait({listening})
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too
            await process.wait()


async def _debugger_url(process: asyncio.subprocess.Process, profile: Path) -> str:
    """From the file that the browser writes once it listens. Raises TimeoutError."""
    file = profile / "DevToolsActivePort"
    async with asyncio.timeout(START_TIMEOUT_S):
        while not file.exists() or file.read_text().count("\n") < 1:
            if process.returncode is not None:
                raise OSError(f"the browser ended with {process.returncode}")
            await asyncio.sleep(0.05)
    port, path = file.read_text().split()[:2]
    return f"ws://127.0.0.1:{port}{path}"
