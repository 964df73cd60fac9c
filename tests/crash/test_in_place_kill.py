"""A kill at every named step of a restore in place: the same command goes on, or the undo point brings all back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.children import ForkServer
from helpers.files import first_difference, keep_copy, noise, text, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import ConflictError

RESTORE = """
def work(state, label):
    with vault.Vault.open(state_dir=state) as opened:
        return opened.restore_in_place(label).undo_number
from blockvault import vault
"""
STEPS = ("in-place.journal", "restore.mended", "in-place.written", "in-place.synced", "transfer.commit")


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.mark.parametrize("how", ["finished", "undone"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_a_restore_in_place(children: ForkServer, tmp_path: Path, step: str, how: str) -> None:
    with Site(tmp_path / "site") as site:
        image = site.root / "disk.img"
        image.write_bytes(text(60 * CHUNK, 1))
        site.take(image)
        for chunk in range(0, 60, 2):
            write_at(image, chunk * CHUNK, noise(CHUNK, chunk))
        before = keep_copy(image, site.root / "before")
        site.close()
        died = children.run(RESTORE, site.state, "1", spec=f"{step}:kill")
        assert died["status"] == -signal.SIGKILL
        undo = [info.number for info in site.vault.points() if "undo-of" in info.tags]
        if step == "transfer.commit":  # in the undo point: nothing was begun
            assert first_difference(image, before) is None
            assert undo == []  # for it alone the whole disk is not copied: it goes to the vault or is not
        else:
            assert undo == [2]
            with pytest.raises(ConflictError):
                site.vault.snapshot([str(image)])
        if how == "undone" and undo:
            site.vault.restore_in_place("2")
            assert first_difference(image, before) is None
        else:
            done = site.vault.restore_in_place("1")
            assert done.undo_number == (3 if step == "transfer.commit" else 2)
            assert first_difference(image, site.copies["1"]["disk"]) is None
        site.vault.snapshot([str(image)], keep=False)
        assert site.vault.verify().damage == ()
