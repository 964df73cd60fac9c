"""What goes to which stream, on terminals and elsewhere; signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.program import Program

from blockvault.cli import progress
from blockvault.cli.progress import JsonMonitor, LineMonitor, Phase, QuietMonitor, make_monitor, progress_line
from blockvault.cli.render import Output

ESCAPE = "\x1b["


@pytest.fixture
def ready(program: Program, disk: Path) -> Program:
    program.run("snapshot", disk, code=0)
    return program


def test_restore_to_standard_output_is_the_disk_and_nothing_else(ready: Program, disk: Path) -> None:
    for options in ((), ("--json",), ("--from", "vault")):
        process = ready.start("restore", "--point", "1", "-o", "-", *options)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == disk.read_bytes()
        assert b"standard output" in err or b"blockvault.restore/1" in err


def test_a_terminal_is_not_a_place_for_a_disk(ready: Program) -> None:
    code, shown = ready.run_on_terminal("restore", "--point", "1", "-o", "-")
    assert code == 2
    assert "restore.terminal" in shown


def test_terminals_get_colours_unless_told_otherwise(ready: Program) -> None:
    code, shown = ready.run_on_terminal("points")
    assert code == 0
    assert ESCAPE in shown
    for words, env in ((("points", "--color", "never"), {}), (("points",), {"NO_COLOR": "1"})):
        code, shown = ready.run_on_terminal(*words, env=env)
        assert code == 0
        assert ESCAPE not in shown
        assert "disk" in shown
    assert ESCAPE not in ready.run("points", code=0).out
    assert ESCAPE in ready.run("points", "--color", "always", "--vault", "none").err


def test_a_terminal_sees_both_bars(program: Program, disk: Path) -> None:
    code, shown = program.run_on_terminal("snapshot", disk)
    assert code == 0, shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "Transfer" in plain
    assert "100%" in plain
    assert "point 1 of item 'disk': completed" in plain


def test_status_lines_come_at_most_four_a_second(program: Program, disk: Path) -> None:
    began = time.monotonic()
    ended = program.run("snapshot", disk, "--json", code=0)
    seconds = time.monotonic() - began
    status = [line for line in ended.documents if line["message_type"] == "status"]
    assert 1 <= len(status) <= 4 * seconds + 1
    assert {"phase", "done_bytes", "total_bytes", "seconds"} <= set(status[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_with_nothing_lost_and_the_next_run_works(
    ready: Program, disk: Path, number: signal.Signals, code: int
) -> None:
    """The signal comes at a named step in mid-transfer; what was complete stays, nothing half done shows."""
    with disk.open("r+b") as file:
        file.write(os.urandom(1 << 20))
    (ready.folder / "sitecustomize.py").write_text(
        "import os\n"
        "from blockvault import failpoints\n"
        "def send(name):\n"
        "    if name == 'store.write' and not os.path.exists('sent'):\n"
        "        open('sent', 'w').close()\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "failpoints.set_hook(send)\n"
    )
    path = os.pathsep.join([str(ready.folder), ready.environment()["PYTHONPATH"]])
    ended = ready.run("snapshot", disk, "--no-keep", env={"PYTHONPATH": path})
    assert (ended.code, ended.kind) == (code, "job.cancelled"), ended.err
    assert "Traceback" not in ended.err
    assert [point["point"] for point in ready.run("points", "--json", code=0).document["points"]] == [1]
    ready.run("verify", code=0)
    again = ready.run("snapshot", disk, "--json", code=0).document
    assert again["point"] > 1
    ready.run("restore", "--point", str(again["point"]), "--from", "vault", "-o", "back.img", code=0)
    assert (ready.folder / "back.img").read_bytes() == disk.read_bytes()


def test_a_second_interrupt_ends_at_once() -> None:
    script = (
        "import os, signal, time\n"
        "from blockvault.cli.signals import cancelling\n"
        "from blockvault.monitor import Monitor\n"
        "monitor = Monitor()\n"
        "with cancelling(monitor):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert monitor.cancelled.is_set() and monitor.signal_number == signal.SIGINT\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 130
    assert "a second Ctrl-C ends at once" in done.stderr


def test_signal_handlers_are_given_back() -> None:
    from blockvault.cli.signals import cancelling
    from blockvault.monitor import Monitor

    before = signal.getsignal(signal.SIGINT)
    with cancelling(Monitor()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


# --- the readers of a monitor


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_one_line_each_thirty_seconds(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    monitor = LineMonitor(Output())
    monitor.phase("Transfer", 100 << 20)
    for _ in range(100):
        clock[0] += 1
        monitor.advance(1 << 20)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "Transfer: 30%, 30.0 MiB of 100 MiB, 1.00 MiB/s, 1 min 10 s left"
    assert shown.out == ""


def test_status_lines_are_throttled(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    monitor = JsonMonitor(Output(as_json=True))
    monitor.phase("Capture", 1000)
    for _ in range(1000):
        clock[0] += 0.01
        monitor.advance(1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 35 <= len(lines) <= 41
    assert lines[0]["phase"] == "capture"
    assert lines[-1]["done_bytes"] <= 1000


def test_warnings_are_told_and_quiet_keeps_only_them(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = make_monitor(Output(quiet=True))
    assert type(monitor) is QuietMonitor
    monitor.note("nobody needs this")
    monitor.warn("snapshot.no-room", "no snapshot is kept")
    assert capsys.readouterr().err == "warning: no snapshot is kept   [snapshot.no-room]\n"
    monitor = make_monitor(Output(as_json=True))
    monitor.warn("snapshot.no-room", "no snapshot is kept")
    assert json.loads(capsys.readouterr().out) == {
        "message_type": "warning",
        "kind": "snapshot.no-room",
        "message": "no snapshot is kept",
    }


def test_a_phase_that_comes_again_goes_on_with_a_larger_total(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    monitor = JsonMonitor(Output(as_json=True))
    for _ in range(2):
        monitor.phase("Check", 100)
        clock[0] += 1
        monitor.advance(100)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["done_bytes"], last["total_bytes"]) == (200, 200)


def test_a_line_before_anything_is_known_divides_by_nothing(clock: list[float]) -> None:
    assert progress_line(Phase("Scan", 0, 0, 100.0)) == "Scan: 0%, 0 B of 0 B, 0 B/s"


def test_a_path_that_is_not_utf8_is_printed_as_it_is(program: Program, built_image: Path) -> None:
    name = b"disk-\xff.img"
    path = os.fsencode(program.folder) + b"/" + name
    with open(path, "wb") as file:
        file.write(built_image.read_bytes())
    process = subprocess.run(
        [sys.executable, "-m", "blockvault", "snapshot", path, "--json"],
        env=program.environment(),
        cwd=program.folder,
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr
    process = subprocess.run(
        [sys.executable, "-m", "blockvault", "item", "list"], env=program.environment(), capture_output=True
    )
    assert process.returncode == 0, process.stderr
    assert name in process.stdout
