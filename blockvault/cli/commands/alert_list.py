"""`blockvault alert list`: what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blockvault.cli.exit_codes import ExitCode
from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model.alert import Alert

_STYLES = {"info": "cyan", "warning": "yellow", "critical": "red"}


@click.command("list")
@click.option("--all", "all_alerts", is_flag=True, help="Those that are over, too.")
@leaf(vault=False)
def command(call: Call, all_alerts: bool) -> int | None:
    """List alerts: what is wrong, and since when.

    As the daemon found it at its last look; that it does not look any more is found by this command itself. Ends with
    3 if something is open that nobody has acknowledged.
    """
    from blockvault.cli.alerts import alert_fields, alert_lines, known_alerts
    from blockvault.model.alert import AlertState

    alerts = [alert for alert in known_alerts() if all_alerts or alert.state is not AlertState.RESOLVED]
    open_alerts = [alert for alert in alerts if alert.state is AlertState.OPEN]
    if call.output.as_json:
        fields: dict[str, Any] = {"schema": "blockvault.alerts/1", "alerts": [alert_fields(each) for each in alerts]}
        call.output.document(fields)
    elif not alerts:
        call.output.note("no alerts" if all_alerts else "no open alerts")
    for alert in alerts if not call.output.as_json else []:
        _show(call, alert, alert_lines(alert))
    return ExitCode.WARNING if open_alerts else None


def _show(call: Call, alert: Alert, lines: list[tuple[str, str]]) -> None:
    output = call.output
    for number, (label, text) in enumerate(lines):
        style = _STYLES[alert.finding.severity] if number == 0 else "bold"
        output.line(f"{output.paint(f'{label:<9}', style, output.results)} {_plain(text)}")
    output.line()


def _plain(text: str) -> str:
    from blockvault.cli.render import shown

    return shown(text)
