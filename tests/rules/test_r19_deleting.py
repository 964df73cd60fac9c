"""R19: deleting. A hold beats a purge in every race, what is uncertain is never purged, no number comes again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers import forge
from helpers.children import ForkServer
from helpers.damage import flip, truncate
from helpers.files import noise, text, write_at
from helpers.needed import nothing_is_left, purge, reclaim, roots
from helpers.site import CHUNK, Site

from blockvault.clock import utc_now
from blockvault.engine.expire import INTERVAL_LEAST
from blockvault.errors import ConflictError, InternalError, InvalidInputError, NotFoundError
from blockvault.failpoints import Hook
from blockvault.model import ChurnSource, Mark, MarkKind, PointRef, PointState, PruneResult, Tier, state_of
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.store.local import LocalStore
from blockvault.vault import Vault

SetHook = Callable[[Hook | None], None]
DAY = timedelta(days=1)

MARK = """
def work(state, verb, label):
    with vault.Vault.open(state_dir=state) as opened:
        {"hold": opened.hold, "undelete": opened.undelete_point}[verb](label)
from blockvault import vault
"""


@pytest.fixture
def image(site: Site) -> Path:
    """Points 1, 2 and 3 of one item."""
    path = site.root / "disk.img"
    path.write_bytes(text(12 * CHUNK, 1))
    site.take(path)
    for number in (2, 3):
        write_at(path, number * CHUNK, noise(CHUNK, number))
        site.take(path)
    return path


def state(site: Site, label: str | int) -> PointState:
    catalog = forge.session(site).catalog
    catalog.refresh()
    return catalog.state(PointRef(site.vault.origin, int(label)))


def prune(site: Site, now: datetime | None = None, **keep: int) -> PruneResult:
    plan = site.vault.plan_prune(RetentionRules(**keep), max_dead=0.0, now=now)
    return site.vault.prune(plan, confirmed=True)


def labels(site: Site, *, deleted: bool = False) -> set[str]:
    return {info.label for info in site.vault.points(deleted=deleted)}


# --- the days ------------------------------


def test_a_deleted_point_comes_back_until_its_days_are_over(site: Site, image: Path) -> None:
    site.vault.delete_point("2", reason="a mistake")
    assert labels(site) == {"1", "3"}
    assert labels(site, deleted=True) == {"1", "2", "3"}
    with pytest.raises(NotFoundError) as caught:
        site.vault.restore("2", output=str(site.root / "no.img"))
    assert caught.value.kind == "point.deleted"
    assert prune(site, utc_now() + 13.9 * DAY).purged == []
    site.vault.undelete_point("2")
    site.check_all()
    site.vault.delete_point("2")
    assert prune(site, utc_now() + 14.1 * DAY).purged == ["2"]
    del site.copies["2"]
    with pytest.raises(NotFoundError):
        site.vault.undelete_point("2")
    nothing_is_left(site)
    site.sound()


def test_at_zero_days_it_is_gone_with_the_next_prune(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.close()
    shutil.rmtree(site.state)
    site._vault = Vault.create(state_dir=str(site.state), chunk_size=CHUNK, soft_delete_days=0)
    path = site.root / "disk.img"
    for number in range(3):
        path.write_bytes(noise(3 * CHUNK, number))
        site.take(path)
    site.vault.delete_point("1")
    site.vault.undelete_point("1")
    site.check("1")
    result = prune(site, keep_last=1)
    assert (result.expired, result.purged) == (["1", "2"], ["1", "2"]), "expired and purged in one go"
    assert result.reclaim.deleted_packs == 2
    site.copies = {"3": site.copies["3"]}
    nothing_is_left(site)
    site.sound()


def test_an_unhold_starts_the_days_again(site: Site, image: Path) -> None:
    now = utc_now()
    site.vault.delete_point("2", now=now)
    site.vault.hold("2", now=now + 5 * DAY)
    assert prune(site, now + 20 * DAY).purged == [], "held"
    site.vault.unhold("2", now=now + 20 * DAY)
    assert prune(site, now + 33 * DAY).purged == [], "14 days from the unhold on"
    assert prune(site, now + 35 * DAY).purged == ["2"]


def test_an_unhold_before_the_delete_starts_nothing(site: Site, image: Path) -> None:
    now = utc_now()
    site.vault.hold("2", now=now)
    site.vault.unhold("2", now=now)
    site.vault.delete_point("2", now=now)
    assert prune(site, now + 14.1 * DAY).purged == ["2"]


def test_the_fold_of_marks() -> None:
    """Any order of marks: nothing after the end counts, a gap is uncertain, kinds that are not known say nothing."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    hold, unhold, delete, undelete, end, void = (
        Mark(kind, at, until=at + 14 * DAY if kind == MarkKind.DELETE else None)
        for kind in (
            MarkKind.HOLD, MarkKind.UNHOLD, MarkKind.DELETE, MarkKind.UNDELETE, MarkKind.PURGE, MarkKind.VOID
        )
    )  # fmt: skip
    assert state_of([]).is_listed
    assert state_of([hold, delete]).held
    assert state_of([delete, undelete]).is_listed
    assert not state_of([delete, end, undelete, hold]).is_root
    assert not state_of([void, hold]).is_root
    assert state_of([None, delete]).uncertain
    assert state_of([Mark("retain", at), hold]).held
    assert state_of([hold, hold, unhold]).held is False


# --- hold beats purge ------------------------------


@pytest.mark.parametrize("verb", ["hold", "undelete"])
@pytest.mark.parametrize("step", ["prune.expired", "store.link"])
def test_a_hold_that_races_with_a_purge_wins(site: Site, image: Path, hook: SetHook, verb: str, step: str) -> None:
    """By another process, after the plan; and between the purge's look at the marks and its own, at that number."""
    site.vault.delete_point("2", now=utc_now() - 20 * DAY)
    with ForkServer() as children:
        said: list[str | None] = []

        def other(name: str) -> None:
            if name == step:
                hook(None)
                said.append(children.run(MARK, site.state, verb, "2")["error"])

        hook(other)
        result = prune(site)
        hook(None)
        assert said == [None]
    assert result.purged == []
    assert state(site, 2).is_root
    if verb == "hold":
        assert state(site, 2).held
        site.vault.unhold("2")
        site.vault.undelete_point("2")
    site.sound()


def test_a_purge_takes_exactly_the_next_number_or_fails(site: Site, image: Path, hook: SetHook) -> None:
    """It is never tried again at a later one: what was said in between may have been a hold."""
    ref = roots(site)[1].ref
    catalog = forge.session(site).catalog
    site.vault.delete_point("2")

    def other(name: str) -> None:
        if name == "store.link":
            hook(None)
            catalog.put_mark(ref, Mark("tag", utc_now()))

    hook(other)
    with pytest.raises(ConflictError) as caught:
        catalog.put_mark(ref, Mark(MarkKind.PURGE, utc_now()))
    assert caught.value.kind == "point.marked-meanwhile"
    assert state(site, 2).is_root
    hook(other)
    catalog.put_mark(ref, Mark(MarkKind.HOLD, utc_now()))
    assert state(site, 2).held, "any other mark goes to the next number"


def test_a_hold_that_comes_after_the_purge_is_told(site: Site, image: Path, hook: SetHook) -> None:
    """The hold finds its number taken by a purge: it does not say that the point is held."""

    def other(name: str) -> None:
        if name == "store.link":
            hook(None)
            ref = roots(site)[1].ref
            forge.session(site).catalog.put_mark(ref, Mark(MarkKind.DELETE, utc_now()))
            forge.session(site).catalog.put_mark(ref, Mark(MarkKind.PURGE, utc_now()))

    hook(other)
    with pytest.raises(NotFoundError) as caught:
        site.vault.hold("2")
    hook(None)
    assert caught.value.kind == "point.ended"


def test_a_held_point_is_neither_deleted_nor_expired(site: Site, image: Path) -> None:
    site.vault.hold("1", reason="the auditors ask")
    for purge_it in (False, True):
        with pytest.raises(InvalidInputError) as caught:
            site.vault.delete_point("1", purge=purge_it)
        assert caught.value.kind == "point.held"
        assert "auditors" in (caught.value.why or "")
    assert prune(site, keep_last=1).expired == ["2"]
    assert labels(site) == {"1", "3"}


# --- uncertain ------------------------------


def marks_of(site: Site, number: int) -> list[Path]:
    return site.objects(f"marks/{site.vault.origin}/{number:010d}")


@pytest.mark.parametrize("change", ["flipped", "cut off", "missing", "of another point", "newer"])
def test_what_may_have_been_a_hold_is_never_purged(site: Site, image: Path, change: str) -> None:
    now = utc_now()
    site.vault.delete_point("1", now=now - 40 * DAY)
    site.vault.delete_point("2", now=now - 40 * DAY)
    site.vault.hold("2", now=now - 39 * DAY)
    site.vault.undelete_point("2")
    site.vault.delete_point("2", now=now - 30 * DAY, purge=False) if not state(site, 2).held else None
    forge.session(site).catalog.put_mark(
        roots(site)[1].ref, Mark(MarkKind.DELETE, now - 38 * DAY, until=now - 20 * DAY)
    )
    path = marks_of(site, 2)[1]
    site.close()
    if change == "flipped":
        flip(path, 80)
    elif change == "cut off":
        truncate(path, 50)
    elif change == "missing":
        path.unlink()
    elif change == "newer":
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[8] = 2
        path.write_bytes(bytes(data))
    else:
        path.chmod(0o600)
        path.write_bytes(next(iter(site.folder.glob(f"marks/*/{1:010d}/000001"))).read_bytes())
    site.lose_index()
    assert state(site, 2).uncertain
    result = prune(site)
    assert result.purged == ["1"], "of all others it is known"
    with pytest.raises(ConflictError) as caught:
        site.vault.delete_point("2", purge=True)
    assert caught.value.kind == "point.uncertain"
    assert caught.value.do
    assert state(site, 2).is_root
    del site.copies["1"]
    site.vault.undelete_point("2")
    site.check_all()


@pytest.mark.parametrize("gone", ["the newest mark, a hold", "a point's record"])
def test_what_this_host_has_seen_and_is_gone_is_asked_for(site: Site, image: Path, gone: str) -> None:
    """Nothing in the vault tells of it any more: a prune would end a held point, or free what a lost record needs."""
    now = utc_now()
    site.vault.delete_point("2", now=now - 40 * DAY)
    site.vault.hold("2", now=now - 39 * DAY)
    site.reopen()
    path = marks_of(site, 2)[1] if gone.endswith("hold") else site.folder / f"points/{site.vault.origin}/{1:010d}"
    kept = path.read_bytes()
    site.close()
    path.unlink()
    before = site.objects("main")
    plan = site.vault.plan_prune(max_dead=0.0)
    assert path.name in plan.vanished
    with pytest.raises(InvalidInputError) as caught:
        site.vault.prune(plan)
    assert caught.value.kind == "prune.records-gone"
    assert path.parent.name in (caught.value.why or "")
    assert site.objects("main") == before
    site.close()
    path.write_bytes(kept)
    assert site.vault.plan_prune().vanished == ""
    assert site.vault.prune(site.vault.plan_prune()).purged == []
    site.vault.unhold("2")
    site.vault.undelete_point("2")
    site.sound()


def test_what_is_uncertain_does_not_expire(site: Site, image: Path) -> None:
    site.vault.hold("1")
    site.vault.unhold("1")
    marks_of(site, 1)[0].unlink()
    site.lose_index()
    assert prune(site, keep_last=1).expired == ["2"]


# --- the clock ------------------------------


def test_a_clock_that_jumped_ends_nothing_unasked(site: Site, image: Path) -> None:
    site.vault.delete_point("1")
    ahead = utc_now() + 300 * DAY
    plan = site.vault.plan_prune(RetentionRules(keep_last=1), now=ahead)
    assert plan.clock_doubt
    with pytest.raises(InvalidInputError) as caught:
        site.vault.prune(plan)
    assert caught.value.kind == "prune.clock"
    assert labels(site, deleted=True) == {"1", "2", "3"}
    assert labels(site) == {"2", "3"}
    near = site.vault.plan_prune(RetentionRules(keep_last=1), now=utc_now() + 1.9 * INTERVAL_LEAST)
    assert near.clock_doubt == ""


def test_the_stores_clock_counts_where_it_is_behind(site: Site, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.vault.delete_point("1")
    true = LocalStore.now
    monkeypatch.setattr(LocalStore, "now", lambda store: true(store) - 300 * 86_400)
    plan = site.vault.plan_prune(RetentionRules(), now=utc_now() + 300 * DAY)
    assert plan.purges == ()
    assert abs(plan.now - utc_now()) < timedelta(minutes=5)


def test_a_plan_is_carried_out_once_and_looks_again(site: Site, image: Path) -> None:
    plan = site.vault.plan_prune(RetentionRules(keep_last=1))
    site.vault.hold("1")
    site.vault.delete_point("2")
    result = site.vault.prune(plan)
    assert result.expired == [], "held, and deleted by hand, meanwhile"
    with pytest.raises(InternalError):
        site.vault.prune(plan)


# --- numbers ------------------------------


@pytest.mark.parametrize("lost", ["nothing", "index", "host"])
def test_no_number_comes_again(site: Site, image: Path, lost: str) -> None:
    """The newest point is purged, its record goes, its marks stay and keep the number (R12)."""
    purge(site, 3)
    reclaim(site)
    assert [path.name for path in site.objects("points")] == [f"{n:010d}" for n in (1, 2)]
    assert {path.parent.name for path in site.objects("marks")} == {f"{3:010d}"}
    if lost == "index":
        site.lose_index()
    elif lost == "host":
        site.close()
        shutil.rmtree(site.host)
    write_at(image, 0, b"on")
    assert site.take(image).number == 4
    site.check(4)
    assert {info.number for info in site.vault.points()} == {1, 2, 4}
    assert site.vault.verify().damage == ()


def test_a_snapshot_that_outlives_its_purged_point_is_not_transferred_again(
    make_site: Callable[..., Site], hook: SetHook
) -> None:
    """Its number has ended: the same point would be made under marks that say so."""
    site = make_site(keep=True)
    path = site.root / "disk.img"
    path.write_bytes(text(8 * CHUNK, 1))

    class Stop(Exception):
        pass

    def stop(name: str) -> None:
        if name == "transfer.switched":
            raise Stop

    hook(stop)
    with pytest.raises(Stop):
        site.vault.snapshot([str(path)])
    hook(None)
    site.reopen()
    assert labels(site) == {"1"}
    ref = roots(site)[0].ref
    catalog = forge.session(site).catalog
    catalog.put_mark(ref, Mark(MarkKind.DELETE, utc_now()))
    catalog.put_mark(ref, Mark(MarkKind.PURGE, utc_now()))
    reclaim(site)
    assert site.vault.transfer() == []
    assert site.objects("points") == []
    assert labels(site) == set()


# --- what goes on after it ------------------------------


def test_the_next_parent_after_deleting_and_purging(site: Site, image: Path) -> None:
    """A point that is deleted softly is still a parent; a purged one is not, and its digest state is refused."""
    site.vault.delete_point("3")
    write_at(image, 0, b"on")
    site.take(image)
    parent = forge.point(site, 4).parent
    assert parent is not None
    assert parent.number == 3
    assert forge.point(site, 4).churn_source is ChurnSource.SCAN
    purge(site, 4, 3)
    reclaim(site, 0.0)
    write_at(image, CHUNK, b"on again")
    result = site.take(image)
    parent = forge.point(site, result.number).parent
    assert parent is not None
    assert parent.number == 2
    assert result.churn_source is ChurnSource.IDENTITY, "the digest state speaks of a point that is gone"
    site.take(image)
    assert forge.point(site, "6").churn_source is ChurnSource.SCAN
    site.sound()


def test_when_all_points_are_purged_the_next_is_an_initial_one(site: Site, image: Path) -> None:
    purge(site, 1, 2, 3)
    reclaim(site)
    assert site.objects("main/packs") == []
    assert site.objects("main/index") == []
    result = site.take(image)
    assert result.number == 4
    assert forge.point(site, 4).parent is None
    site.sound()


def test_the_snapshot_of_a_deleted_point_stays_and_of_a_purged_one_goes(make_site: Callable[..., Site]) -> None:
    site = make_site(keep=True)
    path = site.root / "disk.img"
    path.write_bytes(text(8 * CHUNK, 1))
    for number in (1, 2, 3):
        write_at(path, number * CHUNK, noise(CHUNK, number))
        site.take(path)
    assert {info.tier for info in site.vault.points()} == {Tier.BOTH}
    site.vault.delete_point("2")
    site.vault.undelete_point("2")
    assert site.vault.point("2").tier is Tier.BOTH
    site.check("2", source="snapshot")
    purge(site, 2)
    assert [record.number for record in forge.session(site).tier.records()] == [1, 3]
    assert labels(site, deleted=True) == {"1", "3"}
    for label in ("1", "3"):
        site.check(label, source="snapshot")
    write_at(path, 0, b"on")
    site.take(path)
    site.sound()


def test_marks_on_what_is_only_a_snapshot(make_site: Callable[..., Site]) -> None:
    site = make_site(keep=True)
    path = site.root / "disk.img"
    path.write_bytes(text(8 * CHUNK, 1))
    site.vault.snapshot([str(path)], snapshot_only=True)
    for verb in (site.vault.hold, site.vault.unhold, site.vault.undelete_point):
        with pytest.raises(NotFoundError) as caught:
            verb("1")
        assert caught.value.kind == "point.not-in-vault"
    site.vault.delete_point("1")
    assert labels(site, deleted=True) == set()
    assert site.take(path).number == 2


def test_points_of_another_origin(site: Site, image: Path) -> None:
    """Held, deleted and purged from here, as they are points of the vault like any other."""
    site.close()
    shutil.rmtree(site.host)
    write_at(image, 0, b"on")
    result = site.take(image)
    first = min(site.vault.points(), key=lambda info: info.number).label
    assert first.endswith(":1")
    site.copies = {(f"{first[:-1]}{label}" if label != str(result.number) else label): copy
                   for label, copy in site.copies.items()}  # fmt: skip
    site.vault.hold(first)
    with pytest.raises(InvalidInputError):
        site.vault.delete_point(first)
    site.vault.unhold(first)
    assert prune(site, keep_last=2).expired == [first, f"{first[:-1]}2"]
    assert prune(site, utc_now() + 14.1 * DAY).purged == [first, f"{first[:-1]}2"]
    del site.copies[first], site.copies[f"{first[:-1]}2"]
    nothing_is_left(site)
    site.sound()


def test_the_last_point_of_an_item_is_not_ended_unasked(site: Site, image: Path) -> None:
    site.copies.clear()
    site.vault.snapshot([str(image)], keep=False, retain_until=utc_now() - DAY, now=utc_now() - 2 * DAY, name="disk")
    for label in ("1", "2", "3"):
        site.vault.delete_point(label)
    plan = site.vault.plan_prune(RetentionRules())
    assert plan.emptied_items == ("disk",)
    with pytest.raises(InvalidInputError) as caught:
        site.vault.prune(plan)
    assert caught.value.kind == "prune.last-point"
    assert labels(site) == {"4"}
    assert Monitor().warnings == []
