"""R4, R5: the digest state, the only thing that can make churn invisible, is believed only where it must be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import forge
from helpers.damage import flip
from helpers.files import noise, resize, write_at
from helpers.site import CHUNK, Site

from blockvault.image.source import ImageSource
from blockvault.model import ChunkState, ChurnSource, Consistency
from blockvault.store.digests import DigestWriter

CHUNKS = 8


def new_image(site: Site, name: str = "disk", seed: int = 1) -> Path:
    image = site.root / f"{name}.img"
    image.write_bytes(noise(CHUNKS * CHUNK, seed))
    return image


def digests_folder(site: Site, image: Path) -> Path:
    (item,) = (item for item in site.vault.items() if item.disks[0].path == str(image))
    return site.host / "digests" / item.id / item.disks[0].name


def write_liar(site: Site, image: Path, **wrong: Any) -> None:
    """A digest state that says of the image as it is now that it is what the newest point holds."""
    opened = forge.session(site)
    (info,) = (info for info in site.vault.points() if info.item == image.stem and info.label == "1")
    assert info.point is not None
    told = {
        "vault_id": opened.vault_id,
        "disk": image.stem,
        "size": info.point.disks[0].size,
        "chunk_size": CHUNK,
        "seed": opened.keys.digest_seed,
        "record_digest": info.point.digest,
        **wrong,
    }
    record_digest = told.pop("record_digest")
    with ImageSource.open(str(image), CHUNK) as source:
        seen = source.scan(0, CHUNKS, None, seed=opened.keys.digest_seed, threads=1, cancel=None)
    writer = DigestWriter(str(digests_folder(site, image)), base=None, **told)
    writer.put(0, np.ascontiguousarray(np.asarray(seen.digests)[: -(-told["size"] // told["chunk_size"])]))
    writer.finish()
    writer.switch("point", record_digest)
    writer.close()


def test_a_state_that_fits_is_believed(site: Site) -> None:
    """What the rule guards against, shown: a lying state of the right description hides churn."""
    image = new_image(site)
    site.take(image)
    write_at(image, CHUNK, noise(CHUNK, 2))
    write_liar(site, image)
    result = site.take(image)
    assert result.statistics.changed_chunks == 0
    with pytest.raises(AssertionError, match="wrong from byte"):
        site.check(result.number)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vault_id": "ab" * 16},
        {"disk": "other"},
        {"size": CHUNKS * CHUNK - 1},
        {"size": CHUNKS * CHUNK + 1},
        {"chunk_size": 2 * CHUNK},
        {"seed": 7},
        {"record_digest": b"r" * 16},
    ],
    ids=lambda wrong: f"{next(iter(wrong))}",
)
def test_a_state_of_something_else_is_refused(site: Site, wrong: dict[str, Any]) -> None:
    image = new_image(site)
    site.take(image)
    write_at(image, CHUNK, noise(CHUNK, 2))
    write_liar(site, image, **wrong)
    result = site.take(image)
    assert result.churn_source is ChurnSource.IDENTITY
    assert result.statistics.changed_chunks == 1
    site.sound()


def test_a_state_that_was_put_back_is_refused(site: Site) -> None:
    """The state of point 1 after point 2, and an image that is as it was at point 1 again."""
    image = new_image(site)
    first = image.read_bytes()
    site.take(image)
    aside = site.root / "digests"
    shutil.copytree(site.host / "digests", aside)
    write_at(image, 0, noise(3 * CHUNK, 2))
    site.take(image)
    image.write_bytes(first)
    shutil.rmtree(site.host / "digests")
    shutil.copytree(aside, site.host / "digests")
    result = site.take(image)
    assert result.churn_source is ChurnSource.IDENTITY
    assert result.statistics.changed_chunks == 3
    site.sound()


def test_states_of_two_items_swapped_are_refused(site: Site) -> None:
    one, two = new_image(site, "one", 1), new_image(site, "two", 2)
    site.take(one)
    site.take(two)
    folders = [digests_folder(site, one), digests_folder(site, two)]
    aside = site.root / "aside"
    folders[0].rename(aside)
    folders[1].rename(folders[0])
    aside.rename(folders[1])
    one.write_bytes(two.read_bytes())
    assert site.take(one).churn_source is ChurnSource.IDENTITY
    assert site.take(two).churn_source is ChurnSource.IDENTITY
    site.sound()


def test_without_a_state_identity_decides_and_makes_the_next(site: Site) -> None:
    image = new_image(site)
    site.take(image)
    site.lose_digests()
    write_at(image, CHUNK, noise(CHUNK, 2))
    result = site.take(image)
    assert result.churn_source is ChurnSource.IDENTITY
    assert result.statistics.changed_chunks == 1
    write_at(image, 2 * CHUNK, noise(CHUNK, 3))
    result = site.take(image)
    assert result.churn_source is ChurnSource.SCAN
    assert site.counters["chunks_identified"] == 1
    site.sound()


def test_a_damaged_cell_is_refused(site: Site) -> None:
    """Found only when it is read, in mid-transfer: the job goes on by identity and the next has a state again."""
    image = new_image(site)
    site.take(image)
    (cells,) = digests_folder(site, image).glob("*.cells")
    flip(cells, 40)
    write_at(image, CHUNK, noise(CHUNK, 2))
    result = site.take(image)
    assert result.churn_source is ChurnSource.IDENTITY
    assert result.statistics.changed_chunks == 1
    assert site.take(image).churn_source is ChurnSource.SCAN
    site.sound()


def test_a_damaged_cell_does_not_stop_a_dry_run(site: Site) -> None:
    image = new_image(site)
    site.take(image)
    (cells,) = digests_folder(site, image).glob("*.cells")
    flip(cells, 40)
    write_at(image, CHUNK, noise(CHUNK, 2))
    assert site.vault.plan_snapshot([str(image)]).changed_chunks == 1


def test_the_state_is_not_made_anew_from_the_present(site: Site) -> None:
    """Churn that came after the point is churn, although no state remembers what was before."""
    image = new_image(site)
    site.take(image)
    site.lose_digests()
    image.write_bytes(noise(CHUNKS * CHUNK, 9))
    assert site.take(image).statistics.changed_chunks == CHUNKS
    site.sound()


# --- R4: digest, id and block come from one read of one buffer ---

BEFORE, SEEN, READ, AFTER = (noise(CHUNK, seed) for seed in (11, 12, 13, 14))
ZEROS = bytes(CHUNK)


@pytest.mark.parametrize("read", [READ, ZEROS, BEFORE], ids=["other", "zeros", "as-before"])
@pytest.mark.parametrize("seen", [SEEN, ZEROS], ids=["data", "zeros"])
@pytest.mark.parametrize("later", ["seen", "read", "before", "other"])
def test_a_chunk_that_changes_between_looks_is_found_next_time(
    site: Site, monkeypatch: pytest.MonkeyPatch, seen: bytes, read: bytes, later: str
) -> None:
    """A live image, taken fuzzy: the scan sees one content, the read that makes the block another.

    Whatever the chunk holds at the next point, that point is right: the state tells of what was stored.
    """
    image = new_image(site)
    write_at(image, CHUNK, BEFORE)
    site.take(image)
    write_at(image, CHUNK, seen)
    true_scan = ImageSource.scan

    def scan(self: ImageSource, *args: Any, **options: Any) -> Any:
        found = true_scan(self, *args, **options)
        write_at(image, CHUNK, read)
        return found

    monkeypatch.setattr(ImageSource, "scan", scan)
    fuzzy = site.take(image, consistency=Consistency.NONE)
    monkeypatch.undo()
    write_at(image, CHUNK, {"seen": seen, "read": read, "before": BEFORE, "other": AFTER}[later])
    last = site.take(image)
    site.check(last.number)
    if seen != ZEROS:  # what was seen as zeros is not read again: the point holds zeros there
        site.check(fuzzy.number)


def test_what_was_read_as_zeros_is_stated_so(site: Site) -> None:
    """The scan's state of a chunk and its digest agree: zeros have none."""
    image = new_image(site)
    resize(image, 2 * CHUNKS * CHUNK)
    write_at(image, CHUNKS * CHUNK, ZEROS)
    with ImageSource.open(str(image), CHUNK) as source:
        seen = source.scan(0, 2 * CHUNKS, None, seed=1, threads=1, cancel=None)
    states, digests = np.asarray(seen.states), np.asarray(seen.digests)
    assert (digests.any(axis=1) == (states == ChunkState.CHANGED)).all()
    assert states[CHUNKS] == ChunkState.ZERO
    assert states[CHUNKS + 1] == ChunkState.HOLE
