"""Policies as records of a vault: revisions, who uses them, what prune makes of them, and what happens when one is
damaged, missing, deleted, rolled back, or written by two at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import forge
from helpers.damage import flip, truncate
from helpers.files import noise
from helpers.site import CHUNK, Site

import blockvault
from blockvault.clock import local_zone_name
from blockvault.errors import (
    AlreadyExistsError,
    BlockVaultError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
)
from blockvault.format import records
from blockvault.format.envelope import Kind, seal_record
from blockvault.model import Protection
from blockvault.monitor import Monitor
from blockvault.policy import RetentionRules
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import UNWRITTEN, OnHookFailure, Policy
from blockvault.policy.schedule import Schedule, parse_schedule
from blockvault.policy.selection import parse_month_day, parse_year_day
from blockvault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = timedelta(days=1)
START = datetime(2026, 11, 1, 2, tzinfo=UTC)
NOW = START + 10 * DAY
BERLIN = "Europe/Berlin"
GOLD = Policy("gold", Schedule.daily("02:00", zone=BERLIN), RetentionRules(keep_daily=4), snapshot_days=5)


@pytest.fixture
def filled(site: Site) -> Site:
    """Ten daily points of `web` (1 to 10) and two of `db` (11, 12)."""
    web, db = site.root / "web.img", site.root / "db.img"
    web.write_bytes(noise(2 * CHUNK, 1))
    db.write_bytes(noise(CHUNK, 2))
    for number in range(10):
        site.take(web, now=START + number * DAY)
    for number in range(2):
        site.take(db, now=START + number * DAY)
    return site


def fates(site: Site, item: str | None = None, *, rules: RetentionRules | None = None) -> dict[str, str]:
    """`{"1": "- no rule keeps it", ...}`: what a prune would do with each point."""
    plan = site.vault.plan_prune(rules, item=item, now=NOW)
    return {each.label: ("+ " if each.keep else "- ") + "; ".join(each.reasons) for each in plan.decisions}


def expiring(site: Site, item: str | None = None, *, rules: RetentionRules | None = None) -> list[str]:
    return [label for label, fate in fates(site, item, rules=rules).items() if fate.startswith("-")]


# --- the records --------------------------------------------------------------------------------------------------


def test_every_field_comes_back(site: Site) -> None:
    rules = RetentionRules(
        keep_last=3,
        keep_daily=30,
        keep_weekly=12,
        keep_monthly=24,
        keep_yearly=7,
        zone="Pacific/Apia",
        weekly_on=Weekday.SUNDAY,
        monthly_on=parse_month_day("first sunday"),
        yearly_on=parse_year_day("last day of june"),
    )
    policy = Policy(
        "everything-1",
        parse_schedule("weekly wed,sun 23:45", zone="America/St_Johns"),
        rules,
        snapshot_days=30,
        window=timedelta(minutes=7, seconds=5),
        consistency="app",  # type: ignore[arg-type]
        on_hook_failure=OnHookFailure.FAIL,
        retries=100,
        comment="für alle",
    )
    plain = Policy("plain", Schedule.hourly(4))
    assert site.vault.create_policy(policy, now=NOW) == policy
    assert site.vault.create_policy(plain) == plain
    site.reopen()
    assert site.vault.policy("everything-1") == policy
    assert site.vault.policy("plain") == plain
    revision = site.vault.policy_revision("everything-1")
    assert revision is not None
    assert (revision.changed, revision.deleted, revision.note) == (NOW, False, "")
    assert revision.by == forge.session(site).host_label
    site.lose_index()
    assert site.vault.policy("everything-1") == policy


def test_the_default_is_offered_and_written_when_it_is_assigned(filled: Site) -> None:
    (offered,) = filled.vault.policies()
    assert (offered.name, offered.revision, offered.schedule.zone) == ("default", UNWRITTEN, local_zone_name())
    assert filled.vault.policy("default") == offered
    assert filled.vault.policy_revision("default") is None
    assert filled.objects("policies") == []
    (item,) = filled.vault.assign_policy(["web"], "default", now=NOW)
    assert (item.policy, item.protection, item.revision) == ("default", Protection.PROTECTED, 1)
    assert [path.name for path in filled.objects("policies")] == ["000000"]
    filled.reopen()
    assert filled.vault.policy("default").revision == 0
    assert filled.vault.policy_of("web") == filled.vault.policy("default")
    assert filled.vault.policy_of("db") is None
    assert [item.name for item in filled.vault.items_of_policy("default")] == ["web"]
    # It is written as it was offered: another machine's zone, or this one's later, changes nothing.
    assert filled.vault.policy("default").retention == offered.retention


def test_a_vault_may_have_a_default_of_its_own(site: Site) -> None:
    own = Policy("default", Schedule.hourly(12), RetentionRules(keep_last=9))
    site.vault.create_policy(own)
    assert site.vault.policies() == [own]
    site.vault.delete_policy("default")
    assert site.vault.policy("default").revision == UNWRITTEN
    site.vault.set_policy("default", snapshot_days=9)
    assert (site.vault.policy("default").revision, site.vault.policy("default").snapshot_days) == (2, 9)


def test_changes_are_revisions_and_deleting_is_one(site: Site) -> None:
    site.vault.create_policy(GOLD, now=START)
    changed = site.vault.set_policy("gold", snapshot_days=9, now=NOW).after
    assert (changed.revision, changed.snapshot_days, changed.retention) == (1, 9, GOLD.retention)
    assert site.vault.set_policy("gold", snapshot_days=9).after == changed  # nothing differs: nothing is written
    assert len(site.objects("policies")) == 2
    site.vault.delete_policy("gold")
    assert [path.name for path in site.objects("policies")] == ["000000", "000001", "000002"]
    for ask in (site.vault.policy, site.vault.delete_policy, site.vault.policy_revision):
        with pytest.raises(NotFoundError) as raised:
            ask("gold")
        assert raised.value.kind == "policy.not-found"
    assert [policy.name for policy in site.vault.policies()] == ["default"]
    assert site.vault.create_policy(GOLD).revision == 3
    assert site.reopen().policy("gold").snapshot_days == 5


@pytest.mark.parametrize(("name", "kind"), [("gold", "policy.exists"), ("GOLD", "policy.same-letters")])
def test_a_name_that_is_taken_is_refused(site: Site, name: str, kind: str) -> None:
    site.vault.create_policy(GOLD)
    with pytest.raises(AlreadyExistsError) as raised:
        site.vault.create_policy(Policy(name, Schedule.hourly(1)))
    assert raised.value.kind == kind
    assert len(site.objects("policies")) == 1


def test_the_nearest_name_is_told(site: Site) -> None:
    site.vault.create_policy(GOLD)
    with pytest.raises(NotFoundError) as raised:
        site.vault.policy("glod")
    assert raised.value.do == "did you mean 'gold'?"


# --- assigning ----------------------------------------------------------------------------------------------------


def test_all_items_are_there_or_none_is_changed(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    for items, policy, kind in ((["web", "nobody"], "gold", "item.not-found"), (["web"], "silver", "policy.not-found")):
        with pytest.raises(NotFoundError) as raised:
            filled.vault.assign_policy(items, policy, confirmed=True)
        assert raised.value.kind == kind
    assert {item.policy for item in filled.vault.items()} == {""}
    assert [item.name for item in filled.vault.assign_policy(["db", "web", "db"], "gold", confirmed=True)] == [
        "db",
        "web",
    ]


def test_an_assignment_by_which_points_would_expire_must_be_confirmed(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    plan = filled.vault.plan_assignment(["web", "db"], "gold", now=NOW)
    assert [each.label for each in plan.expired] == ["1", "2", "3", "4", "5", "6"]
    assert plan.told == "this change would expire 6 points of 1 item"
    with pytest.raises(InvalidInputError) as raised:
        filled.vault.assign_policy(["web", "db"], "gold", now=NOW)
    assert (raised.value.kind, raised.value.message) == ("policy.would-expire", plan.told)
    assert filled.vault.items_of_policy("gold") == []
    monitor = Monitor()
    filled.vault.assign_policy(["web", "db"], "gold", confirmed=True, monitor=monitor, now=NOW)
    assert [warned.kind for warned in monitor.warnings] == ["policy.shortened"]
    assert expiring(filled) == ["1", "2", "3", "4", "5", "6"]


def test_a_held_point_and_one_with_a_date_of_its_own_are_not_counted(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    filled.vault.hold("1")
    filled.take(filled.root / "web.img", now=START - DAY, retain_until=NOW + DAY)
    assert [each.label for each in filled.vault.plan_assignment(["web"], "gold", now=NOW).expired] == list("23456")


def test_snapshot_days_are_the_items_own_or_its_policys(filled: Site) -> None:
    vault = filled.vault
    assert vault.snapshot_days(vault.item("db")) == 2
    vault.create_policy(GOLD)
    vault.assign_policy(["db"], "gold")
    assert vault.snapshot_days(vault.item("db")) == 5
    vault.set_policy("gold", snapshot_days=7)
    assert vault.snapshot_days(vault.item("db")) == 7
    vault.set_item("db", snapshot_days=1)
    assert vault.snapshot_days(vault.item("db")) == 1


def test_a_snapshot_is_kept_for_the_policys_days(make_site: Callable[..., Site]) -> None:
    site = make_site(keep=True)
    image = site.image(size=4 * CHUNK)
    site.take(image, now=START)
    assert site.vault.point("1").snapshot_until == START + 2 * DAY
    site.vault.create_policy(GOLD)
    site.vault.assign_policy(["disk"], "gold")
    site.take(image, now=START + DAY)
    assert site.vault.point("2").snapshot_until == START + 6 * DAY


# --- prune --------------------------------------------------------------------------------------------------------


def test_each_items_own_policy_applies(filled: Site) -> None:
    vault = filled.vault
    assert set(fates(filled).values()) == {"+ no rules"}
    vault.create_policy(GOLD)
    vault.create_policy(Policy("silver", GOLD.schedule, RetentionRules(keep_last=1)))
    vault.assign_policy(["web"], "gold", confirmed=True)
    assert expiring(filled) == ["1", "2", "3", "4", "5", "6"]
    assert fates(filled)["10"] == "+ daily 2026-11-10"
    assert fates(filled)["11"] == "+ no rules"
    vault.assign_policy(["db"], "silver", confirmed=True)
    assert expiring(filled) == ["11", "1", "2", "3", "4", "5", "6"]
    assert expiring(filled, "db") == ["11"]
    result = vault.prune(vault.plan_prune(now=NOW))
    assert sorted(result.expired, key=int) == ["1", "2", "3", "4", "5", "6", "11"]
    assert [info.label for info in vault.points()] == ["7", "8", "9", "10", "12"]
    for label in ("1", "2", "3", "4", "5", "6", "11"):
        del filled.copies[label]
    filled.sound()


def test_given_rules_stand_in_for_policies(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    filled.vault.assign_policy(["web"], "gold", confirmed=True)
    assert expiring(filled, rules=RetentionRules(keep_last=9)) == ["1"]


def test_all_points_of_an_item_whose_protection_is_stopped_are_kept(filled: Site) -> None:
    vault = filled.vault
    vault.create_policy(GOLD)
    filled.take(filled.root / "web.img", now=START + 20 * DAY, retain_until=START + 21 * DAY)
    vault.assign_policy(["web"], "gold", protection=Protection.STOPPED)
    late = vault.plan_prune(now=START + 40 * DAY)
    assert {each.reasons for each in late.decisions if each.item == "web"} == {("protection is stopped",)}
    assert all(each.keep for each in late.decisions)
    # Rules for all items are not meant for it; rules for it by name are.
    assert expiring(filled, rules=RetentionRules(keep_last=1)) == ["11"]
    assert "1" in expiring(filled, "web", rules=RetentionRules(keep_last=1))
    # Naming another policy leaves it stopped, unless that is asked for.
    (item,) = vault.assign_policy(["web"], "default", protection=None)
    assert (item.policy, item.protection) == ("default", Protection.STOPPED)
    assert vault.plan_assignment(["web"], "gold", protection=None, now=NOW).expired == ()
    assert len(vault.plan_assignment(["web"], "gold", now=NOW).expired) == 6
    (item,) = vault.assign_policy(["web"], "default", confirmed=True)
    assert item.protection is Protection.PROTECTED


def test_what_policies_say_of_points(filled: Site) -> None:
    vault = filled.vault
    assert vault.decisions(now=NOW) == {}
    vault.create_policy(GOLD)
    vault.assign_policy(["web"], "gold", confirmed=True)
    found = vault.decisions(now=NOW)
    assert {each.label: each.keep for each in found.values()} == {str(n): n > 6 for n in range(1, 11)}
    assert vault.decisions("web", now=NOW) == found
    assert vault.decisions("db", now=NOW) == {}


# --- changing -----------------------------------------------------------------------------------------------------


def test_a_retention_that_is_shortened_is_confirmed_warned_of_and_noted(filled: Site) -> None:
    vault, monitor = filled.vault, Monitor()
    vault.create_policy(GOLD)
    vault.assign_policy(["web", "db"], "gold", confirmed=True, now=NOW)
    vault.prune(vault.plan_prune(now=NOW))
    shorter = RetentionRules(keep_daily=1)
    change = vault.plan_policy("gold", retention=shorter, now=NOW)
    assert (change.told, change.is_shorter) == ("this change would expire 4 points of 2 items", True)
    assert change.items == ("db", "web")
    with pytest.raises(InvalidInputError) as raised:
        vault.set_policy("gold", retention=shorter, now=NOW, monitor=monitor)
    assert raised.value.kind == "policy.would-expire"
    assert vault.policy("gold") == GOLD
    assert monitor.warnings == []
    vault.set_policy("gold", retention=shorter, confirmed=True, now=NOW, monitor=monitor)
    assert [warned.kind for warned in monitor.warnings] == ["policy.shortened"]
    revision = filled.reopen().policy_revision("gold")
    assert revision is not None
    assert revision.note == "retention was shortened: 4 points of 2 items expire with the next prune"


def test_a_longer_retention_asks_nothing(filled: Site) -> None:
    vault, monitor = filled.vault, Monitor()
    vault.create_policy(GOLD)
    vault.assign_policy(["web"], "gold", confirmed=True)
    vault.set_policy("gold", retention=RetentionRules(keep_daily=40), monitor=monitor, now=NOW)
    assert monitor.warnings == []
    assert expiring(filled) == []


def test_a_shortening_without_points_to_expire_is_warned_of_all_the_same(filled: Site) -> None:
    """It may be the first step of somebody who wants the points gone."""
    vault, monitor = filled.vault, Monitor()
    vault.create_policy(Policy("gold", GOLD.schedule, RetentionRules(keep_daily=400)))
    vault.set_policy("gold", retention=RetentionRules(keep_daily=300), monitor=monitor)
    assert monitor.warnings == []  # nobody uses it
    vault.assign_policy(["db"], "gold")
    vault.set_policy("gold", retention=RetentionRules(keep_daily=200), monitor=monitor, now=NOW)
    assert [warned.kind for warned in monitor.warnings] == ["policy.shortened"]


def test_what_cannot_be_is_not_written(site: Site) -> None:
    site.vault.create_policy(GOLD)
    for changes in ({"snapshot_days": 0}, {"window": 40 * DAY}, {"retries": -3}):
        with pytest.raises(InvalidInputError):
            site.vault.set_policy("gold", **changes)
    assert len(site.objects("policies")) == 1


# --- deleting -----------------------------------------------------------------------------------------------------


def test_a_policy_that_is_used_is_not_deleted(filled: Site) -> None:
    vault = filled.vault
    vault.create_policy(GOLD)
    vault.create_policy(Policy("silver", GOLD.schedule, RetentionRules(keep_daily=1)))
    vault.assign_policy(["web", "db"], "gold", confirmed=True)
    vault.assign_policy(["db"], "gold", protection=Protection.STOPPED)
    with pytest.raises(InvalidInputError) as raised:
        vault.delete_policy("gold")
    assert (raised.value.kind, raised.value.message) == ("policy.in-use", "policy 'gold' is used by 2 items")
    for to, kind in (("gold", "policy.to-itself"), ("nothing", "policy.not-found"), ("silver", "policy.would-expire")):
        with pytest.raises(BlockVaultError) as refused:
            vault.delete_policy("gold", to=to, now=NOW)
        assert refused.value.kind == kind
    assert vault.policy("gold") == GOLD
    change = vault.plan_policy_deletion("gold", to="silver", now=NOW)
    assert change is not None
    assert [each.label for each in change.expired] == ["7", "8", "9"]
    vault.delete_policy("gold", to="silver", confirmed=True, now=NOW)
    assert {(item.name, item.policy, item.protection) for item in vault.items()} == {
        ("web", "silver", Protection.PROTECTED),
        ("db", "silver", Protection.STOPPED),
    }
    assert len(vault.points()) == 12


def test_items_can_move_to_the_default_that_is_only_offered(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    filled.vault.assign_policy(["db"], "gold")
    filled.vault.delete_policy("gold", to="default")
    assert filled.reopen().policy("default").revision == 0
    assert filled.vault.item("db").policy == "default"


def test_the_offered_default_cannot_be_deleted(site: Site) -> None:
    with pytest.raises(NotFoundError) as raised:
        site.vault.delete_policy("default")
    assert raised.value.kind == "policy.not-written"


# --- damage, loss and others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_policy_that_cannot_be_read_expires_nothing(filled: Site, how: str) -> None:
    """Least of all by the rules of an earlier revision, which may keep less."""
    vault = filled.vault
    vault.create_policy(Policy("gold", GOLD.schedule, RetentionRules(keep_last=1)))
    vault.assign_policy(["web"], "gold", confirmed=True)
    vault.set_policy("gold", retention=RetentionRules(keep_last=400))
    newest = filled.objects("policies")[-1]
    flip(newest, newest.stat().st_size // 2) if how == "flip" else truncate(newest, 50)
    filled.lose_index()
    vault, monitor = filled.vault, Monitor()
    plan = vault.plan_prune(now=NOW, monitor=monitor)
    assert {each.reasons for each in plan.decisions if each.item == "web"} == {("policy 'gold' cannot be read",)}
    assert all(each.keep for each in plan.decisions)
    assert [warned.kind for warned in monitor.warnings] == ["policy.unreadable"]
    assert vault.unreadable_policies() == ["gold"]
    assert vault.snapshot_days(vault.item("web")) == 2
    for ask in (lambda: vault.policy("gold"), lambda: vault.policy_of("web"), lambda: vault.delete_policy("gold")):
        with pytest.raises(CorruptionError) as raised:
            ask()
        assert raised.value.kind == "policy.unreadable"
    name = str(newest.relative_to(filled.folder))
    assert [damage.object for damage in vault.verify().damage] == [name]
    # Made anew it is the revision after the damaged one.
    vault.create_policy(GOLD)
    assert vault.policy("gold").revision == 2
    assert expiring(filled) == ["1", "2", "3", "4", "5", "6"]


def test_repair_puts_a_damaged_policy_back_from_lmdb(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    filled.reopen()  # which takes the record into LMDB
    (path,) = filled.objects("policies")
    whole = path.read_bytes()
    filled.close()
    flip(path, path.stat().st_size // 2)
    filled.vault.repair()
    assert path.read_bytes() == whole
    assert filled.vault.verify().damage == ()
    filled.lose_index()
    assert filled.vault.policy("gold") == GOLD


def test_an_item_whose_policy_is_gone_keeps_its_points(filled: Site) -> None:
    filled.vault.create_policy(GOLD)
    filled.vault.assign_policy(["web"], "gold", confirmed=True)
    filled.reopen()  # an opening remembers what it saw
    filled.close()
    shutil.rmtree(filled.folder / "policies")
    filled.lose_index()
    vault, monitor = filled.vault, Monitor()
    assert any("policies/gold/000000" in notice.message for notice in vault.notices)
    plan = vault.plan_prune(now=NOW, monitor=monitor)
    assert all(each.keep for each in plan.decisions)
    assert [warned.kind for warned in monitor.warnings] == ["policy.unreadable"]
    with pytest.raises(NotFoundError):
        vault.policy_of("web")


def test_a_record_under_anothers_name_is_refused(site: Site) -> None:
    site.vault.create_policy(GOLD)
    site.vault.create_policy(Policy("silver", Schedule.hourly(1)))
    site.close()
    gold, silver = site.objects("policies")
    os.replace(silver, gold)
    site.lose_index()
    with pytest.raises(CorruptionError):
        site.vault.policy("gold")


def test_another_process_sees_a_change_and_two_cannot_make_one_revision(site: Site) -> None:
    """Two hosts with a folder between them: locks of a host do not reach the other."""
    site.vault.create_policy(GOLD)
    site.close()
    with Vault.open(str(site.folder), state_dir=str(site.root / "other-state")) as other:
        other.set_policy("gold", snapshot_days=8)
    vault = site.vault
    assert vault.policy("gold").snapshot_days == 8
    catalog = forge.session(site).catalog
    put = catalog.put_policy

    def raced(revision: object) -> None:
        catalog.put_policy = put
        put(revision)  # another host's record appears in the moment before ours
        put(revision)

    catalog.put_policy = raced  # type: ignore[method-assign]
    with pytest.raises(ConflictError) as raised:
        vault.set_policy("gold", snapshot_days=3)
    assert raised.value.kind == "policy.changed-meanwhile"
    assert vault.set_policy("gold", snapshot_days=4).after.revision == 3


def test_a_vault_that_is_open_for_long_sees_what_others_change(site: Site) -> None:
    image = site.image(size=8 * CHUNK)
    site.take(image)
    site.vault.create_policy(GOLD)
    catalog = forge.session(site).catalog
    # Another process of this host: the record appears beside ours.
    newer = catalog.policy("gold")
    assert newer is not None
    changed = replace(newer, policy=replace(newer.policy, snapshot_days=9, revision=1))
    put = forge.session(site).store.put_new
    name = "policies/gold/000001"
    body = records.encode(records.policy_to_body(changed))
    put(name, seal_record(forge.session(site).keys, Kind.POLICY, name, body)[0])
    assert site.vault.policy("gold").snapshot_days == 5
    site.vault.refresh_settings()
    assert site.vault.policy("gold").snapshot_days == 9
    assert [item.name for item in site.vault.items()] == ["disk"]
    assert site.vault.set_policy("gold", snapshot_days=4).after.revision == 2


RACER = """
import sys, time
from datetime import timedelta
from blockvault.errors import BlockVaultError
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.vault import Vault

state, verb, argument = sys.argv[1:]
with Vault.open(state_dir=state) as vault:
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        if verb == "set":
            vault.set_policy("gold", **{argument: {"snapshot_days": 9, "retries": 7, "comment": "raced"}[argument]})
        elif verb == "create":
            vault.create_policy(Policy("new", Schedule.hourly(1), comment=argument))
        elif verb == "assign":
            vault.assign_policy(["db"], argument)
        else:
            vault.delete_policy(argument)
        print("done")
    except BlockVaultError as error:
        print(error.kind)
"""


def test_processes_of_one_host_change_policies_one_after_the_other(filled: Site) -> None:
    """Each change is there afterwards, one of several makers wins, and no item names a policy that was deleted."""
    filled.vault.create_policy(GOLD)
    filled.vault.create_policy(Policy("passing", Schedule.hourly(2)))
    filled.close()
    orders = [
        *(("set", field) for field in ("snapshot_days", "retries", "comment")),
        *(("create", comment) for comment in ("one", "two")),
        ("assign", "passing"),
        ("delete", "passing"),
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(blockvault.__file__).parents[1])}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(filled.state), *order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for order in orders
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    vault = filled.vault
    assert said[:3] == ["done"] * 3
    gold = vault.policy("gold")
    assert (gold.snapshot_days, gold.retries, gold.comment, gold.revision) == (9, 7, "raced", 3)
    assert sorted(said[3:5]) == ["done", "policy.exists"]
    assert vault.policy("new").comment == ("one", "two")[said[3:5].index("done")]
    there = "passing" in [policy.name for policy in vault.policies()]
    assert said[5:] in (["done", "policy.in-use"], ["policy.not-found", "done"])
    assert there is (vault.item("db").policy == "passing")
