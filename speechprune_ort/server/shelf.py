"""Uploaded recordings, encoded once and asked about by their ids."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any

from speechprune_ort.recording import Recording
from speechprune_ort.server.request_error import RequestError
from speechprune_ort.text import counted

__all__ = ["Shelf", "Upload"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording on the shelf.

    Attributes:
        name: name of the file, as the client gave it.
        size: size of the file, in bytes.
        recording: the encoded recording.
        purpose: as the client gave it.
        id: id by which it is asked about.
        created: seconds since 1970.
        expires: when it is forgotten, likewise.
    """

    name: str
    size: int
    recording: Recording
    purpose: str
    id: str
    created: int
    expires: int

    def to_dict(self) -> dict[str, Any]:
        """The upload in the form of OpenAI's files, with its length, tokens and notes."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created,
            "expires_at": self.expires,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "seconds": round(self.recording.seconds, 3),
            "tokens": self.recording.tokens,
            "notes": list(self.recording.notes),
        }


class Shelf:
    """Uploaded recordings; safe to use from several threads.

    Args:
        most: largest number that is kept.
        keep_seconds: seconds after which each is forgotten.
    """

    def __init__(self, most: int, keep_seconds: float) -> None:
        self._most, self._keep = most, keep_seconds
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}

    def put(self, recording: Recording, name: str, size: int, purpose: str) -> Upload:
        """Keep a recording.

        Raises:
            RequestError: there is no room.
        """
        now = time.time()
        upload = Upload(
            name, size, recording, purpose, f"file-{secrets.token_hex(12)}", int(now),
            int(now + self._keep),
        )  # fmt: skip
        with self._lock:
            self._room(now)
            self._uploads[upload.id] = upload
        return upload

    def check_room(self) -> None:
        """Refuse an upload if there is no room, before its recording is encoded.

        Raises:
            RequestError: there is none.
        """
        with self._lock:
            self._room(time.time())

    def get(self, name: str) -> Upload:
        """The recording of an id.

        Raises:
            RequestError: there is none.
        """
        with self._lock:
            self._forget(time.time())
            if name not in self._uploads:
                raise _unknown(name)
            return self._uploads[name]

    def remove(self, name: str) -> None:
        """Forget a recording; requests about it that are in work are still answered.

        Raises:
            RequestError: there is none with this id.
        """
        with self._lock:
            if self._uploads.pop(name, None) is None:
                raise _unknown(name)

    def uploads(self) -> list[Upload]:
        """All of them, the latest first."""
        with self._lock:
            self._forget(time.time())
            return list(reversed(self._uploads.values()))

    def _forget(self, now: float) -> None:
        for name, upload in list(self._uploads.items()):
            if upload.expires <= now:
                del self._uploads[name]

    def _room(self, now: float) -> None:
        self._forget(now)
        if len(self._uploads) >= self._most:
            raise RequestError(
                409,
                f"The limit is {counted(self._most, 'recording')}, and as many are kept: delete "
                "one (DELETE /v1/files/ID).",
                "recordings_full",
            )


def _unknown(name: str) -> RequestError:
    return RequestError(
        404, f"There is no recording {name[:60]!a}: upload it again (POST /v1/files).", "not_found"
    )
