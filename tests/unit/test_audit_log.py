"""The audit log: whatever is changed in it is found, whatever a crash leaves is told apart from that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from blockvault import failpoints
from blockvault.errors import BlockVaultError, CorruptionError, InvalidInputError
from blockvault.store.audit_log import FIRST, AuditLog, find_hash

NOW = datetime(2026, 11, 20, 2, tzinfo=UTC)


def filled(folder: Path, acts: int = 3) -> AuditLog:
    log = AuditLog(str(folder))
    for number in range(acts):
        with log.acting("point.delete", {"point": number}, vault="default", vault_id="v", now=NOW):
            pass
    return log


def test_an_act_has_an_intent_before_it_and_an_outcome_after_it(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path))
    with log.acting("point.delete", {"point": "3", "reason": "", "none": None}, vault="site", now=NOW) as found:
        (intent,) = log.read().lines
        assert (intent.phase, intent.act, intent.vault, intent.details) == (
            "intent",
            "point.delete",
            "site",
            {"point": "3"},
        )
        found["deleted"] = 1
    _, outcome = log.read().lines
    assert (outcome.phase, outcome.of, outcome.outcome, outcome.details) == ("outcome", 1, "done", {"deleted": "1"})
    assert (outcome.who.uid, outcome.who.pid) == (os.getuid(), os.getpid())
    assert log.read().faults == []
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_what_failed_says_so(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path))
    with pytest.raises(InvalidInputError), log.acting("point.delete", {}):
        raise InvalidInputError("point.held", "it is held")
    with pytest.raises(ZeroDivisionError), log.acting("prune", {}):
        _ = 1 / 0
    assert [line.outcome for line in log.read().lines] == [None, "point.held", None, "ZeroDivisionError"]


def test_the_chain_is_what_the_document_says(tmp_path: Path) -> None:
    """Checked without a line of the log's own code, as somebody else would."""
    log = filled(tmp_path)
    before = FIRST
    for number, line in enumerate(Path(log.path).read_bytes().splitlines(), 1):
        record = json.loads(line)
        said = record.pop("hash")
        body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        assert blake3(body).hexdigest() == said
        assert (record["prev"], record["n"]) == (before, number)
        before = said
    assert log.newest() == (6, before)
    assert log.read().newest == before


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_is_found(data: st.DataObject) -> None:
    """A byte changed, a line removed, doubled, moved or put in: all but a cut at the end, which a hash finds."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = filled(Path(folder))
        newest = log.newest()[1]
        path = Path(log.path)
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        index = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(("byte", "remove", "double", "swap", "put in"))):
            case "byte":
                at = data.draw(st.integers(0, len(whole) - 2))
                other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
                changed = whole[:at] + bytes([other]) + whole[at + 1 :]
            case "remove":
                changed = b"".join(lines[:index] + lines[index + 1 :])
            case "double":
                changed = b"".join(lines[: index + 1] + lines[index:])
            case "swap":
                other = (index + 1) % len(lines)
                lines[index], lines[other] = lines[other], lines[index]
                changed = b"".join(lines)
            case _:
                changed = b"".join([*lines[:index], b'{"act":"nothing"}\n', *lines[index:]])
        path.write_bytes(changed)
        report = log.read()
        assert report.faults or report.torn or find_hash(report, newest) is None
        if index < len(lines) - 1 and changed != whole and not report.faults:
            assert find_hash(report, newest) is None or report.torn


def test_an_end_that_was_cut_off_is_found_by_a_hash_that_was_kept_elsewhere(tmp_path: Path) -> None:
    log = filled(tmp_path)
    kept = log.newest()[1]
    path = Path(log.path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    report = log.read()
    assert report.faults == []  # nothing in the file tells
    assert find_hash(report, kept) is None
    assert find_hash(report, report.newest[:16]) is not None
    with pytest.raises(InvalidInputError):
        find_hash(report, "no hash at all")


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_told_and_gone_on_from(tmp_path: Path, cut: int) -> None:
    log = filled(tmp_path, 2)
    path = Path(log.path)
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 4 if cut == 1 else 3  # a line that lacks only its newline is whole
    report = log.read()
    assert (report.faults, len(report.torn), len(report.lines)) == ([], whole == 3, whole)
    with log.acting("point.hold", {}, now=NOW):
        pass
    report = log.read()
    assert (report.faults, len(report.torn)) == ([], whole == 3)
    assert [line.act for line in report.lines] == ["point.delete"] * whole + ["point.hold"] * 2
    assert [line.n for line in report.lines] == list(range(1, whole + 3))


def test_a_torn_line_that_is_torn_again_is_gone_on_from(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    with Path(log.path).open("ab") as file:
        file.write(b'{"act":"point.\n{"act":"x')  # the newline that ends the piece was written, not all after it
    with log.acting("point.hold", {}, now=NOW):
        pass
    report = log.read()
    assert (report.faults, len(report.torn), len(report.lines)) == ([], 1, 4)


def test_zeros_that_a_power_cut_leaves_are_a_torn_line(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    with Path(log.path).open("ab") as file:
        file.write(bytes(300))
    assert (log.read().faults, len(log.read().torn)) == ([], 1)
    with log.acting("point.hold", {}, now=NOW):
        pass
    assert (log.read().faults, len(log.read().lines)) == ([], 4)


def test_a_log_that_is_nothing_but_rubbish_stops_all_acts(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path))
    Path(log.path).write_bytes(b"rubbish\n" * 60_000)
    with pytest.raises(CorruptionError) as caught, log.acting("point.delete", {}):
        raise AssertionError("nothing is done that cannot be noted")
    assert caught.value.kind == "audit.damaged"


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("")
    (tmp_path / "audit.log").symlink_to(target)
    with pytest.raises(BlockVaultError), AuditLog(str(tmp_path)).acting("point.delete", {}):
        raise AssertionError
    assert target.read_text() == ""


def test_names_that_are_no_utf_8_and_long_ones_are_kept_as_far_as_they_go(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path))
    with log.acting("item.set", {"name": "a\udcff\n\x1b[31m", "long": "x" * 5000, "many": {3, 1, 2}}, now=NOW):
        pass
    details = log.read().lines[0].details
    assert details["name"] == "a\udcff\n\x1b[31m"
    assert len(details["long"]) == 1000
    assert details["many"] == "1, 2, 3"
    assert log.read().faults == []


def test_processes_that_write_at_once_make_one_chain(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom blockvault.store.audit_log import AuditLog\n"
        "log = AuditLog(sys.argv[1])\n"
        "for number in range(15):\n"
        "    with log.acting('point.hold', {'by': sys.argv[2], 'number': number}):\n        pass\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)]) for n in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    report = AuditLog(str(tmp_path)).read()
    assert (report.faults, report.torn, len(report.lines), report.open_intents()) == ([], [], 90, [])


def test_an_act_that_was_killed_leaves_an_intent_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom blockvault.store.audit_log import AuditLog\n"
        "with AuditLog(sys.argv[1]).acting('prune', {}):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    report = AuditLog(str(tmp_path)).read()
    assert [line.act for line in report.open_intents()] == ["prune"]
    assert report.faults == []


def test_the_intent_is_synced_before_the_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), real(fd))[1])
    before = failpoints.set_hook(order.append)
    try:
        with AuditLog(str(tmp_path)).acting("prune", {}):
            order.append("act")
    finally:
        failpoints.set_hook(before)
    assert order[:4] == ["audit.written", "fsync", "fsync", "act"]  # the file, and its new name in the folder
    assert order[4:] == ["audit.written", "fsync"]


def test_a_full_disk_stops_the_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BlockVaultError) as caught, AuditLog(str(tmp_path)).acting("point.delete", {}):
        raise AssertionError
    assert caught.value.kind == "store.no-space"


def test_times_are_those_that_were_given(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path))
    for hours in (0, -5):  # a clock that was set back changes nothing of the order
        with log.acting("prune", {}, now=NOW + timedelta(hours=hours)):
            pass
    assert [line.at for line in log.read().lines] == [NOW, NOW, NOW - timedelta(hours=5), NOW - timedelta(hours=5)]
    assert log.read().faults == []
