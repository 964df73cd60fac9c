"""`vault set`: settings are revisions of the configuration; of two writers one is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.site import Site

from blockvault.errors import ConflictError, InvalidInputError
from blockvault.vault import Vault

if TYPE_CHECKING:
    from helpers.program import Program


def test_soft_delete_days(program: Program) -> None:
    program.run("vault", "create", "site-1", "--no-encryption", "--soft-delete-days", "30", code=0)
    assert program.run("vault", "show", "site-1", "--json", code=0).document["soft_delete_days"] == 30
    told = program.run("vault", "set", "--vault", "site-1", "--soft-delete-days", "7", code=0).out
    assert "7 days" in told
    assert program.run("vault", "show", "site-1", "--json", code=0).document["soft_delete_days"] == 7
    program.run("vault", "set", "--vault", "site-1", "--soft-delete-days", "4000", code=2)


def test_another_revision_meanwhile(site: Site) -> None:
    vault = site.vault
    vault.set_soft_delete_days(3)
    folder = vault._session.folder
    folder.config_revision -= 1  # as a process that opened the vault before
    with pytest.raises(ConflictError) as error:
        vault.set_soft_delete_days(9)
    assert error.value.kind == "vault.changed-meanwhile"
    assert site.reopen().soft_delete_days == 3
    with pytest.raises(InvalidInputError):
        site.vault.set_soft_delete_days(-1)


def test_points_deleted_before_keep_their_date(site: Site) -> None:
    site.take(site.image())
    site.take(site.root / "disk.img")
    before = site.vault.delete_point("1").purge_after
    site.vault.set_soft_delete_days(0)
    assert site.vault.point("1", deleted=True).state.purge_after == before
    assert isinstance(site.vault, Vault)
