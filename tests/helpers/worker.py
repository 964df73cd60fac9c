"""One of several processes that work on one vault at random.

Each has an item of its own, of which it takes points; it restores, deletes, holds and prunes those of all. Images are
put together from a small stock of chunks that all processes share, so what one lets die another meets again. Before a
point is taken its image is copied; a restore of anybody's point is compared with the copy.

What may go wrong is named in `EXPECTED`; anything else ends the process with a trace. It tells of every operation
through a pipe, so that whoever kills it knows how far it is.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from blockvault import failpoints
from blockvault.engine import packing
from blockvault.errors import BlockVaultError
from blockvault.model import PointInfo
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.vault import Vault
from helpers.files import first_difference, keep_copy, noise, text, write_at
from helpers.site import CHUNK

STOCK = 24  # different chunks that there are, but for edits
CHUNKS = 16
# By operation, the kinds of errors that others' work may bring about. None of them says that anything is damaged.
EXPECTED = {
    "snapshot": {"transfer.conflict"},
    "restore": {"point.not-found", "point.deleted"},
    "delete": {"point.not-found", "point.deleted", "point.ended", "point.held", "point.marked-meanwhile"},
    "hold": {"point.not-found", "point.deleted", "point.ended"},
    "unhold": {"point.not-found", "point.deleted", "point.ended", "point.not-held"},
    "prune": {"vault.locked", "reclaim.parent-gone"},
    "verify": set(),
    "compare": {"point.not-found"},
}
WEIGHTS = {
    "snapshot": 40,
    "restore": 14,
    "delete": 16,
    "hold": 2,
    "unhold": 2,
    "prune": 18,
    "verify": 4,
    "compare": 2,
    "reopen": 3,
}


class Worker:
    """Does `operations` of them, chosen by `seed`."""

    def __init__(self, state: str, folder: str, number: int, seed: int, operations: int, pack_bytes: int) -> None:
        self.state = state
        self.folder = Path(folder)
        self.number = number
        self.rng = random.Random(seed)
        self.operations = operations
        self.image = self.folder / f"disk{number}.img"
        self.pending = self.folder / f"pending{number}"
        self.pack_bytes = pack_bytes

    def dawdle(self, name: str) -> None:
        """Wait now and then at a step, so that others come in between."""
        if name.startswith(("reclaim.", "transfer.", "generation.", "mark.", "prune.")) and random.random() < 0.15:
            time.sleep(random.random() * 0.03)

    def run(self, tell: Callable[[str], None]) -> None:
        packing.PACK_BYTES = self.pack_bytes
        failpoints.set_hook(self.dawdle)
        if not self.image.exists():
            self.image.write_bytes(b"".join(stock(self.rng.randrange(STOCK)) for _ in range(CHUNKS)))
        self.vault = Vault.open(state_dir=self.state)
        self.settle()
        for _ in range(self.operations):
            verb = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            try:
                outcome = getattr(self, verb)() or "done"
            except BlockVaultError as error:
                if error.kind not in EXPECTED[verb]:
                    raise
                outcome = error.kind
            tell(f"{verb}: {outcome}")
        self.vault.close()

    def settle(self) -> None:
        """A process of this number that was killed may have committed a point without giving its copy a name."""
        if self.pending.exists():
            for info in self.vault.points():
                if info.item == self.image.stem and not self.copy(info).exists():
                    self.pending.rename(self.copy(info))
                    return

    def copy(self, info: PointInfo) -> Path:
        return self.folder / f"{info.id}.copy"

    def some_point(self) -> PointInfo | None:
        there = self.vault.points()
        return self.rng.choice(there) if there else None

    # --- operations ---

    def snapshot(self) -> str | None:
        for _ in range(self.rng.randint(0, 5)):
            write_at(self.image, self.rng.randrange(CHUNKS) * CHUNK, stock(self.rng.randrange(STOCK)))
        if self.rng.random() < 0.4:
            write_at(self.image, self.rng.randrange(CHUNKS * CHUNK - 99), b"edit %d" % self.rng.randrange(20))
        self.pending.unlink(missing_ok=True)
        keep_copy(self.image, self.pending)
        monitor = Monitor()
        result = self.vault.snapshot(
            [str(self.image)], name=self.image.stem, keep=False, full=self.rng.random() < 0.2, monitor=monitor
        )
        assert not monitor.warnings, monitor.warnings
        self.pending.rename(self.folder / f"{result.id}.copy")
        return None

    def restore(self) -> str | None:
        info = self.some_point()
        if info is None:
            return "nothing there"
        target = self.folder / f"restored{self.number}"
        target.unlink(missing_ok=True)
        self.vault.restore(info.id, output=str(target), source="vault")
        copy = self.copy(info)
        if not copy.exists():
            return "no copy yet"
        assert first_difference(target, copy) is None, f"point {info.label} ({info.id}) of item {info.item} is wrong"
        return None

    def delete(self) -> str | None:
        info = self.some_point()
        if info is None or len(self.vault.points()) < 4:
            return "few there"
        self.vault.delete_point(info.id, purge=self.rng.random() < 0.8)
        return None

    def hold(self) -> None:
        if (info := self.some_point()) is not None:
            self.vault.hold(info.id)

    def unhold(self) -> None:
        held = [info for info in self.vault.points(deleted=True) if info.state.held]
        if held:
            self.vault.unhold(self.rng.choice(held).id)

    def prune(self) -> str | None:
        rules = RetentionRules(keep_last=4) if self.rng.random() < 0.3 else RetentionRules()
        result = self.vault.prune(self.vault.plan_prune(rules, max_dead=0.0), confirmed=True)
        if result.problem is not None:
            raise result.problem
        if result.reclaim.waiting_objects:
            return "waits"
        return "freed" if result.reclaim.freed_bytes else None

    def verify(self) -> None:
        report = self.vault.verify(quick=self.rng.random() < 0.6)
        assert not report.damage, report.damage

    def compare(self) -> None:
        if (info := self.some_point()) is not None:
            self.vault.diff(info.id, str(self.folder / f"{info.item}.img"))

    def reopen(self) -> None:
        self.vault.close()
        self.vault = Vault.open(state_dir=self.state)


def stock(number: int) -> bytes:
    """A chunk of the stock: half of them compress."""
    return noise(CHUNK, number) if number % 2 else text(CHUNK, number)


def work(pipe: Connection, order: dict[str, Any]) -> None:
    """What a child process runs: sends the outcome of each operation, then `""`, or the trace of what went wrong."""
    try:
        Worker(**order).run(pipe.send)
        pipe.send("")
    except BaseException:  # noqa: BLE001 - whatever it was, the test is told
        pipe.send(traceback.format_exc())
        raise SystemExit(1) from None
