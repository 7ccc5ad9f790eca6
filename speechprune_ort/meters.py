"""Memory and energy, as far as the machine reports them.

Every meter says what it reads, or why it cannot: a figure that is missing is never a zero.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["BusyMeter", "EnergyMeter", "MemoryMeter", "Reading", "reset_peak", "resident"]

PROC = Path("/proc/self")
ALL_PROCESSES = Path("/proc")
POWERCAP = Path("/sys/class/powercap")
DEVICE_TREE = Path("/proc/device-tree/model")
MEGA = 1e6


@dataclass(slots=True)
class Reading:
    """What a meter found while a block ran.

    Attributes:
        values: figures by name, such as ``peak_rss_mb``.
    """

    values: dict[str, float] = field(default_factory=dict)


def resident(name: str, proc: Path = PROC) -> int:
    """Memory of this process in bytes: ``VmRSS`` now, or ``VmHWM`` at its peak; Linux only.

    Args:
        name: name of the line in the process's status file.
        proc: folder of the process, for tests.

    Raises:
        OSError: the system does not report it.
    """
    for line in (proc / "status").read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"{proc}/status has no {name}")


def reset_peak(proc: Path = PROC) -> None:
    """Let ``VmHWM`` start again from what is resident now.

    Args:
        proc: folder of the process, for tests.

    Raises:
        OSError: the system does not allow it.
    """
    (proc / "clear_refs").write_text("5", encoding="ascii")


def _nvml() -> Any:
    """NVIDIA's library, started; None where it or a driver is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the library raises classes of its own, and ImportError where it is absent
        return None
    return pynvml


class BusyMeter:
    """How much of the machine's processor time other programs take, from now on; Linux only.

    Args:
        proc: folder of all processes, for tests.
    """

    def __init__(self, proc: Path = ALL_PROCESSES) -> None:
        self._proc = proc
        self._start = self._now()

    def share(self) -> float | None:
        """Others' part of all cores' time since the meter was made, 0 to 1; None: not known."""
        now = self._now()
        if now is None or self._start is None:
            return None
        busy, whole, own = (b - a for a, b in zip(self._start, now, strict=True))
        return min(1.0, max(0.0, (busy - own) / whole)) if whole > 0 else None

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds that all cores were busy, that passed on all cores, and of this process."""
        try:
            line = (self._proc / "stat").read_text(encoding="ascii", errors="replace")
            user, nice, system, idle, waiting, *interrupts = map(
                int, line.partition("\n")[0].split()[1:9]
            )
            tick = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return None
        busy = user + nice + system + sum(interrupts)
        return busy / tick, (busy + idle + waiting) / tick, sum(os.times()[:4])


class MemoryMeter:
    """Peak memory of this process, and on the device.

    Args:
        device: ``cpu`` or ``cuda``.
        index: number of the CUDA device.
        proc: folder of the process, for tests.

    Attributes:
        notes: what is read, and what cannot be.
    """

    def __init__(self, device: str, index: int = 0, proc: Path = PROC) -> None:
        self._proc, self._index = proc, index
        self.notes: dict[str, str] = {}
        try:
            reset_peak(proc)
            resident("VmHWM", proc)
            self.notes["peak_rss_mb"] = "VmHWM of the process, reset before each answer"
            self._resident = True
        except OSError as error:
            self.notes["peak_rss_mb"] = f"not read: {error}"
            self._resident = False
        self._library = _nvml() if device == "cuda" else None
        if device == "cuda":
            self.notes["device_mb"] = self._of_device()

    def _of_device(self) -> str:
        if DEVICE_TREE.exists():
            board = DEVICE_TREE.read_text(encoding="utf-8", errors="replace").strip("\0\n")
            return f"not read separately: {board} shares its memory with the host, see peak_rss_mb"
        if self._library is None:
            return "not read: pip install 'speechprune-ort[profile]', and a driver is needed"
        return "of this process by NVML, after each answer"

    @contextmanager
    def measure(self, reading: Reading) -> Iterator[None]:
        """Add the peaks of a block to a reading."""
        if self._resident:
            reset_peak(self._proc)
        yield
        if self._resident:
            reading.values["peak_rss_mb"] = resident("VmHWM", self._proc) / MEGA
        used = self._on_device()
        if used is not None:
            reading.values["device_mb"] = used

    def _on_device(self) -> float | None:
        library = self._library
        if library is None:
            return None
        handle = library.nvmlDeviceGetHandleByIndex(self._index)
        for process in library.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory) / MEGA
        return None


class EnergyMeter:
    """Energy of the processor package by RAPL, and of the device by NVML.

    Both count the whole machine, whatever else runs on it.

    Args:
        device: ``cpu`` or ``cuda``.
        index: number of the CUDA device.
        powercap: folder of the counters, for tests.

    Attributes:
        notes: what is read, and what cannot be.
    """

    def __init__(self, device: str, index: int = 0, powercap: Path = POWERCAP) -> None:
        self._index, self.notes = index, {}
        self._zones = self._readable(powercap)
        self._library = _nvml() if device == "cuda" else None
        if device == "cuda":
            found = self._library is not None
            self.notes["device_j"] = "by NVML" if found else "not read: NVML is missing"

    def _readable(self, powercap: Path) -> list[tuple[Path, int]]:
        zones, reason = [], "the machine has no RAPL counters"
        for zone in sorted(powercap.glob("intel-rapl:*")) if powercap.exists() else []:
            if zone.name.count(":") != 1:  # a part of another zone
                continue
            try:
                int((zone / "energy_uj").read_text())
                limit = int((zone / "max_energy_range_uj").read_text())
                zones.append((zone / "energy_uj", limit))
            except (OSError, ValueError) as error:
                reason = str(error)
        self.notes["package_j"] = "by RAPL" if zones else f"not read: {reason}"
        return zones

    @contextmanager
    def measure(self, reading: Reading) -> Iterator[None]:
        """Add the energy of a block to a reading, in joules."""
        before, device = [int(path.read_text()) for path, _ in self._zones], self._of_device()
        yield
        if self._zones:
            spent = 0
            for (path, limit), start in zip(self._zones, before, strict=True):
                end = int(path.read_text())
                spent += end - start if end >= start else end + limit - start  # it wrapped round
            reading.values["package_j"] = spent / 1e6
        after = self._of_device()
        if device is not None and after is not None:
            reading.values["device_j"] = (after - device) / 1e3

    def _of_device(self) -> float | None:
        if self._library is None:
            return None
        handle = self._library.nvmlDeviceGetHandleByIndex(self._index)
        try:
            return float(self._library.nvmlDeviceGetTotalEnergyConsumption(handle))
        except self._library.NVMLError as error:
            self.notes["device_j"] = f"not read: {error}"
            return None
