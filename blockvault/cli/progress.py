"""Readers of a `Monitor`: bars on a terminal, a line each 30 seconds elsewhere, JSON lines for programs.

Every reader may be called from any thread of the library and writes under one lock.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockvault.monitor import Monitor
from blockvault.units import format_seconds, format_size

if TYPE_CHECKING:
    from blockvault.cli.render import Output

LINE_SECONDS = 30.0
STATUS_SECONDS = 0.25


@dataclass
class Phase:
    """Where a phase stands."""

    name: str
    total_bytes: int
    done_bytes: int
    began: float

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Bytes a second so far."""
        return self.done_bytes / max(self.seconds, 1e-3)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before there is one."""
        return max(0, self.total_bytes - self.done_bytes) / self.rate if self.done_bytes else None


class QuietMonitor(Monitor):
    """Tells warnings and notes, and keeps the running phase; the other readers add how they show it.

    A phase that begins again under its name, as for the next disk, goes on where it stood with a larger total.
    """

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output
        self.current: Phase | None = None
        self._phases: dict[str, Phase] = {}
        self._show = threading.RLock()

    def warn(self, kind: str, message: str) -> None:
        """Collect the warning and tell it at once."""
        super().warn(kind, message)
        with self._show:
            self.output.warning(message, kind)

    def on_phase(self, name: str, total_bytes: int) -> None:
        """A phase begins."""
        with self._show:
            phase = self._phases.setdefault(name, Phase(name, 0, 0, time.monotonic()))
            phase.total_bytes += total_bytes
            self.current = phase
            self.begin(phase)

    def on_advance(self, byte_count: int) -> None:
        """The phase went on."""
        with self._show:
            if self.current is not None:
                self.current.done_bytes += byte_count
                self.update(self.current)

    def on_message(self, level: str, message: str) -> None:
        """Notes; warnings are told by `warn`, which knows their kind."""
        if level != "warning":
            with self._show:
                self.output.note(message)

    def begin(self, phase: Phase) -> None:
        """Show that a phase began."""

    def update(self, phase: Phase) -> None:
        """Show how far it is."""

    def close(self) -> None:
        """The job is over."""


class LineMonitor(QuietMonitor):
    """One line on standard error each 30 seconds."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._due = 0.0

    def begin(self, phase: Phase) -> None:
        """The first line comes after 30 seconds: short jobs stay silent."""
        self._due = self._due or phase.began + LINE_SECONDS

    def update(self, phase: Phase) -> None:
        """A line, if one is due."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + LINE_SECONDS
            self.output.message("", progress_line(phase))


class JsonMonitor(QuietMonitor):
    """`status` lines on standard output, at most four a second."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._due = 0.0

    def begin(self, phase: Phase) -> None:
        """A status line, if one is due."""
        self.update(phase)

    def update(self, phase: Phase) -> None:
        """A status line, if one is due."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + STATUS_SECONDS
            self.output.document(
                {
                    "message_type": "status",
                    "phase": phase.name.lower(),
                    "done_bytes": phase.done_bytes,
                    "total_bytes": phase.total_bytes,
                    "seconds": round(phase.seconds, 3),
                    "seconds_left": None if phase.seconds_left is None else round(phase.seconds_left, 1),
                }
            )


class BarMonitor(QuietMonitor):
    """A bar a phase, drawn by rich on standard error."""

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def begin(self, phase: Phase) -> None:
        """Another bar below those that are there; a phase that comes again (the next disk) goes on in its own."""
        if self._bars is None:
            self._bars = make_bars(self.output)
            self._bars.start()
        if phase.name not in self._tasks:
            self._tasks[phase.name] = self._bars.add_task(phase.name, total=max(1, phase.total_bytes), note="")
        else:
            self._bars.update(self._tasks[phase.name], total=max(1, phase.total_bytes), completed=phase.done_bytes)

    def update(self, phase: Phase) -> None:
        """Move the bar; rich decides when to draw."""
        left = phase.seconds_left
        note = f"{format_size(phase.rate)}/s"
        if left:
            note += f", {format_seconds(left)} left"
        elif left is not None:
            note += f", took {format_seconds(phase.seconds)}"
        self._bars.update(self._tasks[phase.name], completed=phase.done_bytes, note=note)

    def close(self) -> None:
        """Leave the bars as they stand and give the terminal back."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def make_monitor(output: Output) -> QuietMonitor:
    """The reader that fits where the output goes."""
    if output.quiet:
        return QuietMonitor(output)
    if output.as_json:
        return JsonMonitor(output)
    if output.messages.isatty():
        return BarMonitor(output)
    return LineMonitor(output)


def progress_line(phase: Phase) -> str:
    """`Transfer: 35%, 1.20 GiB of 3.40 GiB, 210 MiB/s, 10 min 02 s left`."""
    percent = 100 * phase.done_bytes // max(1, phase.total_bytes)
    parts = [
        f"{phase.name}: {percent}%",
        f"{format_size(phase.done_bytes)} of {format_size(phase.total_bytes)}",
        f"{format_size(phase.rate)}/s",
    ]
    if phase.seconds_left is not None:
        parts.append(f"{format_seconds(phase.seconds_left)} left")
    return ", ".join(parts)


def make_bars(output: Output) -> Any:
    """Bars on standard error; each task has a field `note`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    colored = output.colored(output.messages)
    console = Console(file=output.messages, no_color=not colored, highlight=False)
    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
        TextColumn("{task.percentage:>4.0f}%"),
        TextColumn("{task.fields[note]}"),
        console=console,
        refresh_per_second=5,
    )
