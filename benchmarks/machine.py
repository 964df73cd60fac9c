"""The machine sheet that stands beside every figure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import Any

from blockvault.bench import release_build


def machine_sheet(folder: str) -> dict[str, Any]:
    """What the figures were measured on: processor, memory, kernel, file system of `folder`, build, tools."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": _first_line("stat", "-f", "-c", "%T", folder),
        "python": platform.python_version(),
        "build": release_build(),
        "zstd": _first_line("zstd", "--version"),
        "commit": _first_line(
            "git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty"
        ),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _first_line(*command: str) -> str | None:
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
