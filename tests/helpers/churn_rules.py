"""Rules of a Hypothesis machine that change images: the churn that a vault must follow.

Three items: `one`; `two` with two disks; `twin`, which begins as a copy of `one` and so shares its blocks.
"""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from helpers.files import GIB, noise, punch, resize, text, write_at

ITEMS = {"one": ["one.img"], "two": ["left.img", "right.img"], "twin": ["twin.img"]}
items = st.sampled_from(sorted(ITEMS))
seeds = st.integers(0, 2**16)
CHUNKS_MAX = 24


class ChurnRules(RuleBasedStateMachine):
    """Images under `folder`, of chunks of `chunk` bytes; whoever inherits sets both."""

    folder: Path
    chunk: int

    def make_images(self) -> None:
        chunk = self.chunk
        for number, names in enumerate(ITEMS.values()):
            for name in names:
                path = self.folder / name
                path.write_bytes(text(6 * chunk, number) + noise(6 * chunk, number))
                resize(path, 16 * chunk + 100)
        (self.folder / "twin.img").write_bytes((self.folder / "one.img").read_bytes())

    def images(self, item: str) -> list[Path]:
        return [self.folder / name for name in ITEMS[item]]

    @property
    def size_max(self) -> int:
        return CHUNKS_MAX * self.chunk

    @rule(item=items, number=seeds)
    def pages(self, item: str, number: int) -> None:
        """Pages all over the disk are replaced."""
        rng = random.Random(number)
        for path in self.images(item):
            size = path.stat().st_size
            for _ in range(rng.randint(1, 6)):
                if size > 4096:
                    place = rng.randrange(min(size, self.size_max) // 4096) * 4096
                    write_at(path, place, noise(4096, rng.randrange(99)))
            resize(path, size)

    @rule(item=items, number=seeds)
    def small_edits(self, item: str, number: int) -> None:
        """Some bytes here and there: what deltas are for."""
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        size = path.stat().st_size
        for _ in range(rng.randint(1, 4)):
            if size:
                write_at(path, rng.randrange(min(size, self.size_max)), b"edit %d" % number)
        resize(path, size)

    @rule(item=items, number=seeds, how=st.sampled_from(["hole", "zeros"]))
    def clear(self, item: str, number: int, how: str) -> None:
        """A hole is punched, or zeros are written, over chunks or a part of one."""
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        size = path.stat().st_size
        if size < 2:
            return
        start = rng.randrange(min(size, self.size_max))
        length = min(size - start, rng.choice([512, 4096, self.chunk, 5 * self.chunk]))
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
        size = max(0, chunks * self.chunk + rng.choice([0, 0, 0, 1, -1, 511, 4096]))
        resize(path, size + (GIB if rng.random() < 0.1 else 0))

    @rule(item=items, number=seeds)
    def append(self, item: str, number: int) -> None:
        rng = random.Random(number)
        path = rng.choice(self.images(item))
        size = path.stat().st_size
        if size < self.size_max:
            write_at(path, size, noise(rng.choice([1, 4096, 2 * self.chunk]), number % 50))

    @rule(item=items, number=seeds)
    def copy_inside(self, item: str, number: int) -> None:
        """Chunks that the vault has already turn up elsewhere, on a chunk's edge or off it."""
        rng = random.Random(number)
        source = rng.choice([path for other in ITEMS for path in self.images(other)])
        target = rng.choice(self.images(item))
        with source.open("rb") as file:
            file.seek(rng.randrange(12) * self.chunk)
            data = file.read(3 * self.chunk)
        size = target.stat().st_size
        write_at(target, rng.randrange(16) * self.chunk + rng.choice([0, 0, 0, 4096]), data)
        if size < self.size_max:
            resize(target, max(size, target.stat().st_size) if rng.random() < 0.5 else size)
