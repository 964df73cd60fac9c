"""Reports, forecast and metrics as a user calls them; the daemon's log and metrics file."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import html5lib
import pytest
from helpers.program import Program
from prometheus_client.parser import text_string_to_metric_families

from blockvault.clock import utc_now
from blockvault.workload import Churn, apply_churn

pytestmark = pytest.mark.no_bytes

# The program on a machine whose clock shows three days more.
_THREE_DAYS_LATER = """
import datetime, sys, blockvault.clock
now = blockvault.clock.utc_now
blockvault.clock.utc_now = lambda: now() + datetime.timedelta(days=3)
from blockvault.cli import main
raise SystemExit(main(sys.argv[1:]))
"""
REPORTS = (("report", "rpo"), ("report", "sla"), ("report", "capacity"), ("forecast",))


@pytest.fixture
def protected(program: Program, disk: Path) -> Program:
    """An item with two points, under the default policy."""
    program.run("snapshot", disk, code=0)
    program.run("protect", "disk", "--policy", "default", "--yes", code=0)
    apply_churn(str(disk), Churn.RANDOM_PAGES, seed=1, fraction=0.02)
    program.run("snapshot", disk, code=0)
    return program


def metric(text: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"{name} {labels} is not in\n{text}")


@pytest.mark.parametrize("words", REPORTS)
def test_each_report_in_each_form(protected: Program, words: tuple[str, ...]) -> None:
    text = protected.run(*words, code=0)
    assert "disk" in text.out or words == ("forecast",)
    document = protected.run(*words, "--json", code=0).document
    assert document["schema"] == f"blockvault.{'-'.join(words)}/1"
    assert protected.run(*words, "--format", "json", code=0).document["schema"] == document["schema"]
    rows = list(csv.DictReader(io.StringIO(protected.run(*words, "--format", "csv", code=0).out)))
    assert len(rows) == 1
    assert rows[0]["vault"] == "default"
    page = protected.run(*words, "--format", "html", code=0).out
    html5lib.HTMLParser(strict=True).parse(page)


def test_a_report_goes_into_a_file_whole(protected: Program) -> None:
    target = protected.folder / "rpo.html"
    target.write_text("yesterday's")
    ended = protected.run("report", "rpo", "--format", "html", "-o", target, code=0)
    assert ended.out == ""
    assert target.read_text().startswith("<!doctype html>")
    failed = protected.run("report", "rpo", "-o", protected.folder / "no" / "such" / "folder", code=1)
    assert failed.kind == "report.not-written"


def test_an_item_outside_its_rpo_ends_with_20(protected: Program) -> None:
    inside = protected.run("report", "rpo", "--json", code=0).document
    assert (inside["outside"], inside["rows"][0]["state"], inside["rows"][0]["point"]) == (0, "inside", 2)
    ended = subprocess.run(
        [sys.executable, "-c", _THREE_DAYS_LATER, "report", "rpo", "--json"],
        env=protected.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 20, ended.stderr
    document = json.loads(ended.stdout)
    assert (document["outside"], document["good"]) == (1, False)
    assert document["rows"][0]["missed"] >= 2


def test_a_vault_that_cannot_be_read_is_not_passed_over(protected: Program) -> None:
    header = protected.state / "vaults" / "default" / "vault.json"
    held = header.read_bytes()
    header.write_bytes(b"nonsense")
    for words, code in ((("report", "rpo"), 20), (("report", "capacity"), 1), (("forecast",), 1)):
        ended = protected.run(*words, code=code)
        assert "vault 'default'" in ended.err
    text = protected.run("metrics", code=0).out
    assert metric(text, "blockvault_vault_up", vault="default") == 0
    header.write_bytes(held)
    assert protected.run("report", "rpo", code=0).err == ""


def test_without_a_vault_there_is_no_report(program: Program) -> None:
    for words in REPORTS:
        assert program.run(*words, code=10).kind == "vault.not-found"
    assert "blockvault_build_info" in program.run("metrics", code=0).out


def test_sla_counts_from_a_date_that_has_been(protected: Program) -> None:
    assert protected.run("report", "sla", "--since", "2099-01-01", code=2).kind == "input.time-ahead"
    document = protected.run("report", "sla", "--since", "2d", "--json", code=0).document
    assert document["transfer_seconds"]["count"] == 2
    assert document["rows"][0]["on_demand"] == 2
    assert re.match(str(utc_now().year), document["since"])


def test_metrics_say_what_was_done(protected: Program, disk: Path) -> None:
    target = protected.folder / "blockvault.prom"
    protected.run("metrics", "--textfile", target, code=0)
    text = target.read_text()
    labels = {"vault": "default", "operation": "backup", "status": "completed"}
    assert metric(text, "blockvault_jobs_total", **labels) == 2
    assert metric(text, "blockvault_alerts_open", severity="critical") == 0
    assert metric(text, "blockvault_item_recovery_points", item="disk", tier="vault") == 2
    protected.run("snapshot", disk, code=0)
    protected.run("verify", "--all", code=0)
    again = protected.run("metrics", code=0).out
    assert metric(again, "blockvault_jobs_total", **labels) == 3
    # The vault was looked at less than an hour ago: its points are those of then, the last success is the journal's.
    assert metric(again, "blockvault_item_recovery_points", item="disk", tier="vault") == 2
    name = "blockvault_item_last_success_timestamp_seconds"
    assert metric(again, name, item="disk") > metric(text, name, item="disk")
    assert metric(again, "blockvault_vault_last_verify_timestamp_seconds", vault="default") > time.time() - 600
    assert protected.run("metrics", "--textfile", protected.folder / "no" / "m", code=1).kind == "metrics.not-written"


def test_the_daemon_keeps_its_metrics_file_and_logs_json(protected: Program) -> None:
    target = protected.folder / "daemon.prom"
    env = {"BLOCKVAULT_DAEMON_METRICS_TEXTFILE": str(target), "BLOCKVAULT_DAEMON_LOG_FORMAT": "json"}
    protected.run("snapshot", "disk", "--detach", code=0)
    ended = protected.run("daemon", "--once", env=env, code=0)
    lines = [json.loads(line) for line in ended.err.splitlines()]
    told = [(line["event"], line.get("item"), line["level"]) for line in lines]
    assert told == [
        ("phase.started", "disk", "info"),
        ("phase.ended", "disk", "info"),
        ("phase.started", "disk", "info"),
        ("phase.ended", "disk", "info"),
        ("job.ended", "disk", "info"),
    ]
    assert all({"time", "level", "event", "message", "job", "vault"} <= line.keys() for line in lines)
    labels = {"vault": "default", "operation": "backup", "status": "completed"}
    assert metric(target.read_text(), "blockvault_jobs_total", **labels) == 3


def test_a_metrics_file_that_cannot_be_written_is_told_and_the_daemon_goes_on(protected: Program) -> None:
    env = {"BLOCKVAULT_DAEMON_METRICS_TEXTFILE": str(protected.folder / "no" / "such" / "m")}
    process = protected.start("daemon", env=env)
    deadline = time.monotonic() + 60
    while protected.run("service", "status").code != 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while not os.path.exists(protected.state / "figures.json"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)  # the process that made it ends
    protected.run("snapshot", "disk", "--detach", code=0)  # wakes the loop, which sees what the process ended with
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"metrics" in err
