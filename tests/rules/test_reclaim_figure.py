"""The figure: `prune --max-dead 5%` after deleting half of 100 points frees at least 95% of what only they used.

What only they used is told by the oracle: stored bytes of the slots that restores of the deleted points read and those
of the others do not, by the packs' own tables. Bytes are counted, never seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from helpers import forge
from helpers.files import noise, text, write_at
from helpers.needed import NOW, needed_by, purge, roots
from helpers.site import CHUNK, Site

from blockvault.engine.reclaim import Reclaimer
from blockvault.monitor import Monitor

POINTS = 100


def hundred_points(site: Site) -> None:
    """Churn of every kind: edits (deltas), new data, text that compresses, data that was there before."""
    rng = random.Random(11)
    image = site.root / "disk.img"
    chunks = 40
    image.write_bytes(text(chunks * CHUNK, 1))
    for _ in range(POINTS):
        for _change in range(5):
            at = rng.randrange(chunks)
            kind = rng.random()
            if kind < 0.5:
                write_at(image, at * CHUNK + rng.randrange(CHUNK - 40), rng.randbytes(30))
            elif kind < 0.75:
                write_at(image, at * CHUNK, noise(CHUNK, rng.randrange(10**9)))
            else:
                write_at(image, at * CHUNK, text(CHUNK, rng.randrange(300)))
        site.vault.snapshot([str(image)], keep=False)


def pack_bytes(site: Site) -> int:
    return sum(path.stat().st_size for path in site.objects("main/packs"))


@pytest.mark.slow
@pytest.mark.parametrize("half", ["older", "every-other"])
def test_half_of_a_hundred_points(make_site: Callable[..., Site], half: str) -> None:
    site = make_site()
    hundred_points(site)
    chosen = range(1, POINTS // 2 + 1) if half == "older" else range(1, POINTS + 1, 2)
    points = roots(site)
    assert len(points) == POINTS
    stay = needed_by(site, [point for point in points if point.number not in chosen])
    used = needed_by(site, points)
    only = {pack: slots - stay.get(pack, set()) for pack, slots in used.items()}
    only_bytes = sum(int(forge.table(site, pack).lengths[sorted(slots)].sum()) for pack, slots in only.items() if slots)
    assert only_bytes > 0
    purge(site, *chosen)
    before = pack_bytes(site)
    monitor = Monitor()
    result = Reclaimer(forge.session(site), monitor).run(NOW, max_dead=0.05)
    freed = before - pack_bytes(site)
    print(f"\n{half}: {only_bytes} bytes were used by them alone, {freed} freed ({freed / only_bytes:.1%}), "
          f"{result.moved_bytes} moved, {result.deleted_packs} packs deleted, {result.rewritten_packs} rewritten, "
          f"{result.left_dead_bytes} left")  # fmt: skip
    assert freed >= 0.95 * only_bytes
    assert result.left_dead_bytes <= 0.05 * only_bytes
    left = needed_by(site, roots(site))
    assert left == stay
    assert site.vault.verify().damage == ()
