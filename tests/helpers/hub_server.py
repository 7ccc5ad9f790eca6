"""A stand-in for the model hub: folders as repositories, with ranges, and cut off where wanted."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the stand-in serves, and what was asked of it.

    Attributes:
        folders: by repository.
        address: of the server.
        left: bytes of files that still go out before the line is dead; None for any number.
        cut: the file that was cut off.
        asked: method, path and range of every request for a file.
    """

    folders: dict[str, Path]
    address: str = ""
    left: int | None = None
    cut: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


def reach(found: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hub's client ask the stand-in, whatever the environment says."""
    from huggingface_hub import constants

    url = found.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class Server(ThreadingHTTPServer):
    """Says nothing of clients that were killed."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See the base class."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def hub(folders: dict[str, Path]) -> Iterator[Hub]:
    """A hub on this machine, until the block ends."""
    found = Hub(folders)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Say nothing."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            words = self.path.split("?")[0].strip("/").split("/")
            if words[:2] == ["api", "models"] and "tree" not in words:
                self.model("/".join(words[2:4]))
            elif len(words) >= 5 and words[2] == "resolve":
                self.file("/".join(words[:2]), words[3], "/".join(words[4:]), body)
            else:
                self.nothing("EntryNotFound")

        def model(self, name: str) -> None:
            folder = found.folders.get(name)
            if folder is None:
                self.nothing("RepoNotFound")
                return
            files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
            content = json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def file(self, name: str, revision: str, file: str, body: bool) -> None:
            asked = self.headers.get("Range")
            found.asked.append((self.command, file, asked))
            path = found.folders[name] / file
            if revision not in (COMMIT, "main") or not path.is_file():
                self.nothing("EntryNotFound")
                return
            content = path.read_bytes()
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            self.send_response(206 if asked else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - start))
            if asked:
                whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", whole)
            self.end_headers()
            if not body:
                return
            part = content[start:]
            if found.left is not None:
                if len(part) > found.left:
                    part, found.cut, self.close_connection = part[: found.left], file, True
                found.left -= len(part)
            self.wfile.write(part)

        def nothing(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = Server(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
