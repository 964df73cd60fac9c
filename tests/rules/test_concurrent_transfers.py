"""A transfer that fails takes nothing away that another one could have come to refer to.

The one that fails is a process of its own and stops at a named step until it is told to go on to its failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from helpers.files import keep_copy, noise
from helpers.site import CHUNK, Site

import blockvault
from blockvault.errors import BlockVaultError

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNKS = 40
FAILING = """
import sys
from blockvault import failpoints
from blockvault.engine import packing
from blockvault.vault import Vault

state, image, step, kind = sys.argv[1:]
if kind == "long":  # an index segment after every pack, and a pack for every batch
    packing.PENDING_BLOCKS_MAX = 8
    packing.PACK_BYTES = 65536

def stop(reached):
    if reached == step:
        print("reached", flush=True)
        sys.stdin.readline()
        raise OSError(5, "as if the disk had failed")

failpoints.set_hook(stop)
with Vault.open(state_dir=state) as vault:
    try:
        vault.snapshot([image], keep=False)
    except OSError:
        print("failed", flush=True)
"""


class FailingTransfer:
    """A process that transfers an image, stops at a step, and fails there when it is told to."""

    def __init__(self, site: Site, image: Path, step: str, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FAILING, str(site.state), str(image), step, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(blockvault.__file__).parents[1])},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "reached\n"

    def fail(self) -> None:
        out, _ = self._process.communicate("\n", timeout=60)
        assert out == "failed\n"
        assert self._process.returncode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def images(site: Site) -> tuple[Path, Path]:
    """Two images of the same bytes."""
    first = site.root / "first.img"
    first.write_bytes(noise(CHUNKS * CHUNK, 1))
    return first, keep_copy(first, site.root / "second.img")


@pytest.mark.parametrize("beside", ["transfer.packs", "transfer.layers", "transfer.commit", "after"])
@pytest.mark.parametrize("step", ["transfer.packs", "transfer.commit"])
@pytest.mark.parametrize("kind", ["short", "long"])
def test_a_point_restores_whatever_becomes_of_another_transfer(
    site: Site, images: tuple[Path, Path], hook: Callable[[Any], None], kind: str, step: str, beside: str
) -> None:
    """The other fails while this one is between its look-ups and its commit, or after that."""
    site.close()
    with FailingTransfer(site, images[0], step, kind) as other:
        hook(lambda reached: other.fail() if reached == beside else None)
        result = site.take(images[1])
        hook(None)
        if beside == "after":
            other.fail()
    if kind == "short":
        assert result.statistics.unique_bytes == CHUNKS * CHUNK, "nobody had told of the other's blocks"
        assert len(site.objects("main/packs")) == 1, "the other's pack is gone"
    else:
        assert result.statistics.unique_bytes == 0, "the other's blocks were told of, and met"
    assert len(site.objects("main/index")) == 1
    site.reopen()
    site.sound()


def test_packs_that_nobody_was_told_of_are_told_of_after_the_commit(site: Site, hook: Callable[[Any], None]) -> None:
    """Until the point's record is there, a short transfer has told nobody of its blocks, in the vault or in LMDB."""
    image = site.root / "disk.img"
    image.write_bytes(noise(CHUNKS * CHUNK, 1))
    index = site.vault._session.index
    assert index is not None
    told: dict[str, tuple[int, int]] = {}
    hook(lambda reached: told.setdefault(reached, (len(site.objects("main/index")), len(index.segments()))))
    site.take(image)
    hook(None)
    assert told["transfer.commit"] == told["transfer.committed"] == (0, 0)
    assert told["transfer.index"] == (1, 0)
    assert told["transfer.indexed"] == (1, 1)


def test_a_transfer_that_ends_before_its_index_segment_loses_dedup_and_nothing_else(
    site: Site, images: tuple[Path, Path]
) -> None:
    """Killed after the commit: the point is whole; what it brought is met by its own item only."""
    site.close()
    with FailingTransfer(site, images[0], "transfer.committed", "short"):
        pass
    assert site.objects("main/index") == []
    site.remember("1")
    assert site.take(images[0]).statistics.unique_bytes == 0
    assert site.take(images[1]).statistics.unique_bytes == CHUNKS * CHUNK
    site.sound()


def test_packs_stay_where_it_cannot_be_known_whether_the_point_is_there(
    site: Site, images: tuple[Path, Path], hook: Callable[[Any], None]
) -> None:
    """The record was linked, its answer lost, and the folder cannot be looked into: nothing is deleted."""
    points, aside = site.folder / "points", site.folder / "points.aside"
    committing = False

    def lose_the_answer(reached: str) -> None:
        nonlocal committing
        committing = committing or reached == "transfer.commit"
        if committing and reached == "store.linked":
            hook(None)
            points.rename(aside)
            points.symlink_to("points")  # a loop: looking into it fails
            raise OSError(5, "as if the disk had failed")

    hook(lose_the_answer)
    with pytest.raises(BlockVaultError):
        site.take(images[0])
    points.unlink()
    aside.rename(points)
    site.reopen()
    assert [info.label for info in site.vault.points()] == ["1"]
    site.remember("1")
    site.sound()
