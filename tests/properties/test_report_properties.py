"""What must hold of reports whatever happened: against simple reckonings of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from helpers.report_world import DAY, HOURLY, NIGHTLY, NOW, VAULT_ID, WEEKLY, backup, item, point, vault
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from blockvault.policy import RetentionRules
from blockvault.policy.policies import Policy
from blockvault.reports.capacity import Sample, capacity_report, forecast_report, growth_of
from blockvault.reports.figures import Figures, ItemFigures, VaultFigures
from blockvault.reports.metrics import Source, exposition
from blockvault.reports.pictures import plain
from blockvault.reports.rpo import RpoState, interval_of, rpo_report
from blockvault.reports.sla import Outcome, sla_report

policies = st.sampled_from([NIGHTLY, WEEKLY, HOURLY])
hours = st.integers(0, 40 * 24)
names = st.text(st.characters(), max_size=40)


@given(policies, st.lists(hours, max_size=30), st.integers(1, 40), st.integers(0, 60 * 24))
def test_an_item_is_inside_exactly_when_a_point_is_young_enough(
    policy: Policy, ages: list[int], factor: int, minutes: int
) -> None:
    now = NOW + timedelta(minutes=minutes)
    points = tuple(point(n, NOW - timedelta(hours=age)) for n, age in enumerate(sorted(ages, reverse=True), 1))
    (row,) = rpo_report([vault(item("a", policy, points))], now, factor).rows
    young = any(now - each.taken <= interval_of(policy.schedule) * factor for each in points)
    assert (row.state is RpoState.INSIDE) == young
    assert row.missed == sum(
        1
        for moment in _moments(policy, now - 400 * DAY, now)
        if moment > (points[-1].taken if points else NOW - 400 * DAY) and moment + policy.window < now
    )


def _moments(policy: Policy, start: datetime, end: datetime) -> list[datetime]:
    found = []
    for moment in policy.schedule.after(start):
        if moment > end:
            return found
        found.append(moment)
    return found


@given(
    policies,
    st.integers(1, 20),
    st.lists(st.sampled_from(["", "completed", "failed", "warned", "open", "untransferred", "late"]), max_size=130),
    st.integers(0, 24 * 60 - 1),
)
@settings(max_examples=60)
def test_every_moment_is_counted_once(policy: Policy, days: int, kinds: list[str], minutes: int) -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(minutes=minutes)
    since = now - days * DAY
    moments = _moments(policy, since, now)
    jobs, made = [], 0
    for moment, kind in zip(moments, kinds, strict=False):
        if not kind:
            continue
        late = timedelta(hours=1) if kind == "late" else timedelta()
        jobs.append(backup("a", moment, policy=policy, ends="completed" if kind == "late" else kind, late=late))
        made += kind not in ("failed", "open")
    (row,) = sla_report([vault(item("a", policy))], jobs, since, now).rows
    assert row.due + row.running == len(moments)
    assert row.on_time + row.late + row.failed + row.missed == row.due
    assert row.on_time + row.late == made
    assert row.failed == sum(kind == "failed" for kind in kinds[: len(moments)])
    if row.due:
        assert row.percent is not None
        assert 0 <= row.percent <= 100
    assert {day for day, _ in row.days} == {moment.date() for moment in moments}
    if row.missed:
        assert Outcome.MISSED in dict(row.days).values() or row.failed


@given(st.lists(st.integers(0, 1 << 50), min_size=3, max_size=40), st.integers(-(1 << 30), 1 << 30))
def test_growth_follows_a_slope_and_no_order(sizes: list[int], slope: int) -> None:
    samples = [Sample(NOW + day * DAY, size + slope * day, 0) for day, size in enumerate(sizes)]
    growth, base = growth_of(samples), growth_of([Sample(NOW + d * DAY, s, 0) for d, s in enumerate(sizes)])
    assert growth is not None
    assert base is not None
    assert abs(growth - base - slope) <= 1 + abs(growth) * 1e-6
    assert growth_of(list(reversed(samples))) == growth


rules = st.builds(
    RetentionRules,
    keep_last=st.none() | st.integers(1, 30),
    keep_daily=st.none() | st.integers(1, 40),
    keep_weekly=st.none() | st.integers(1, 10),
    keep_monthly=st.none() | st.integers(1, 10),
)


@given(rules, st.lists(st.integers(0, 1 << 30), min_size=2, max_size=40), st.integers(0, 30), st.integers(1, 120))
@settings(max_examples=40, deadline=None)
def test_a_forecast_stays_between_its_bounds(kept: RetentionRules, sizes: list[int], soft: int, days: int) -> None:
    first = datetime(2026, 11, 20, 2, tzinfo=UTC) - (len(sizes) - 1) * DAY
    points = tuple(point(n + 1, first + n * DAY, stored_bytes=size, initial=n == 0) for n, size in enumerate(sizes))
    known = vault(item("a", Policy("kept", NIGHTLY.schedule, kept), points), soft_delete_days=soft)
    report = forecast_report([known], {}, NOW, days).vaults[0]
    assert [step.at for step in report.steps] == sorted({step.at for step in report.steps})
    assert report.steps[-1].at == NOW + days * DAY
    assert (report.steps[0].low_bytes, report.steps[0].high_bytes) == (0, 0)
    for step in report.steps:
        assert step.low_bytes <= step.high_bytes
        assert step.points >= 1
        assert step.high_bytes <= sum(sizes) + report.added_bytes + 2
    assert report.added_points == len(_moments(NIGHTLY, NOW, NOW + days * DAY))
    full = capacity_report([known], {}, NOW).vaults[0]
    assert (full.full_on is None) == (full.days_left is None)


@given(names, names)
@settings(max_examples=200)
def test_no_name_breaks_metrics_or_pages(item_name: str, vault_name: str) -> None:
    figures = Figures(
        (VaultFigures(vault_name, VAULT_ID, NOW, 1, 2, 3, None, (ItemFigures("i", item_name, NOW, 5.0, 1, 1, 1),)),)
    )
    text = exposition(Source(figures, {}, [], []), NOW, "1")
    text.encode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert len([sample for sample in found if sample.name == "blockvault_item_rpo_seconds"]) == 1
    shown = plain(item_name)
    assert not set(shown) & set("<>\"'\x00\x1b\n\u202e")
    shown.encode()
