"""From `kill -9` of the daemon to its job at work again: `python -m benchmarks.daemon_restart [--times 4]`.

The real daemon with a transfer that takes minutes, killed in the middle of it; the next one is started at once, as
systemd does after `RestartSec`, and the clock runs until the same job's transfer runs again, as the daemon itself says
it, and until its process has read of the snapshot again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine_sheet
from benchmarks.measure import PROGRAM, users_environment
from blockvault.daemon.control import ask
from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.vault import Vault

GOAL_SECONDS = 5.0
_PAUSE = 0.01


def running(state: str) -> str | None:
    """The job whose transfer runs."""
    status = ask(state, "status")
    if status is None:
        return None
    return next((str(job["job"]) for job in status["running"] if job["phase"] == "transfer"), None)


def reads(pid: int) -> int:
    """Bytes that the daemon's workers have read."""
    total = 0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            for line in Path(f"/proc/{child}/io").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("rchar") else 0
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return total


def wait_until(holds: object, seconds: float = 120) -> None:
    deadline = time.perf_counter() + seconds
    while not holds():  # type: ignore[operator]
        if time.perf_counter() > deadline:
            raise RuntimeError("it did not come about")
        time.sleep(_PAUSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=4, help="a job that is interrupted five times fails")
    parser.add_argument("--mebibytes", type=int, default=2048)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blockvault-restart-") as top:
        state = os.path.join(top, "state")
        image = Path(top, "disk.img")
        with image.open("wb") as file:  # nothing in it compresses or repeats: the transfer is as long as it can be
            for _ in range(arguments.mebibytes // 16):
                file.write(os.urandom(16 << 20))
        with Vault.create(state_dir=state) as vault:
            vault.create_policy(Policy("daily", Schedule.daily("02:00", zone="UTC"), RetentionRules(keep_daily=30)))
            vault.add_item("disk", [str(image)])
            vault.assign_policy(["disk"], "daily")
        environment = {**users_environment(), "BLOCKVAULT_STATE_DIR": state}
        quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        daemon = subprocess.Popen([*PROGRAM, "daemon"], **quiet)  # type: ignore[call-overload]
        shown: list[float] = []
        reading: list[float] = []
        try:
            wait_until(lambda: ask(state, "status") is not None)
            subprocess.run([*PROGRAM, "snapshot", "disk", "--detach"], check=True, **quiet)  # type: ignore[call-overload]
            wait_until(lambda: running(state) is not None)
            for _ in range(arguments.times):
                job = running(state)
                wait_until(lambda pid=daemon.pid: reads(pid) > 32 << 20)  # type: ignore[misc]
                os.kill(daemon.pid, signal.SIGKILL)
                began = time.perf_counter()
                daemon.wait()
                daemon = subprocess.Popen([*PROGRAM, "daemon"], **quiet)  # type: ignore[call-overload]
                wait_until(lambda job=job: running(state) == job)  # type: ignore[misc]
                shown.append(time.perf_counter() - began)
                wait_until(lambda pid=daemon.pid: reads(pid) > 32 << 20)  # type: ignore[misc]
                reading.append(time.perf_counter() - began)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(120)
        result = {
            "times": len(shown),
            "seconds_until_the_job_runs": [round(value, 2) for value in shown],
            "seconds_until_it_reads": [round(value, 2) for value in reading],
            "median": round(statistics.median(reading), 2),
            "longest": round(max(reading), 2),
            "goal": GOAL_SECONDS,
            "machine": machine_sheet(top),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
