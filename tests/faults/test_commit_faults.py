"""Faults around the commit: before it nothing is left, after it the point stands and the fault is a warning."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.files import noise, text, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import DeviceError
from blockvault.failpoints import Hook
from blockvault.snapshots.tier import SnapshotTier
from blockvault.store import host, index, local
from blockvault.store.host import HostState

SetHook = Callable[[Hook | None], None]


def refusal(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def prepared(site: Site) -> Path:
    image = site.root / "disk.img"
    image.write_bytes(text(12 * CHUNK, 1) + noise(12 * CHUNK, 2))
    site.take(image)
    write_at(image, 3 * CHUNK, noise(2 * CHUNK, 3))
    return image


def packs_and_layers(site: Site) -> set[Path]:
    return {*site.objects("main/packs"), *site.objects("main/layers")}


# -- after the commit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_host_state_that_cannot_be_noted_is_a_warning(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    image = prepared(site)
    with monkeypatch.context() as patch:
        patch.setattr(HostState, "committed", refusal(number))
        result = site.take(image)
    assert result.job_state == "completed-with-warning"
    assert [warning.kind for warning in site.monitor.warnings] == ["host.not-noted"]
    assert "point 2" in result.warnings[0]
    site.reopen()
    site.sound()
    write_at(image, 0, noise(CHUNK, 4))
    assert site.take(image).warnings == ()
    site.sound()


def test_a_host_state_whose_file_cannot_be_replaced_is_a_warning(site: Site, hook: SetHook) -> None:
    """The same with a real refusal of the system: nothing new can be written in the folder, after the commit."""
    image = prepared(site)
    real = host.replace_file

    def full(name: str) -> None:
        if name == "transfer.switched":
            host.replace_file = refusal(errno.ENOSPC)

    hook(full)
    try:
        result = site.take(image)
    finally:
        host.replace_file = real
    assert [warning.kind for warning in site.monitor.warnings] == ["host.not-noted"]
    assert result.number == 2
    site.reopen()
    site.sound()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_snapshot_that_cannot_be_marked_as_transferred_is_a_warning(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    site = make_site(keep=True)
    image = prepared(site)
    with monkeypatch.context() as patch:
        patch.setattr(SnapshotTier, "mark_transferred", refusal(number))
        result = site.take(image)
    assert result.job_state == "completed-with-warning"
    assert "host.not-noted" in [warning.kind for warning in site.monitor.warnings]
    assert site.vault.transfer() == [], "the point is in the vault: nothing waits"
    site.sound()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_snapshots_that_cannot_be_expired_are_a_warning(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    site = make_site(keep=True)
    image = prepared(site)
    with monkeypatch.context() as patch:
        patch.setattr(SnapshotTier, "expire", refusal(number))
        result = site.take(image)
    assert result.job_state == "completed-with-warning"
    assert "snapshot.not-expired" in [warning.kind for warning in site.monitor.warnings]
    site.sound()


@pytest.mark.parametrize("step", ["transfer.index", "transfer.indexed", "transfer.switched", "digests.switched"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_raw_refusal_after_the_commit_is_a_warning(site: Site, hook: SetHook, step: str, number: int) -> None:
    """Whatever it is that the system refuses then, in its own words or in ours."""
    image = prepared(site)

    def refuse(name: str) -> None:
        if name == step:
            raise OSError(number, os.strerror(number), f"failpoint {name}")

    hook(refuse)
    result = site.take(image)
    hook(None)
    assert result.job_state == "completed-with-warning"
    site.reopen()
    site.sound()
    write_at(image, 0, noise(CHUNK, 4))
    assert site.take(image).warnings == ()
    site.sound()


def test_an_index_that_refuses_after_the_commit_is_a_warning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog is brought up once more after the commit: what LMDB refuses there changes nothing of the point."""
    image = prepared(site)
    real = index.Index.change_records
    calls: list[int] = []

    def change(self: index.Index, put: object, drop: object) -> None:
        calls.append(1)
        if site.objects(f"points/{site.vault.origin}")[-1].name.endswith("2"):
            raise DeviceError("store.index-failed", "the system refused while using the vault's index")
        real(self, put, drop)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(index.Index, "change_records", change)
        result = site.take(image)
    assert calls
    assert result.job_state == "completed-with-warning"
    site.reopen()
    site.sound()


# -- before it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["main/packs", "main/layers"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_object_whose_folder_cannot_be_synced_does_not_stay(
    site: Site, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    """It has its name by then, and nobody but this transfer knows it."""
    image = prepared(site)
    before = packs_and_layers(site)
    real = os.fsync

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if what in path and os.path.isdir(path) and packs_and_layers(site) - before:
            raise OSError(number, os.strerror(number))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "fsync", fsync)
        with pytest.raises(DeviceError) as caught:
            site.vault.snapshot([str(image)], keep=False)
    assert caught.value.kind == ("store.no-space" if number == errno.ENOSPC else "store.failed")
    assert what in caught.value.message
    assert packs_and_layers(site) == before
    site.reopen()
    site.take(image)
    assert site.copies.keys() == {"1", "3"}
    site.sound()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_record_whose_folder_cannot_be_synced_keeps_all_that_it_names(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It may be someone's parent already: it stays, with its packs, and the job says that the point may be there."""
    image = prepared(site)
    real = os.fsync

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.startswith(str(site.folder / "points")) and len(site.objects("points")) == 2:
            raise OSError(number, os.strerror(number))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "fsync", fsync)
        with pytest.raises(DeviceError):
            site.take(image)
    assert [warning.kind for warning in site.monitor.warnings] == ["transfer.commit-unknown"]
    assert "point 2" in site.monitor.warnings[0].message
    site.reopen()
    site.remember("2")
    site.sound()
    write_at(image, 0, noise(CHUNK, 4))
    site.take(image)
    site.sound()
