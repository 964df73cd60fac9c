"""What the value of a setting may be: read from TOML, or from the text of an environment variable, and checked.

Plain classes: every command reads its configuration, and each dataclass costs a millisecond to make.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from typing import Any

from blockvault.errors import InvalidInputError
from blockvault.ids import check_vault_name
from blockvault.units import format_size, parse_size, parse_span

_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")
_NAMES = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table"}


class BadValueError(Exception):
    """A value that cannot be; the words complete "daemon.captures cannot be 0: ...".

    Args:
        why: what is possible.
        wrong_type: it is not even of the right type.
    """

    def __init__(self, why: str, *, wrong_type: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.wrong_type = wrong_type


def _typed(value: object, wanted: type | tuple[type, ...], noun: str) -> Any:
    """`value`, if it is of that type; true and false are no numbers."""
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        found = _NAMES.get(type(value), "a date or time")
        raise BadValueError(f"it must be {noun}, and this is {found}", wrong_type=True)
    return value


class Kind(ABC):
    """How a value is read. `from_text` makes of an environment variable what TOML would have given."""

    @abstractmethod
    def read(self, value: object) -> Any:
        """The value, checked. Raises `BadValueError`."""

    def from_text(self, text: str) -> object:
        """What the text stands for."""
        return text

    def text(self, value: Any) -> str:
        """The value as people would write it; `-` for nothing."""
        return " ".join(value) if isinstance(value, tuple) else str(value) or "-"


class Whole(Kind):
    """A whole number within bounds."""

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> int:
        """As `Kind.read`."""
        number: int = _typed(value, int, "a whole number")
        if not self.low <= number <= self.high:
            raise BadValueError(f"{self.low} to {self.high} are possible")
        return number

    def from_text(self, text: str) -> object:
        """Digits are a number."""
        return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text.strip()) else text


class Number(Kind):
    """A number within bounds."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> float:
        """As `Kind.read`; what is not a number at all (`nan`) lies in no bounds."""
        number = _typed(value, (int, float), "a number")
        if not self.low <= number <= self.high:
            raise BadValueError(f"{self.low:g} to {self.high:g} are possible")
        return float(number)

    def from_text(self, text: str) -> object:
        """Digits with a point are a number."""
        return float(text) if re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text.strip()) else text


class Text(Kind):
    """Text of one line."""

    def __init__(self, empty: bool = True) -> None:
        self.empty = empty

    def read(self, value: object) -> str:
        """As `Kind.read`."""
        text: str = _typed(value, str, "text")
        if not text and not self.empty:
            raise BadValueError("it must not be empty")
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            raise BadValueError("it must be one line without control characters")
        return text


class Texts(Kind):
    """Several texts."""

    def read(self, value: object) -> tuple[str, ...]:
        """As `Kind.read`."""
        return tuple(Text(empty=False).read(entry) for entry in _typed(value, list, "a list of texts"))


class Choice(Kind):
    """One of some words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def read(self, value: object) -> str:
        """As `Kind.read`."""
        word: str = _typed(value, str, "text")
        if word not in self.words:
            raise BadValueError(f"it is one of {', '.join(self.words)}")
        return word


class Choices(Kind):
    """Some of some words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def read(self, value: object) -> tuple[str, ...]:
        """As `Kind.read`."""
        return tuple(Choice(self.words).read(entry) for entry in _typed(value, list, "a list of texts"))


class Span(Kind):
    """A duration like `30m`, in seconds."""

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> int:
        """As `Kind.read`."""
        text: str = _typed(value, str, 'a duration like "30m"')
        try:
            seconds = parse_span(text)
        except InvalidInputError as error:
            raise BadValueError(error.do or error.message) from None
        if not self.low <= seconds <= self.high:
            raise BadValueError(f"{self.text(self.low)} to {self.text(self.high)} are possible")
        return seconds

    def text(self, value: Any) -> str:
        """In the largest unit that it is whole in."""
        units = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
        return next(
            f"{value // seconds}{unit}"
            for seconds, unit in units
            if (value % seconds == 0 and value >= seconds) or unit == "s"
        )


class Size(Kind):
    """A size like `20MiB`, in bytes; more than none."""

    def read(self, value: object) -> int:
        """As `Kind.read`."""
        text: str = _typed(value, str, 'a size like "20MiB"')
        try:
            size = parse_size(text)
        except (InvalidInputError, OverflowError):
            raise BadValueError("write it like 512K, 20MiB or 1.5G") from None
        if size <= 0:
            raise BadValueError("it must be more than nothing")
        return size

    def text(self, value: Any) -> str:
        """With its unit."""
        return format_size(value)


class Clock(Kind):
    """A time of day, in minutes since midnight; 24:00 is the day's end."""

    def read(self, value: object) -> int:
        """As `Kind.read`."""
        text: str = _typed(value, str, 'a time of day like "08:00"')
        if not _CLOCK.fullmatch(text):
            raise BadValueError('write it as "HH:MM", "00:00" to "24:00"')
        hours, minutes = text.split(":")
        return int(hours) * 60 + int(minutes)

    def text(self, value: Any) -> str:
        """As `HH:MM`."""
        return f"{value // 60:02d}:{value % 60:02d}"


class Zone(Kind):
    """An IANA time zone; empty: this machine's."""

    def read(self, value: object) -> str:
        """As `Kind.read`."""
        from zoneinfo import ZoneInfo

        name: str = _typed(value, str, "text")
        if name:
            try:
                ZoneInfo(name)
            except (OSError, ValueError, LookupError):
                raise BadValueError("write a zone's IANA name, for example Europe/Berlin or UTC") from None
        return name


class Place(Kind):
    """A file or folder, absolute; `~` is the home folder. In the environment it may be relative to where one is."""

    def __init__(self, empty: bool = True) -> None:
        self.empty = empty

    def read(self, value: object) -> str:
        """As `Kind.read`."""
        text = Text(empty=self.empty).read(value)
        path = os.path.expanduser(text)
        if path and not os.path.isabs(path):
            raise BadValueError("it must begin with / (or ~), so that it means the same from everywhere")
        return os.path.normpath(path) if path else ""

    def from_text(self, text: str) -> object:
        """Made absolute."""
        return os.path.abspath(os.path.expanduser(text)) if text else text


class VaultName(Kind):
    """A vault: its name, or its folder."""

    def read(self, value: object) -> str:
        """As `Kind.read`."""
        text = Text(empty=False).read(value)
        if "/" in text:
            return Place().read(text)
        try:
            return check_vault_name(text)
        except InvalidInputError as error:
            raise BadValueError(error.why or error.message) from None

    def from_text(self, text: str) -> object:
        """A folder is made absolute."""
        return os.path.abspath(text) if "/" in text else text
