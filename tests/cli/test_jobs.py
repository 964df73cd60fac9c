"""Jobs, the daemon and its service, as a user sees them: processes of their own, real images."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.program import Program

from blockvault.daemon.control import REQUEST_BYTES_MAX, ask, socket_path

pytestmark = pytest.mark.no_bytes


@contextmanager
def daemon(program: Program, *, code: int | None = 0, env: dict[str, str] | None = None) -> Iterator[int]:
    """A running daemon; its pid. Stopped in good order at the end, where it is still there."""
    process = program.start("daemon", env=env)
    try:
        wait_for(lambda: ask(str(program.state), "status") is not None or process.poll() is not None)
        yield process.pid
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    if code is not None:
        assert process.returncode == code, (out, err)


def wait_for(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def jobs(program: Program, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = program.run("job", "list", *words, "--json", code=0).document["jobs"]
    return found


def phases(job: dict[str, Any]) -> dict[str, str]:
    return {phase["phase"]: phase["state"] for phase in job["phases"]}


def detached(program: Program, item: str = "disk", *words: str) -> str:
    return str(program.run("snapshot", item, "--detach", *words, code=0).out.strip())


# --- what a command does itself is a job too ---------------------------------------------------------------------


def test_what_a_command_does_stands_in_the_list(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, "--comment", "by hand", code=0)
    program.run("restore", "--point", "1", "-o", "back.img", code=0)
    program.run("verify", "--all", code=0)
    program.run("prune", "--yes", code=0)
    found = jobs(program)
    assert [job["operation"] for job in found] == ["prune", "verify", "restore", "backup"]
    assert {job["state"] for job in found} == {"completed"}
    backup = found[-1]
    assert (backup["item"], backup["point"], backup["comment"]) == ("disk", 1, "by hand")
    assert phases(backup) == {"capture": "completed", "transfer": "completed"}
    assert backup["stored_bytes"] > 0
    shown = program.run("job", "show", backup["job"], code=0).out
    assert "by hand" in shown
    assert "stored" in shown


def test_a_command_that_fails_is_a_failed_job_with_its_reason(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    pack = next((program.state / "vaults" / "default" / "main" / "packs").glob("*/*"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 0xFF
    pack.write_bytes(data)
    assert program.run("verify", "--all").code == 4
    found = jobs(program, "--failed")
    assert [(job["operation"], job["state"]) for job in found] == [("verify", "failed")]
    assert found[0]["phases"][0]["problem"]["kind"] == "verify.damage"
    assert "damaged" in program.run("job", "logs", found[0]["job"], code=0).out or found[0]["warnings"] == []


def test_a_snapshot_only_leaves_the_transfer_skipped(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, "--snapshot-only", code=0)
    (job,) = jobs(program)
    assert (job["state"], phases(job)) == ("completed", {"capture": "completed", "transfer": "skipped"})


@pytest.mark.parametrize("where", ["snapshot.raw.written", "transfer.packs"])
def test_a_killed_command_is_not_shown_as_alive(program: Program, disk: Path, where: str) -> None:
    program.run("snapshot", disk, code=0)
    with disk.open("r+b") as image:
        image.write(os.urandom(300_000))
    assert program.run("snapshot", disk, env={"BLOCKVAULT_FAILPOINT": where}).code == -signal.SIGKILL
    killed = jobs(program)[0]
    if where.startswith("snapshot"):
        assert killed["state"] == "failed", "nobody takes a point again that somebody asked for an hour ago"
        return
    assert killed["state"] == "in-progress"
    assert phases(killed) == {"capture": "completed", "transfer": "waiting"}
    program.run("daemon", "--once", code=0)
    (done,) = [job for job in jobs(program) if job["job"] == killed["job"]]
    assert done["state"] == "completed", "the snapshot that was captured has got into the vault"
    state = disk.read_bytes()
    program.run("restore", "--point", str(done["point"]), "--from", "vault", "-o", "back.img", code=0)
    assert (program.folder / "back.img").read_bytes() == state


def test_a_running_command_can_be_cancelled_from_elsewhere(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    with disk.open("r+b") as image:
        image.write(os.urandom(1 << 20))
    process = program.start("snapshot", disk, env={"BLOCKVAULT_FAILPOINT": "transfer.packs:pause"})
    wait_for(lambda: phases(jobs(program)[0]).get("transfer") == "in-progress")
    job = jobs(program)[0]["job"]
    program.run("job", "cancel", job, code=0)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped on request" in err
    assert program.run("job", "wait", job).code == 130
    again = program.run("job", "cancel", job)
    assert (again.code, again.kind) == (1, "job.ended")


def test_what_is_no_job(program: Program) -> None:
    for words in (("show", "j-00000000"), ("logs", "nonsense"), ("cancel", "j-"), ("wait", "../../x")):
        ended = program.run("job", *words)
        assert (ended.code, ended.kind) == (13, "job.not-found")


# --- the daemon --------------------------------------------------------------------------------------------------


def test_a_job_is_left_to_the_daemon(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, "--snapshot-only", code=0)
    waits = program.run("snapshot", "disk", "--detach", "--retain-until", "30d", code=0)
    assert "no daemon runs" in waits.err
    job = waits.out.strip()
    assert jobs(program, "--open")[0]["job"] == job
    with daemon(program):
        assert program.run("job", "wait", job, "--timeout", "60s", code=0).out.strip() == f"job {job}: completed"
        status = program.run("service", "status", "--json", code=0).document
        assert status["daemon"]["vaults"] == [{"vault": "default", "protected_items": 0, "problem": None}]
    done = next(each for each in jobs(program) if each["job"] == job)
    assert done["trigger"] == "on-demand"
    points = {point["point"]: point for point in program.run("points", "--json", code=0).document["points"]}
    assert points[done["point"]]["tier"] == "snapshot+vault"
    assert points[done["point"]]["tags"] == {"job": job}
    assert program.run("service", "status").code == 1


def test_one_daemon_works_on_a_state_folder(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    with daemon(program) as pid:
        second = program.run("daemon")
        assert (second.code, second.kind) == (1, "daemon.running")
        assert str(pid) in second.err
        assert program.run("daemon", "--once").kind == "daemon.running"
    program.run("daemon", "--once", code=0)


def test_a_killed_daemon_takes_its_workers_with_it_and_the_next_goes_on(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    with disk.open("r+b") as image:
        image.write(os.urandom(1 << 20))
    state = disk.read_bytes()
    slow = {"BLOCKVAULT_FAILPOINT": "transfer.packs:pause"}
    job = detached(program)
    with daemon(program, code=-signal.SIGKILL, env=slow) as pid:
        wait_for(lambda: phases(jobs(program)[0])["transfer"] == "in-progress")
        workers = _children(pid)
        assert workers
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(_alive(worker) for worker in workers), 10)
    with daemon(program):
        begun = time.monotonic()
        program.run("job", "wait", job, "--timeout", "60s", code=0)
        assert time.monotonic() - begun < 60
    done = next(each for each in jobs(program) if each["job"] == job)
    assert done["phases"][1]["tries"] == 2
    program.run("restore", "--point", str(done["point"]), "--from", "vault", "-o", "back.img", code=0)
    assert (program.folder / "back.img").read_bytes() == state


def test_a_stopped_daemon_leaves_what_it_was_at_to_the_next(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    with disk.open("r+b") as image:
        image.write(os.urandom(1 << 20))
    job = detached(program)
    with daemon(program, env={"BLOCKVAULT_FAILPOINT": "transfer.packs:pause"}):
        wait_for(lambda: phases(jobs(program)[0])["transfer"] == "in-progress")
    stopped = next(each for each in jobs(program) if each["job"] == job)
    assert stopped["state"] == "in-progress"
    assert phases(stopped)["transfer"] == "waiting"
    program.run("daemon", "--once", code=0)
    assert next(each for each in jobs(program) if each["job"] == job)["state"] == "completed"


@pytest.mark.parametrize("phase", ["waiting", "running"])
def test_a_cancelled_transfer_leaves_its_snapshot_and_nothing_half_done(
    program: Program, disk: Path, phase: str
) -> None:
    program.run("snapshot", disk, code=0)
    with disk.open("r+b") as image:
        image.write(os.urandom(1 << 20))
    state = disk.read_bytes()
    job = detached(program)
    if phase == "waiting":
        program.run("job", "cancel", job, code=0)
        assert program.run("job", "wait", job).code == 130
        assert [point["point"] for point in program.run("points", "--json").document["points"]] == [1]
        return
    with daemon(program, env={"BLOCKVAULT_FAILPOINT": "transfer.packs:pause"}):
        wait_for(lambda: phases(jobs(program)[0])["transfer"] == "in-progress")
        # A restore works from the snapshot while its transfer still runs.
        number = jobs(program)[0]["point"]
        program.run("restore", "--point", str(number), "-o", "early.img", code=0)
        assert (program.folder / "early.img").read_bytes() == state
        assert "is being cancelled" in program.run("job", "cancel", job, code=0).out
        assert program.run("job", "wait", job, "--timeout", "60s").code == 130
    (cancelled,) = [each for each in jobs(program) if each["job"] == job]
    assert phases(cancelled) == {"capture": "completed", "transfer": "cancelled"}
    tiers = {point["point"]: point["tier"] for point in program.run("points", "--json").document["points"]}
    assert tiers[number] == "snapshot"
    program.run("vault", "check", code=0)
    program.run("transfer", code=0)
    program.run("restore", "--point", str(number), "--from", "vault", "-o", "back.img", code=0)
    assert (program.folder / "back.img").read_bytes() == state


def test_a_disk_that_vanished_fails_its_job_and_says_so(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    disk.rename(disk.with_suffix(".away"))
    job = detached(program)
    program.run("daemon", "--once", code=0)
    shown = program.run("job", "show", job, code=0).out
    assert "tried again at" in shown
    assert "image.not-found" in shown
    disk.with_suffix(".away").rename(disk)


def test_an_encrypted_vault_without_its_passphrase_is_told_of(program: Program, disk: Path) -> None:
    secret = {"BLOCKVAULT_PASSWORD": "a long passphrase"}
    program.run("vault", "create", "locked", env=secret, code=0)
    program.run("snapshot", disk, "--vault", "locked", env=secret, code=0)
    ended = program.run("daemon", "--once", code=0)
    assert "vault 'locked'" in ended.err
    assert "no key was given" in ended.err
    assert "a long passphrase" not in ended.err
    assert program.run("daemon", "--once", env=secret, code=0).err == ""


# --- its socket --------------------------------------------------------------------------------------------------


def test_only_its_user_is_answered_and_nonsense_is_dropped(program: Program, disk: Path) -> None:
    program.run("snapshot", disk, code=0)
    with daemon(program) as pid:
        path = socket_path(str(program.state))
        assert os.stat(path).st_mode & 0o777 == 0o600
        nonsense = (
            b"",
            b"\n",
            b"[]\n",
            b"{\n",
            b'{"do": "harm"}\n',
            b"x" * (2 * REQUEST_BYTES_MAX),
            b"[" * 4000 + b"\n",
        )
        for request in nonsense:
            answer = _send(path, request)
            assert answer == b"" or "error" in json.loads(answer), request
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(path)
        begun = time.monotonic()
        status = ask(str(program.state), "status", seconds=30)
        assert status is not None
        assert status["pid"] == pid
        assert time.monotonic() - begun < 20, "a peer that says nothing keeps nobody waiting for long"
        silent.close()
        if os.geteuid() == 0:
            asked = subprocess.run([sys.executable, "-c", _AS_NOBODY, path], capture_output=True, text=True, timeout=30)
            assert "only the user of the daemon and root" in asked.stdout, asked
        assert ask(str(program.state), "stop") == {"done": True}
        wait_for(lambda: not _alive(pid))
    assert not os.path.lexists(path)


_AS_NOBODY = """
import os, socket, sys
os.chdir(os.path.dirname(sys.argv[1]))
name = os.path.basename(sys.argv[1])
os.chmod(name, 0o666)  # as if its mode had been lost: the kernel's word on who asks is what counts
os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect(name)
try:
    peer.sendall(b'{"do": "status"}' + bytes([10]))
except BrokenPipeError:
    pass  # it was refused before it could ask
print(peer.recv(4096).decode())
"""


def test_a_state_folder_with_a_long_path(tmp_path: Path, built_image: Path) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    program = Program(folder)
    program.run("snapshot", built_image, "--name", "disk", code=0)
    with daemon(program):
        assert ask(str(program.state), "status") is not None


# --- the service -------------------------------------------------------------------------------------------------


def test_units_are_printed_and_nothing_is_written(program: Program) -> None:
    for words, wanted in (((), "Type=notify"), (("--timer",), "OnUnitInactiveSec")):
        ended = program.run("service", "install", "--print", *words, code=0)
        assert wanted in ended.out
        assert f"BLOCKVAULT_STATE_DIR={program.state}" in ended.out
    assert not program.state.exists()


def _send(path: str, data: bytes) -> bytes:
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(30)
            peer.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                return peer.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                return b""
    finally:
        os.close(folder)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
