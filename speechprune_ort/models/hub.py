"""Bundles and single files from the model hub, by huggingface_hub, whose settings apply."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import msgspec

from speechprune_ort.contract.manifest import MANIFEST_FILE, FileEntry, Manifest
from speechprune_ort.errors import BundleError, PartError, SpeechPruneError
from speechprune_ort.files import FULL, sha256_of
from speechprune_ort.models.packages import Report, check_sha256
from speechprune_ort.models.store import CutOffError

__all__ = ["HUB_NAME", "HubFile", "fetch", "fetch_file"]

WORD = r"\w(?:[\w.-]{0,94}\w)?"
HUB_NAME = re.compile(
    rf"(?P<id>(?![^@]*(?:--|\.\.|\.git(?:@|$))){WORD}/{WORD})(?:@(?P<revision>\w[\w.-]{{0,127}}))?",
    re.ASCII,
)
"""Names that the hub can have, by the rules of its client."""
TIMEOUT = 20.0  # seconds until the hub's first answer
SETTINGS = "HF_ENDPOINT, HF_TOKEN and what else is set for the hub or as a proxy"


def fetch(name: str, folder: Path, report: Report) -> None:
    """Bring a bundle's files into a folder; those that are there and whole are not fetched again.

    A download that was cut off is resumed. All files are of one revision; ``store.keep`` then
    checks each against the sha256 that the bundle's manifest states.

    Args:
        name: ``owner/name``, or ``owner/name@revision`` with a branch, tag or commit.
        folder: the folder, which exists.
        report: called every few MB with the file and how much of it has come.

    Raises:
        CutOffError: the hub cannot be reached, or not any more.
        BundleError: the hub has no such model; the model is not a bundle; a file of the bundle is
            missing there; or huggingface_hub is not installed, or has settings that it cannot use.
        OSError: the disk is full.
        IntegrityError: the manifest is not the one that export wrote.
    """
    found = HUB_NAME.fullmatch(name)
    if found is None:
        raise BundleError(f"{name!a:.200} is not a name on the hub: give owner/name.")
    identity, revision = found["id"], found["revision"]
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError:
        raise BundleError(
            f"There is no folder {name}, and looking for it on the hub needs huggingface_hub: pip "
            "install 'speechprune-ort[hub]', or give a bundle's folder."
        ) from None
    except Exception as error:  # it reads its settings as it is imported
        raise BundleError(_unusable(name, error)) from error
    try:
        info: Any = huggingface_hub.HfApi().model_info(identity, revision=revision, timeout=TIMEOUT)
        listed = {file.rfilename for file in info.siblings or ()}
        _require_bundle(name, listed)

        _download(identity, info.sha, MANIFEST_FILE, folder / MANIFEST_FILE, report)
        for file, entry in Manifest.read(folder).files.items():
            if file not in listed:
                raise BundleError(f"The hub's {name} lacks {file}: it has to be uploaded again.")
            if not _whole(folder / file, entry):
                _download(identity, info.sha, file, folder / file, report, entry.size)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise BundleError(
            f"There is no folder {name}, and the hub shows no such model: correct the name, or set "
            "HF_TOKEN if it is private."
        ) from None
    except SpeechPruneError:
        raise
    except (_http_error(), OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise CutOffError(
            f"There is no folder {name}, and the hub could not be used ({_reason(error)}): check "
            "the connection, and HF_ENDPOINT where it is set, and try again"
        ) from error
    except Exception as error:  # the client and its transport raise their own over odd settings
        raise BundleError(_unusable(name, error)) from error


def _unusable(name: str, error: Exception) -> str:
    """A sentence for settings that the hub's client cannot use."""
    return (
        f"There is no folder {name}, and the hub could not be used ({_reason(error)}): correct "
        f"{SETTINGS}."
    )


class HubFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file on the hub, at one commit.

    Attributes:
        repository: ``owner/name``.
        revision: the commit.
        name: of the file.
    """

    repository: str
    revision: str
    name: str


def fetch_file(file: HubFile, sha256: str, path: Path, report: Report) -> None:
    """Bring one file of the hub; a download that was cut off is resumed.

    Nothing is downloaded where the hub says that it has another file there.

    Args:
        file: the file.
        sha256: its digest, lower-case hex.
        path: where it is to lie, in a folder that exists; it appears once it is checked.
        report: called every few MB with the file and how much of it has come.

    Raises:
        PartError: the hub cannot be used or has no such file, or huggingface_hub is not installed.
    """
    where = f"{file.name} of {file.repository} on the hub"
    try:
        import huggingface_hub
        from huggingface_hub.file_download import get_hf_file_metadata
    except ModuleNotFoundError:
        raise PartError(
            f"{where} needs huggingface_hub: pip install 'speechprune-ort[hub]'."
        ) from None
    except Exception as error:  # it reads its settings as it is imported
        raise PartError(f"{where} cannot be had ({_reason(error)}).") from error
    whole = path.with_name(f"{path.name}.whole")
    try:
        url = huggingface_hub.hf_hub_url(file.repository, file.name, revision=file.revision)
        about = get_hf_file_metadata(url, timeout=TIMEOUT)
        if about.etag != sha256:
            raise PartError(f"{where} is another file than that of sha256 {sha256}.")
        _download(file.repository, file.revision, file.name, whole, report, about.size)
        check_sha256(whole, sha256, where)
        whole.replace(path)
    except PartError:
        raise
    except Exception as error:  # the client and its transport raise their own
        raise PartError(f"{where} cannot be had ({_reason(error)}).") from error
    finally:
        whole.unlink(missing_ok=True)


def _http_error() -> type[Exception]:
    """The base of the HTTP library's errors, whichever library huggingface_hub is built on."""
    from huggingface_hub import errors

    found: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    return found


def _reason(error: Exception) -> str:
    """An error as half a sentence, on one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _require_bundle(name: str, listed: set[str]) -> None:
    """Refuse a model that exists but is not a bundle."""
    if MANIFEST_FILE in listed:
        return
    if listed & {"config.json", "adapter_config.json"}:
        out = name.split("/")[1].split("@")[0]
        raise BundleError(
            f"{name} on the hub is a checkpoint, not a bundle: convert it with speechprune-ort "
            f"export {name.split('@')[0]} {out}/, and give that folder."
        )
    raise BundleError(
        f"{name} on the hub holds no {MANIFEST_FILE}, so it is not a bundle: give the name of "
        "another."
    )


class _Reported:
    """A file that reports how much was written to it.

    Args:
        stream: opened where writing goes on.
        file: its name.
        size: its size when it is complete, in bytes, or None.
        report: called with the name and how much there is.
    """

    def __init__(self, stream: IO[bytes], file: str, size: int | None, report: Report) -> None:
        self._stream, self._report = stream, report
        self._file, self._of = file, "" if size is None else f" of {size / 1e6:,.0f}"

    def write(self, content: bytes) -> int:
        """As a file does."""
        written = self._stream.write(content)
        self._report(f"Downloading {self._file}, {self._stream.tell() / 1e6:,.0f}{self._of} MB")
        return written

    def __getattr__(self, name: str) -> Any:
        """All else is the file's."""
        return getattr(self._stream, name)


def _download(
    identity: str, revision: str, file: str, path: Path, report: Report, size: int | None = None
) -> None:
    """Download a file, or only the rest of one that was cut off, if its size is known.

    ``hf_hub_download`` would throw away what came before.
    """
    import huggingface_hub
    from huggingface_hub.file_download import http_get

    tools: Any = huggingface_hub.utils  # its annotations leave out what it exports

    class NoBar(tools.tqdm):  # type: ignore[misc]
        """The library's bar, one for each file, is not drawn: ``report`` says it in one line."""

        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **{**named, "disable": True})

    partial = path.with_name(f"{path.name}.part")
    # It may be of another revision: the whole file is checked against its sha256.
    keep = size is not None and partial.exists() and partial.stat().st_size < size
    with partial.open("ab" if keep else "wb") as stream:
        http_get(
            huggingface_hub.hf_hub_url(identity, file, revision=revision),
            cast("BinaryIO", _Reported(stream, file, size, report)),
            resume_size=stream.tell(),
            headers=tools.build_hf_headers(),
            expected_size=size,
            displayed_filename=file,
            tqdm_class=NoBar,
        )
    partial.replace(path)


def _whole(path: Path, entry: FileEntry) -> bool:
    """Whether a file is there as the manifest lists it."""
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return sha256_of(path) == entry.sha256
