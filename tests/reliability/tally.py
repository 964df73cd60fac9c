"""What was counted, kept in a file so that a long run can be made in pieces, and the table that is made of it."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import blockvault
from reliability.operations import OPERATIONS

if TYPE_CHECKING:
    from pathlib import Path

ENDS = ("kill at a step", "kill at a random moment", "cut after a sync", "cut at a random moment", "cut after success")
BEGIN, END = "<!-- figures: kills and power cuts -->", "<!-- end of figures -->"
_PROGRESS_SECONDS = 5.0


@dataclass
class Course:
    """What an operation does on one file system when nothing disturbs it. `steps`: visits still to be killed at."""

    seconds: float
    steps: list[tuple[str, int]] = field(default_factory=list)


class TimeUpError(Exception):
    """The time that was given for this run is over."""


@dataclass
class Tally:
    """Counts by operation and end.

    `failures`: each with all that is needed to look for it. `unmet`: by file system and operation, the syncs of its
    first run after which there was no cut yet; `courses`: the like for kills.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    places: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    unmet: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    courses: dict[str, dict[str, Course]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    seconds: float = 0.0
    seconds_max: float = float("inf")  # of this run
    path: Path | None = None  # kept there while it runs
    _told: float = field(default=0.0, repr=False)
    _begun: float = field(default_factory=time.monotonic, repr=False)

    def note(
        self, operation: str, end: str, place: str, where: str, errors: list[str], counts: Counter[str] | None
    ) -> None:
        """One end of one operation, and what was found after it."""
        self.rows.setdefault(operation, Counter())[end] += 1
        if end in ENDS:
            self.places[f"{end.split(maxsplit=1)[0]}s on {place}"] += 1
        if counts:
            self.counts += counts
        if errors:
            self.rows[operation]["lost"] += 1
            words = f"seed {self.seeds[-1]}: {operation}, {end} ({where}), {place}: {'; '.join(errors)}"
            self.failures.append(words)
            print(f"\nFAILED  {words}", file=sys.stderr, flush=True)
        now = time.monotonic()
        if now - self._told > _PROGRESS_SECONDS:
            self._told = now
            print(self.progress(), file=sys.stderr, flush=True)
            if self.path is not None:
                self.save(self.path)
        if now - self._begun > self.seconds_max:
            raise TimeUpError

    def step(self, name: str) -> None:
        """A kill at a named step."""
        self.steps[name] += 1

    def total(self, *beginnings: str) -> int:
        """Ends of these kinds."""
        return sum(n for row in self.rows.values() for end, n in row.items() if end.startswith(beginnings))

    def progress(self) -> str:
        """One line."""
        seconds = time.monotonic() - self._begun
        return (
            f"{self.total('kill'):5d} kills, {self.total('cut'):4d} power cuts, {len(self.failures)} failures, "
            f"{self.counts['restores compared']} restores compared, {seconds:.0f} s"
        )

    def load(self, path: Path) -> None:
        """Add what a file holds."""
        stored = json.loads(path.read_text())
        for name, row in stored["rows"].items():
            self.rows.setdefault(name, Counter()).update(row)
        for name in ("places", "counts", "steps"):
            getattr(self, name).update(stored[name])
        for kind, operations in stored["unmet"].items():
            own = self.unmet.setdefault(kind, {})
            for name, syncs in operations.items():
                own[name] = [sync for sync in syncs if sync in own.get(name, syncs)]  # met in any is met
        for kind, operations in stored["courses"].items():
            courses = self.courses.setdefault(kind, {})
            for name, course in operations.items():
                steps = [(step, visit) for step, visit in course["steps"]]
                if name in courses:
                    steps = [step for step in steps if step in courses[name].steps]
                courses[name] = Course(course["seconds"], steps)
        self.failures += stored["failures"]
        self.seeds += stored["seeds"]
        self.seconds += stored["seconds"]

    def save(self, path: Path) -> None:
        """Keep it."""
        names = ("rows", "places", "counts", "steps", "unmet", "failures", "seeds")
        kept = {name: getattr(self, name) for name in names}
        kept["seconds"] = self._spent()
        kept["courses"] = {kind: {name: asdict(one) for name, one in own.items()} for kind, own in self.courses.items()}
        path.write_text(json.dumps(kept, indent=1))

    def _spent(self) -> float:
        return self.seconds + time.monotonic() - self._begun

    def markdown(self) -> str:
        """The table, and what was found on the way."""
        head = ["operation", *ENDS, "survived", "lost"]
        lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
        total: Counter[str] = Counter()
        known = [operation.name for operation in OPERATIONS]
        for name, row in sorted(self.rows.items(), key=lambda pair: known.index(pair[0])):
            total += row
            lines.append(self._line(name, row))
        lines.append(self._line("**all**", total))
        places = ", ".join(f"{n} {place}" for place, n in sorted(self.places.items()))
        counts = ", ".join(f"{n} {name}" for name, n in sorted(self.counts.items()))
        steps = ", ".join(f"`{name}` {n}" for name, n in sorted(self.steps.items()))
        rest = sum(len(syncs) for own in self.unmet.values() for syncs in own.values())
        visits = sum(len(course.steps) for own in self.courses.values() for course in own.values())
        seeds = f"seeds {', '.join(map(str, self.seeds))}"
        system = f"Linux {platform.release().split('-')[0]} on {platform.machine()}, Python {platform.python_version()}"
        ends = f"{self.total('kill')} kills and {self.total('cut')} power cuts in {self._spent() / 60:.0f} minutes"
        early = total["ended before its kill"]
        lines += [
            "",
            f"{ends}; {seeds}; BlockVault {blockvault.__version__}; {system}.",
            "",
            f"* Where: {places}.",
            f"* What was looked at and found: {counts}.",
            f"* Processes that ended before the moment drawn for their kill, checked all the same: {early}.",
            f"* Steps killed at: {steps}.",
            f"* By operation and file system, not met: {visits} visits of steps (four of each at most), {rest} syncs.",
        ]
        return "\n".join(lines) + "\n"

    def _line(self, name: str, row: Counter[str]) -> str:
        ends = [row[end] for end in ENDS]
        return "| " + " | ".join(map(str, [name, *ends, sum(ends) - row["lost"], row["lost"]])) + " |"

    def write(self, document: Path) -> None:
        """Put the figures between the marks of the document."""
        text = document.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        if not after:
            raise ValueError(f"{document} has no place for the figures: {BEGIN} ... {END}")
        document.write_text(f"{before}{BEGIN}\n{self.markdown()}{END}{after}")
