"""The audit log of one host: `<state>/audit.log`, who did what that takes something away or changes a policy, and when.

Lines of JSON, only ever added to. Each act has two: `intent`, durable before anything is done, and `outcome` after it;
an intent without an outcome is an act that was killed in mid-way. Each line names the hash of the one before it:

    {"act":"point.delete","at":"...","details":{...},"n":12,"of":null,"outcome":null,"phase":"intent","prev":"<hash>",
     "vault":"default","vault_id":"...","version":1,"who":{...},"hash":"<BLAKE3 of the line without this field>"}

The hash is over the canonical bytes: keys sorted, no spaces, ASCII, the hash itself left out. So a line that was
changed, removed, put in or moved is found by `read`, but for lines cut off at the end: nothing in a file tells that
it was longer. Against that the newest hash leaves the machine with every notification, and `verify` takes it.

Invariants:
- What `begin` and `end` have returned from is durable; lines of several processes come one after the other (a lock).
- A line that a crash has torn was never returned from. It stays where it is; the next line says so (`torn`: the
  number of its bytes and their BLAKE3), so that it is told apart from a line that somebody broke.
- The log holds no secret and no bytes of a disk; a detail has `DETAIL_CHARS_MAX` characters at most.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from blake3 import blake3

from blockvault.clock import from_text, to_text, utc_now
from blockvault.errors import BlockVaultError, CancelledError, CorruptionError, InvalidInputError
from blockvault.failpoints import reach
from blockvault.store.local import device_error, open_plain, sync_folder, write_all
from blockvault.store.locks import FileLock

FILE = "audit.log"
VERSION = 1
FIRST = "0" * 64  # what the first line names as the hash before it
DETAIL_CHARS_MAX = 1_000
LINE_BYTES_MAX = 64 << 10
INTENT, OUTCOME = "intent", "outcome"
DONE = "done"


@dataclass(frozen=True, slots=True)
class Who:
    """Who did it: the user of the process, who logged in to become that user, and who called sudo."""

    uid: int
    login: str
    pid: int
    sudo_user: str = ""
    login_uid: int | None = None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One line. `of`: the intent that an outcome belongs to; `outcome`: `done`, or the kind of the error."""

    n: int
    at: datetime
    act: str
    phase: str
    who: Who
    vault: str
    vault_id: str
    details: dict[str, str]
    of: int | None
    outcome: str | None
    hash: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in the log that is not as it was written. `line` counts from 1."""

    line: int
    text: str


@dataclass(slots=True)
class AuditReport:
    """A whole log as it was read.

    `newest` is the hash of the last line that holds; `torn` are pieces that crashes have left, in words.
    """

    lines: list[AuditLine] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    newest: str = FIRST

    def open_intents(self) -> list[AuditLine]:
        """Acts whose outcome is not known: killed in mid-way, or at work just now."""
        ended = {line.of for line in self.lines if line.phase == OUTCOME}
        return [line for line in self.lines if line.phase == INTENT and line.n not in ended]


@dataclass(frozen=True, slots=True)
class _Tail:
    """The end of the file: number and hash of the last whole line, and what a crash has left after it."""

    n: int
    hash: str
    torn: bytes
    is_unended: bool = False  # the line is whole but for its newline, which a crash took


class AuditLog:
    """The log of a state folder. Nothing stays open between calls, so that the file may be moved away."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self.path = os.path.join(state_dir, FILE)

    # --- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def acting(
        self, act: str, details: Mapping[str, Any], *, vault: str = "", vault_id: str = "", now: datetime | None = None
    ) -> Iterator[dict[str, Any]]:
        """Note an act: its intent before the body, its outcome after it, whatever that is.

        What the body puts into the yielded dictionary is noted with the outcome.

        Raises:
            DeviceError: the intent cannot be made durable (`audit.failed`, `store.no-space`); nothing was done.
        """
        found: dict[str, Any] = {}
        number = self.begin(act, details, vault=vault, vault_id=vault_id, now=now)
        outcome = DONE
        try:
            yield found
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            try:
                self.end(number, outcome, act, found, vault=vault, vault_id=vault_id, now=now)
            except BlockVaultError:
                pass  # what was done is done; an intent without an outcome is told by `audit verify`

    def begin(
        self, act: str, details: Mapping[str, Any], *, vault: str = "", vault_id: str = "", now: datetime | None = None
    ) -> int:
        """Make an intent durable; returns its number for `end`. Raises as `acting`."""
        return self._append(act, INTENT, details, None, None, vault, vault_id, now)

    def end(
        self,
        number: int,
        outcome: str,
        act: str,
        details: Mapping[str, Any],
        *,
        vault: str = "",
        vault_id: str = "",
        now: datetime | None = None,
    ) -> None:
        """Make an outcome durable. Raises as `acting`."""
        self._append(act, OUTCOME, details, number, outcome, vault, vault_id, now)

    def _append(
        self,
        act: str,
        phase: str,
        details: Mapping[str, Any],
        of: int | None,
        outcome: str | None,
        vault: str,
        vault_id: str,
        now: datetime | None,
    ) -> int:
        moment = now or utc_now()
        try:
            os.makedirs(self._state_dir, mode=0o700, exist_ok=True)
            with self._lock(moment):
                new = not os.path.lexists(self.path)
                fd = open_plain(self.path, os.O_RDWR | os.O_APPEND) if not new else self._make()
                try:
                    tail = _tail(fd)
                    record = {
                        "version": VERSION,
                        "n": tail.n + 1,
                        "at": to_text(moment),
                        "act": act,
                        "phase": phase,
                        "of": of,
                        "outcome": outcome,
                        "vault": vault,
                        "vault_id": vault_id,
                        "details": _told(details),
                        "who": _who_fields(this_user()),
                        "prev": tail.hash,
                    }
                    if tail.torn:
                        record["torn"] = {"bytes": len(tail.torn), "blake3": blake3(tail.torn).hexdigest()}
                    write_all(fd, (b"\n" if tail.torn or tail.is_unended else b"") + _line(record))
                    reach("audit.written")
                    os.fsync(fd)
                finally:
                    os.close(fd)
                if new:
                    sync_folder(self._state_dir)
        except OSError as error:
            if isinstance(error, BlockVaultError):
                raise
            raise device_error(error, f"writing the audit log {self.path}", kind="audit.failed") from error
        return tail.n + 1

    def _make(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o600)

    def _lock(self, now: datetime) -> FileLock:
        return FileLock(
            f"{self.path}.lock", kind="audit.locked", subject="the audit log is written", now=now, wait_seconds=30
        )

    # --- reading -----------------------------------------------------------------------------------------------

    def newest(self) -> tuple[int, str]:
        """Number and hash of the newest line, for a witness elsewhere; (0, `FIRST`) where there is no log.

        Only the end is looked at. Raises `CorruptionError` (`audit.damaged`) where it is no line.
        """
        try:
            fd = open_plain(self.path)
        except FileNotFoundError:
            return 0, FIRST
        except OSError as error:
            raise device_error(error, f"reading the audit log {self.path}", kind="audit.failed") from error
        try:
            tail = _tail(fd)
        finally:
            os.close(fd)
        return tail.n, tail.hash

    def read(self) -> AuditReport:
        """Read and check the whole log. What does not hold is in `faults`; all lines that can be read are given."""
        report = AuditReport()
        try:
            with os.fdopen(open_plain(self.path), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return report
        except OSError as error:
            raise device_error(error, f"reading the audit log {self.path}", kind="audit.failed") from error
        *lines, rest = data.split(b"\n")
        if _parsed(rest) is not None:  # whole but for its newline
            lines, rest = [*lines, rest], b""
        pieces: list[bytes] = []  # lines that are none, until the next one says whether a crash has left them
        expected = 1
        for place, text in enumerate(lines, 1):
            record = _parsed(text)
            if record is None:
                pieces.append(text)
                continue
            _judge_pieces(report, pieces, record.get("torn"), place)
            pieces = []
            if record["prev"] != report.newest:
                why = "the hash of the line before it is another: a line was changed, removed or put in before it"
                report.faults.append(Fault(place, why))
            elif record["n"] != expected:
                report.faults.append(Fault(place, f"it has the number {record['n']}, and {expected} was to come"))
            line = _audit_line(record)
            report.lines.append(line)
            report.newest, expected = line.hash, line.n + 1
        if pieces or rest:
            _judge_end(report, [*pieces, rest] if rest else pieces, len(lines) + 1 - len(pieces))
        return report


def _judge_pieces(report: AuditReport, pieces: list[bytes], said: object, place: int) -> None:
    """Lines before `place` that are none: left by a crash, as the line after them says, or broken by somebody."""
    piece = b"\n".join(pieces)
    if not pieces:
        if said is not None:
            report.faults.append(Fault(place, "it speaks of a torn line before it, which is gone"))
    elif any(map(_was_whole, pieces)):
        report.faults.append(Fault(place - len(pieces), "it was changed after it was written"))
    elif said == {"bytes": len(piece), "blake3": blake3(piece).hexdigest()}:
        report.torn.append(f"{len(piece)} bytes before line {place}: a crash tore the line that was being written")
    else:
        report.faults.append(Fault(place - len(pieces), "it is no line of the log"))


def _judge_end(report: AuditReport, pieces: list[bytes], place: int) -> None:
    if any(map(_was_whole, pieces)):
        report.faults.append(Fault(place, "it was changed after it was written"))
    else:
        count = sum(map(len, pieces))
        report.torn.append(f"{count} bytes at the end: a crash tore the line that was being written")


def _was_whole(text: bytes) -> bool:
    """Whether this once was a whole line: a crash leaves the beginning of one, or zeros, never its end."""
    return text.startswith(b"{") and text.endswith(b'"}') and b',"hash":"' in text


def find_hash(report: AuditReport, wanted: str) -> AuditLine | None:
    """The line whose hash begins with `wanted`, which a notification told; None: the log does not have it any more.

    Raises `InvalidInputError` (`audit.bad-hash`) for what is no hash.
    """
    wanted = wanted.strip().lower()
    if not 16 <= len(wanted) <= 64 or set(wanted) - set("0123456789abcdef"):
        raise InvalidInputError(
            "audit.bad-hash",
            f"'{wanted[:80]}' is no hash of an audit line",
            why="it has 64 hexadecimal digits; its first 16 are enough",
            do="copy it from a notification, or from an earlier `blockvault audit verify`",
        )
    return next((line for line in report.lines if line.hash.startswith(wanted)), None)


def this_user() -> Who:
    """Who runs this process."""
    uid = os.getuid()
    try:
        login = pwd.getpwuid(uid).pw_name
    except KeyError:
        login = ""
    login_uid = None
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            said = int(file.read())
        login_uid = said if 0 <= said < 0xFFFFFFFF else None
    except (OSError, ValueError):
        pass
    return Who(uid, login, os.getpid(), os.environ.get("SUDO_USER", "")[:64], login_uid)


def outcome_of(error: BaseException) -> str:
    """What an act is said to have ended with."""
    if isinstance(error, (CancelledError, KeyboardInterrupt)):
        return "cancelled"
    return error.kind if isinstance(error, BlockVaultError) else type(error).__name__


def _who_fields(who: Who) -> dict[str, Any]:
    return {
        "uid": who.uid,
        "login": who.login,
        "pid": who.pid,
        "sudo_user": who.sudo_user,
        "login_uid": who.login_uid,
    }


def _told(details: Mapping[str, Any]) -> dict[str, str]:
    """Details as text; what is not said is left out."""
    told = {}
    for name, value in details.items():
        if value is None or value in ("", (), [], {}):
            continue
        if isinstance(value, datetime):
            text = to_text(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            text = ", ".join(sorted(map(str, value)) if isinstance(value, (set, frozenset)) else map(str, value))
        else:
            text = str(value)
        told[name] = text if len(text) <= DETAIL_CHARS_MAX else text[: DETAIL_CHARS_MAX - 3] + "..."
    return told


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _line(record: Mapping[str, Any]) -> bytes:
    """A record as its line, the hash last."""
    body = _canonical(record)
    return body[:-1] + b',"hash":"' + blake3(body).hexdigest().encode() + b'"}\n'


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line's record with its hash, if it is exactly what was written; else None."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("hash"), str):
            return None
        body = {key: value for key, value in record.items() if key != "hash"}
        if _line(body) != text + b"\n":
            return None
        _audit_line(record)
    except (ValueError, RecursionError, KeyError, TypeError, BlockVaultError):
        return None
    return record


def _audit_line(record: Mapping[str, Any]) -> AuditLine:
    who = record["who"]
    return AuditLine(
        n=int(record["n"]),
        at=from_text(record["at"]),
        act=str(record["act"]),
        phase=str(record["phase"]),
        who=Who(who["uid"], who["login"], who["pid"], who["sudo_user"], who["login_uid"]),
        vault=str(record["vault"]),
        vault_id=str(record["vault_id"]),
        details={str(name): str(value) for name, value in record["details"].items()},
        of=record["of"],
        outcome=record["outcome"],
        hash=record["hash"],
    )


def _tail(fd: int) -> _Tail:
    """The end of the log. Raises `CorruptionError` (`audit.damaged`) where no line is found to go on from."""
    size = os.fstat(fd).st_size
    begin = max(0, size - 4 * LINE_BYTES_MAX)
    data = os.pread(fd, size - begin, begin)
    unended = _parsed(data.rpartition(b"\n")[2])
    if unended is not None:
        return _Tail(unended["n"], unended["hash"], b"", is_unended=True)
    end = len(data)
    while (newline := data.rfind(b"\n", 0, end)) >= 0:
        start = data.rfind(b"\n", 0, newline) + 1
        record = _parsed(data[start:newline])
        if record is not None:
            return _Tail(record["n"], record["hash"], data[newline + 1 :])
        end = newline
    if begin:
        raise _damaged(f"there is no line of it in its last {len(data)} bytes")
    return _Tail(0, FIRST, data)


def _damaged(why: str) -> CorruptionError:
    return CorruptionError(
        "audit.damaged",
        "the audit log cannot be gone on with",
        why=why,
        do="look with `blockvault audit verify`; move audit.log away to keep it, and a new one is begun",
    )
