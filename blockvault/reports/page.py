"""A report as one page of HTML: no script, nothing from outside, pictures inside, light and dark.

It is a file that can be mailed, kept and opened in ten years. A policy in the page itself forbids scripts and anything
from outside, so even a name that found a way through the escaping could load and run nothing.

Invariants:
- Every text is escaped (`pictures.plain`).
- What a picture shows stands in a table too, in words.
- Less than 1 MiB for a thousand items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from blockvault.clock import age
from blockvault.reports.pictures import NAME_MAX, Line, chart, plain, strip
from blockvault.reports.rpo import RpoState
from blockvault.reports.sla import Outcome
from blockvault.units import format_seconds, format_size

if TYPE_CHECKING:
    from blockvault.reports.capacity import CapacityReport, CapacityVault, ForecastReport, ForecastVault
    from blockvault.reports.rpo import RpoReport, RpoRow
    from blockvault.reports.sla import SlaReport, SlaRow

STRIP_DAYS = 30
PICTURED_DAYS = 90  # of durations and sizes
_VAULTS_PICTURED = 20
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """\
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--dim:#59636e;--edge:#d1d9e0;--good:#1a7f37;--late:#9a6700;\
--bad:#cf222e;--cool:#0969da;--faint:#afb8c1}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--dim:#9198a1;--edge:#3d444d;--good:#3fb950;\
--late:#d29922;--bad:#f85149;--cool:#4493f8;--faint:#656c76}}
body{background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;\
padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p.when{color:var(--dim);margin:.2rem 0 1.5rem}
ul.tiles{display:flex;flex-wrap:wrap;gap:.8rem;list-style:none;padding:0}
.tiles li{border:1px solid var(--edge);border-radius:6px;padding:.6rem 1rem;min-width:8rem}
.tiles b{display:block;font-size:1.4rem}
div.wide{overflow-x:auto}table{border-collapse:collapse}
th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--dim);font-weight:600;white-space:nowrap}td{max-width:20rem;overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.w{min-width:18rem}
summary{color:var(--dim);cursor:pointer;margin:.5rem 0}
.good{color:var(--good)}.late{color:var(--late)}.bad{color:var(--bad);font-weight:600}.dim{color:var(--dim)}
svg{max-width:100%;height:auto}svg text{fill:var(--dim);font:10px system-ui,sans-serif}g.labels{text-anchor:end}
path.on-time{fill:var(--good)}path.late{fill:var(--late)}path.failed{fill:var(--bad)}path.running{fill:var(--cool)}
path.missed{fill:none;stroke:var(--bad);stroke-width:1.5}path.parts{stroke:var(--paper);stroke-width:2}
.grid{stroke:var(--edge)}.line{fill:none;stroke-width:2}.dot{stroke:none}
.line.a{stroke:var(--cool)}.dot.a{fill:var(--cool)}.line.b{stroke:var(--late)}.dot.b{fill:var(--late)}
"""
_STATES = {RpoState.INSIDE: "good", RpoState.NOT_YET: "late", RpoState.OUTSIDE: "bad", RpoState.UNKNOWN: "bad"}

Cell = tuple[str, str]  # its text, already escaped, and its class


def rpo_page(report: RpoReport) -> str:
    """`report rpo` as a page."""
    tiles = [
        (str(report.count(RpoState.OUTSIDE) + report.count(RpoState.UNKNOWN)), "outside their RPO or unknown"),
        (str(report.count(RpoState.INSIDE)), "inside"),
        (str(report.count(RpoState.NOT_YET)), "without a first point yet"),
        (str(report.count(RpoState.STOPPED) + report.count(RpoState.UNPROTECTED)), "not protected"),
    ]
    columns = ("item", "vault", "policy", "state", "point", "taken", "age", "target", "snapshot", "missed runs")
    body = _tiles(tiles) + _problems(report.problems)
    body += _table("Items", columns, [_rpo_cells(row, report.now) for row in report.rows], right=("missed runs",))
    return _page("Recovery point objectives", report.now, body)


def _rpo_cells(row: RpoRow, now: datetime) -> list[Cell]:
    return [
        (plain(row.item, NAME_MAX), ""),
        (plain(row.vault, NAME_MAX), ""),
        (plain(row.policy), ""),
        (plain(f"{row.state}: {row.problem}" if row.problem else row.state), _STATES.get(row.state, "dim")),
        (str(row.point) if row.point is not None else "none", ""),
        (_when(row.taken), ""),
        (age(row.taken, now) if row.taken is not None else "", ""),
        (span(row.target_seconds), ""),
        (f"{row.snapshot}, {_when(row.snapshot_taken)}" if row.snapshot is not None else "none", ""),
        (str(row.missed), "n bad" if row.missed else "n"),
    ]


def sla_page(report: SlaReport) -> str:
    """`report sla` as a page, with a strip of the last days and how long jobs took."""
    percent = "none due" if report.percent is None else f"{report.percent:.2f} %"
    tiles = [(percent, "of the moments have a point")]
    tiles += [(str(report.total(name)), name.replace("_", " ")) for name in ("on_time", "late", "missed", "failed")]
    tiles += [(str(report.restores), "restores"), (str(report.verifies), "verifies")]
    body = _tiles(tiles) + _problems(report.problems)
    last = report.now.date()
    days = min(STRIP_DAYS, (last - report.since.date()).days + 1)
    if report.rows:
        rows = [(row.item, dict(row.days)) for row in report.rows]
        body += f'<h2>The last {days} days</h2><div class="wide">{strip(rows, last, days)}</div>'
    first = last - timedelta(days=days - 1)
    columns = ("item", "vault", "policy", "since", "due", "made", "late", "missed", "failed", "warned",
               "capture", "transfer", "longest gap", f"of the last {days} days")  # fmt: skip
    right = ("due", "made", "late", "missed", "failed", "warned", "capture", "transfer", "longest gap")
    body += _table("Items", columns, [_sla_cells(row, first) for row in report.rows], right=right)
    return _page("Scheduled and made", report.now, body + _durations(report), since=report.since)


def _sla_cells(row: SlaRow, first: date) -> list[Cell]:
    made = f"{row.percent:.1f} %" if row.percent is not None else ""
    return [
        (plain(row.item, NAME_MAX), ""),
        (plain(row.vault, NAME_MAX), ""),
        (plain(row.policy), ""),
        (f"{row.since:%m-%d}", "dim"),
        (str(row.due), "n"),
        (made, "n good" if row.percent == 100 else "n"),
        (str(row.late), "n late" if row.late else "n"),
        (str(row.missed), "n bad" if row.missed else "n"),
        (str(row.failed), "n bad" if row.failed else "n"),
        (str(row.warned), "n late" if row.warned else "n"),
        (seconds(row.capture_seconds.median), "n"),
        (seconds(row.transfer_seconds.median), "n"),
        (span(row.longest_gap_seconds), "n"),
        (_in_words(row.days, first), "w"),
    ]


def _in_words(days: Iterable[tuple[date, Outcome]], first: date) -> str:
    """`26 on time; missed 11-03, 11-09`: the strip of an item, for who cannot see it."""
    shown = [(day, outcome) for day, outcome in days if day >= first]
    good = sum(outcome is Outcome.ON_TIME for _, outcome in shown)
    parts = [f"{good} on time"]
    for kind in (Outcome.FAILED, Outcome.MISSED, Outcome.LATE, Outcome.RUNNING):
        named = [f"{day:%m-%d}" for day, outcome in shown if outcome is kind]
        if named:
            parts.append(f"{kind} {', '.join(named)}")
    return "; ".join(parts)


def _durations(report: SlaReport) -> str:
    days = [day for day in report.by_day if day.day >= (report.now - timedelta(days=PICTURED_DAYS)).date()]
    if not days:
        return ""
    lines = [
        Line("capture", "a", _series([(day.day, day.capture_seconds) for day in days])),
        Line("transfer", "b", _series([(day.day, day.transfer_seconds) for day in days])),
    ]
    ends = (str(days[0].day), str(days[-1].day))
    told = f"Median seconds of capture and transfer of each day, {ends[0]} to {ends[1]}. The table below says the same."
    picture = chart("d", "How long jobs took", told, lines, format_seconds, ends)
    rows: list[list[Cell]] = [
        [
            (str(day.day), ""),
            (str(day.captures), "n"),
            (seconds(day.capture_seconds), "n"),
            (str(day.transfers), "n"),
            (seconds(day.transfer_seconds), "n"),
        ]
        for day in days
    ]
    columns = ("day", "captures", "median capture", "transfers", "median transfer")
    together = [
        f"{name}: median {seconds(held.median)}, 95 of 100 within {seconds(held.p95)}, longest {seconds(held.longest)}"
        for name, held in (("capture", report.capture_seconds), ("transfer", report.transfer_seconds))
        if held.count
    ]
    words = f"<p>{'; '.join(together)}.</p>" if together else ""
    return f"<h2>How long jobs took</h2>{words}{picture}" + _folded(
        "The same as a table, by day", columns, rows, right=columns[1:]
    )


def capacity_page(report: CapacityReport, forecast: ForecastReport | None = None) -> str:
    """`report capacity` as a page, with the sizes of vaults over time and, if it is given, what is to come."""
    stored = sum(vault.stored_bytes for vault in report.vaults)
    tiles = [
        (format_size(sum(vault.protected_bytes for vault in report.vaults)), "protected"),
        (format_size(stored), "stored in vaults"),
        (format_size(sum(vault.snapshot_bytes for vault in report.vaults)), "in snapshots"),
        (_full(min((v.full_on for v in report.vaults if v.full_on is not None), default=None)), "a disk is full"),
    ]
    body = _tiles(tiles) + _problems([(vault.vault, vault.problem) for vault in report.vaults if vault.problem])
    columns = (
        "vault",
        "items",
        "points",
        "protected",
        "stored",
        "snapshots",
        "ratio",
        "growth a day",
        "free",
        "full on",
    )
    body += _table("Vaults", columns, [_vault_cells(vault) for vault in report.vaults], right=columns[1:])
    for number, vault in enumerate(report.vaults[:_VAULTS_PICTURED]):
        body += _sizes(vault, number)
    columns = ("item", "vault", "disks", "points", "snapshots", "sizes of points", "stored", "ratio",
               "churn of a point", "growth a day")  # fmt: skip
    rows: list[list[Cell]] = [
        [
            (plain(item.item, NAME_MAX), ""),
            (plain(item.vault, NAME_MAX), ""),
            (format_size(item.disk_bytes), "n"),
            (str(item.points), "n"),
            (str(item.snapshots), "n"),
            (format_size(item.logical_bytes), "n"),
            (format_size(item.stored_bytes), "n"),
            (_times(item.ratio), "n"),
            (_size(item.churn_bytes), "n"),
            (_size(item.growth_per_day), "n"),
        ]
        for item in report.items
    ]
    body += _table("Items", columns, rows, right=columns[2:])
    if forecast is not None:
        body += "".join(_forecast(vault, forecast, number) for number, vault in enumerate(forecast.vaults))
    return _page("Capacity", report.now, body)


def _vault_cells(vault: CapacityVault) -> list[Cell]:
    growth = _size(vault.growth_per_day) + (" by points" if vault.growth_from == "points" else "")
    return [
        (plain(vault.vault, NAME_MAX), ""),
        (str(vault.items), "n"),
        (str(vault.points), "n"),
        (format_size(vault.protected_bytes), "n"),
        (format_size(vault.stored_bytes), "n"),
        (format_size(vault.snapshot_bytes), "n"),
        (_times(vault.ratio), "n"),
        (growth, "n"),
        (format_size(vault.free_bytes), "n"),
        (_full(vault.full_on), "n"),
    ]


def _sizes(vault: CapacityVault, number: int) -> str:
    samples = vault.samples[-PICTURED_DAYS:]
    if len(samples) < 2:
        return ""
    lines = [Line("stored", "a", _series([(sample.at.date(), sample.stored_bytes) for sample in samples]))]
    ends = (_when(samples[0].at)[:10], _when(samples[-1].at)[:10])
    title = f"Size of vault '{vault.vault}'"
    sizes = [format_size(sample.stored_bytes) for sample in (samples[0], samples[-1])]
    told = f"From {sizes[0]} on {ends[0]} to {sizes[1]} on {ends[1]}. The table below says the same."
    picture = chart(f"s{number}", title, told, lines, format_size, ends)
    rows: list[list[Cell]] = [
        [(_when(each.at)[:10], ""), (format_size(each.stored_bytes), "n"), (format_size(each.free_bytes), "n")]
        for each in samples
    ]
    return f"<h2>{plain(title)}</h2>{picture}" + _folded(
        "The same as a table, by day", ("day", "stored", "free"), rows, ("stored", "free")
    )


def _forecast(vault: ForecastVault, report: ForecastReport, number: int) -> str:
    if vault.problem or not vault.steps:
        return ""
    lines = [
        Line("at least", "a", tuple((each.at.timestamp(), max(0, each.low_bytes)) for each in vault.steps)),
        Line("at most", "b", tuple((each.at.timestamp(), max(0, each.high_bytes)) for each in vault.steps)),
    ]
    ends = (_when(vault.steps[0].at)[:10], _when(vault.steps[-1].at)[:10])
    title = f"The next {report.days} days of vault '{vault.vault}'"
    told = f"How much more is stored than now, from {ends[0]} to {ends[1]}. The table below says the same."
    picture = chart(f"f{number}", title, told, lines, format_size, ends)
    rows: list[list[Cell]] = [
        [
            (_when(each.at)[:10], ""),
            (str(each.points), "n"),
            (signed(each.low_bytes), "n"),
            (signed(each.high_bytes), "n"),
        ]
        for each in vault.steps
    ]
    columns = ("day", "points", "at least", "at most")
    return f"<h2>{plain(title)}</h2>{picture}" + _folded(
        "The same as a table, by day", columns, rows, right=columns[1:]
    )


# --- what pages are made of ------------------------------------------------------------------------------------------


def _page(title: str, now: datetime, body: str, since: datetime | None = None) -> str:
    when = f"{_when(since)} to {_when(now)} UTC" if since is not None else f"{_when(now)} UTC"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{plain(title)} - BlockVault</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{plain(title)}</h1><p class="when">{plain(when)}</p>{body}</main></body></html>\n'
    )


def _tiles(tiles: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<li><b>{plain(figure)}</b>{plain(what)}</li>" for figure, what in tiles)
    return f'<ul class="tiles">{cells}</ul>'


def _problems(problems: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f'<p class="bad">vault {plain(name, NAME_MAX)}: {plain(text)}</p>' for name, text in problems)
    return f"<h2>Cannot be read</h2>{lines}" if lines else ""


def _folded(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], right: Sequence[str] = ()) -> str:
    """The table beside a picture: there for who cannot see that, or wants the figures."""
    table = _table("", columns, rows, right)
    return f"<details><summary>{plain(title)}</summary>{table}</details>" if table else ""


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], right: Sequence[str] = ()) -> str:
    """A table; end tags that HTML lets out are left out, which a thousand rows are glad of."""
    if not rows:
        return ""
    head = "".join(f'<th scope="col"{" class=n" if name in right else ""}>{plain(name)}' for name in columns)
    lines = []
    for row in rows:
        cells = "".join(f'<td class="{style}">{text}' if style else f"<td>{text}" for text, style in row)
        lines.append(f"<tr>{cells}")
    heading = f"<h2>{plain(title)}</h2>" if title else ""
    return f'{heading}<div class="wide"><table><thead><tr>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _series(points: Iterable[tuple[date, float | None]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(day.toordinal()), value) for day, value in points if value is not None)


def _when(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if moment is not None else ""


def span(value: float | None) -> str:
    """`2 d`, `36 h`, `40 min`: coarsely; days from two on."""
    if value is None:
        return ""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= 2 * unit:
            return f"{value / unit:.1f} {name}".replace(".0 ", " ")
    return f"{value:.0f} s"


def seconds(value: float | None) -> str:
    """A duration, or nothing."""
    return format_seconds(value) if value is not None else ""


def signed(value: float) -> str:
    """`+1.20 GiB`, `-3.00 MiB`."""
    return f"{'-' if value < 0 else '+'}{format_size(abs(value))}"


def _size(value: float | None) -> str:
    return format_size(value) if value is not None else ""


def _times(ratio: float | None) -> str:
    return f"{ratio:g} x" if ratio is not None else ""


def _full(moment: datetime | None) -> str:
    return _when(moment)[:10] if moment is not None else "not foreseen"
