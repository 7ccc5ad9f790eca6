"""Fetch files from the model hub and check them against what the hub itself recorded.

Nothing is pinned: the newest revision is taken, but one and the same revision for all files of a
repository, and every file is compared with the digest in the hub's listing of that revision.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from small_model.errors import SmallModelError
from small_model.parts import Report, check_sha256

WHISPER = "openai/whisper-base"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


class HubUnreachableError(SmallModelError):
    """The hub did not answer, or does not have the file: another source may help."""


def git_blob_sha1(path: Path) -> str:
    """Git's name of a file's content, which the hub records for files outside of LFS."""
    content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def check_recorded(path: Path, sha256: str | None, blob: str | None, origin: str) -> None:
    """Compare a downloaded file with the hub's listing.

    Args:
        path: The file.
        sha256: Recorded sha256, for files kept in LFS.
        blob: Recorded git blob name, for the others.
        origin: What error messages call the file.

    Raises:
        SmallModelError: the file differs, or the listing has no digest for it.
    """
    if sha256 is not None:
        check_sha256(path, sha256, origin)
    elif blob is None:
        raise SmallModelError(
            f"The hub's listing has no digest of {origin}: it cannot be checked, take "
            "--source packages."
        )
    elif (found := git_blob_sha1(path)) != blob:
        raise SmallModelError(
            f"{origin} has git blob {found} where the hub recorded {blob}: the download is "
            "damaged, delete it from the cache and try again."
        )


def fetch_hub_files(
    repository: str, names: tuple[str, ...], cache: Path, timeout_s: float, report: Report
) -> tuple[str, dict[str, Path]]:
    """Download files of a hub repository's newest revision.

    Args:
        repository: "owner/name".
        names: Paths inside the repository.
        cache: Cache folder; files go below ``cache/hub``.
        timeout_s: Seconds to wait for the hub's first answer.
        report: Called with one line for each file.

    Returns:
        The revision (commit) and each name's path.

    Raises:
        HubUnreachableError: no answer, or the hub refuses.
        SmallModelError: a file does not agree with the hub's listing.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, errors, hf_hub_download

    # The base of the HTTP library's errors, whichever library this version is built on.
    http_error: type[Exception] = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    try:
        info = HfApi().model_info(repository, timeout=timeout_s, files_metadata=True)
        recorded = {file.rfilename: file for file in info.siblings or []}
        revision = info.sha or ""
        paths: dict[str, Path] = {}
        for name in names:
            if not revision or name not in recorded:
                raise HubUnreachableError(
                    f"The hub's {repository} lists no {name}: take --source packages."
                )
            report(f"Fetching {repository}/{name} from the hub")
            paths[name] = Path(
                hf_hub_download(repository, name, revision=revision, cache_dir=cache / "hub")
            )
    # The hub's client raises its HTTP library's errors, and OSErrors for offline mode, missing
    # files and a full disk.
    except (http_error, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise HubUnreachableError(
            f"The hub could not be used for {repository} ({type(error).__name__}: {reason}): "
            "check the connection, or take --source packages."
        ) from error
    for name, path in paths.items():
        file = recorded[name]
        sha256 = file.lfs.sha256 if file.lfs is not None else None
        check_recorded(path, sha256, file.blob_id, f"{repository}/{name}")
    return revision, paths
