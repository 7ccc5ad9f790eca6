"""A server from the command line: a socket, uvicorn, and a stop that lets answers end."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from speechprune_ort.errors import OptionError
from speechprune_ort.model import SpeechLLM
from speechprune_ort.server.app import Service, make_app
from speechprune_ort.server.options import ServeOptions

__all__ = ["listen_on", "serve"]

CONNECTIONS = 256  # at once; bodies that are being read take memory before they wait
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes one that is free.

    Raises:
        OptionError: the address is none of this machine, or the port is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"The server cannot listen on {host}:{port} ({error}): give another --host or --port."
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


def serve(
    model: SpeechLLM,
    options: ServeOptions,
    listener: socket.socket,
    host: str,
    ready: Callable[[str], None],
    access_log: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM: then no request is taken, and those in work may end.

    Args:
        model: opened.
        options: of the server.
        listener: that requests come to.
        host: that it listens on, as the user gave it.
        ready: called with the server's address once it can be asked.
        access_log: a line on stdout for every request.
    """
    # What asks by another name is a page that had its name lead here.
    hosts = LOCAL if is_local(host) else ("*",)
    app = make_app(Service(model, options), hosts)
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(options.stop_seconds)),
    )
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    ready(f"http://{shown}:{port}")
    uvicorn.Server(config).run(sockets=[listener])
