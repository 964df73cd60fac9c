"""`blockvault metrics`: figures for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call


@click.command("metrics")
@click.option("--textfile", metavar="FILE", help="Write them to this file, for node_exporter; it is replaced whole.")
@leaf(vault=False)
def command(call: Call, textfile: str | None) -> int | None:
    """Print metrics as Prometheus reads them.

    What jobs did comes from the journal of this host and is as new as that. A vault is looked at once an hour at most,
    and its figures are kept in between.
    """
    from collections import Counter

    from blockvault import __version__
    from blockvault.cli.alerts import known_alerts
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir, load_settings
    from blockvault.model.alert import AlertState
    from blockvault.reports.figures import look
    from blockvault.reports.metrics import Source, exposition, write_textfile
    from blockvault.store.journal import Journal
    from blockvault.vault import Vault

    state_dir, now = default_state_dir(), utc_now()

    def opened(name: str) -> Vault:
        return Vault.open(name, state_dir=state_dir, secret=call.secret(name))

    figures = look(state_dir, opened, now, load_settings().alerts.rpo_factor)
    alerts = Counter(alert.finding.severity.value for alert in known_alerts() if alert.state is AlertState.OPEN)
    with Journal(state_dir) as journal:
        source = Source(figures, journal.totals(), journal.successes(), journal.open_jobs(), alerts)
    text = exposition(source, now, __version__)
    for vault in figures.vaults:
        if vault.problem:
            call.output.message("warning:", f"vault '{vault.vault}': {vault.problem}", "yellow")
    if call.output.as_json:
        call.output.document({"schema": "blockvault.metrics/1", "textfile": textfile, "text": text})
    if textfile is not None:
        write_textfile(textfile, text)
    elif not call.output.as_json:
        call.output.results.write(text)
    return None
