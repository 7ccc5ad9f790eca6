"""Checks of every request on its way in: who sends it, and how large it is."""

from __future__ import annotations

import asyncio
import hmac
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechprune_ort.errors import CancelledError
from speechprune_ort.server.metrics import Metrics
from speechprune_ort.server.request_error import RequestError, request_error_of

__all__ = ["Guard", "Watch"]

PATIENCE = 20.0  # seconds in which a body need not keep the pace
PACE = 1000  # bytes of a body a second: who sends more slowly keeps others out
BODIES = 4  # of the largest size, that all requests in work may take together

OPEN = ("/", "/health")
"""Paths that need no key: they tell nothing about recordings or about clients."""


class Guard:
    """Refuses requests before any of their bodies is read.

    Args:
        app: the application that they are passed on to.
        key: key that clients must give, or None.
        most_bytes: largest size of a request's body.
        origins: origins of other sites whose pages may send requests.
    """

    def __init__(
        self, app: ASGIApp, key: str | None, most_bytes: int, origins: tuple[str, ...]
    ) -> None:
        self._app, self._most, self._origins = app, most_bytes, origins
        self._held = 0  # bytes of the bodies of all requests in work
        self._key = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem(scope["path"], scope["method"], Headers(scope=scope))
        if problem is not None:
            response = JSONResponse(problem.body, problem.status, problem.headers)
            await response(scope, receive, send)
            return
        read, more, begun = 0, True, False
        due = asyncio.get_running_loop().time() + PATIENCE

        async def counted() -> Message:
            nonlocal read, more
            try:
                async with asyncio.timeout_at(due + read / PACE if more else None):
                    message = await receive()
            except TimeoutError:
                raise RequestError(
                    408, f"The request came more slowly than {PACE} bytes a second: send it again "
                    "over a faster connection.", "too_slow",
                ) from None  # fmt: skip
            came, more = len(message.get("body", b"")), more and message.get("more_body", False)
            read += came
            self._held += came
            if read > self._most:
                raise self._too_large()
            if self._held > BODIES * self._most:
                raise RequestError(
                    429, "The server is receiving as much as it takes at once: ask again later.",
                    "busy", retry_after=2,
                )  # fmt: skip
            return message

        async def told(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, told)
        except asyncio.CancelledError:  # its time to end is over, and the server stops
            if not begun:
                problem = request_error_of(CancelledError())
                response = JSONResponse(problem.body, problem.status, problem.headers)
                await response(scope, receive, send)
        finally:
            self._held -= read

    def _problem(self, path: str, method: str, headers: Headers) -> RequestError | None:
        origin = headers.get("origin")
        # A page of another site may send requests even where it may not read the answers.
        if origin is not None and not self._is_own(origin, headers.get("host", "")):
            return RequestError(
                403, f"Pages of {origin[:80]!a} may not send requests here: start the server with "
                "--cors-origin for it.", "origin",
            )  # fmt: skip
        if self._key is not None and path not in OPEN and method != "OPTIONS":
            given = headers.get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, self._key):
                return RequestError(
                    401, "The API key is missing or wrong: send Authorization: Bearer KEY.",
                    "invalid_api_key",
                )  # fmt: skip
        # Not by int(), which takes digits of other scripts, and no more than 4300 of them.
        length = headers.get("content-length", "0").lstrip("0").encode()
        most = str(self._most).encode()
        fits = not length or (length.isdigit() and (len(length), length) <= (len(most), most))
        return None if fits else self._too_large()

    def _is_own(self, origin: str, host: str) -> bool:
        own = (f"http://{host}", f"https://{host}") if host else ()
        return "*" in self._origins or origin in (*self._origins, *own)

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"The request is larger than {self._most / 1e6:g} MB: give a smaller file, or "
            "start the server with a larger --max-body-mb.", "too_large",
        )  # fmt: skip


class Watch:
    """Counts and times the requests.

    Args:
        app: the application that they are passed on to.
        metrics: where they are counted.
        routes: paths that are counted by name; all others are counted as one.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: tuple[str, ...]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 499  # of a client that left before the answer

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, told)
        except Exception:
            status = 500
            raise
        finally:
            found = [r for r in self._routes if scope["path"] == r]
            under = [r for r in self._routes if r != "/" and scope["path"].startswith(f"{r}/")]
            route = (found or under or ["other"])[0]
            self._metrics.request(route, status, time.monotonic() - begun)
