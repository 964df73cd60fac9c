"""A point that has ended is never transferred again from a snapshot that a killed process left of it (R12, R19)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.site import Site

from blockvault.failpoints import Hook


class Killed(BaseException):
    """The process ends here."""


def killed_at(name: str, visit: int = 1) -> Hook:
    def act(reached: str) -> None:
        nonlocal visit
        if reached == name:
            visit -= 1
            if not visit:
                raise Killed(name)

    return act


@pytest.mark.parametrize("reclaimed", [False, True])
def test_a_purged_point_is_not_transferred_again(
    site: Site, hook: Callable[[Hook | None], None], reclaimed: bool
) -> None:
    disk, other = site.image("disk"), site.image("other", seed=2)
    site.take(disk, keep=False)
    # Killed after the commit of point 2: its snapshot's record does not say that it was transferred.
    hook(killed_at("transfer.committed"))
    with pytest.raises(Killed):
        site.vault.snapshot([str(disk)])
    hook(None)
    site.reopen()
    # Killed between the purge mark and the end of the snapshot.
    hook(killed_at("mark.made", 2))
    with pytest.raises(Killed):
        site.vault.delete_point("2", purge=True)
    hook(None)
    site.reopen()
    if reclaimed:
        site.vault.prune(site.vault.plan_prune())
    site.vault.snapshot([str(other)], snapshot_only=True)
    site.remember("3")
    assert [result.number for result in site.vault.transfer()] == [3]
    site.check_all()
    assert len(site.objects("points")) == (2 if reclaimed else 3)
