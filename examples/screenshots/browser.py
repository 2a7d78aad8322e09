"""Headless Chromium, steered by its DevTools protocol over pipes: a page is taken once it shows what it should."""

import asyncio
import base64
import json
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from dogwatch.errors import DogwatchError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ANSWER_WITHIN_S = 30.0
SHOWN_WITHIN_S = 60.0
_LOOKS = 5
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
)
# What a job says of itself is Markdown, which the UI renders in frames of their own; it is part of their addresses.
_TEXT = (
    "[document.body.innerText, ...[...document.querySelectorAll('iframe')]"
    ".map(f => decodeURIComponent(f.src.replaceAll('+', ' ')))].join('\\n')"
)
# The browser's own protocol is spoken on descriptors 3 and 4.
_ON_PIPES = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'


class Browser:
    """One page of a running browser."""

    def __init__(self, process: Process) -> None:
        """`process` speaks the protocol on its standard input and output."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout
        self._session: str | None = None
        self._number = 0

    async def open_page(self) -> None:
        """Make the page that the other calls are about."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]

    async def show(self, url: str, expected: Sequence[str], width: int, height: int, clicks: Sequence[str] = ()) -> None:
        """Go to an address, click on what bears these words, and wait until the page holds every expected text. Raises DogwatchError."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        await self.call("Page.navigate", url=url)
        for words in clicks:
            await self._until(
                f"(b => b && (b.click(), true))([...document.querySelectorAll('button, a')].find(b => {_bears(words)}))", words
            )
        for words in expected:
            await self._until(f"({_TEXT}).includes({json.dumps(words)})", words)

    async def picture(self) -> bytes:
        """What is in view, as a PNG, once nothing is being drawn any more; the clock of a running workflow never stops."""
        await self.call("Runtime.evaluate", expression="document.activeElement.blur()")  # or a frame is drawn around what was clicked
        taken = before = b""
        for _ in range(_LOOKS):
            taken = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
            if taken == before:
                break
            before = taken
            await asyncio.sleep(1)
        return taken

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events in between are not of interest. Raises DogwatchError."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._to.write(json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        async with asyncio.timeout(ANSWER_WITHIN_S):
            while True:
                answer = json.loads((await self._from.readuntil(b"\0"))[:-1])
                if answer.get("id") == self._number:
                    break
        if "error" in answer:
            raise DogwatchError(f"the browser refuses {method}: {answer['error']}")
        return dict(answer["result"])

    async def _until(self, expression: str, words: str) -> None:
        try:
            async with asyncio.timeout(SHOWN_WITHIN_S):
                while True:
                    found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
                    if found["result"].get("value"):
                        return
                    await asyncio.sleep(0.2)
        except TimeoutError:
            page = await self.call("Runtime.evaluate", expression=_TEXT, returnByValue=True)
            raise DogwatchError(f"the page does not show {words!r}: {page['result'].get('value')}") from None


@asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """A browser with a profile of its own, for the length of the block. Raises DogwatchError where none is installed."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise DogwatchError(f"no browser: install chromium (looked for {', '.join(PROGRAMS)})")
    with tempfile.TemporaryDirectory(prefix="screenshots-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", _ON_PIPES, "sh", program, *_QUIET, f"--user-data-dir={profile}", "about:blank"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=1 << 26,
        )
        browser = Browser(process)
        try:
            await browser.open_page()
            yield browser
        finally:
            with suppress(TimeoutError, ConnectionError, DogwatchError, asyncio.IncompleteReadError):
                await browser.call("Browser.close")
            try:
                await asyncio.wait_for(process.wait(), ANSWER_WITHIN_S)
            except TimeoutError:
                process.kill()
                await process.wait()


def _bears(words: str) -> str:
    return f"b.innerText.trim().startsWith({json.dumps(words)})"
