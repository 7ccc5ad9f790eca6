"""Chromium without a window, by the protocol of its developer tools over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
WAIT = 60.0  # seconds for anything to come

needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason=f"none of {', '.join(NAMES)} is installed (Debian: apt install chromium)"
)


class Browser:
    """One page.

    Args:
        folder: for the browser's files.
        width: of the page, in pixels.
        dark: the user prefers dark pages.
        phone: of a telephone, which is touched.
    """

    def __init__(
        self, folder: Path, width: int = 1200, dark: bool = False, phone: bool = False
    ) -> None:
        ours, theirs = os.pipe(), os.pipe()
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", f"--user-data-dir={folder / 'browser'}", "--mute-audio",
            "--disable-background-networking", "--disable-component-update", "--disable-quic",
            "--disable-sync", "--no-first-run",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}', CHROMIUM, *options],
            pass_fds=(ours[0], theirs[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        self._out, self._in = ours[1], theirs[0]
        self._read, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.tell(f"{domain}.enable")
        height = 800
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=phone)  # fmt: skip
        self.tell("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.darken(dark)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def tell(self, method: str, **parameters: Any) -> Any:
        """Send a command; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + WAIT
        while True:
            found = self._message(until)
            if found.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(found["params"]["exceptionDetails"]))
            if found.get("method") == "Log.entryAdded":
                self.errors.append(found["params"]["entry"]["text"])
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def _message(self, until: float) -> Any:
        while b"\0" not in self._read:
            left = until - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self._in], [], [], left)[0]:
                more = os.read(self._in, 1 << 20)
                assert more, "the browser has ended"
                self._read += more
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str) -> None:
        """Load a page and wait for it."""
        self.tell("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def get(self, code: str) -> Any:
        """The value of a piece of JavaScript, of a promise what it gives."""
        found = self.tell(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, code: str) -> Any:
        """Wait until a piece of JavaScript gives something."""
        end = time.monotonic() + WAIT
        while not (found := self.get(code)):
            assert time.monotonic() < end, f"never: {code}"
            time.sleep(0.05)
        return found

    def darken(self, dark: bool) -> None:
        """The user prefers dark pages, or bright ones."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[feature])

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click into an element, at shares of its width and height."""
        place = self._place(selector, x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.tell("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def point(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Move the mouse into an element, at shares of its width and height."""
        place = self._place(selector, x, y)
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", **place)

    def tap(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Touch an element with a finger, at shares of its width and height."""
        place = self._place(selector, x, y)
        self.tell("Input.dispatchTouchEvent", type="touchStart", touchPoints=[place])
        self.tell("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def _place(self, selector: str, x: float, y: float) -> dict[str, float]:
        """Where in the window a place of an element lies, which is scrolled into view."""
        box = self.get(
            f"(() => {{ const n = document.querySelector({json.dumps(selector)});"
            " n.scrollIntoView({block: 'center'}); const b = n.getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]; })()"
        )
        return {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.tell("Input.insertText", text=text)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file."""
        root = self.tell("DOM.getDocument")["root"]["nodeId"]
        node = self.tell("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.tell("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def picture(self, path: Path) -> None:
        """Keep what is seen, all of the page."""
        found = self.tell("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
