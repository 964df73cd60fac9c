"""Pre and post scripts: order, environment, limits, bounds, and that nothing is run that others could change."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blockvault.errors import CancelledError, HookError
from blockvault.hooks import scripts
from blockvault.hooks.scripts import HookFacts, HookPhase, HookRunner, find_hooks, hooks_dir
from blockvault.hooks.trusted import open_trusted
from blockvault.monitor import Monitor

Write = Callable[..., Path]


class Told(Monitor):
    """Keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.on_note: Callable[[str], None] = lambda text: None

    def on_message(self, level: str, message: str) -> None:
        if level == "note":
            self.notes.append(message)
            self.on_note(message)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`write(name, text, item="", mode=0o755)`: a script in the folder of hooks of a configuration of its own."""
    monkeypatch.setenv("BLOCKVAULT_CONFIG_DIR", str(tmp_path / "config"))

    def made(name: str, text: str, item: str = "", mode: int = 0o755) -> Path:
        path = Path(hooks_dir()) / item / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(mode)
        return path

    return made


def runner(monitor: Monitor | None = None, *, seconds: float = 30.0) -> HookRunner:
    facts = HookFacts("web01", ("/srv/a.img", "/srv/b b.img"), 7, "j-1")
    return HookRunner(find_hooks("web01"), facts, seconds, monitor or Monitor())


def test_all_run_in_the_order_of_their_names_and_back(write: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name, item in (("20-b", ""), ("10-a", "web01"), ("30-c", "web01"), ("15-x", "other")):
        write(name, f'echo "{name} $1 $BLOCKVAULT_RESULT" >> {log}\n', item)
    write("README", "exit 1\n")
    write("40-old~", "exit 1\n")
    run = runner()
    assert [hook.name for hook in run.hooks] == ["10-a", "20-b", "30-c"]
    assert [hook.for_all for hook in run.hooks] == [False, True, False]
    assert run.pre() is None
    assert run.post(captured=True) == []
    assert [line.split() for line in log.read_text().splitlines()] == [
        ["10-a", "pre"],
        ["20-b", "pre"],
        ["30-c", "pre"],
        ["30-c", "post", "completed"],
        ["20-b", "post", "completed"],
        ["10-a", "post", "completed"],
    ]
    assert run.post(captured=True) == []
    assert len(log.read_text().splitlines()) == 6


def test_no_folder_is_no_hooks(write: Write) -> None:
    assert find_hooks("web01") == []
    run = runner()
    assert run.pre() is None
    assert run.post(captured=True) == []


def test_after_a_failure_no_more_start_and_what_started_is_ended(write: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write("10-a", f'echo "a $1 $BLOCKVAULT_RESULT" >> {log}\n')
    write("20-b", f'echo "b $1 $BLOCKVAULT_RESULT" >> {log}\n[ "$1" = post ] || exit 3\n')
    write("30-c", f'echo "c $1" >> {log}\n')
    run = runner()
    failed = run.pre()
    assert failed is not None
    assert (failed.hook.name, failed.exit_code, failed.succeeded) == ("20-b", 3, False)
    assert run.post(captured=False) == []
    assert [line.split() for line in log.read_text().splitlines()] == [
        ["a", "pre"],
        ["b", "pre"],
        ["b", "post", "failed"],
        ["a", "post", "failed"],
    ]


def test_a_post_script_that_fails_keeps_no_other_from_running(write: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write("10-a", f"echo a $1 >> {log}\n")
    write("20-b", '[ "$1" = pre ] || kill -9 $$\n')
    run = runner()
    assert run.pre() is None
    (failed,) = run.post(captured=True)
    assert (failed.hook.name, failed.phase, failed.exit_code) == ("20-b", HookPhase.POST, -signal.SIGKILL)
    assert log.read_text() == "a pre\na post\n"


def test_the_environment_is_made_for_it_and_holds_no_secret(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("BLOCKVAULT_PASSWORD", "secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    write(
        "10-a",
        f'python3 -c "import json,os;print(json.dumps([dict(os.environ), os.getcwd()]))" > {seen}\nread x && exit 9\n:',
    )
    run = runner()
    assert run.pre() is None
    environment, folder = json.loads(seen.read_text())
    ours = {name: value for name, value in environment.items() if name.startswith("BLOCKVAULT_")}
    assert ours == {
        "BLOCKVAULT_ITEM": "web01",
        "BLOCKVAULT_POINT": "7",
        "BLOCKVAULT_PHASE": "pre",
        "BLOCKVAULT_JOB": "j-1",
        "BLOCKVAULT_DISKS": "/srv/a.img\n/srv/b b.img",
        "BLOCKVAULT_HOOK": run.hooks[0].path,
    }
    assert "secret" not in seen.read_text()
    assert "LD_LIBRARY_PATH" not in environment
    assert environment["PATH"].split(":")[-1] == "/bin"
    assert folder == "/"
    run.post(captured=True)
    assert json.loads(seen.read_text())[0]["BLOCKVAULT_RESULT"] == "completed"


def test_output_is_told_line_by_line_and_bounded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "OUTPUT_BYTES_MAX", 100)
    write("10-a", "echo one\necho two >&2\nprintf '\\377\\n'\nyes x | head -c 1000\nprintf last\n")
    told = Told()
    assert runner(told).pre() is None
    assert told.notes[:3] == [f"hook 10-a pre: {text}" for text in ("one", "two", "\ufffd")]
    assert told.notes[-1] == "hook 10-a pre: (914 more bytes are not shown)"
    assert sum(len(note) for note in told.notes) < 2000


def test_the_whole_group_is_ended_at_the_limit(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "_GRACE_SECONDS", 0.3)
    pids = tmp_path / "pids"
    stubborn = "trap '' TERM\n" * 1 + f"sleep 300 & echo $! $$ > {pids}\nwhile :; do sleep 1; done\n"
    write("10-a", '[ "$1" = pre ] || exit 0\n' + stubborn)
    run = runner(seconds=0.5)
    failed = run.pre()
    assert failed is not None
    assert (failed.timed_out, failed.succeeded, failed.exit_code) == (True, False, -signal.SIGKILL)
    assert failed.problem == "it was ended after 0.5 s"
    gone(pids)
    assert run.post(captured=False) == []
    assert run.runs[-1].phase is HookPhase.POST


def gone(pids: Path) -> None:
    """Nothing of the script is alive."""
    for pid in map(int, pids.read_text().split()):
        for _ in range(100):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":
                        break
            except FileNotFoundError:
                break
            time.sleep(0.02)
        else:
            raise AssertionError(f"process {pid} is alive")


def test_term_comes_first_and_is_heard(write: Write, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    write("10-a", f"trap 'echo term > {heard}; exit 0' TERM\nwhile :; do sleep 0.05; done\n")
    failed = runner(seconds=0.5).pre()
    assert failed is not None
    assert failed.timed_out
    assert heard.read_text() == "term\n"


def test_what_it_leaves_in_the_background_is_not_waited_for(write: Write, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    write("10-a", f"sleep 300 & echo $! > {pids}\n")
    run = runner(seconds=20)
    assert run.pre() is None
    pid = int(pids.read_text())
    os.kill(pid, 0)  # it runs on: a session that holds a lock for the capture
    os.kill(pid, signal.SIGKILL)


def test_a_cancel_ends_the_script_and_the_post_scripts_run(write: Write, tmp_path: Path) -> None:
    log, pids = tmp_path / "log", tmp_path / "pids"
    write("10-a", f"echo $1 >> {log}\n")
    write("20-b", f'[ "$1" = pre ] || {{ echo b $1 >> {log}; exit 0; }}\necho $$ > {pids}\necho up\nsleep 300\n')
    told = Told()
    told.on_note = lambda text: threading.Timer(0, told.cancel).start() if text.endswith("up") else None
    run = runner(told)
    with pytest.raises(CancelledError):
        run.pre()
    gone(pids)
    assert run.post(captured=False) == []
    assert log.read_text() == "pre\nb post\npost\n"


# -- trust ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_script_that_others_can_write_is_not_run(write: Write, mode: int) -> None:
    path = write("10-a", "exit 0\n", mode=mode)
    (hook,) = find_hooks("web01")
    assert hook.problem is not None
    assert "can be written by its group or by others" in hook.problem
    assert hook.do == f"chmod go-w {path}"
    run = runner()
    failed = run.pre()
    assert failed is not None
    assert (failed.exit_code, failed.problem) == (None, hook.problem)
    assert run.post(captured=False) == []


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_folder_that_others_can_write_spoils_all_below(write: Write, level: int) -> None:
    path = write("10-a", "exit 0\n", "web01")
    folder = path.parents[level - 1]
    folder.chmod(0o775)
    (hook,) = find_hooks("web01")
    assert hook.problem is not None
    assert hook.problem.startswith(f"{folder} can be written")


def test_a_sticky_folder_is_as_good_as_what_lies_in_it(write: Write) -> None:
    path = write("10-a", "exit 0\n", "web01")
    path.parents[2].chmod(0o1777)
    assert [hook.problem for hook in find_hooks("web01")] == [None]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["script", "folder", "link"])
def test_what_belongs_to_another_user_is_not_run(write: Write, tmp_path: Path, what: str) -> None:
    path = write("10-a", "exit 0\n")
    if what == "link":
        os.symlink(path, path.parent / "20-b")
        os.lchown(path.parent / "20-b", 12345, 12345)
    else:
        os.chown(path if what == "script" else path.parent, 12345, 0)
    hook = find_hooks("web01")[-1]
    assert hook.problem is not None
    assert "belongs to user 12345" in hook.problem


def test_a_link_is_followed_and_what_it_leads_to_is_checked(write: Write, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    script = elsewhere / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    top = write("10-a", "exit 0\n").parent
    os.symlink("../../elsewhere/script", top / "20-b")
    os.symlink(script, top / "30-c")
    assert [hook.problem for hook in find_hooks("web01")] == [None, None, None]
    assert runner().pre() is None
    elsewhere.chmod(0o777)
    problems = [hook.problem for hook in find_hooks("web01")]
    assert problems[0] is None
    for problem in problems[1:]:
        assert problem is not None
        assert problem.startswith(f"{elsewhere} can be written")


def test_a_link_that_leads_nowhere_or_in_circles_is_told(write: Write) -> None:
    top = write("10-a", "exit 0\n").parent
    os.symlink("nothing", top / "20-b")
    os.symlink("30-c", top / "30-c")
    problems = [hook.problem for hook in find_hooks("web01")]
    assert problems[1] == "it cannot be opened: No such file or directory"
    assert problems[2] == "too many symbolic links"


def test_what_is_no_executable_is_told(write: Write) -> None:
    write("10-a", "exit 0\n", mode=0o644)
    os.mkfifo(Path(hooks_dir()) / "20-b")
    assert [hook.problem and hook.problem.rpartition(" is ")[2] for hook in find_hooks("web01")] == [
        "not executable",
        "no file",
    ]


def test_what_was_looked_at_is_what_is_run(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is exchanged after it was opened is not run: the open file is."""
    ran = tmp_path / "ran"
    path = write("10-a", f"echo right > {ran}\n")
    real = scripts._open_hook

    def exchange(name: str) -> int:
        fd = real(name)
        path.unlink()
        path.write_text(f"#!/bin/sh\necho wrong > {ran}\n")
        path.chmod(0o755)
        return fd

    run = runner()
    monkeypatch.setattr(scripts, "_open_hook", exchange)
    assert run.pre() is None
    assert ran.read_text() == "right\n"


def test_dots_and_doubled_slashes_lead_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in (f"{tmp_path}/a", f"{tmp_path}//a/.", f"{tmp_path}/a/../a", f"/..{tmp_path}/a"):
        fd = open_trusted(path)
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "a"))
        os.close(fd)
    with pytest.raises(FileNotFoundError):
        open_trusted(f"{tmp_path}/b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_no_empty_one(write: Write) -> None:
    write("10-a", "exit 0\n").parent.chmod(0)
    with pytest.raises(HookError, match="cannot be read"):
        find_hooks("web01")
