"""A server from the command line: a socket, uvicorn, and a stop that lets answers finish."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from speechprune_ort.errors import OptionError
from speechprune_ort.model import SpeechLLM
from speechprune_ort.numbers import whole
from speechprune_ort.server.app import Service, make_app
from speechprune_ort.server.options import ServeOptions
from speechprune_ort.text import shown

__all__ = ["listen_on", "serve"]

CONNECTIONS = 256  # at once; bodies that are being read take memory before they wait
SILENT_SECONDS = 10.0  # of a connection that has no request in work, until it is closed
UNREAD_SECONDS = 60.0  # of an answer that nobody takes, until its connection is closed
ENDING_SECONDS = 3.0  # to tell clients that their requests were ended
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes one that is free.

    Raises:
        OptionError: the address is not one of this machine's, or the port is taken.
    """
    whole("port", port, 0, 65_535)
    if not host:  # to a socket, that is every address of this machine
        raise OptionError("--host is empty: give an address, or 0.0.0.0 for all of them.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, TypeError, ValueError) as error:  # also where it cannot be a name
        reason = (isinstance(error, OSError) and error.strerror) or "it is not the name of a host"
        raise OptionError(
            f"The server cannot listen on {shown(host)}, port {port} ({reason.split(' (')[0]}): "
            "give another --host or --port."
        ) from None


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PromptHttp(H11Protocol):
    """A connection that is closed if the head of a request does not come, or comes too slowly.

    So is one on which an answer is not read. The number of connections is limited: those that ask
    nothing would keep everybody else out.
    """

    _closing: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait(no_more=True)
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for an answer to be read."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, as it was read."""
        self._is_read()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read on, and wait where that is not yet a request, or after one that was answered."""
        super().data_received(data)
        self._wait(no_more=self._is_asked())

    def on_response_complete(self) -> None:
        """Wait for the next request, where it is not there already."""
        super().on_response_complete()
        self._wait(no_more=self._is_asked())

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with a request, unless an answer was given already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _is_asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self, no_more: bool = False) -> None:
        if no_more and self._closing is not None:
            self._closing.cancel()
            self._closing = None
        elif not no_more and self._closing is None:
            self._closing = self.loop.call_later(SILENT_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """A server that tells clients when their requests' time to end is over.

    Args:
        config: uvicorn's configuration.
        service: what is served.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and end those that are left after ``stop_seconds``."""
        seconds = self._service.options.stop_seconds
        ending = asyncio.get_running_loop().call_later(seconds, self._service.counter.end)
        await super().shutdown(sockets)
        ending.cancel()


def serve(
    model: SpeechLLM,
    options: ServeOptions,
    listener: socket.socket,
    host: str,
    ready: Callable[[str], None],
    access_log: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; then take no more requests, and let those in work finish.

    Args:
        model: the opened model.
        options: options of the server.
        listener: socket that requests come to.
        host: address that it listens on, as the user gave it.
        ready: called with the server's address once it can be asked.
        access_log: whether to print a line on stdout for every request.
    """
    # Requests by another host name come from pages whose own name was made to lead here.
    hosts = LOCAL if is_local(host) else ("*",)
    service = Service(model, options)
    config = uvicorn.Config(
        make_app(service, hosts),
        http=PromptHttp,
        lifespan="on",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=round(options.stop_seconds + ENDING_SECONDS),
    )
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    ready(f"http://{shown}:{port}")
    Server(config, service).run(sockets=[listener])
