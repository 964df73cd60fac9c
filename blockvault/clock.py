"""Time is an argument: the engine is told `now`; only the edges ask the system, here.

A moment is a timezone-aware UTC `datetime`; on disk and in JSON it is RFC 3339 with `Z` and microseconds.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from blockvault.errors import InvalidInputError
from blockvault.units import parse_span

_YEARS = (2, 9998)  # so that no zone leads out of what a `datetime` can be


def utc_now() -> datetime:
    """The system's clock, in UTC."""
    return datetime.now(UTC)


def local_zone_name() -> str:
    """The IANA name of this machine's zone as it is configured; `UTC` where that cannot be told."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name or name.startswith("/"):
        name = os.path.realpath(name or "/etc/localtime").partition("/zoneinfo/")[2]
    if not name:
        try:
            with open("/etc/timezone", encoding="ascii") as file:
                name = file.readline().strip()
        except (OSError, UnicodeDecodeError):
            return "UTC"
    return name if "/" in name and name not in ("Etc/UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu") else "UTC"


def to_text(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: `2026-11-20T02:00:00.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """The inverse of `to_text`; also takes dates and times without a zone (local time)."""
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
        if not _YEARS[0] <= moment.year <= _YEARS[1]:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise InvalidInputError(
            "input.time", f"'{text}' is not a date or time", do="write it like 2026-11-20 or 2026-11-20T02:00"
        ) from None
    return moment


def until(text: str, now: datetime) -> datetime:
    """`30d` from `now`, or a date: the moment until which something is kept."""
    if text and text[-1] in "smhdwy" and text[:-1].strip().isdigit():
        return now + timedelta(seconds=parse_span(text))
    moment = from_text(text)
    if moment <= now:
        raise InvalidInputError("input.time-past", f"'{text}' lies in the past", do="give a later date")
    return moment


def since(text: str, now: datetime) -> datetime:
    """`7d` before `now`, or a date: the moment from which on something counts."""
    if text and text[-1] in "smhdwy" and text[:-1].strip().isdigit():
        return now - timedelta(seconds=parse_span(text))
    return from_text(text)


def age(moment: datetime, now: datetime) -> str:
    """`3 min`, `5 h`, `12 d`: how long ago, coarsely."""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit_seconds, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_seconds:
            return f"{seconds // unit_seconds} {name}"
    return f"{seconds} s"
