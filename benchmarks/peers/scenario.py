"""The steps that every tool goes through, in one order, on the same bytes.

Invariants:
- Each tool begins with a copy of the same image, and the same seeds change it: the digest of the image at each step
  must be that of the first tool, or the run ends. Each has its own folder, which is removed after it.
- Before each point the image is read whole: the page cache is warm for all, and that reading gives the digest.
- A restored image is compared byte by byte with the one it was taken of; one that differs is a failure and not a time.
- A step that fails is told and the tool goes on, except that nothing comes after a first point that failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from blake3 import blake3

from benchmarks.peers.measuring import Figures, StepFailedError, measure, stored_bytes, sync_file_system
from benchmarks.peers.tool import Command, Kind, Tool
from blockvault import workload
from blockvault.units import PAGE_BYTES
from blockvault.workload import Churn

SEED = 1
_BUFFER_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20


class Step(StrEnum):
    """What is measured, in this order."""

    FIRST = "first"
    PAGES = "random-pages"
    RUNS = "runs"
    UNTOUCHED = "untouched"
    NOTHING = "nothing"
    REWRITE = "rewrite-20"
    NEW = "new-data"
    CLONE = "clone"
    SIMILAR = "similar"
    RESTORE_OLDEST = "restore-oldest"
    VERIFY_ONE = "verify-one"
    VERIFY = "verify"
    RECLAIM = "delete-reclaim"
    RESTORE_NEWEST = "restore-newest"  # last: what reclaim damaged would be found


TITLES = {
    Step.FIRST: "first point",
    Step.PAGES: "random 4 KiB pages, 1%",
    Step.RUNS: "runs of pages, 1%",
    Step.UNTOUCHED: "not touched",
    Step.NOTHING: "nothing changed, new time stamp",
    Step.REWRITE: "a fifth rewritten",
    Step.NEW: "5% new data",
    Step.CLONE: "a clone, 5% of it changed",
    Step.SIMILAR: "a similar VM, its files elsewhere",
    Step.RESTORE_OLDEST: "restore of the oldest",
    Step.VERIFY_ONE: "verify of the newest point",
    Step.VERIFY: "verify, every byte",
    Step.RECLAIM: "delete the oldest, reclaim",
    Step.RESTORE_NEWEST: "restore of the newest",
}
BACKUPS = tuple(Step)[:9]
OLDEST, NEWEST = Step.FIRST, Step.NEW  # of the disk itself: what comes after is other disks
_CHURN = {Step.PAGES: Churn.RANDOM_PAGES, Step.RUNS: Churn.RUNS, Step.REWRITE: Churn.REWRITE_20}


class NotTheSameError(Exception):
    """A tool did not get the bytes that the first one got: nothing may be compared."""


@dataclass
class Outcome:
    """One step of one tool: its figures, or why there are none."""

    seconds: float | None = None
    sync_seconds: float | None = None
    cpu_seconds: float | None = None
    anonymous_bytes: int | None = None
    stored_bytes: int | None = None  # growth of the repository, below 0 if it shrank; of a ceiling its copy
    repository_bytes: int | None = None  # what all of it takes after the step
    load: float | None = None
    failure: str | None = None

    @classmethod
    def of(cls, figures: Figures, stored: int | None = None, repository: int | None = None) -> Outcome:
        """The outcome of a step that went well."""
        values = asdict(figures)
        del values["output"]
        return cls(**values, stored_bytes=stored, repository_bytes=repository)


@dataclass
class Images:
    """The images that no tool changes, and the digests that all must agree on."""

    folder: str
    size: int
    pristine: str
    similar: str
    digests: dict[str, str] = field(default_factory=dict)
    changed_bytes: dict[str, int] = field(default_factory=dict)


def make_images(folder: str, size: int) -> Images:
    """Build the image, and that of a similar VM: three quarters of the same files, so that all lie elsewhere."""
    pristine, similar = (os.path.join(folder, f"{name}-{size}-{SEED}.img") for name in ("image", "similar"))
    if not os.path.exists(pristine):
        workload.build_image(f"{pristine}.new", size, SEED)
        os.rename(f"{pristine}.new", pristine)
    if not os.path.exists(similar):
        # Of what the image holds, and not of its size: its files may be used up before the room is.
        workload.build_image(f"{similar}.new", size, SEED, data_bytes=os.stat(pristine).st_blocks * 512 * 3 // 4)
        workload.apply_churn(f"{similar}.new", Churn.RUNS, SEED + 100, 0.05)
        os.rename(f"{similar}.new", similar)
    return Images(folder, size, pristine, similar)


def run_tool(
    make: type[Tool], images: Images, say: Callable[[str], None], timeout: float | None = None
) -> dict[Step, Outcome]:
    """Take one tool through all steps."""
    home = os.path.join(images.folder, "work")
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home)
    try:
        return _Run(make(os.path.join(home, "tool")), images, home, say, timeout).all_steps()
    finally:
        shutil.rmtree(home, ignore_errors=True)


class _Run:
    def __init__(
        self, tool: Tool, images: Images, home: str, say: Callable[[str], None], timeout: float | None
    ) -> None:
        self.tool, self.images, self.home, self.say, self.timeout = tool, images, home, say, timeout
        self.outcomes: dict[Step, Outcome] = {}
        # Folders of their own, one name: some tools take folders, some remember paths.
        self.disk = os.path.join(home, "disk", "disk.img")

    def all_steps(self) -> dict[Step, Outcome]:
        """Every step in order."""
        _copy(self.images.pristine, self.disk)
        self.tool.prepare()
        try:
            self._measure(self.tool.begin())
        except StepFailedError as error:
            self.outcomes[Step.FIRST] = Outcome(failure=str(error))
            self.say(f"  {self.tool.name}: {error}")
            return self.outcomes
        for step in BACKUPS:
            self._note(step, lambda step=step: self._back_up(step))  # type: ignore[misc]
            if self.outcomes[Step.FIRST].failure:
                return self.outcomes
        points = self.tool.kind is not Kind.CEILING
        if points:
            self._note(Step.RESTORE_OLDEST, lambda: self._restore(OLDEST, self.images.pristine))
        if self.tool.verify_one(NEWEST) is not None:
            self._note(Step.VERIFY_ONE, lambda: Outcome.of(self._measure(self.tool.verify_one(NEWEST) or [])))
        if self.tool.verify() is not None:
            self._note(Step.VERIFY, lambda: Outcome.of(self._measure(self.tool.verify() or [])))
        if points and self.tool.delete(OLDEST) is not None:
            self._note(Step.RECLAIM, self._reclaim)
        self._note(Step.RESTORE_NEWEST, lambda: self._restore(NEWEST, self.disk))
        return self.outcomes

    def _note(self, step: Step, work: Callable[[], Outcome]) -> None:
        try:
            outcome = work()
        except (StepFailedError, ValueError, KeyError) as error:
            outcome = Outcome(failure=str(error) if not isinstance(error, KeyError) else "there is no such point")
        self.outcomes[step] = outcome
        told = f"FAILED: {outcome.failure}" if outcome.failure else f"{outcome.seconds:.2f} s, load {outcome.load:.1f}"
        self.say(f"  {self.tool.name}: {TITLES[step]}: {told}")

    def _measure(self, commands: list[Command]) -> Figures:
        return measure(commands, self.tool.environment(), self.home, self.timeout)

    def _back_up(self, step: Step) -> Outcome:
        image = self._change(step)
        digest = _digest(image)
        if self.images.digests.setdefault(step, digest) != digest:
            raise NotTheSameError(f"at '{step}' {self.tool.name} got other bytes than the first tool")
        before = stored_bytes(self.tool.repository)
        figures = self._measure(self.tool.backup(image, step))
        self.tool.remember(step, image, figures.output)
        after = stored_bytes(self.tool.repository)
        if self.tool.kind is Kind.CEILING:
            # It overwrites its copy: what the point costs is the copy, of which there is one a disk.
            copies = len(set(self.tool.points.values()))
            return Outcome.of(figures, after if copies == 1 else after - before, after)
        return Outcome.of(figures, after - before, after)

    def _change(self, step: Step) -> str:
        """Make the disk what it is at this step; returns the image that is backed up."""
        if step is Step.CLONE:
            clone = os.path.join(self.home, "clone", "disk.img")
            _copy(self.disk, clone)
            self._churn(step, clone, Churn.RUNS, 0.05)
            return clone
        if step is Step.SIMILAR:
            shutil.rmtree(os.path.join(self.home, "clone"))
            similar = os.path.join(self.home, "similar", "disk.img")
            _copy(self.images.similar, similar)
            return similar
        if step in _CHURN:
            self._churn(step, self.disk, _CHURN[step])
        if step is Step.NEW:
            self.images.changed_bytes[step] = write_new_data(self.disk, SEED, 0.05)
        if step is not Step.UNTOUCHED:
            # A day later each time: rsync takes two times within one second for one, and small images are done in less.
            os.utime(self.disk, times=(workload.BUILD_TIME + 86_400 * list(Step).index(step),) * 2)
        return self.disk

    def _churn(self, step: Step, image: str, model: Churn, fraction: float | None = None) -> None:
        report = workload.apply_churn(image, model, SEED + list(Step).index(step), fraction)
        self.images.changed_bytes[step] = report.changed_bytes

    def _restore(self, label: Step, source: str) -> Outcome:
        folder = os.path.join(self.home, "restored")
        os.makedirs(folder)
        try:
            _digest(source)  # warm, as before each point
            figures = self._measure(self.tool.restore(label, folder))
            if not same_bytes(self.tool.restored(label, folder), source):
                raise StepFailedError("what was restored is not what was backed up")
            return Outcome.of(figures)
        finally:
            shutil.rmtree(folder)
            sync_file_system(self.home)

    def _reclaim(self) -> Outcome:
        before = stored_bytes(self.tool.repository)
        figures = self._measure(self.tool.delete(OLDEST) or [])
        after = stored_bytes(self.tool.repository)
        return Outcome.of(figures, after - before, after)


def write_new_data(path: str, seed: int, fraction: float) -> int:
    """Replace that share of an image's data by data that is nowhere else; returns the bytes of the pages changed.

    Each byte of what is there is changed alike: that compresses as before and repeats as before, but no chunk, wherever
    it is cut, and no earlier version is like it. `workload`'s churn is made of the image's own data, moved, and a tool
    whose chunks go by content may find that again.
    """
    changed = 0
    with open(path, "r+b") as image:
        allocated = os.fstat(image.fileno()).st_blocks * 512
        pieces = np.random.default_rng(seed).permutation(-(-os.path.getsize(path) // _PIECE_BYTES))
        for piece in pieces.tolist():
            if changed >= allocated * fraction:
                break
            image.seek(piece * _PIECE_BYTES)
            data = np.frombuffer(image.read(_PIECE_BYTES), np.uint8)
            pages = data[: len(data) // PAGE_BYTES * PAGE_BYTES].reshape(-1, PAGE_BYTES)
            kept = np.asarray(~pages.any(axis=1))  # what is free stays free
            image.seek(piece * _PIECE_BYTES)
            image.write(np.where(kept[:, None], pages, pages ^ 0xA5).tobytes())
            changed += int((~kept).sum()) * PAGE_BYTES
    return changed


def same_bytes(one: str, other: str) -> bool:
    """Whether two files hold the same bytes; False if one is not there."""
    try:
        with open(one, "rb") as left, open(other, "rb") as right:
            while True:
                a, b = left.read(_BUFFER_BYTES), right.read(_BUFFER_BYTES)
                if a != b:
                    return False
                if not a:
                    return True
    except FileNotFoundError:
        return False


def _digest(path: str) -> str:
    hasher: Any = blake3()
    with open(path, "rb") as source:
        while piece := source.read(_BUFFER_BYTES):
            hasher.update(piece)
    return str(hasher.hexdigest())


def _copy(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target))
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
