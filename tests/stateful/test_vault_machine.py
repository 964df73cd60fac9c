"""A vault against a dictionary of plain images: any order of churn, jobs, losses and faults, every point right.

The run in CI is the same each time. For another one, and a longer one:

    BLOCKVAULT_STATEFUL_EXAMPLES=500 pytest -s tests/stateful

draws a seed, prints it, and takes `BLOCKVAULT_STATEFUL_SEED` to run that one again.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.files import GIB, differing_chunks, first_difference, keep_copy, noise, punch, resize, text, write_at
from helpers.site import CHUNK, Site
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from blockvault import failpoints
from blockvault.errors import BlockVaultError, CancelledError
from blockvault.model import ChurnSource, PointInfo, Tier
from blockvault.monitor import Monitor

SIZE_MAX = 24 * CHUNK
ITEMS = {"one": ["one.img"], "two": ["left.img", "right.img"]}
items = st.sampled_from(sorted(ITEMS))
seeds = st.integers(0, 2**16)
STEPS = (
    "store.write",
    "store.sync",
    "store.link",
    "store.linked",
    "transfer.packs",
    "transfer.layers",
    "transfer.commit",
    "transfer.committed",
    "transfer.index",
    "transfer.indexed",
    "transfer.switched",
    "digests.cell",
    "digests.sync",
    "digests.head",
    "digests.switched",
    "snapshot.raw.written",
    "snapshot.raw.saved",
    "snapshot.raw.commit",
)


class Killed(BaseException):
    """The process ends here; nothing catches it but the test."""


class VaultMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="blockvault-stateful-"))
        self.site = Site(self.root / "site")
        self.points: dict[str, dict[str, Path]] = {}  # by the point's id: what its disks held
        self.copies = 0

    # --- churn ---

    @initialize()
    def begin(self) -> None:
        for number, names in enumerate(ITEMS.values()):
            for name in names:
                path = self.site.root / name
                path.write_bytes(text(6 * CHUNK, number) + noise(6 * CHUNK, number))
                resize(path, 16 * CHUNK + 100)

    def images(self, item: str) -> list[Path]:
        return [self.site.root / name for name in ITEMS[item]]

    @rule(item=items, number=seeds)
    def pages(self, item: str, number: int) -> None:
        """Pages all over the disk are replaced."""
        rng = random.Random(number)
        for path in self.images(item):
            size = path.stat().st_size
            for _ in range(rng.randint(1, 6)):
                if size > 4096:
                    write_at(path, rng.randrange(min(size, SIZE_MAX) // 4096) * 4096, noise(4096, rng.randrange(99)))
            resize(path, size)

    @rule(item=items, number=seeds)
    def small_edits(self, item: str, number: int) -> None:
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        size = path.stat().st_size
        for _ in range(rng.randint(1, 4)):
            if size:
                write_at(path, rng.randrange(min(size, SIZE_MAX)), b"edit %d" % number)
        resize(path, size)

    @rule(item=items, number=seeds, how=st.sampled_from(["hole", "zeros"]))
    def clear(self, item: str, number: int, how: str) -> None:
        """A hole is punched, or zeros are written, over chunks or a part of one."""
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        size = path.stat().st_size
        if size < 2:
            return
        start = rng.randrange(min(size, SIZE_MAX))
        length = min(size - start, rng.choice([512, 4096, CHUNK, 5 * CHUNK]))
        if how == "hole":
            punch(path, start, length)
        else:
            write_at(path, start, bytes(length))

    @rule(item=items, number=seeds)
    def change_size(self, item: str, number: int) -> None:
        """Grow or shrink, to a chunk's edge or not, to nothing, or over the edge of a cell."""
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        chunks = rng.choice([0, 1, 3, 8, 15, 16, 17, 24])
        size = max(0, chunks * CHUNK + rng.choice([0, 0, 0, 1, -1, 511, 4096]))
        resize(path, size + (GIB if rng.random() < 0.1 else 0))

    @rule(item=items, number=seeds)
    def append(self, item: str, number: int) -> None:
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        size = path.stat().st_size
        if size < SIZE_MAX:
            write_at(path, size, noise(rng.choice([1, 4096, 2 * CHUNK]), number % 50))

    @rule(item=items, number=seeds)
    def copy_inside(self, item: str, number: int) -> None:
        """Chunks that the vault has already turn up elsewhere, on a chunk's edge or off it."""
        rng = random.Random(number)
        source = rng.choice([path for other in ITEMS for path in self.images(other)])
        target = rng.choice(self.images(item))
        with source.open("rb") as file:
            file.seek(rng.randrange(12) * CHUNK)
            data = file.read(3 * CHUNK)
        size = target.stat().st_size
        write_at(target, rng.randrange(16) * CHUNK + rng.choice([0, 0, 0, 4096]), data)
        if size < SIZE_MAX:
            resize(target, max(size, target.stat().st_size) if rng.random() < 0.5 else size)

    @precondition(lambda self: self.points)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        """An image is as it was at some point again: what the digest state must not take for nothing new."""
        point = data.draw(st.sampled_from(sorted(self.points, key=list(self.points).index)), label="point")
        for name, copy in self.points[point].items():
            keep_copy(copy, self.site.root / f"{name}.img")

    # --- jobs ---

    def remember(self, info: PointInfo) -> None:
        self.points[info.id] = {}
        for path in self.images(info.item):
            self.copies += 1
            self.points[info.id][path.stem] = keep_copy(path, self.root / f"copy-{self.copies}")

    def listed(self) -> dict[str, PointInfo]:
        return {info.id: info for info in self.site.vault.points()}

    def take(self, item: str, monitor: Monitor | None = None, **options: bool) -> None:
        targets = [str(path) for path in self.images(item)]
        result = self.site.vault.snapshot(targets, name=item, monitor=monitor, **options)
        assert result.warnings == ()
        self.remember(self.site.vault.point(str(result.number)))

    @rule(item=items, keep=st.booleans(), full=st.booleans())
    def snapshot(self, item: str, keep: bool, full: bool) -> None:
        self.take(item, keep=keep, full=full)

    @rule(item=items)
    def snapshot_only(self, item: str) -> None:
        self.take(item, snapshot_only=True)

    @rule()
    def transfer(self) -> None:
        results = self.site.vault.transfer()
        assert all(result.tier is Tier.BOTH and result.warnings == () for result in results)
        assert all(info.tier is not Tier.SNAPSHOT for info in self.listed().values())

    @rule(item=items)
    def nothing_changed(self, item: str) -> None:
        """Two points without churn between them: the second stores no block and no layer."""
        self.take(item, keep=False)
        monitor = Monitor()
        self.take(item, monitor, keep=False)
        newest = max(self.listed().values(), key=lambda info: info.number)
        assert newest.churn_source is ChurnSource.SCAN
        assert newest.statistics.changed_chunks == 0
        assert monitor.counters["blocks_stored"] == 0

    @precondition(lambda self: self.points)
    @rule(data=st.data(), source=st.sampled_from(["auto", "snapshot", "vault"]))
    def restore(self, data: st.DataObject, source: str) -> None:
        point = data.draw(st.sampled_from(sorted(self.points, key=list(self.points).index)), label="point")
        tier = self.listed()[point].tier
        if (source == "vault" and tier is Tier.SNAPSHOT) or (source == "snapshot" and tier is Tier.VAULT):
            return
        self.check(point, source)

    def check(self, point: str, source: str) -> None:
        for disk, copy in self.points[point].items():
            target = self.root / "restored.img"
            result = self.site.vault.restore(point, disk=disk, output=str(target), source=source)
            at = first_difference(target, copy)
            target.unlink()
            assert at is None, f"point {result.label}, disk {disk}, from {result.source}: wrong from byte {at} on"
            assert result.healed_chunks == 0

    @precondition(lambda self: len(self.points) > 1)
    @rule(data=st.data())
    def compare(self, data: st.DataObject) -> None:
        """`diff` of any two points of an item, and of a point and its images, tells the chunks that differ."""
        known = self.listed()
        inside = [point for point in self.points if known[point].tier is not Tier.SNAPSHOT]
        if not inside:
            return
        left = data.draw(st.sampled_from(inside), label="left")
        same = [point for point in inside if known[point].item == known[left].item]
        right = data.draw(st.sampled_from(same), label="right")
        result = self.site.vault.diff(left, right)
        for disk in self.points[left]:
            wanted = differing_chunks(self.points[left][disk], self.points[right][disk], CHUNK)
            assert told(result.extents, disk) == wanted
            image = self.site.root / f"{disk}.img"
            changed = self.site.vault.diff(left, str(image), disk=disk)
            assert told(changed.extents, disk) == differing_chunks(self.points[left][disk], image, CHUNK)

    @rule(quick=st.booleans())
    def verify(self, quick: bool) -> None:
        assert self.site.vault.verify(quick=quick).damage == ()

    # --- losses and faults ---

    @rule()
    def reopen(self) -> None:
        self.site.reopen()

    @rule()
    def lose_index(self) -> None:
        self.site.lose_index()

    @rule()
    def lose_digests(self) -> None:
        if (self.site.host / "digests").is_dir():
            self.site.lose_digests()

    def interrupted(self, item: str, keep: bool, action: Callable[[str], None]) -> BaseException | None:
        """Take a point while `action` is called at every step; what ended the job, if anything did."""
        before = set(self.listed())
        failpoints.set_hook(action)
        ended: BaseException | None = None
        try:
            self.site.vault.snapshot([str(path) for path in self.images(item)], name=item, keep=keep)
        except (BlockVaultError, OSError, Killed) as error:
            ended = error
        finally:
            failpoints.set_hook(None)
        if isinstance(ended, Killed):
            self.site.reopen()
        new = {point: info for point, info in self.listed().items() if point not in before}
        assert len(new) <= 1
        assert new or ended is not None
        for point, info in new.items():
            self.remember(info)
            self.check(point, "snapshot" if info.tier is Tier.SNAPSHOT else "vault")
        return ended

    @rule(item=items, keep=st.booleans(), step=st.sampled_from(STEPS), visit=st.integers(1, 6))
    def killed(self, item: str, keep: bool, step: str, visit: int) -> None:
        def act(name: str) -> None:
            nonlocal visit
            if name == step:
                visit -= 1
                if visit == 0:
                    raise Killed(name)

        self.interrupted(item, keep, act)

    @rule(
        item=items,
        keep=st.booleans(),
        step=st.sampled_from(STEPS),
        visit=st.integers(1, 6),
        number=st.sampled_from([errno.ENOSPC, errno.EIO]),
    )
    def refused(self, item: str, keep: bool, step: str, visit: int, number: int) -> None:
        """The disk is full or fails for a moment; the same opened vault goes on."""

        def act(name: str) -> None:
            nonlocal visit
            if name == step:
                visit -= 1
                if visit == 0:
                    raise OSError(number, os.strerror(number))

        self.interrupted(item, keep, act)

    @rule(item=items, step=st.sampled_from(STEPS))
    def cancelled(self, item: str, step: str) -> None:
        before = set(self.listed())
        monitor = Monitor()
        failpoints.set_hook(lambda name: monitor.cancel() if name == step else None)
        try:
            self.take(item, monitor, keep=False)
        except CancelledError:
            assert set(self.listed()) == before
        finally:
            failpoints.set_hook(None)

    # --- always ---

    @invariant()
    def every_point_is_listed_and_no_other(self) -> None:
        assert set(self.listed()) == set(self.points)

    def teardown(self) -> None:
        try:
            failpoints.set_hook(None)
            self.site.vault.transfer()
            known = self.listed()
            assert set(known) == set(self.points)
            for point in self.points:
                self.check(point, "vault")
                if known[point].tier is Tier.BOTH:
                    self.check(point, "snapshot")
            assert self.site.vault.verify().damage == ()
            numbers = [info.number for info in known.values()]
            assert len(numbers) == len(set(numbers))
        finally:
            self.site.close()
            shutil.rmtree(self.root, ignore_errors=True)


def told(extents: object, disk: str) -> set[int]:
    return {
        chunk
        for extent in extents  # type: ignore[attr-defined]
        if extent.disk == disk
        for chunk in range(extent.offset // CHUNK, -(-(extent.offset + extent.byte_count) // CHUNK))
    }


@pytest.mark.slow
def test_a_vault_is_a_dictionary_of_images() -> None:
    examples = os.environ.get("BLOCKVAULT_STATEFUL_EXAMPLES")
    common = settings(
        deadline=None,
        database=None,
        print_blob=True,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
    )
    if examples is None:
        run_state_machine_as_test(
            VaultMachine,
            settings=settings(common, max_examples=18, derandomize=True, phases=[Phase.generate, Phase.shrink]),
        )
        return
    number = int(os.environ.get("BLOCKVAULT_STATEFUL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"\nBLOCKVAULT_STATEFUL_SEED={number}")
    longer = settings(common, max_examples=int(examples), stateful_step_count=40)
    machine = seed(number)(VaultMachine)
    run_state_machine_as_test(machine, settings=longer)
