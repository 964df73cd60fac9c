"""What a daemon with a thousand items does while nothing is due: counted, not timed."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blockvault.daemon import loop
from blockvault.daemon.loop import Daemon, LoopSettings
from blockvault.daemon.vaults import Protected, Vaults, VaultView
from blockvault.ids import ItemId
from blockvault.model.job import Job, Phase, PhaseName
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.store.journal import Journal

START = datetime(2027, 3, 1, 14, tzinfo=UTC)
NIGHTLY = Policy("nightly", Schedule.daily("02:00", zone="UTC"), window=timedelta(minutes=30))
ITEMS = 1000


class Nobody:
    """Workers that are never asked."""

    def start(self, job: Job, phase: Phase) -> None:
        raise AssertionError("nothing is due")

    def ended(self) -> int:
        return 0

    def running(self) -> set[tuple[str, PhaseName]]:
        return set()


class OneVault(Vaults):
    """A vault of a thousand items that does not change."""

    def __init__(self) -> None:
        items = tuple(Protected(ItemId(f"{n:032x}"), f"vm-{n}", NIGHTLY, START) for n in range(ITEMS))
        self.view = VaultView("site", "7" * 32, "/srv/site", items)

    def look(self) -> list[VaultView]:
        return [self.view]


def test_an_hour_of_looks_reckons_each_item_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    due_now, handled = loop.planning.due_now, Journal.handled

    def counted_due(items: list[loop.Scheduled], now: datetime) -> object:
        counts["items"] += len(items)
        return due_now(items, now)

    def counted_handled(journal: Journal, vault_id: str) -> dict[str, datetime]:
        counts["read"] += 1
        return handled(journal, vault_id)

    monkeypatch.setattr(loop.planning, "due_now", counted_due)
    monkeypatch.setattr(Journal, "handled", counted_handled)
    now = START
    with Journal(str(tmp_path)) as journal:
        daemon = Daemon(journal, OneVault(), Nobody(), lambda: now, LoopSettings())
        daemon.tick()
        first, revision = dict(counts), journal.revision
        assert first["items"] == ITEMS + 1  # and the vault's own upkeep
        for _ in range(60):
            now += timedelta(minutes=1)
            assert daemon.tick() == now + timedelta(minutes=1)
        assert dict(counts) == first, "nothing was reckoned again"
        assert journal.revision == revision, "nothing was written"
