"""What the commands of reports share: their options, the rows that they are made of, and how they are written."""

from __future__ import annotations

import functools
import io
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from blockvault.cli.call import Call
    from blockvault.reports.facts import VaultFacts


class Form(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    CSV = "csv"


def report_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--format` and `-o`."""
    for option in (
        click.option("-o", "--output", metavar="FILE", help="Write to this file, in the place of what is there."),
        click.option(
            "--format",
            "form",
            type=click.Choice([form.value for form in Form]),
            default=Form.TEXT.value,
            show_default=True,
            help="How it is written; html is one file with pictures, to keep or to mail.",
        ),
    ):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class World:
    """What reports are made of."""

    state_dir: str
    now: datetime
    factor: float
    vaults: list[VaultFacts]


def look(call: Call) -> World:
    """All vaults of this host, or the one that `--vault` names.

    Raises:
        NotFoundError: `--vault` names none (`vault.not-found`).
    """
    from blockvault.clock import utc_now
    from blockvault.config import default_state_dir, load_settings
    from blockvault.reports.facts import gather, read_vault
    from blockvault.vault import Vault

    state_dir, now = default_state_dir(), utc_now()
    if call.vault_option is not None:
        with call.open_vault() as opened:
            vaults = [read_vault(opened, now)]
    else:
        vaults = gather(state_dir, functools.partial(_opened, call), now)
        if not vaults:
            Vault.open(state_dir=state_dir).close()  # it says that there is none, and what to do
    for vault in vaults:
        if vault.problem:
            call.output.message("warning:", f"vault '{vault.name}': {vault.problem}", "yellow")
    return World(state_dir, now, load_settings().alerts.rpo_factor, vaults)


def _opened(call: Call, name: str) -> Any:
    from blockvault.vault import Vault

    return Vault.open(name, secret=call.secret(name))


@contextmanager
def written(call: Call, form: str, output: str | None) -> Iterator[Form]:
    """Send results to the file that `-o` names; it is replaced whole when all is written."""
    chosen = Form.JSON if call.output.as_json else Form(form)
    call.output.as_json = chosen is Form.JSON
    if output is None or output == "-":
        yield chosen
        return
    text = io.StringIO()
    call.output.results = text
    try:
        yield chosen
    finally:
        call.output.results = sys.stdout
    from blockvault.store.local import device_error, replace_file

    try:
        replace_file(os.path.abspath(output), text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise device_error(error, f"writing the report to {output}", kind="report.not-written") from error
    call.output.note(f"wrote {output}")
