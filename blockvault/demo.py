"""Everything once, on real data: two points of a small disk image, both restored, compared byte for byte.

The image is made from the machine's own files, in a folder of its own with a state folder of its own: nothing of the
user's is touched. The first point is restored from the vault alone, the second from its snapshot, so both ways back
are shown.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockvault.model import RestoreResult, SnapshotResult, Tier
from blockvault.monitor import Monitor
from blockvault.units import MIB, format_size
from blockvault.vault import Vault
from blockvault.workload import Churn, ChurnReport, ImageReport, apply_churn, build_image

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 128 * MIB
SEED = 1


@dataclass(frozen=True, slots=True)
class DemoRestore:
    """One restore and whether every byte is as it was when the point was taken."""

    result: RestoreResult
    identical: bool


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What happened, and where the time went."""

    folder: str
    image: ImageReport
    churn: ChurnReport
    points: tuple[SnapshotResult, ...]
    restores: tuple[DemoRestore, ...]
    build_seconds: float
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every restored byte is right."""
        return all(restore.identical for restore in self.restores)


def run_demo(
    folder: str, *, tell: Callable[[str], None], monitor: Monitor, size: int = SIZE, seed: int = SEED
) -> DemoReport:
    """Run the demonstration in an existing empty folder; `tell` gets a line before each step."""
    began = time.monotonic()
    disk = os.path.join(folder, "disk.img")
    tell(f"making a disk image of {format_size(size)} from this machine's files")
    image = build_image(disk, size, seed)
    build_seconds = time.monotonic() - began
    with Vault.create("demo", state_dir=os.path.join(folder, "state")) as vault:
        tell("taking point 1: all data goes into the vault")
        first = vault.snapshot([disk], monitor=monitor)
        as_first = os.path.join(folder, "disk-as-at-point-1.img")
        shutil.copyfile(disk, as_first)
        monitor.check()
        churn = apply_churn(disk, Churn.RANDOM_PAGES, seed)
        tell(f"changed {churn.pages_changed} pages of it ({format_size(churn.changed_bytes)}), all over the disk")
        tell("taking point 2: only the churn goes into the vault")
        second = vault.snapshot([disk], monitor=monitor)
        restores = []
        for taken, tier, truth in ((first, Tier.VAULT, as_first), (second, Tier.SNAPSHOT, disk)):
            source = tier.value if taken.tier in (tier, Tier.BOTH) else "auto"
            tell(f"restoring point {taken.number} from the {tier.value}, then comparing every byte")
            target = os.path.join(folder, f"restored-point-{taken.number}.img")
            result = vault.restore(str(taken.number), output=target, source=source, monitor=monitor)
            restores.append(DemoRestore(result, same_bytes(truth, target)))
            monitor.check()
    return DemoReport(folder, image, churn, (first, second), tuple(restores), build_seconds, time.monotonic() - began)


def same_bytes(left: str, right: str) -> bool:
    """Whether two files have the same size and bytes."""
    with open(left, "rb", buffering=0) as one, open(right, "rb", buffering=0) as other:
        if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
            return False
        while piece := one.read(4 * MIB):
            if piece != _read_exactly(other.fileno(), len(piece)):
                return False
    return True


def _read_exactly(fd: int, byte_count: int) -> bytes:
    pieces = []
    while byte_count and (piece := os.read(fd, byte_count)):
        pieces.append(piece)
        byte_count -= len(piece)
    return b"".join(pieces)
