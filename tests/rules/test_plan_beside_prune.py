"""A plan is made beside anything: what another process purges and reclaims meanwhile is no damage."""

from __future__ import annotations

import pytest
from helpers.children import ForkServer
from helpers.files import noise, write_at
from helpers.site import CHUNK, Site

from blockvault.engine.marking import Marker
from blockvault.errors import CorruptionError
from blockvault.model import Point

PURGE = """
from blockvault import vault

def work(state, label):
    with vault.Vault.open(state_dir=state) as opened:
        opened.delete_point(label, purge=True)
        return opened.prune(opened.plan_prune(max_dead=0.0), confirmed=True).reclaim.deleted_layers
"""


def prepared(site: Site) -> None:
    image = site.image()
    site.take(image)
    write_at(image, 3 * CHUNK, noise(4 * CHUNK, 5))
    site.take(image)


def test_a_plan_beside_a_prune(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process purges a point and frees its layer after this one has listed the roots."""
    prepared(site)
    add = Marker.add
    answers = []

    def late_add(marker: Marker, points: list[Point]) -> int:
        if not answers:
            answers.append(children.run(PURGE, site.state, "2"))
        return add(marker, points)

    with ForkServer() as children:
        monkeypatch.setattr(Marker, "add", late_add)
        plan = site.vault.plan_prune(max_dead=0.0)
    assert answers[0]["error"] is None
    assert answers[0]["answer"] == 1
    assert plan.freeable_bytes == 0
    assert [info.label for info in site.vault.points()] == ["1"]


def test_what_a_root_needs_and_lacks_is_told(site: Site) -> None:
    """Where nobody ended a point meanwhile, a missing layer is damage, and the plan says so."""
    prepared(site)
    for path in site.objects("main/layers"):
        path.unlink()
    with pytest.raises(CorruptionError) as told:
        site.vault.plan_prune()
    assert told.value.kind == "reclaim.stopped"
