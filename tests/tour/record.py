"""Record the tour: the real program, a real daemon, real disk images, and a clock that the script moves.

    python tests/tour/record.py            run it and print the text
    python tests/tour/record.py --write    and write it to docs/tour.md

`even` leaves out of a text what differs from run to run: ids, seconds, sizes. CI records anew and compares so.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
START = datetime(2027, 3, 1, 15, 0, tzinfo=UTC)
PAGE = 4096
INTRODUCTION = """\
# A tour: a VM of two disks, a week of nights

This session was recorded by `tests/tour/record.py`, which CI runs again each time: the commands are run by the real
program with a real daemon, on disk images of real files. Only the clock is moved by the script.
"""


class Tour:
    """Runs commands in a folder of its own and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text: list[str] = [INTRODUCTION]
        self.clock = folder / "clock"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.set_clock(START)
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("BLOCKVAULT_")},
            "BLOCKVAULT_STATE_DIR": str(folder / "state"),
            "BLOCKVAULT_CONFIG_DIR": str(folder / "etc"),
            "XDG_CONFIG_HOME": str(folder / "etc"),
            "TOUR_CLOCK": str(self.clock),
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent / "fake_clock"), str(ROOT))),
            "TZ": "UTC",
            "COLUMNS": "160",
        }

    # --- the clock ---------------------------------------------------------------------------------------------

    def set_clock(self, moment: datetime) -> None:
        """It is that time now, for every process of the tour."""
        new = self.clock.with_suffix(".new")
        new.write_text(moment.isoformat())
        new.replace(self.clock)

    # --- telling -----------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A paragraph."""
        self.text.append(text + "\n")

    def run(self, command: str, *, code: int = 0, shown: bool = True) -> str:
        """Run a command as it stands; what it prints is part of the tour."""
        words = shlex.split(command)
        program = [sys.executable, "-m", "blockvault", *words[1:]] if words[0] == "blockvault" else words
        done = subprocess.run(
            program,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        if done.returncode != code:
            raise SystemExit(f"{command}: ended with {done.returncode}\n{done.stdout}")
        if shown:
            told = f"$ {command}\n{self._plain(done.stdout)}".rstrip()
            self.text.append("\n".join(f"    {line}".rstrip() for line in told.splitlines()) + "\n")
        return done.stdout

    def _plain(self, text: str) -> str:
        """Without what is of this machine."""
        text = text.replace(str(self.folder) + "/", "/srv/vm/")
        return re.sub(rf"\bby {re.escape(socket.gethostname())}\b", "by host", text)

    # --- the daemon --------------------------------------------------------------------------------------------

    def start_daemon(self, **environment: str) -> subprocess.Popen[bytes]:
        """The daemon in the background, as `service install` has systemd run it."""
        daemon = subprocess.Popen(
            [sys.executable, "-m", "blockvault", "daemon", "-q"],
            cwd=self.folder,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._daemons.append(daemon)
        self.wait_for(lambda: self.ask("status") is not None)
        return daemon

    def ask(self, what: str) -> object:
        """Ask the daemon; None where none answers."""
        sys.path.insert(0, str(ROOT))
        from blockvault.daemon.control import ask

        return ask(str(self.folder / "state"), what)

    def at(self, moment: datetime, holds: Callable[[list[str]], bool] | None = None) -> None:
        """It becomes that time: the daemon does what is due, until the newest jobs are as wanted (all ended)."""
        self.set_clock(moment)
        self.ask("look")
        time.sleep(1.0)  # a job is made before it is looked for
        wanted = holds or (lambda rows: not rows)
        self.wait_for(lambda: wanted(self._open_jobs()))

    def _open_jobs(self) -> list[str]:
        text = self.run("blockvault job list --open -q", shown=False)
        return [line for line in text.splitlines()[1:] if line.strip()]

    @staticmethod
    def wait_for(holds: Callable[[], bool], seconds: float = 120) -> None:
        """Until it holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit("the tour waits for what does not come about")
            time.sleep(0.2)

    def close(self) -> None:
        """No daemon is left running, however the tour ended."""
        for daemon in self._daemons:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()

    def stop(self, daemon: subprocess.Popen[bytes]) -> None:
        """Stop the daemon in good order."""
        daemon.send_signal(signal.SIGTERM)
        if daemon.wait(60):
            raise SystemExit("the daemon did not end in good order")

    # --- the guest ---------------------------------------------------------------------------------------------

    def write_in_the_guest(self, seed: int) -> None:
        """What the VM wrote on a day: some pages of both disks."""
        for disk in ("vda.img", "vdb.img"):
            path = self.folder / disk
            with path.open("r+b") as image:
                for step in range(20):
                    page = (seed * 977 + step * 131) % (path.stat().st_size // PAGE)
                    image.seek(page * PAGE)
                    image.write(f"day {seed}, page {page}: ".encode() * 40)


def even(text: str) -> str:
    """A tour without ids, seconds and sizes, which differ from run to run."""
    text = re.sub(r"\bj-[0-9a-z]{8}\b", "JOB", text)
    text = re.sub(r"in-progress \d+%", "in-progress", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "ID", text)
    text = re.sub(r"\b\d+(\.\d+)? (s|ms|min \d+ s|min|[KMG]iB|B)\b", "N", text)
    text = re.sub(r"\b(blocks|verified bytes) +\d+", r"\1 N", text)
    return re.sub(r"[ -]+", " ", text)


def record(tour: Tour) -> str:
    """The whole tour; returns its text."""
    from blockvault.workload import build_image

    folder = tour.folder
    build_image(str(folder / "vda.img"), 48 << 20, seed=1)
    build_image(str(folder / "vdb.img"), 16 << 20, seed=2)

    tour.say(
        "## The VM is protected\n\nA VM `web01` has two disk images. It becomes an item, and a policy takes its points."
    )
    tour.run("blockvault vault create default --no-encryption -q", shown=False)
    tour.run("blockvault item add web01 vda.img vdb.img")
    tour.run(
        'blockvault policy create nightly --schedule "daily 02:00" --zone UTC --window 0m '
        "--snapshot-days 2 --keep-daily 3"
    )
    tour.run("blockvault protect web01 --policy nightly")
    tour.run("blockvault job list")

    tour.say(
        "## The first night\n\nThe daemon runs; at 02:00 it captures both disks at one instant and transfers them."
    )
    daemon = tour.start_daemon(BLOCKVAULT_FAILPOINT="transfer.packs:pause")
    tour.at(datetime(2027, 3, 2, 2, 0, 10, tzinfo=UTC))
    tour.run("blockvault job list")
    tour.run("blockvault points")

    tour.say("## The second night: a transfer that is overrun")
    tour.say(
        "The VM has written. This night's transfer takes a whole day: while it runs the point restores from its "
        "snapshot, at once."
    )
    tour.write_in_the_guest(1)
    first = (folder / "vda.img").read_bytes()
    tour.at(datetime(2027, 3, 3, 2, 0, 10, tzinfo=UTC), lambda rows: any("transfer in-progress" in row for row in rows))
    tour.run("blockvault job list --open")
    tour.run("blockvault restore --point 2 --disk vda -o instant.img")
    _same(folder / "instant.img", first)
    tour.say(
        "The next night's capture does not wait for it. Its transfer is skipped: the one after it carries its churn."
    )
    tour.write_in_the_guest(2)
    second = (folder / "vdb.img").read_bytes()
    tour.at(datetime(2027, 3, 4, 2, 0, 10, tzinfo=UTC), lambda rows: len(rows) <= 1)
    tour.at(datetime(2027, 3, 4, 3, 0, tzinfo=UTC))
    tour.run("blockvault job list")
    tour.run("blockvault points")
    tour.run("blockvault restore --point 3 --disk vdb -o skipped.img")
    _same(folder / "skipped.img", second)

    tour.say("## From the vault\n\nThe first points restore from the vault alone; every block is checked.")
    tour.run("blockvault restore --point 2 --disk vda --from vault -o from-vault.img")
    _same(folder / "from-vault.img", first)
    tour.run("cmp instant.img from-vault.img")

    tour.say("## The days go on: points expire")
    tour.say("The policy keeps three days. Once a day the daemon expires the others and frees space.")
    for day in (5, 6, 7):
        tour.write_in_the_guest(day)
        tour.at(datetime(2027, 3, day, 2, 0, 10, tzinfo=UTC))
        tour.at(datetime(2027, 3, day, 6, 0, tzinfo=UTC))
    tour.run("blockvault points")
    tour.run("blockvault points --deleted")
    tour.run("blockvault prune --dry-run --explain")
    last = (folder / "vda.img").read_bytes()
    tour.run("blockvault restore --point 6 --disk vda --from vault -o last.img")
    _same(folder / "last.img", last)

    tour.say("## Is all well?")
    tour.run("blockvault verify --all")
    tour.run("blockvault service status", shown=False)
    tour.stop(daemon)
    return "\n".join(part for part in tour.text if part)


def _same(path: Path, expected: bytes) -> None:
    if path.read_bytes() != expected:
        raise SystemExit(f"{path.name} is not what was captured")


def main() -> int:
    """Record, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/tour.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tour-") as folder:
        tour = Tour(Path(folder))
        try:
            text = record(tour)
        finally:
            tour.close()
    if asked.write:
        (ROOT / "docs" / "tour.md").write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
