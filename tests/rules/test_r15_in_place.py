"""R15 beside a restore in place: what the vault has lost is never left as it was on the disk without a word."""

from __future__ import annotations

import pytest
from helpers import forge
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.errors import CorruptionError


def test_a_lost_pack_ends_a_restore_in_place(site: Site) -> None:
    image = site.root / "disk.img"
    image.write_bytes(noise(8 * CHUNK, 1))
    site.take(image)
    path = forge.pack_path(site, forge.packs(site)[0])
    site.close()
    path.unlink()
    write_at(image, 3 * CHUNK, noise(CHUNK, 9))
    with pytest.raises(CorruptionError):
        site.vault.restore_in_place("1", undo=False)
