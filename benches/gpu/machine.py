"""One line about the machine and the day: every result stands beside it."""

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version


def gpus() -> list[str]:
    """Name, driver, memory of each card, as nvidia-smi says."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())


def torch_version() -> str:
    try:
        return version("torch")  # without importing it, which takes seconds
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    print(json.dumps({"part": "machine", "date": date, "gpus": gpus(), "cpu": cpu(), "cores": os.cpu_count(), "torch": torch_version()}))
