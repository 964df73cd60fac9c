"""SIGKILL: at every named step of an operation, and at random moments.

Each operation is first run undisturbed where it is, which tells the steps that it comes to, how often, and how long it
takes. Then kills alternate: the next of those steps that no kill was at yet, and a moment drawn over that time.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reliability import checks, runner
from reliability.tally import Course

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reliability.operations import Command, Operation
    from reliability.tally import Tally
    from reliability.world import World

VISITS = 4  # of one step in one run
THOROUGH_EVERY = 10
LIFE = 15  # kills until a world is begun anew


@dataclass(frozen=True)
class Kill:
    """Where to kill: at a visit of a step, or so many seconds after the start."""

    step: tuple[str, int] | None = None
    after: float = 0.0

    @property
    def end(self) -> str:
        """The column of the table."""
        return "kill at a step" if self.step else "kill at a random moment"


class Killer:
    """Kills in worlds of several kinds, one world after the other."""

    def __init__(self, worlds: list[tuple[str, World]], operations: list[Operation], tally: Tally) -> None:
        self.worlds = worlds
        self.operations = operations
        self.tally = tally
        self.rng = worlds[0][1].rng
        self._count = 0

    def run(self, wanted: int) -> None:
        """Until so many processes were killed."""
        killed = 0
        life = min(LIFE, -(-wanted // len(self.worlds)))
        while killed < wanted:
            for kind, world in self.worlds:
                killed += self._life(kind, world, min(life, wanted - killed))
                if killed >= wanted:
                    return

    def _life(self, kind: str, world: World, wanted: int) -> int:
        killed = 0
        for operation in self._order(world):
            if killed >= wanted:
                break
            for _ in range(1 if operation.begins else 2):
                try:
                    hit, sound = self._one(kind, world, operation)
                except runner.UndisturbedError as error:
                    self.tally.note(operation.name, "undisturbed", kind, "nothing was killed", [str(error)], None)
                    return killed
                killed += hit
                if not sound:
                    return killed  # that world is not to be trusted any further
        return killed

    def _order(self, world: World) -> Iterator[Operation]:
        """What begins a world first, then the others as they come."""
        yield self.rng.choice([operation for operation in self.operations if operation.begins])
        others = [one for one in self.operations if not one.begins and one.encrypted <= world.encrypted]
        while others:
            yield from self.rng.choices(others, weights=[operation.weight for operation in others])

    def _measure(self, world: World, operation: Operation) -> Course:
        commands = operation.prepare(world)
        begun = time.monotonic()
        reached: dict[str, int] = {}
        for index, pid in enumerate(start(world, commands)):
            code = runner.wait(pid)
            order = orders(world, commands)[index]
            if code not in runner.GOOD:
                raise runner.UndisturbedError(f"{operation.name} ended with {code}:\n{order.output()}")
            if index == 0:  # the steps of the first; what runs beside it is killed with it or goes on
                reached = order.reached()
        course = Course(time.monotonic() - begun)
        found = checks.look(world, commands, [True] * len(commands), sample=2)
        if found.errors:
            raise runner.UndisturbedError(f"{operation.name}: {found.errors}")
        course.steps = [(name, visit) for name, n in reached.items() for visit in range(1, min(n, VISITS) + 1)]
        self.rng.shuffle(course.steps)
        return course

    def _one(self, kind: str, world: World, operation: Operation) -> tuple[bool, bool]:
        """One kill and all checks. Returns whether a process was killed, and whether all was well."""
        courses = self.tally.courses.setdefault(kind.partition(",")[0], {})
        if operation.name not in courses:
            courses[operation.name] = self._measure(world, operation)
        course = courses[operation.name]
        commands = operation.prepare(world)
        kill = Kill(after=self.rng.uniform(0, course.seconds * 1.05))
        if course.steps and self.rng.random() < 0.5:
            kill = Kill(step=course.steps.pop())
        codes = self._kill(world, commands, kill)
        self._count += 1
        bad = [code for code in codes if code not in (*runner.GOOD, -signal.SIGKILL)]
        hit = -signal.SIGKILL in codes
        course.seconds *= 1.02 if hit else 0.9  # how fast the machine is changes; one in six ends before its kill
        if bad:
            errors = [f"a command ended with {bad}: {[order.output() for order in orders(world, commands)]}"]
            counts = None
        else:
            acked = [code in runner.GOOD for code in codes]
            found = checks.examine(world, commands, acked, thorough=self._count % THOROUGH_EVERY == 0)
            errors, counts = found.errors, found.counts
        where = f"{kill.step[0]}, visit {kill.step[1]}" if kill.step else f"after {kill.after:.3f} s"
        self.tally.note(operation.name, kill.end if hit else "ended before its kill", kind, where, errors, counts)
        if hit and kill.step:
            self.tally.step(kill.step[0])
        return hit, not errors

    def _kill(self, world: World, commands: list[Command], kill: Kill) -> list[int]:
        spec = f"{kill.step[0]}:kill:{kill.step[1]}" if kill.step else None
        pids = start(world, commands, failpoint=spec)
        if kill.step is None:
            time.sleep(kill.after)
            # Of two at once sometimes one goes on, sometimes the machine's owner kills both.
            for pid in pids if self.rng.random() < 0.5 else pids[:1]:
                os.kill(pid, signal.SIGKILL)
        return [runner.wait(pid) for pid in pids]


def orders(
    world: World, commands: list[Command], *, failpoint: str | None = None, stops: bool = False
) -> list[runner.Order]:
    """The commands as children; a failpoint is the first one's."""
    made = []
    for index, command in enumerate(commands):
        folder = _folder(world.scratch, index)
        made.append(
            runner.Order(
                command.argv,
                world.environment(),
                folder,
                failpoint=failpoint if index == 0 else None,
                stops=stops,
                sabotage=world.sabotage,
            )
        )
    return made


def start(world: World, commands: list[Command], *, failpoint: str | None = None, stops: bool = False) -> list[int]:
    """Start all commands at once; returns their pids."""
    return [order.start() for order in orders(world, commands, failpoint=failpoint, stops=stops)]


def _folder(scratch: Path, index: int) -> Path:
    folder = scratch / f"command-{index}"
    folder.mkdir(exist_ok=True)
    return folder
