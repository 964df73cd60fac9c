"""What a zstd level costs and saves on real disks: `python -m benchmarks.levels IMAGE... [--levels 1,2,3]`.

Every data chunk of each image, as a first point stores it: read, hashed and named (not timed), then encoded on one
core; levels take turns over each batch, so a busy machine slows all alike. *Rate* is of CPU time. Chunks that no level
shortens enough are stored raw; their share stands in the table, because they cost a level next to nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from blockvault import kernel
from blockvault.image.source import ImageSource
from blockvault.model import ChunkState, Codec
from blockvault.units import MIB, format_size

CHUNK = 64 << 10
BATCH = 128


@dataclass
class Figures:
    """What one image came to."""

    image: str
    plain_bytes: int = 0
    stored: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    raw_chunks: dict[int, int] = field(default_factory=dict)


def measure(image: str, levels: Sequence[int]) -> Figures:
    """Encode every data chunk of the image at every level."""
    figures = Figures(image)
    with ImageSource.open(image, CHUNK) as source:
        chunks = [
            np.arange(first, first + count, dtype=np.uint64) for first, count in source.data_runs(0, source.chunk_count)
        ]
        data = np.concatenate(chunks) if chunks else np.zeros(0, np.uint64)
        for start in range(0, len(data), BATCH):
            plain = source.identify(data[start : start + BATCH], seed=0, id_key=None, cancel=None)
            rows = np.flatnonzero(np.asarray(plain.states) == ChunkState.CHANGED).astype(np.uint32)
            figures.plain_bytes += len(rows) * CHUNK
            for level in levels:
                began = time.process_time()
                blocks = kernel.encode(
                    plain, rows, level=level, bases=None, base_rows=None, delta_limits=None, cancel=None
                )
                taken = time.process_time() - began
                figures.seconds[level] = figures.seconds.get(level, 0.0) + taken
                figures.stored[level] = figures.stored.get(level, 0) + int(blocks.offsets[-1])
                raw = int(np.count_nonzero(np.asarray(blocks.codecs) == Codec.RAW))
                figures.raw_chunks[level] = figures.raw_chunks.get(level, 0) + raw
    return figures


def table(results: Sequence[Figures], levels: Sequence[int]) -> str:
    """One Markdown table."""
    lines = [
        "| image | data | raw | " + " | ".join(f"level {level}: stored, rate" for level in levels) + " |",
        "|---|---:|---:|" + "---:|" * len(levels),
    ]
    for one in results:
        if not one.plain_bytes:
            continue
        raw = one.raw_chunks[levels[0]] * CHUNK / one.plain_bytes
        cells = [
            f"{one.stored[level] / one.plain_bytes:.1%}, {one.plain_bytes / MIB / one.seconds[level]:.0f} MiB/s"
            for level in levels
        ]
        lines.append(f"| {one.image} | {format_size(one.plain_bytes)} | {raw:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--levels", default="1,2,3,5", type=lambda text: [int(level) for level in text.split(",")])
    asked = parser.parse_args()
    print(table([measure(image, asked.levels) for image in asked.images], asked.levels))


if __name__ == "__main__":
    main()
