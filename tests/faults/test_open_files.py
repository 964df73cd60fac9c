"""A process that may have few files open restores, checks and goes on with blocks that lie in many packs."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import ForkServer
from helpers.files import noise, text, write_at
from helpers.site import CHUNK, Site

from blockvault import kernel, pipeline
from blockvault.engine import packing
from blockvault.store import packs as packs_module

PAIRS = 60

FEW = """
import resource
from blockvault import vault

def work(state, verb, *arguments):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with vault.Vault.open(state_dir=state) as opened:
        if verb == "restore":
            opened.restore(arguments[0], output=arguments[1], source="vault", force=True)
        elif verb == "verify":
            return [damage.object for damage in opened.verify().damage]
        elif verb == "diff":
            return opened.diff(*arguments).changed_bytes
        else:
            return opened.snapshot([arguments[0]], keep=False).number
"""


@pytest.fixture
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def scattered(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of two points: two blocks a pack, and nearly every block of the second a delta of one in the first."""
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 2 * CHUNK)
    monkeypatch.setattr(packing, "PACK_BYTES", 1)
    image = site.root / "disk.img"
    image.write_bytes(text(PAIRS * CHUNK, 1) + noise(PAIRS * CHUNK, 2))
    site.take(image)
    edit(image, b"first edit")
    site.take(image)
    assert len(site.objects("main/packs")) == 2 * PAIRS
    assert site.counters["delta_blocks"] > 1.9 * PAIRS
    return image


def edit(image: Path, what: bytes) -> None:
    for chunk in range(2 * PAIRS):
        write_at(image, chunk * CHUNK + 77, what)


def test_few_open_files_are_enough_for_many_packs(site: Site, scattered: Path, children: ForkServer) -> None:
    site.close()
    for label in ("1", "2"):
        target = site.root / f"few-{label}.img"
        done = children.run(FEW, site.state, "restore", label, target)
        assert (done["status"], done["error"]) == (0, None)
        assert target.read_bytes() == site.copies[label]["disk"].read_bytes()
    done = children.run(FEW, site.state, "verify")
    assert (done["error"], done["answer"]) == (None, [])
    done = children.run(FEW, site.state, "diff", "1", "2")
    assert (done["error"], done["answer"]) == (None, scattered.stat().st_size)
    edit(scattered, b"second edit")
    done = children.run(FEW, site.state, "snapshot", scattered)
    assert (done["status"], done["error"]) == (0, None)
    site.remember("3")
    site.sound()


def test_damage_is_told_of_the_same_blocks_however_few_files_may_be_open(
    site: Site, scattered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in site.objects("main/packs")[3 : 2 * PAIRS : 17]:
        path.chmod(0o600)
        write_at(path, 70, b"\xff\xfe\xfd")
    site.reopen()
    expected = site.vault.verify().damage
    assert expected
    monkeypatch.setattr(packs_module, "open_packs_allowed", lambda: 3)
    site.reopen()
    assert site.vault.verify().damage == expected


def test_packs_that_are_few_enough_are_decoded_in_one_call(
    site: Site, scattered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual way keeps its speed: one call a batch, what its blocks rest on included."""
    calls: list[int] = []
    real = kernel.decode

    def decode(handles: list[object], *args: object, **kwargs: object) -> object:
        calls.append(len(handles))
        return real(handles, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "decode", decode)
    site.check("2")
    batches = -(-scattered.stat().st_size // pipeline.RESTORE_BATCH_BYTES)
    assert len(calls) == batches
    assert max(calls) > 50
    monkeypatch.setattr(packs_module, "open_packs_allowed", lambda: 8)
    calls.clear()
    site.reopen()
    site.check("2")
    assert len(calls) > 2 * batches
    # Each thread may take one more than is allowed rather than wait for the others for ever.
    assert max(calls) <= 8 + 2 * (pipeline.worker_count() + 1)


def test_descriptors_are_counted_down_again(site: Site, scattered: Path) -> None:
    site.close()
    gc.collect()
    before = len(packs_module.open_readers)  # what other tests left
    site.check("2")
    assert 0 < len(packs_module.open_readers) - before <= packs_module.OPEN_PACKS_MAX
    site.close()
    gc.collect()
    assert len(packs_module.open_readers) <= before


def test_what_is_allowed_follows_the_limit_of_the_process() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        assert 8 <= packs_module.open_packs_allowed() < 40
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard) if hard > 0 else 1024, hard))
        assert packs_module.open_packs_allowed() >= 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
