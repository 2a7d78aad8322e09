"""The machine while it is measured: CPU seconds of processes, load, and the middle of what was seen."""

import os
from collections.abc import Mapping

import psutil


def cpu(pid: int) -> float:
    """Seconds of CPU that a process and all its descendants have used, ended ones included where their parent has reaped them."""
    process = psutil.Process(pid)
    total = sum(process.cpu_times()[:4])
    for child in process.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue  # its parent counts it from now on
    return total


def readings(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by name."""
    return {name: cpu(pid) for name, pid in pids.items()}


def load() -> float:
    """The load average over the last minute."""
    return round(os.getloadavg()[0], 2)
