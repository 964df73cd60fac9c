"""When something is told as wrong, rule by rule, at both sides of each bound."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvault.config.settings import AlertSettings
from blockvault.model.alert import (
    EndedJob,
    Finding,
    ItemFacts,
    Known,
    PointFigures,
    Sample,
    Severity,
    Shortening,
    SpaceFacts,
    VaultFacts,
)
from blockvault.policy.schedule import Schedule, parse_schedule
from blockvault.reports import alert_rules
from blockvault.reports.alert_rules import can_judge, findings_of, full_on, is_silent, unusual_churn
from blockvault.reports.rpo import interval_of

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = NOW.date()
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MIB, GIB = 1 << 20, 1 << 30
SETTINGS = AlertSettings()


def job(number: int, state: str, **changes: object) -> EndedJob:
    at = NOW - timedelta(hours=number)
    made = EndedJob(f"j-{number:08d}", "backup", state, "site", "v", "web01", "i", at, at)
    return replace(made, **changes)  # type: ignore[arg-type]


def item(**changes: object) -> ItemFacts:
    made = ItemFacts("i", "web01", "site", "v", "nightly", 86400.0, known_since=NOW - 90 * DAY)
    return replace(made, **changes)  # type: ignore[arg-type]


def vault(**changes: object) -> VaultFacts:
    made = VaultFacts("site", "v", "/srv/site", looked=NOW, created=NOW - 90 * DAY)
    return replace(made, **changes)  # type: ignore[arg-type]


def found(known: Known, settings: AlertSettings = SETTINGS) -> dict[str, Finding]:
    return findings_of(known, settings)


def rules_of(known: Known, settings: AlertSettings = SETTINGS) -> list[str]:
    return sorted(finding.rule for finding in found(known, settings).values())


def test_all_is_well_where_nothing_is_known() -> None:
    assert found(Known(NOW)) == {}


# --- jobs


def test_the_last_job_counts_and_a_cancelled_one_does_not() -> None:
    problem = ("image web01 cannot be read", "Input/output error", "check the disk")
    failed = job(2, "failed", problem=problem)
    (told,) = found(Known(NOW, jobs=(job(1, "cancelled"), failed, job(3, "completed")))).values()
    assert told.key == "job-failed/i/backup"
    assert told.text == "the backup of item 'web01' failed: image web01 cannot be read"
    assert (told.why, told.do, told.severity) == ("Input/output error", "check the disk", Severity.WARNING)
    assert rules_of(Known(NOW, jobs=(job(1, "completed"), failed))) == []
    prune = replace(failed, operation="prune", item="", item_id="")
    assert sorted(found(Known(NOW, jobs=(failed, prune)))) == ["job-failed/i/backup", "job-failed/v/prune"]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["w", "w", "w"], True),
        (["w", "w", "w", "completed"], True),
        (["w", "w"], False),
        (["w", "w", "completed", "w"], False),
        (["completed", "w", "w", "w"], False),
        (["w", "cancelled", "w", "w"], True),
        (["w", "failed", "w", "w"], False),
    ],
)
def test_three_warnings_in_a_row(states: list[str], told: bool) -> None:
    jobs = tuple(job(n, "completed-with-warning" if s == "w" else s) for n, s in enumerate(states))
    assert ("job-warned" in rules_of(Known(NOW, jobs=jobs))) == told


def test_how_often_is_a_setting() -> None:
    jobs = (job(1, "completed-with-warning", problem=("no snapshot", "", "")),)
    (told,) = found(Known(NOW, jobs=jobs), replace(SETTINGS, warn_times=1)).values()
    assert told.text.endswith("were completed with a warning: no snapshot")


# --- RPO


@pytest.mark.parametrize(
    ("hours", "severity"),
    [(24, None), (48, None), (48.1, Severity.WARNING), (96, Severity.WARNING), (96.1, Severity.CRITICAL)],
)
def test_a_point_that_is_too_old(hours: float, severity: Severity | None) -> None:
    known = Known(NOW, items=(item(last_good=NOW - hours * HOUR),), vaults=(vault(),))
    assert [told.severity for told in found(known).values()] == ([severity] if severity else [])


def test_an_item_that_never_had_a_point() -> None:
    (told,) = found(Known(NOW, items=(item(known_since=NOW - 3 * DAY),))).values()
    assert (told.severity, told.text) == (Severity.CRITICAL, "item 'web01' is protected and has no point in the vault")
    assert found(Known(NOW, items=(item(known_since=NOW - 1.9 * DAY),))) == {}
    # Protected again after years: its old point is no reason to shout before the first run was due.
    assert found(Known(NOW, items=(item(known_since=NOW - DAY, last_good=NOW - 900 * DAY),))) == {}


def test_the_interval_is_the_longest_between_two_runs() -> None:
    assert interval_of(Schedule.hourly(4)) == timedelta(hours=4)
    weekdays = parse_schedule("weekly mon,tue,wed,thu,fri 02:00", zone="UTC")
    assert interval_of(weekdays) == timedelta(days=3)
    assert interval_of(Schedule.daily("02:00", zone="Europe/Berlin")) == timedelta(days=1)  # the factor bears odd days


# --- space


def samples(free: list[int], *, until: date = TODAY, total: int = 1000 * GIB) -> tuple[Sample, ...]:
    return tuple(
        Sample(until - timedelta(days=len(free) - 1 - place), total - each, each, total)
        for place, each in enumerate(free)
    )


def space(free: list[int], total: int = 1000 * GIB) -> VaultFacts:
    facts = SpaceFacts("vault 'site'", "/srv/site", "vault/v", free[-1], total, samples(free, total=total))
    return vault(spaces=(facts,))


def test_the_day_on_which_a_disk_is_full() -> None:
    falling = [(300 - 10 * day) * GIB for day in range(20)]  # 110 GiB are left, 10 a day
    (told,) = found(Known(NOW, vaults=(space(falling),))).values()
    assert told.severity is Severity.WARNING
    assert told.text == "the disk of vault 'site' will be full on 2026-12-01, in 11 days"
    assert found(Known(NOW, vaults=(space(falling),)), replace(SETTINGS, free_days=10)) == {}
    soon = [(300 - 15 * day) * GIB for day in range(19)]
    assert [told.severity for told in found(Known(NOW, vaults=(space(soon),))).values()] == [Severity.CRITICAL]


def test_one_day_of_much_does_not_move_the_slope() -> None:
    free = [(500 - day) * GIB for day in range(20)]
    jumped = [*free[:3], *(each - 300 * GIB for each in free[3:])]
    assert full_on(samples(jumped), jumped[-1], TODAY) == TODAY + timedelta(days=181)


def test_what_does_not_fill_has_no_day() -> None:
    assert full_on(samples([GIB] * 6), GIB, TODAY) is None  # too short
    assert full_on(samples([100 * GIB] * 30), 100 * GIB, TODAY) is None
    assert full_on(samples([(100 + day) * GIB for day in range(30)]), 130 * GIB, TODAY) is None
    grown = samples([(100 - day) * GIB for day in range(6)], until=TODAY - DAY) + samples([500 * GIB], total=2000 * GIB)
    assert full_on(grown, 500 * GIB, TODAY) is None  # a larger disk has no history yet


@given(st.lists(st.integers(0, 1 << 44), min_size=0, max_size=60))
def test_a_day_never_lies_in_the_past(free: list[int]) -> None:
    found_day = full_on(samples(free), free[-1] if free else 0, TODAY)
    assert found_day is None or found_day >= TODAY


def test_a_disk_that_is_nearly_full_needs_no_history() -> None:
    (told,) = found(Known(NOW, vaults=(space([20 * GIB]),))).values()
    assert (told.rule, told.severity) == ("disk-filling", Severity.CRITICAL)
    assert told.text == "the disk of vault 'site' is nearly full: 20.0 GiB of 0.98 TiB are free"
    assert found(Known(NOW, vaults=(space([40 * GIB]),))) == {}
    assert found(Known(NOW, vaults=(space([300 * MIB], total=2 * GIB),))) == {}  # a small one


# --- vaults


def test_bytes_that_nobody_has_verified() -> None:
    facts = vault(point_count=3, needed_bytes=100, verified_bytes=60)
    (told,) = found(Known(NOW, vaults=(facts,))).values()
    assert told.text == "vault 'site': 60% of what points need was verified in the last 30 days"
    for well in (
        replace(facts, verified_bytes=100),
        replace(facts, created=NOW - 29 * DAY),
        replace(facts, point_count=0),
        replace(facts, looked=None),
    ):
        assert found(Known(NOW, vaults=(well,))) == {}
    assert "was ever made" in next(iter(found(Known(NOW, vaults=(replace(facts, needed_bytes=0),))).values())).why


def test_damage_an_unreadable_vault_a_shortened_retention_and_what_was_set_aside() -> None:
    shortened = Shortening("nightly", 2, NOW - DAY, "nas", "retention was shortened: 4 points of 1 item would expire")
    known = Known(
        NOW,
        vaults=(
            vault(damage=("packs/x: flipped", "y")),
            vault(vault_id="w", name="far", problem=("it is away", "", "")),
            vault(vault_id="x", shortened=(shortened, replace(shortened, changed=NOW - 31 * DAY, revision=1))),
        ),
        set_aside=("/var/lib/blockvault/jobs.damaged-1",),
        silent=(NOW - 3 * DAY, NOW),
        waiting_since={"mail": (NOW - 2 * HOUR, "nobody listens there"), "hook": (NOW - HOUR / 2, "")},
    )
    told = found(known)
    assert sorted(told) == [
        "channel-fails/mail",
        "damage-found/v",
        "retention-shortened/x/nightly/2",
        "set-aside/jobs.damaged-1",
        "vault-unreadable/w",
        "was-silent/2026-11-17T12:00:00.000000Z",
    ]
    assert told["damage-found/v"].severity is Severity.CRITICAL
    assert told["retention-shortened/x/nightly/2"].why.startswith("4 points of 1 item would expire; by nas")
    assert all(finding.text and finding.why and finding.do for finding in told.values())


def test_what_was_not_looked_at_is_not_judged() -> None:
    damage = Finding("damage-found", "v", Severity.CRITICAL, "", "", "", vault_id="v")
    assert not can_judge(damage, Known(NOW, vaults=(vault(looked=None),)))
    assert can_judge(damage, Known(NOW, vaults=(vault(),)))
    assert can_judge(damage, Known(NOW))  # this host does not have that vault any more
    assert can_judge(replace(damage, rule="job-failed"), Known(NOW, vaults=(vault(looked=None),)))


def test_silence() -> None:
    assert is_silent(None, NOW) is None  # no daemon ever ran: nobody counts on one
    assert is_silent((NOW - timedelta(seconds=900), 900.0), NOW) is None
    told = is_silent((NOW - 2 * DAY, 900.0), NOW)
    assert told is not None
    assert told.text == "nothing has been looked at for 2 d: no daemon runs"


# --- churn


def point(number: int, changed: int, ratio: float = 0.4, **changes: object) -> PointFigures:
    made = PointFigures(
        number, str(number), NOW - timedelta(days=40 - number), changed, changed, int(changed * ratio), 100 * GIB, False
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def history(count: int = 20) -> list[PointFigures]:
    return [point(n, (900 + 37 * n % 200) * MIB, 0.35 + 0.01 * (n % 5)) for n in range(40 - count, 40)]


def told_of(points: list[PointFigures]) -> list[Finding]:
    return list(unusual_churn(item(points=tuple(points)), NOW))


def test_usual_churn_is_not_told() -> None:
    assert told_of([*history(), point(40, 1200 * MIB)]) == []
    assert told_of([*history(), point(40, 2800 * MIB)]) == []  # much, and yet under three times of what is usual


def test_far_more_churn_than_usual_holds_expiry() -> None:
    (told,) = told_of([*history(), point(40, 60 * GIB)])
    assert (told.severity, told.holds_expiry, told.stays) == (Severity.WARNING, True, True)
    assert told.key == "unusual-churn/i/40"
    assert "60.0 GiB changed" in told.why


def test_data_that_stops_to_compress_is_critical() -> None:
    (told,) = told_of([*history(), point(40, 1100 * MIB, 1.0)])
    assert told.severity is Severity.CRITICAL
    assert "it looks encrypted" in told.why
    encrypted_always = [replace(each, stored_bytes=each.unique_bytes) for each in history()]
    assert told_of([*encrypted_always, point(40, 1100 * MIB, 1.0)]) == []  # LUKS: it never did


def test_too_little_history_tells_nothing() -> None:
    assert told_of([*history(alert_rules.HISTORY_LEAST - 1), point(40, 60 * GIB)]) == []
    assert len(told_of([*history(alert_rules.HISTORY_LEAST), point(40, 60 * GIB)])) == 1
    first = replace(history()[0], is_first=True, changed_bytes=80 * GIB)
    assert told_of([first, *history(), replace(point(40, 60 * GIB), is_first=True)]) == []  # a new initial transfer


def test_little_churn_harms_little() -> None:
    quiet = [point(n, 40_000) for n in range(20, 40)]
    assert told_of([*quiet, point(40, 30 * MIB)]) == []
    small = [replace(each, size_bytes=GIB) for each in [*quiet, point(40, 30 * MIB)]]
    assert len(told_of(small)) == 1  # of an item of 1 GiB it is much


def test_an_idle_item_whose_history_never_moves() -> None:
    idle = [point(n, 0) for n in range(20, 40)]
    assert len(told_of([*idle, point(40, GIB)])) == 1
    assert told_of([*idle, point(40, 0)]) == []


def test_every_point_of_the_last_week_is_looked_at() -> None:
    points = [*history(), point(38, 60 * GIB), point(39, 900 * MIB), point(40, 900 * MIB)]
    assert [told.subject for told in told_of(points)] == ["i/38"]
    later = list(unusual_churn(item(points=tuple(points)), NOW + 10 * DAY))
    assert later == []
