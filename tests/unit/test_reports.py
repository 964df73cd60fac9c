"""What reports say of made worlds, moment by moment; and pages, read by a real parser."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import html5lib
import pytest
from helpers.report_world import (
    DAY,
    HOSTILE,
    HOURLY,
    NIGHTLY,
    NOW,
    VAULT_ID,
    WEEKLY,
    backup,
    item,
    point,
    restored,
    vault,
    world,
)  # fmt: skip

from blockvault.model import Protection
from blockvault.model.job import Trigger
from blockvault.policy import RetentionRules
from blockvault.policy.periods import Weekday
from blockvault.policy.policies import Policy
from blockvault.policy.schedule import Schedule
from blockvault.reports.capacity import Sample, capacity_report, days_until_full, forecast_report, growth_of
from blockvault.reports.facts import ItemFacts, VaultFacts
from blockvault.reports.page import capacity_page, rpo_page, sla_page
from blockvault.reports.pictures import plain
from blockvault.reports.rpo import RpoState, interval_of, rpo_report
from blockvault.reports.sla import Outcome, outcomes_of, sla_report, spread

HOUR = timedelta(hours=1)


def state_of(known: ItemFacts, now: datetime = NOW) -> RpoState:
    return rpo_report([vault(known)], now, 2.0).rows[0].state


# --- RPO -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "interval"),
    [
        (NIGHTLY, DAY),
        (WEEKLY, 4 * DAY),
        (HOURLY, 4 * HOUR),
        (Policy("one", Schedule.weekly([Weekday.MONDAY], "02:00", zone="UTC")), 7 * DAY),
    ],
)
def test_the_interval_is_the_longest_gap_of_the_schedule(policy: Policy, interval: timedelta) -> None:
    assert interval_of(policy.schedule) == interval


def test_an_item_is_outside_only_beyond_its_target() -> None:
    taken = NOW - 48 * HOUR
    assert state_of(item("a", points=(point(1, taken),))) is RpoState.INSIDE
    assert state_of(item("a", points=(point(1, taken),)), NOW + timedelta(microseconds=1)) is RpoState.OUTSIDE


def test_a_snapshot_is_no_vault_point() -> None:
    old, new = point(1, NOW - 5 * DAY), replace(point(2, NOW - HOUR, has_snapshot=True), ref=None)
    row = rpo_report([vault(item("a", points=(old, new)))], NOW, 2.0).rows[0]
    assert (row.state, row.point, row.snapshot) == (RpoState.OUTSIDE, 1, 2)


def test_a_point_dated_ahead_proves_nothing() -> None:
    points = (point(1, NOW - 5 * DAY), point(2, NOW + 30 * DAY))
    row = rpo_report([vault(item("a", points=points))], NOW, 2.0).rows[0]
    assert (row.state, row.point) == (RpoState.OUTSIDE, 1)


def test_an_item_without_a_point_is_outside_when_its_target_is_over() -> None:
    assert state_of(item("a", since=NOW - 47 * HOUR)) is RpoState.NOT_YET
    assert state_of(item("a", since=NOW - 49 * HOUR)) is RpoState.OUTSIDE


def test_what_cannot_be_told_is_not_good() -> None:
    unknown = item("a", None, problem="policy 'x' cannot be read", protection=Protection.PROTECTED)
    assert state_of(unknown) is RpoState.UNKNOWN
    assert not rpo_report([vault(unknown)], NOW, 2.0).is_good
    assert not rpo_report([VaultFacts("away", "", "/mnt", problem="gone")], NOW, 2.0).is_good


def test_what_nobody_promised_is_not_outside() -> None:
    by_hand, stopped = item("a", None), item("b", NIGHTLY, protection=Protection.STOPPED)
    report = rpo_report([vault(by_hand, stopped)], NOW, 2.0)
    assert {row.item: row.state for row in report.rows} == {"a": RpoState.UNPROTECTED, "b": RpoState.STOPPED}
    assert report.is_good


def test_missed_runs_are_counted_when_their_window_is_over() -> None:
    newest = datetime(2026, 11, 17, 2, 10, tzinfo=UTC)
    known = item("a", points=(point(1, newest),))
    at = datetime(2026, 11, 20, 2, 30, tzinfo=UTC)
    assert [
        rpo_report([vault(known)], at + shift, 2.0).rows[0].missed for shift in (timedelta(), timedelta(seconds=1))
    ] == [2, 3]


# --- SLA -----------------------------------------------------------------------------------------------------------

SINCE = NOW - 5 * DAY  # the moments of 16, 17, 18, 19 and 20 November, 02:00


def moment(day: int) -> datetime:
    return datetime(2026, 11, day, 2, tzinfo=UTC)


def test_each_moment_has_one_outcome() -> None:
    jobs = [
        backup("a", moment(16)),
        backup("a", moment(17), ends="failed"),
        backup("a", moment(19), late=6 * HOUR),
        backup("a", moment(20), ends="open"),
    ]
    report = sla_report([vault(item("a"))], jobs, SINCE, NOW)
    row = report.rows[0]
    assert (row.due, row.on_time, row.late, row.failed, row.missed, row.running) == (4, 1, 1, 1, 1, 1)
    assert row.percent == report.percent == 50.0
    assert dict(row.days) == {
        moment(16).date(): Outcome.ON_TIME,
        moment(17).date(): Outcome.FAILED,
        moment(18).date(): Outcome.MISSED,
        moment(19).date(): Outcome.LATE,
        moment(20).date(): Outcome.RUNNING,
    }


def test_a_point_is_evidence_where_the_journal_has_none() -> None:
    points = (point(1, moment(16) + 10 * timedelta(minutes=1)), point(2, moment(18) + 9 * HOUR))
    outcomes = dict(outcomes_of(item("a", points=points), [], SINCE, NOW))
    assert [outcomes[moment(day)] for day in (16, 17, 18, 19, 20)] == [
        Outcome.ON_TIME, Outcome.MISSED, Outcome.LATE, Outcome.MISSED, Outcome.MISSED,
    ]  # fmt: skip


def test_a_moment_is_missed_only_when_window_and_grace_are_over() -> None:
    known = item("a")
    limit = moment(20) + timedelta(minutes=45)
    assert dict(outcomes_of(known, [], moment(19), limit))[moment(20)] is Outcome.RUNNING
    assert dict(outcomes_of(known, [], moment(19), limit + timedelta(seconds=1)))[moment(20)] is Outcome.MISSED


def test_nothing_is_judged_by_a_schedule_that_was_not_its_own() -> None:
    changed = item("a", policy_changed=moment(18))
    assert sla_report([vault(changed)], [], SINCE, NOW).rows[0].due == 2
    new = item("a", since=moment(19) + HOUR)
    assert sla_report([vault(new)], [], SINCE, NOW).rows[0].due == 1


def test_warnings_transfers_restores_and_demands_are_counted() -> None:
    jobs = [
        backup("a", moment(16), ends="warned"),
        backup("a", moment(17), ends="untransferred"),
        backup("a", moment(18), ends="cancelled"),
        backup("a", moment(19), trigger=Trigger.ON_DEMAND),
        restored("a", NOW - DAY),
        restored("a", NOW - DAY, well=False),
        backup("a", NOW - 90 * DAY),
    ]
    report = sla_report([vault(item("a"))], jobs, SINCE, NOW)
    row = report.rows[0]
    # A transfer that was cancelled leaves its snapshot: the point was made.
    assert (row.on_time, row.warned, row.untransferred, row.on_demand, row.restores) == (3, 1, 2, 1, 1)
    assert (report.restores, report.failed_restores) == (1, 1)
    assert row.transfer_seconds.count == 2
    assert row.capture_seconds.median == pytest.approx(0.4)


def test_the_longest_gap_knows_of_points_that_expired() -> None:
    jobs = [backup("a", moment(day)) for day in (16, 17, 18, 19, 20)]
    held = item("a", points=(point(5, moment(20)),))
    gap = sla_report([vault(held)], jobs, SINCE, NOW).rows[0].longest_gap_seconds
    assert gap is not None
    assert gap < 25 * 3600
    gone = sla_report([vault(item("a"))], [], SINCE, NOW).rows[0].longest_gap_seconds
    assert gone == 5 * 86400


def test_ninety_five_of_a_hundred() -> None:
    held = spread([float(value) for value in range(100, 0, -1)])
    assert (held.count, held.median, held.p95, held.longest) == (100, 50.5, 95.0, 100.0)
    assert spread([]).median is None


# --- capacity ------------------------------------------------------------------------------------------------------


def samples(sizes: list[int], free: int = 1000) -> list[Sample]:
    return [Sample(NOW - (len(sizes) - 1 - day) * DAY, size, free) for day, size in enumerate(sizes)]


def test_one_big_day_does_not_turn_the_growth() -> None:
    assert growth_of(samples([100, 110, 120, 5000, 140, 150, 160])) == pytest.approx(10, rel=0.5)
    assert growth_of(samples([100, 110])) is None
    hours = [Sample(NOW + hour * HOUR, hour, 0) for hour in range(24)]
    assert growth_of(hours) is None, "a day says nothing of days"


def test_a_disk_is_full_only_where_something_grows() -> None:
    assert days_until_full(1000, 10) == 100
    assert days_until_full(1000, 0) is None
    assert days_until_full(1000, -5) is None
    assert days_until_full(1000, None) is None
    assert days_until_full(10**15, 1) is None


def test_the_day_it_is_full() -> None:
    known = vault(free_bytes=1000)
    row = capacity_report([known], {VAULT_ID: samples([100, 110, 120, 130])}, NOW).vaults[0]
    assert (row.growth_from, row.growth_per_day, row.days_left) == ("samples", 10, 100)
    assert row.full_on == NOW + 100 * DAY


def daily(count: int, stored: int = 1 << 20, policy: Policy = NIGHTLY) -> ItemFacts:
    points = [point(1, moment(20) - (count - 1) * DAY, stored_bytes=1 << 30, initial=True)]
    points += [point(n + 1, moment(20) - (count - 1 - n) * DAY, stored_bytes=stored) for n in range(1, count)]
    return item("a", policy, tuple(points))


def test_without_samples_growth_is_what_points_brought_in() -> None:
    row = capacity_report([vault(daily(20))], {}, NOW).vaults[0]
    assert (row.growth_from, row.growth_per_day) == ("points", 1 << 20)
    assert capacity_report([vault(daily(2))], {}, NOW).vaults[0].growth_per_day is None


def test_a_policy_that_keeps_all_adds_all_of_its_churn() -> None:
    keeps_all = Policy("all", NIGHTLY.schedule)
    report = forecast_report([vault(daily(20, policy=keeps_all))], {}, NOW, 90).vaults[0]
    assert report.added_points == 90
    assert report.steps[-1].low_bytes == report.steps[-1].high_bytes == report.added_bytes == 90 << 20
    assert report.freed_low_bytes == 0


def test_a_policy_in_its_stride_frees_what_it_adds() -> None:
    ten = Policy("ten", NIGHTLY.schedule, RetentionRules(keep_daily=10))
    known = vault(daily(10, policy=ten), soft_delete_days=0)
    report = forecast_report([known], {}, NOW, 90).vaults[0]
    assert report.steps[-1].points == 10
    assert abs(report.steps[-1].high_bytes) <= 1 << 20
    later = forecast_report([vault(daily(10, policy=ten), soft_delete_days=14)], {}, NOW, 90).vaults[0]
    assert later.steps[-1].high_bytes >= 13 << 20, "what is deleted takes space for its soft-delete days"


def test_a_forecast_says_when_the_disk_is_full() -> None:
    keeps_all = Policy("all", NIGHTLY.schedule)
    known = vault(daily(20, policy=keeps_all), free_bytes=45 << 20)
    full = forecast_report([known], {}, NOW, 90).vaults[0].full_on
    assert full is not None
    assert abs(full - (NOW + 45 * DAY)) < 2 * DAY
    assert forecast_report([vault(daily(1))], {}, NOW).vaults[0].unknown == ("a",)


# --- pages ---------------------------------------------------------------------------------------------------------


def pages(count: int = 4) -> dict[str, str]:
    vaults, jobs, kept = world(count)
    sampled = {VAULT_ID: kept}
    return {
        "rpo": rpo_page(rpo_report(vaults, NOW, 2.0)),
        "sla": sla_page(sla_report(vaults, jobs, NOW - 30 * DAY, NOW)),
        "capacity": capacity_page(capacity_report(vaults, sampled, NOW), forecast_report(vaults, sampled, NOW)),
    }


@pytest.mark.parametrize("name", ["rpo", "sla", "capacity"])
def test_a_page_is_valid_and_runs_and_loads_nothing(name: str) -> None:
    page = pages()[name]
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    names = {str(element.tag).rpartition("}")[2] for element in tree.iter()}
    assert not names & {"script", "img", "link", "iframe", "object", "form", "a", "image", "use", "foreignObject"}
    for element in tree.iter():
        for attribute, value in element.attrib.items():
            assert not attribute.startswith("on")
            assert attribute not in ("href", "src")
            assert "url(" not in value
    assert "@import" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    assert plain(HOSTILE, 80) in page


@pytest.mark.parametrize(("name", "pictures"), [("sla", 2), ("capacity", 2)])
def test_a_picture_has_words_and_a_table(name: str, pictures: int) -> None:
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(pages()[name])
    found = [element for element in tree.iter() if str(element.tag).endswith("svg")]
    assert len(found) == pictures
    for picture in found:
        titled = {child.attrib["id"]: child.text for child in picture if child.attrib.get("id")}
        labels = picture.attrib["aria-labelledby"].split()
        assert len(labels) == 2
        assert all(titled[label] for label in labels)
    assert len([element for element in tree.iter() if element.tag == "table"]) >= pictures
    assert all(element.attrib.get("scope") == "col" for element in tree.iter() if element.tag == "th")


def test_the_strip_and_its_words_say_the_same() -> None:
    vaults, jobs, _ = world()
    report = sla_report(vaults, jobs, NOW - 30 * DAY, NOW)
    page = sla_page(report)
    row = next(row for row in report.rows if row.item == "web01")
    missed = [day for day, outcome in row.days if outcome is Outcome.MISSED]
    assert missed
    assert f"missed {', '.join(f'{day:%m-%d}' for day in missed)}" in page


def test_a_thousand_items_are_less_than_a_mebibyte() -> None:
    for name, page in pages(1000).items():
        assert len(page.encode()) < 1 << 20, name
        assert page.count("vm-0500") >= 1
