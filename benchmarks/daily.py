"""What daily points cost after many of them: `python -m benchmarks.daily [--size 1G] [--days 30] [--model runs]`.

For each churn model the same days are stored twice: by the program itself into a vault, and in a model of a vault whose
deltas may be of deltas, up to a depth, made by the real encoder. The model counts stored bytes (payload and 46 bytes of
the table a block) and how many frames the newest point decodes for a chunk; it says what a greater depth would gain.
At the end the newest point is restored in turns with the same disk out of a new vault, which has full blocks alone, and
compared byte for byte. Ratios and medians; `--json` writes all figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import blockvault, folder_sizes, run
from blockvault import kernel
from blockvault.image.source import ImageSource
from blockvault.model import ChunkState, Codec
from blockvault.units import parse_size
from blockvault.workload import Churn, apply_churn, build_image

CHUNK = 64 << 10
DEPTHS = (0, 1, 2, 4, 8)
TABLE_BYTES = 46  # of a block, in its pack's table: id, length, codec, depth, base
BATCH = 256


class Model:
    """A vault that makes deltas up to a depth, by sizes alone. Depth 0 makes full blocks, 1 is what the program does.

    With depth 1 the base is the chunk's last full block; with more the version before, and when a chain is as long as
    it may be the next block is full.
    """

    def __init__(self, depth: int, folder: str, image: str) -> None:
        self.depth = depth
        self.stored = 0
        chunks = -(-os.path.getsize(image) // CHUNK)
        self._frames = np.zeros(chunks, dtype=np.int64)  # deltas on top of the full block
        self._full = np.zeros(chunks, dtype=np.int64)  # bytes of the full block; 0: not known, or none
        self._bases = os.path.join(folder, f"bases-{depth}.img")  # what the next delta is made against
        shutil.copy(image, self._bases)

    def day(self, image: str, changed: NDArray[np.uint64]) -> None:
        """Store the chunks that changed."""
        for first in range(0, len(changed), BATCH):
            self._store(image, changed[first : first + BATCH])

    def _store(self, image: str, chunks: NDArray[np.uint64]) -> None:
        rows = chunks.astype(np.int64)
        with ImageSource.open(image, CHUNK) as source, ImageSource.open(self._bases, CHUNK) as bases:
            plain = source.identify(chunks, seed=1, id_key=None, cancel=None)
            base = bases.identify(chunks, seed=1, id_key=None, cancel=None)
            unknown = np.flatnonzero((self._full[rows] == 0) & (np.asarray(base.states) == ChunkState.CHANGED))
            full = kernel.encode(
                base, unknown.astype(np.uint32), level=1, bases=None, base_rows=None, delta_limits=None, cancel=None
            )
            self._full[rows[unknown]] = np.diff(np.asarray(full.offsets)).astype(np.int64)
            wanted = np.flatnonzero(np.asarray(plain.states) == ChunkState.CHANGED).astype(np.uint32)
            may = (self._full[rows] > 0) & ((self._frames[rows] < self.depth) if self.depth != 1 else True)
            may &= self.depth > 0
            base_rows = np.where(may, np.arange(len(rows)), -1).astype(np.int32)[wanted]
            limits = (self._full[rows[wanted]] // 2).astype(np.uint32)
            blocks = kernel.encode(
                plain, wanted, level=1, bases=base, base_rows=base_rows, delta_limits=limits, cancel=None
            )
            lengths = np.diff(np.asarray(blocks.offsets)).astype(np.int64)
            is_delta = np.asarray(blocks.codecs) == Codec.DELTA
            self.stored += int(lengths.sum()) + TABLE_BYTES * len(lengths)
            at = rows[wanted.astype(np.int64)]
            self._full[at[~is_delta]] = lengths[~is_delta]
            self._frames[at] = np.where(is_delta, 1 if self.depth == 1 else self._frames[at] + 1, 0)
            zero = rows[np.asarray(plain.states) != ChunkState.CHANGED]
            self._full[zero] = self._frames[zero] = 0
            follow = set(rows.tolist() if self.depth != 1 else [*at[~is_delta].tolist(), *zero.tolist()])
            with open(self._bases, "r+b") as file:
                for row, chunk in enumerate(rows.tolist()):
                    if chunk in follow:
                        os.pwrite(file.fileno(), plain.chunk(row), chunk * CHUNK)

    @property
    def frames_a_chunk(self) -> float:
        """How many frames the newest point decodes for a chunk that was ever stored again, on average."""
        touched = self._full > 0
        return 1 + float(self._frames[touched].mean()) if touched.any() else 1.0


def changed_chunks(old: str, new: str) -> NDArray[np.uint64]:
    """The chunks in which two files of one size differ."""
    found = []
    with open(old, "rb") as left, open(new, "rb") as right:
        index = 0
        while chunk := right.read(CHUNK):
            if left.read(CHUNK) != chunk:
                found.append(index)
            index += 1
    return np.array(found, dtype=np.uint64)


def measure(folder: str, size: int, days: int, model: Churn, rounds: int) -> dict[str, Any]:
    """All figures of one churn model."""
    image, before, target = (os.path.join(folder, name) for name in ("disk.img", "before.img", "restored.img"))
    state, fresh = os.path.join(folder, "state"), os.path.join(folder, "fresh")
    build_image(image, size, 1)
    models = [Model(depth, folder, image) for depth in DEPTHS]
    blockvault("snapshot", image, "--no-keep", state=state)
    vault = os.path.join(state, "vaults", "default")
    first = folder_sizes(vault)[0]
    daily, changed_bytes = [], 0
    for day in range(days):
        shutil.copy(image, before)
        size_before = folder_sizes(vault)[0]
        churn = apply_churn(image, model, 100 + day)
        changed_bytes += churn.changed_bytes
        blockvault("snapshot", image, "--no-keep", state=state)
        daily.append((folder_sizes(vault)[0] - size_before) / churn.changed_bytes if churn.changed_bytes else 0.0)
        chunks = changed_chunks(before, image)
        for one in models:
            one.day(image, chunks)
    blockvault("snapshot", image, "--no-keep", state=fresh)
    times: dict[str, list[float]] = {state: [], fresh: []}
    for _ in range(rounds):
        for where, taken in times.items():
            if os.path.exists(target):
                os.unlink(target)
            point = str(days + 1) if where == state else "1"
            done = blockvault("restore", "--point", point, "--from", "vault", "-o", target, state=where)
            taken.append(done.seconds)
            run(["cmp", image, target])
    stored = folder_sizes(vault)[0] - first
    return {
        "model": model.value,
        "days": days,
        "changed_bytes": changed_bytes,
        "stored_per_changed": stored / changed_bytes if changed_bytes else None,
        "first_day": daily[0],
        "last_days": statistics.mean(daily[-5:]),
        "restore_seconds": statistics.median(times[state]),
        "restore_full_seconds": statistics.median(times[fresh]),
        "restore_ratio": statistics.median(a / b for a, b in zip(times[state], times[fresh], strict=True)),
        "by_depth": {
            str(one.depth): {
                "stored_per_changed": one.stored / changed_bytes if changed_bytes else None,
                "frames_a_chunk": one.frames_a_chunk,
            }
            for one in models
        },
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """Two Markdown tables: the program, and what other depths would store."""
    lines = [
        "| churn, every day | stored per byte changed: first day | last five | all days | restore / of full blocks |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['model']} | {one['first_day']:.3f} | {one['last_days']:.3f} | {one['stored_per_changed']:.3f} "
        f"| {one['restore_ratio']:.2f} of the time |"
        for one in results
    ]
    lines += [
        "",
        "| churn, every day | " + " | ".join("full alone" if not d else f"depth {d}" for d in DEPTHS) + " |",
        "|---|" + "---:|" * len(DEPTHS),
    ]
    for one in results:
        cells = [one["by_depth"][str(depth)] for depth in DEPTHS]
        lines.append(
            f"| {one['model']} | "
            + " | ".join(f"{cell['stored_per_changed']:.3f} ({cell['frames_a_chunk']:.2f} frames)" for cell in cells)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=parse_size, default=1 << 30, metavar="SIZE")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=[one.value for one in Churn], action="append")
    parser.add_argument("--folder", default=None, help="work here (default: a temporary folder)")
    parser.add_argument("--json", default=None, metavar="FILE")
    asked = parser.parse_args()
    results = []
    for model in asked.model or [one.value for one in Churn if one is not Churn.NOTHING]:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            results.append(measure(folder, asked.size, asked.days, Churn(model), asked.rounds))
    if asked.json:
        with open(asked.json, "w") as file:
            json.dump(results, file, indent=1)
    print(table(results))


if __name__ == "__main__":
    main()
