"""Every report in every form, of one made world: what `reports/` must hold. `python tests/golden/golden_reports.py`
writes the files anew; then read `git diff`: each changed line is what somebody's script or eye will meet.
"""

from __future__ import annotations

import io
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

FOLDER = Path(__file__).parent / "reports"
SUFFIX = {"text": "txt", "json": "json", "csv": "csv", "html": "html"}


def rendered() -> dict[str, str]:
    """The files by name."""
    from helpers.report_world import NOW, VAULT_ID, world

    from blockvault.cli.commands import forecast, report_capacity, report_rpo, report_sla
    from blockvault.cli.render import Output
    from blockvault.cli.reporting import Form
    from blockvault.reports.capacity import capacity_report, forecast_report
    from blockvault.reports.rpo import rpo_report
    from blockvault.reports.sla import sla_report

    vaults, jobs, samples = world()
    sampled = {VAULT_ID: samples}
    rpo = rpo_report(vaults, NOW, 1.0)
    sla = sla_report(vaults, jobs, NOW - timedelta(days=30), NOW)
    capacity = capacity_report(vaults, sampled, NOW)
    ahead = forecast_report(vaults, sampled, NOW)
    found = {}
    for form in Form:
        for name in ("rpo", "sla", "capacity", "forecast"):
            output = Output(as_json=form is Form.JSON, color="never")
            text = output.results = io.StringIO()
            match name:
                case "rpo":
                    report_rpo.write(output, rpo, form)
                case "sla":
                    report_sla.write(output, sla, form)
                case "capacity":
                    report_capacity.write(output, capacity, ahead, form)
                case _:
                    forecast.write(output, ahead, capacity, form)
            found[f"{name}.{SUFFIX[form]}"] = text.getvalue()
    return found


def in_utc() -> None:
    """Text for people has times of this machine's zone."""
    os.environ["TZ"] = "UTC"
    time.tzset()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    in_utc()
    FOLDER.mkdir(exist_ok=True)
    for file, text in rendered().items():
        (FOLDER / file).write_bytes(text.encode("utf-8", "surrogateescape"))
        print(f"wrote {file}")
