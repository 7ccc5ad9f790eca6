"""Runs on the machine that is checked: joins the pieces, installs offline, takes stage by stage.

    python3 run.py RESULTS [--work DIR]

Needs Python alone, no pip, no venv, no network. Every stage has a time limit and leaves
``RESULTS/NN-stage.json`` and a log, whatever happens to the others; ``summary.json`` has them all.
Exit code 0: every stage is well; 1: one is not; 2: the pieces or this Python cannot be used.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
BLOCK = 1 << 20
TAIL = 4000  # characters of a log that go into the JSON


def end(message: str) -> NoReturn:
    """One sentence, and exit code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)


def join(work: Path) -> Path:
    """Check the pieces against their sums and unpack them, once."""
    content = work / "check"
    if (content / "about.json").is_file():
        return content
    sums = HERE / "SHA256SUMS"
    if not sums.is_file():
        end(f"{sums} is not there: copy the whole folder that `check pack` wrote.")
    archive = work / "check.tar"
    with archive.open("wb") as joined:
        for line in sums.read_text(encoding="utf-8").splitlines():
            expected, name = line.split("  ", 1)
            if not (HERE / name).is_file():
                end(f"{name} is not there: copy the whole folder that `check pack` wrote.")
            digest = hashlib.sha256()
            with (HERE / name).open("rb") as piece:
                while block := piece.read(BLOCK):
                    digest.update(block)
                    if name != "run.py":
                        joined.write(block)
            if digest.hexdigest() != expected:
                end(f"{name} is not what was packed: copy it again.")
    fresh = Path(tempfile.mkdtemp(dir=work))
    with tarfile.open(archive) as tar:
        tar.extractall(fresh)  # noqa: S202 - what was packed here, by its sums
    archive.unlink()
    (fresh / "check").rename(content)
    fresh.rmdir()
    return content


def driver() -> dict[str, Any]:
    """What the driver says, without any package."""
    found: dict[str, Any] = {"machine": platform.platform(), "cores": os.cpu_count()}
    try:
        library = ctypes.CDLL("libcuda.so.1")
        version, count = ctypes.c_int(0), ctypes.c_int(0)
        library.cuDriverGetVersion(ctypes.byref(version))
        found["knows_cuda"] = version.value
        found["init"] = library.cuInit(0)
        library.cuDeviceGetCount(ctypes.byref(count))
        found["gpus"] = count.value
    except OSError as error:
        found["driver"] = str(error)
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        done = subprocess.run([tool], capture_output=True, text=True, check=False, timeout=60)
        found["nvidia_smi"] = done.stdout + done.stderr
    return found


class Check:
    """The stages of one run.

    Args:
        content: what was packed.
        results: folder to write.
        site: where wheels are installed.
    """

    def __init__(self, content: Path, results: Path, site: Path) -> None:
        self.content, self.results, self.site = content, results, site
        self.rows: list[dict[str, Any]] = []

    def keep(
        self, name: str, seconds: float, limit: int, code: int | None, found: Any, log: str
    ) -> bool:
        """Write a stage's JSON and a line of the report; whether it is well."""
        row = {
            "stage": name, "well": code == 0, "code": code, "timed_out": code is None,
            "seconds": round(seconds, 3), "limit": limit, "found": found, "log": log[-TAIL:],
        }  # fmt: skip
        path = self.results / f"{len(self.rows):02d}-{name}.json"
        path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        self.rows.append(row)
        word = "well" if code == 0 else "TIMED OUT" if code is None else f"FAILED ({code})"
        print(f"{name:24} {word:12} {seconds:8.1f} s", flush=True)
        return code == 0

    def stage(self, name: str, limit: int, *command: str | Path) -> bool:
        """Run a command of at most ``limit`` seconds; its last line of stdout is its JSON."""
        environment = {"ORT_DISABLE_TELEMETRY": "1"} | os.environ
        environment |= {"PYTHONPATH": str(self.site), "PYTHONNOUSERSITE": "1"}
        log = self.results / f"{len(self.rows):02d}-{name}.log"
        started = time.perf_counter()
        out = self.results / ".stdout"
        with log.open("w", encoding="utf-8") as errors, out.open("w", encoding="utf-8") as stdout:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)], stdout=stdout, stderr=errors,
                stdin=subprocess.DEVNULL, env=environment, cwd=self.content,
                start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = None
        seconds = time.perf_counter() - started
        text = out.read_text(encoding="utf-8")
        out.unlink()
        return self.keep(name, seconds, limit, code, _json(text), log.read_text(encoding="utf-8"))


def _json(text: str) -> Any:
    """What a stage printed: JSON, or its last line of JSON, or the text as it is."""
    for candidate in (text, text.strip().rpartition("\n")[2]):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return text[-TAIL:]


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description="Check a GPU with what `check pack` packed.")
    parser.add_argument("results", type=Path, help="folder to write")
    parser.add_argument("--work", type=Path, help="folder for what is unpacked and installed")
    parser.add_argument("--times", type=float, default=1.0, help="stretches every time limit")
    arguments = parser.parse_args()
    results: Path = arguments.results.resolve()
    if results.exists() and any(results.iterdir()):
        end(f"{results} is not empty: give another folder.")
    results.mkdir(parents=True, exist_ok=True)
    work = (arguments.work or HERE / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    content = join(work)
    about = json.loads((content / "about.json").read_text(encoding="utf-8"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version != about["python"]:
        end(
            f"the wheels are for Python {about['python']} and this is {version}: run it with "
            f"python{about['python']}, or pack with --python {version}."
        )
    site = work / "site"
    check = Check(content, results, site)

    def limit(seconds: int) -> int:
        return max(1, int(seconds * arguments.times))

    started = time.perf_counter()
    try:
        found, code, log = driver(), 0, ""
    except Exception as error:
        found, code, log = {}, 1, repr(error)
    if about["target"] == "cuda" and not found.get("gpus"):
        code, log = 1, log or "no GPU is seen"
    check.keep("driver", time.perf_counter() - started, limit(60), code, found, log)
    ready = _install(check, limit(900))
    if ready:
        device, (reference, *others) = about["target"], about["bundles"]
        check.stage("doctor", limit(120), "-m", "speechprune_ort", "doctor", "--json")
        stages = content / "stages.py"
        for bundle in others:
            precision = bundle.split("-")[1]
            path = content / "bundles" / bundle
            check.stage(f"placement-{precision}", limit(300), stages, "placement", device, path)
            check.stage(f"graphs-{precision}", limit(900), stages, "graphs", device, path)
            check.stage(
                f"forced-{precision}", limit(1200), stages, "forced", device, path,
                content / "bundles" / reference,
            )  # fmt: skip
            for name in _options(device, precision):
                check.stage(f"{name}-{precision}", limit(600), stages, name, device, path)
        for bundle in others:
            precision = bundle.split("-")[1]
            settings = {"": (), **_options(device, precision)}
            for name, options in settings.items():
                check.stage(
                    "-".join(filter(None, ("profile", name, precision))), limit(1800),
                    "-m", "speechprune_ort", "profile", content / "bundles" / bundle,
                    "--device", device, "--durations", "30,90,600", "--repeats", "7",
                    "--format", "json", *options,
                )  # fmt: skip
    well = ready and all(row["well"] for row in check.rows)
    summary = {"about": about, "well": well, "stages": check.rows}
    (results / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"written: {results / 'summary.json'}")
    sys.exit(0 if well else 1)


def _options(device: str, precision: str) -> dict[str, tuple[str, ...]]:
    """What is compared and measured beside the defaults, by the stage that compares it."""
    if device == "cpu":
        return {}
    chosen = {"captured": "enable_cuda_graph=1"}
    if precision.startswith("int"):
        chosen["fused"] = "ep.cuda.fpa_intb_gemm=1"
    return {name: ("--provider-option", option) for name, option in chosen.items()}


def _install(check: Check, limit: int) -> bool:
    """The wheels into a folder, by the pip that was packed: a bare Python may have none."""
    wheels = check.content / "wheels"
    pip = next(wheels.glob("pip-*.whl"))
    (project,) = wheels.glob("speechprune_ort-*.whl")
    target = json.loads((check.content / "about.json").read_text(encoding="utf-8"))["target"]
    if (check.site / "speechprune_ort").is_dir():
        shutil.rmtree(check.site)
    return check.stage(
        "install", limit, pip / "pip", "install", "--quiet", "--no-index", "--find-links", wheels,
        "--target", check.site, f"{project}[{'gpu' if target == 'cuda' else 'cpu'},profile]",
    )  # fmt: skip


if __name__ == "__main__":
    main()
