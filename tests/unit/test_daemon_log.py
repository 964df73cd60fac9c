"""What the daemon says: a line an event, whatever things are called and whoever reads."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.report_world import HOSTILE, backup

from blockvault.daemon.log import DaemonLog, Level, LogForm
from blockvault.daemon.loop import LoopSettings
from blockvault.daemon.run import _Running
from blockvault.model.job import PhaseName
from blockvault.store.journal import Journal

NOW = datetime(2026, 11, 20, 2, 0, 4, tzinfo=UTC)
NASTY = HOSTILE + '\nerror: a second line\r\u2028{"level": "error"}'


def said(form: LogForm, level: Level, message: str, *, quiet: bool = False, **named: str) -> str:
    stream = io.StringIO()
    DaemonLog(form, stream, lambda: NOW, quiet=quiet).event("phase.ended", message, level, **named)
    return stream.getvalue()


def test_json_is_an_object_a_line() -> None:
    text = said(LogForm.JSON, Level.WARNING, NASTY, job="j-1", item=NASTY, vault="site")
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "time": "2026-11-20T02:00:04.000000Z",
        "level": "warning",
        "event": "phase.ended",
        "job": "j-1",
        "item": NASTY,
        "vault": "site",
        "message": NASTY,
    }
    assert set(json.loads(said(LogForm.JSON, Level.INFO, "x"))) == {"time", "level", "event", "message"}


def test_text_is_one_line_that_no_terminal_obeys() -> None:
    text = said(LogForm.TEXT, Level.ERROR, NASTY)
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    assert not any(ord(sign) < 32 for sign in text[:-1])
    text.encode()
    assert said(LogForm.TEXT, Level.INFO, "all is well") == "all is well\n"


@pytest.mark.parametrize("form", list(LogForm))
def test_quiet_says_what_matters(form: LogForm) -> None:
    assert said(form, Level.INFO, "x", quiet=True) == ""
    assert "x" in said(form, Level.WARNING, "x", quiet=True)


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    log = DaemonLog(LogForm.JSON, stream, lambda: NOW)
    log.event("x", "y" * 100_000)
    log.event("x", "y")
    try:
        stream.close()
    except BrokenPipeError:
        pass
    log.event("x", "y")


def test_a_worker_writes_into_the_same_log(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "blockvault.daemon.worker", str(tmp_path), "j-00000000", "transfer"]
    env = {**os.environ, "BLOCKVAULT_DAEMON_LOG_FORMAT": "json"}
    ended = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert json.loads(line)["event"] == "worker.failed"
    assert json.loads(line)["job"] == "j-00000000"


def test_a_phase_ends_before_the_next_of_its_job_begins_whatever_its_process_does(tmp_path: Path) -> None:
    """The transfer may be begun while the capture's process is there for another moment."""
    capture, transfer = PhaseName.CAPTURE, PhaseName.TRANSFER
    stream = io.StringIO()
    with Journal(str(tmp_path)) as journal:
        running = _Running(str(tmp_path), LoopSettings(), DaemonLog(LogForm.JSON, stream), ())
        running._journal = journal
        made = journal.add(backup("web01", NOW, ends="open"))
        assert made is not None
        for at_work, job in (
            ({capture}, None),
            ({capture, transfer}, backup("web01", NOW, ends="completed")),
            ({transfer}, None),
            (set(), None),
        ):
            if job is not None:
                ended = replace(job, id=made.id)
                journal.change(made.id, lambda _job, _others, ended=ended: ended)
            keys = {(made.id, name) for name in at_work}
            running._workers = SimpleNamespace(running=lambda keys=keys: keys)  # type: ignore[assignment]
            running._tell_work()
    told = [(line["event"], line["message"].split()[0]) for line in map(json.loads, stream.getvalue().splitlines())]
    started = [each for each in told if each[0] != "job.ended"]
    assert started == [
        ("phase.started", "capture"),
        ("phase.ended", "capture"),
        ("phase.started", "transfer"),
        ("phase.ended", "transfer"),
    ]
