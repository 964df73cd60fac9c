"""Power cuts: the device under the file system is cloned while the work goes on, and the clone is the world after.

Vault, state and images lie on one file system (ext4 or xfs) in a file on an xfs that shares extents. One run of an
operation is cut many times: right after each sync that its processes make (they stop there by themselves), at random
moments while they run, and right after they said that they succeeded. Each clone is mounted in the place of the
original by a process with mounts of its own, which replays the journal and looks at everything.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reliability import checks, ground, kills, runner

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from reliability.operations import Command, Operation
    from reliability.tally import Tally
    from reliability.world import World

SIZE = 400 << 20  # the least that mkfs.xfs takes is 300 MiB; it is sparse
PER_RUN = 12  # cuts of one run of an operation
RUNS = 9  # of operations in one world
THOROUGH_EVERY = 10


@dataclass(frozen=True)
class Cut:
    """The device at an instant. `acked`: which commands had told of success by then."""

    device: Path
    end: str
    where: str
    acked: list[bool]


class Cutter:
    """Cuts on one kind of file system; `folder` lies on an xfs.

    `unmet` says for each operation after which of its syncs there was no cut yet; the cutters of one kind share it.
    """

    def __init__(
        self,
        kind: str,
        world: World,
        folder: Path,
        operations: list[Operation],
        tally: Tally,
        unmet: dict[str, list[int]],
    ) -> None:
        self.kind = kind
        self.world = world
        self.operations = operations
        self.tally = tally
        self.rng: random.Random = world.rng
        self._file = folder / "device"
        self._clones = folder / "clones"
        self._mount = world.root.parent
        self._seconds: dict[str, float] = {}
        self._unmet = unmet
        self._count = 0
        self._clones.mkdir(parents=True, exist_ok=True)

    def life(self, wanted: int) -> int:
        """One world on a new file system, cut at most so often. Returns how often it was."""
        self._file.unlink(missing_ok=True)
        ground.make_file_system(self._file, self.kind, SIZE)
        ground.mount(self._file, self.kind, self._mount)
        done = 0
        try:
            beginning = [operation for operation in self.operations if operation.begins]
            others = [one for one in self.operations if not one.begins and one.encrypted <= self.world.encrypted]
            weights = [operation.weight for operation in others]
            then = self.rng.choices(others, weights=weights, k=RUNS - len(beginning)) if others else []
            for operation in [*beginning, *then]:
                if done >= wanted:
                    break
                try:
                    count, sound = self._run(operation, wanted - done)
                except runner.UndisturbedError as error:
                    self.tally.note(operation.name, "undisturbed", self.kind, "nothing was cut", [str(error)], None)
                    break
                done += count
                if not sound:
                    break
        finally:
            ground.unmount(self._mount)
        return done

    def _run(self, operation: Operation, most: int) -> tuple[int, bool]:
        world = self.world
        commands = operation.prepare(world)
        cuts = self._cut(operation, commands, min(most, PER_RUN))
        sound = True
        place = f"{self.kind}{', encrypted' * world.encrypted}"
        for cut in cuts:
            self._count += 1
            self.rng.random()  # a clone is looked at by a copy of this: let each choose other points
            thorough = self._count % THOROUGH_EVERY == 0
            found: checks.Findings = runner.answer(lambda cut=cut, t=thorough: self._after(cut, commands, thorough=t))
            self.tally.note(operation.name, cut.end, place, cut.where, found.errors, found.counts)
            sound = sound and not found.errors
            cut.device.unlink()
        # The original went on: it is the next operation's world.
        found = checks.look(world, commands, [True] * len(commands), sample=0)
        if found.errors:
            raise runner.UndisturbedError(f"{operation.name}: {found.errors}")
        return len(cuts), sound

    def _after(self, cut: Cut, commands: list[Command], *, thorough: bool) -> checks.Findings:
        """In a process with mounts of its own: the clone in the place of the original, and everything examined."""
        ground.enter_namespace()
        ground.mount(cut.device, self.kind, self._mount)
        try:
            return checks.examine(self.world, commands, cut.acked, thorough=thorough)
        finally:
            ground.unmount(self._mount)

    def _cut(self, operation: Operation, commands: list[Command], most: int) -> list[Cut]:
        at_syncs, times = self._plan(operation.name, most - 1)
        acked = [False] * len(commands)
        cuts: list[Cut] = []

        def cut(end: str, where: str) -> None:
            device = self._clones / f"{len(cuts)}"
            ground.clone(self._file, device)
            cuts.append(Cut(device, end, where, list(acked)))

        begun = time.monotonic()
        pids = kills.start(self.world, commands, stops=True)
        running = set(pids)
        syncs = 0
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                elapsed = time.monotonic() - begun
                if times and elapsed >= times[0]:
                    times.pop(0)
                    cut("cut at a random moment", f"after {elapsed:.3f} s")
                else:
                    time.sleep(0.0003)
            elif os.WIFSTOPPED(status):
                syncs += 1
                if syncs in at_syncs:
                    cut("cut after a sync", f"sync {syncs}")
                os.kill(pid, signal.SIGCONT)
            else:
                running.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                if code not in runner.GOOD:
                    output = kills.orders(self.world, commands)[pids.index(pid)].output()
                    raise runner.UndisturbedError(f"{operation.name} ended with {code}:\n{output}")
                acked[pids.index(pid)] = True
        cut("cut after success", "the end")
        if operation.name not in self._unmet:
            self._unmet[operation.name] = [sync for sync in range(1, syncs + 1) if sync not in at_syncs]
            self.rng.shuffle(self._unmet[operation.name])
        self._seconds[operation.name] = time.monotonic() - begun
        return cuts

    def _plan(self, name: str, most: int) -> tuple[set[int], list[float]]:
        """Syncs and moments to cut at: two thirds after syncs that had none yet."""
        moments = max(0, most // 3)
        unmet = self._unmet.get(name)
        if unmet is None:  # nothing is known of it: the first ones
            chosen = set(range(1, most - moments + 1))
        else:
            chosen = {unmet.pop() for _ in range(min(len(unmet), most - moments))}
        seconds = self._seconds.get(name, 0.2)
        return chosen, sorted(self.rng.uniform(0, seconds) for _ in range(most - len(chosen)))
