"""What the daemon takes of a machine while nothing is due: `python -m benchmarks.idle_daemon [--items 1000]`.

A vault with so many protected items, daily and weekly; the real daemon; its CPU time and memory as the kernel counts
them, over a minute after it has come to rest. The clock that schedules go by is the machine's own: the items' hour is
chosen half a day away, so that nothing falls due meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks.machine import machine_sheet
from benchmarks.measure import PROGRAM, users_environment
from blockvault.clock import utc_now
from blockvault.daemon.control import ask
from blockvault.policy import RetentionRules
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.vault import Vault

GOAL_SHARE, GOAL_BYTES = 0.01, 150 << 20


def make(folder: Path, count: int, state: str) -> None:
    """The vault and its items, each a small image of its own; half of them weekly."""
    at = f"{(utc_now() + timedelta(hours=12)).hour:02}:00"
    with Vault.create(state_dir=state) as vault:
        vault.create_policy(Policy("nightly", Schedule.daily(at, zone="UTC"), RetentionRules(keep_daily=30)))
        vault.create_policy(Policy("weekly", Schedule.weekly(list(Weekday), at, zone="Europe/Berlin")))
        names: dict[str, list[str]] = {"nightly": [], "weekly": []}
        for number in range(count):
            image = folder / f"vm-{number:04}.img"
            image.write_bytes(number.to_bytes(8, "big") * 512)
            vault.add_item(f"vm-{number:04}", [str(image)])
            names["nightly" if number % 2 else "weekly"].append(f"vm-{number:04}")
        for policy, items in names.items():
            vault.assign_policy(items, policy)


def cpu_seconds(pid: int) -> float:
    """Of all threads of the process, in the kernel's nanoseconds: clock ticks are too coarse for an idle one."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def memory(pid: int) -> dict[str, int]:
    """Resident bytes, and those of them that no file stands behind."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon"):
            found[name] = int(value.split()[0]) * 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--settle", type=float, default=10, help="seconds after the first look before counting begins")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blockvault-idle-") as top:
        state = os.path.join(top, "state")
        images = Path(top, "images")
        images.mkdir()
        began = time.perf_counter()
        make(images, arguments.items, state)
        made = time.perf_counter() - began
        environment = {**users_environment(), "BLOCKVAULT_STATE_DIR": state}
        began = time.perf_counter()
        daemon = subprocess.Popen([*PROGRAM, "daemon", "--quiet"], env=environment)
        try:
            while ask(state, "status") is None:
                time.sleep(0.02)
            ready = time.perf_counter() - began
            time.sleep(arguments.settle)
            first, before = time.perf_counter(), cpu_seconds(daemon.pid)
            time.sleep(arguments.seconds)
            spent, passed = cpu_seconds(daemon.pid) - before, time.perf_counter() - first
            status = ask(state, "status")
            assert status is not None
            result = {
                "items": status["vaults"][0]["protected_items"],
                "seconds_to_make": round(made, 1),
                "seconds_until_ready": round(ready, 2),
                "seconds_measured": round(passed, 1),
                "cpu_seconds": round(spent, 4),
                "share_of_a_core": round(spent / passed, 6),
                "cpu_seconds_since_start": round(cpu_seconds(daemon.pid), 3),
                "goal_share": GOAL_SHARE,
                **memory(daemon.pid),
                "goal_bytes": GOAL_BYTES,
                "machine": machine_sheet(top),
            }
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
