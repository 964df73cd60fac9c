"""Policies as a user runs them: output, JSON, exit codes, questions; a dry run and a refusal change nothing."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from helpers.files import noise
from helpers.program import Ended, Program

from blockvault.clock import utc_now
from blockvault.vault import Vault

pytestmark = pytest.mark.no_bytes

KIB = 1 << 10
AZURE = (
    "--schedule", "daily 02:30", "--zone", "Europe/Berlin", "--snapshot-days", "2", "--keep-daily", "30",
    "--keep-weekly", "12", "--weekly-on", "sunday", "--keep-monthly", "12", "--monthly-on", "first sunday",
    "--keep-yearly", "5", "--yearly-on", "first sunday of january", "--window", "20m", "--consistency", "app",
    "--on-hook-failure", "fail", "--retries", "5", "--comment", "as Azure's",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Forty daily points of `web` and two of `db`, the newest of today; copied for each test."""
    program = Program(tmp_path_factory.mktemp("made"))
    today = utc_now()
    with Vault.create(state_dir=str(program.state)) as vault:
        for name, count in (("web", 40), ("db", 2)):
            image = program.folder / f"{name}.img"
            image.write_bytes(noise(64 * KIB, count))
            for days in range(count - 1, -1, -1):
                vault.snapshot([str(image)], keep=False, now=today - timedelta(days=days))
    return program


@pytest.fixture
def ready(made: Program, tmp_path: Path) -> Program:
    program = Program(tmp_path)
    shutil.rmtree(program.folder)
    shutil.copytree(made.folder, program.folder)
    shutil.copytree(made.state, program.state, symlinks=True)
    program.run("points", code=3)  # says that the vault is a copy, once
    return program


def three_parts(ended: Ended) -> None:
    told = [line.split(":")[0] for line in ended.err.splitlines()]
    assert [part for part in told if part in ("error", "why", "do")][:3] == ["error", "why", "do"]


def policy(program: Program, name: str = "gold") -> dict[str, object]:
    return program.run("policy", "show", name, "--json", code=0).document


def test_create_show_and_list(ready: Program) -> None:
    ended = ready.run("policy", "create", "gold", *AZURE, code=0)
    for text in (
        "daily 02:30, Europe/Berlin; starts are spread over 20 min",
        "kept 2 days",
        "30 days; 12 weeks on sunday; 12 months on first sunday; 5 years on first sunday of january",
        "asked: app; where it is not reached: fail",
        "as Azure's",
    ):
        assert text in ended.out
    shown = ready.run("policy", "show", "gold", code=0)
    runs = re.findall(r"\d{4}-\d\d-\d\d 02:30 \+0[12]:00\n", shown.out)
    assert len(runs) >= 5
    # Within a year there are two runs that daylight saving has a say in, told with what becomes of them.
    assert len(re.findall("02:30 does not exist on that day: it runs at the first moment after", shown.out)) >= 1
    assert len(re.findall("02:30 comes twice on that day: it runs once, the first time", shown.out)) >= 1
    document = policy(ready)
    assert document["schema"] == "blockvault.policy/1"
    assert document["retention"] == {
        "keep_last": None, "keep_daily": 30, "keep_weekly": 12, "keep_monthly": 12, "keep_yearly": 5,
        "weekly_on": "sunday", "monthly_on": "first sunday", "yearly_on": "first sunday of january",
        "zone": "Europe/Berlin",
    }  # fmt: skip
    assert (document["schedule"], document["zone"], document["revision"]) == ("daily 02:30", "Europe/Berlin", 0)
    assert (document["window_seconds"], document["retries"], document["consistency"]) == (1200, 5, "app")
    assert len(document["next_runs"]) == 5  # type: ignore[arg-type]
    assert len(document["odd_runs"]) in (2, 3)  # type: ignore[arg-type] # a year may begin and end with one
    listed = ready.run("policy", "list", "--json", code=0).document
    assert listed["schema"] == "blockvault.policies/1"
    assert [(each["policy"], each["revision"]) for each in listed["policies"]] == [("default", None), ("gold", 0)]
    table = ready.run("policy", "list", code=0).out
    assert "offered" in table
    assert "gold" in table


def test_what_is_not_named_is_as_in_the_default(ready: Program) -> None:
    ready.run("policy", "create", "plain", code=0, env={"TZ": "Asia/Kathmandu"})
    plain, default = policy(ready, "plain"), ready.run(
        "policy", "show", "default", "--json", code=0, env={"TZ": "Asia/Kathmandu"}
    ).document  # fmt: skip
    for field in ("schedule", "zone", "retention", "snapshot_days", "window_seconds", "consistency", "retries"):
        assert plain[field] == default[field]
    assert plain["zone"] == "Asia/Kathmandu"
    ready.run("policy", "create", "forever", "--keep-all", code=0)
    assert "all points, for good" in ready.run("policy", "show", "forever", code=0).out


def test_set_changes_what_is_named_and_no_more(ready: Program) -> None:
    ready.run("policy", "create", "gold", *AZURE, code=0)
    before = policy(ready)
    ready.run("policy", "set", "gold", "--schedule", "weekly sat,sun 23:00", "--keep-yearly", "none", code=0)
    after = policy(ready)
    assert (after["schedule"], after["zone"], after["revision"]) == ("weekly sat,sun 23:00", "Europe/Berlin", 1)
    rules = {**before["retention"], "keep_yearly": None, "yearly_on": None}  # type: ignore[dict-item]
    assert after["retention"] == rules
    ready.run("policy", "set", "gold", "--zone", "UTC", "--weekly-on", "none", "--keep-last", "3", code=0)
    moved = policy(ready)
    assert moved["zone"] == "UTC"
    assert moved["retention"] == {**rules, "zone": "UTC", "weekly_on": None, "keep_last": 3}
    for field in ("snapshot_days", "window_seconds", "consistency", "on_hook_failure", "retries", "comment"):
        assert moved[field] == before[field]
    ready.run("policy", "set", "gold", "--keep-all", code=0)
    assert set(policy(ready)["retention"].values()) == {None, "UTC"}  # type: ignore[attr-defined]


def test_assigning_asks_where_points_would_expire(ready: Program) -> None:
    ready.run("policy", "assign", "default", "db", code=0)
    refused = ready.run("policy", "assign", "default", "web", "db", code=2)
    assert refused.kind == "policy.would-expire"
    three_parts(refused)
    assert "would expire 10 points of 1 item" in refused.err
    dry = ready.run("policy", "assign", "default", "web", "--dry-run", code=0)
    assert "10 points" in dry.out
    plan = ready.run("policy", "assign", "default", "web", "--dry-run", "--json", code=0).document
    assert (plan["schema"], plan["would_expire"]) == ("blockvault.policy-change/1", 10)
    assert [each["point"] for each in plan["expired"]] == list(range(1, 11))
    assert [each["item"] for each in policy(ready, "default")["items"]] == ["db"]  # type: ignore[attr-defined]
    code, shown = ready.run_on_terminal("policy", "assign", "default", "web", typed="n\n")
    assert code == 130, shown
    assert "Go on? [y/N]" in shown
    code, shown = ready.run_on_terminal("policy", "assign", "default", "web", typed="y\n")
    assert code == 3, shown
    assert "policy.shortened" in shown
    assert len(policy(ready, "default")["items"]) == 2  # type: ignore[arg-type]


def test_prune_and_points_go_by_the_policy(ready: Program) -> None:
    assert ready.run("prune", "--dry-run", "--json", code=0).document["decisions"][0]["reasons"] == ["no rules"]
    ready.run("policy", "create", "gold", "--keep-daily", "7", "--keep-monthly", "9", "--zone", "UTC", code=0)
    ready.run("policy", "assign", "gold", "web", "--yes", code=3)
    listed = {each["point"]: each for each in ready.run("points", "--json", code=0).document["points"]}
    today = utc_now()
    assert listed[40]["kept_by"].startswith(f"daily {today:%Y-%m-%d}; monthly {today:%Y-%m}")
    assert (listed[1]["kept_by"], listed[1]["expires_with_prune"]) == ("no rule keeps it", True)
    assert (listed[41]["kept_by"], listed[41]["expires_with_prune"]) == ("no rule", False)
    table = ready.run("points", code=0).out
    assert "next prune (no rule keeps it)" in table
    assert f"daily {today:%Y-%m-%d}" in table
    point = listed[40]["id"]
    assert "monthly" in ready.run("point", "show", point, code=0).out
    assert ready.run("point", "show", point, "--json", code=0).document["kept_by"] == listed[40]["kept_by"]
    explained = ready.run("prune", "web", "--dry-run", "--explain", code=0).out
    assert "no rule keeps it" in explained
    done = ready.run("prune", "--json", code=0).document
    left = {each["point"] for each in ready.run("points", "--json", code=0).document["points"]}
    assert left >= {*range(34, 41), 41, 42}
    assert len(left) == 42 - len(done["expired"])
    assert 7 <= len(left) - 2 <= 9  # seven days, and the last days of the one or two months before
    assert not any(each["expires_with_prune"] for each in ready.run("points", "--json").document["points"])


def test_a_shortened_retention_is_asked_for_and_noted(ready: Program) -> None:
    ready.run("policy", "assign", "default", "web", "--yes", code=3)
    ready.run("prune", code=0)
    refused = ready.run("policy", "set", "default", "--keep-daily", "5", code=2)
    assert refused.kind == "policy.would-expire"
    assert "would expire 25 points of 1 item" in refused.err
    dry = ready.run("policy", "set", "default", "--keep-daily", "5", "--dry-run", code=0)
    assert "25 points of 1 item" in dry.out
    assert policy(ready, "default")["revision"] == 0
    done = ready.run("policy", "set", "default", "--keep-daily", "5", "--yes", "--json", code=3)
    assert [(each["message_type"], each.get("kind")) for each in done.documents] == [
        ("warning", "policy.shortened"),
        ("summary", None),
    ]
    assert "25 points of 1 item expire with the next prune" in str(policy(ready, "default")["note"])
    assert len(ready.run("prune", "--json", code=0).document["expired"]) == 25


def test_delete(ready: Program) -> None:
    ready.run("policy", "create", "gold", "--keep-daily", "50", code=0)
    ready.run("policy", "assign", "gold", "web", "db", code=0)
    for options, kind in (
        ((), "policy.in-use"),
        (("--to", "gold"), "policy.to-itself"),
        (("--to", "default"), "policy.would-expire"),
    ):
        refused = ready.run("policy", "delete", "gold", *options, code=2)
        assert refused.kind == kind
        three_parts(refused)
    dry = ready.run("policy", "delete", "gold", "--to", "default", "--dry-run", code=0)
    assert "10 points" in dry.out
    assert policy(ready)["revision"] == 0
    done = ready.run("policy", "delete", "gold", "--to", "default", "--yes", "--json", code=3).document
    assert (done["schema"], done["deleted"], done["to"]) == ("blockvault.policy-delete/1", True, "default")
    assert ready.run("policy", "show", "gold", code=13).kind == "policy.not-found"
    ready.run("policy", "create", "unused", code=0)
    assert ready.run("policy", "delete", "unused", code=2).kind == "input.needs-yes"
    dry = ready.run("policy", "delete", "unused", "--dry-run", code=0)
    assert "would be deleted" in dry.out
    ready.run("policy", "delete", "unused", "--yes", code=0)
    names = [each["policy"] for each in ready.run("policy", "list", "--json", code=0).document["policies"]]
    assert names == ["default"]


def test_simulate_draws_a_row_a_month_and_a_mark_a_day(ready: Program) -> None:
    before = sorted(path for path in ready.state.rglob("*") if path.is_file() and "lmdb" not in str(path))
    drawn = ready.run("policy", "simulate", "gold", *AZURE, code=0).out  # a policy that is not there yet
    rows = re.findall(r"^(\d{4}-\d\d)  ([YMWDLN. ]*)$", drawn, re.MULTILINE)
    assert len(rows) == 13
    assert "".join(row for _, row in rows).count("D") > 10
    for text in ("D  daily: 30 of 30", "W  weekly: 12 of 12, on sunday", "M  monthly: 12 of 12, on first sunday"):
        assert text in drawn
    assert "this change" not in drawn
    document = ready.run("policy", "simulate", "gold", *AZURE, "--months", "3", "--json", code=0).document
    assert document["schema"] == "blockvault.policy-simulation/1"
    assert len(document["months"]) == 3
    assert document["kept"] == len(document["points"])
    assert document["kept_by"]["daily"] == 30
    assert document["change"] is None
    after = sorted(path for path in ready.state.rglob("*") if path.is_file() and "lmdb" not in str(path))
    assert after == before


def test_simulate_says_what_a_change_would_expire(ready: Program) -> None:
    asked = ready.run("policy", "simulate", "default", "--item", "web", "--item", "db", code=0)
    assert "this change would expire 10 points of 1 item" in asked.out
    ready.run("policy", "assign", "default", "web", "db", "--yes", code=3)
    changed = ready.run("policy", "simulate", "default", "--keep-daily", "1", "--snapshot-days", "1", code=0)
    assert "this change would expire 30 points of 2 items" in changed.out
    document = ready.run("policy", "simulate", "default", "--keep-daily", "60", "--json", code=0).document
    assert document["change"]["would_expire"] == 0
    assert policy(ready, "default")["revision"] == 0


def test_what_is_odd_is_warned_of(ready: Program) -> None:
    ended = ready.run("policy", "create", "odd", "--schedule", "hourly 4", code=3)
    assert "of a day's points the rules keep only the newest" in ended.err
    assert "note:" in ready.run("policy", "show", "odd", code=0).err
    ended = ready.run("policy", "create", "short", "--keep-daily", "2", "--snapshot-days", "9", "--json", code=3)
    assert ended.document["warnings"][0]["kind"] == "policy.shorter-than-snapshots"
    assert len(ended.documents) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (("create", "x"), 2, "policy.bad-name"),
        (("create", "../x"), 2, "policy.bad-name"),
        (("create", "gold", "--schedule", "dayly 02:00"), 2, "policy.bad-schedule"),
        (("create", "gold", "--schedule", "hourly 5"), 2, "policy.bad-schedule"),
        (("create", "gold", "--zone", "Europe/Berln"), 2, "policy.unknown-zone"),
        (("create", "gold", "--keep-daily", "0"), 2, "policy.rule-zero"),
        (("create", "gold", "--keep-daily", "many"), 2, "input.usage"),
        (("create", "gold", "--keep-daily", "99999"), 2, "policy.rule-too-large"),
        (("create", "gold", "--keep-weekly", "4", "--weekly-on", "sundy"), 2, "policy.bad-selection"),
        (("create", "gold", "--keep-monthly", "4", "--monthly-on", "day 30"), 2, "policy.bad-selection"),
        (("create", "gold", "--keep-monthly", "4", "--monthly-on", "fifth sunday"), 2, "policy.bad-selection"),
        (("create", "gold", "--keep-yearly", "4", "--yearly-on", "first sunday"), 2, "policy.bad-selection"),
        (("create", "gold", "--weekly-on", "sunday"), 2, "policy.selection-without-rule"),
        (("create", "gold", "--keep-all", "--keep-daily", "3"), 2, "input.usage"),
        (("create", "gold", "--snapshot-days", "0"), 2, "policy.snapshot-days"),
        (("create", "gold", "--snapshot-days", "31"), 2, "policy.snapshot-days"),
        (("create", "gold", "--window", "2d"), 2, "policy.bad-window"),
        (("create", "gold", "--window", "long"), 2, "input.duration"),
        (("create", "gold", "--retries", "-1"), 2, "policy.retries"),
        (("set", "default"), 2, "input.usage"),
        (("set", "nothing", "--retries", "1"), 13, "policy.not-found"),
        (("show", "nothing"), 13, "policy.not-found"),
        (("delete", "nothing", "--yes"), 13, "policy.not-found"),
        (("delete", "default", "--yes"), 13, "policy.not-written"),
        (("assign", "default", "nobody"), 13, "item.not-found"),
        (("assign", "nothing", "web"), 13, "policy.not-found"),
        (("assign", "default"), 2, "input.usage"),
        (("simulate", "nothing"), 13, "policy.not-found"),
        (("simulate", "default", "--months", "0"), 2, "input.usage"),
        (("simulate", "default", "--item", "web", "--retries", "1"), 2, "input.usage"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(
    made: Program, arguments: tuple[str, ...], code: int, kind: str
) -> None:
    ended = made.run("policy", *arguments, code=code)
    assert ended.kind == kind
    assert "Traceback" not in ended.err
    assert not (made.state / "vaults" / "default" / "policies").exists()
