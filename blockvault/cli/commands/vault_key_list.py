"""`blockvault vault key list`: the ways into an encrypted vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blockvault.cli.leaf import leaf

if TYPE_CHECKING:
    from blockvault.cli.call import Call
    from blockvault.model import KeySlotInfo


@click.command("list")
@leaf()
def command(call: Call) -> int | None:
    """List the key slots of a vault.

    Each slot is one passphrase or key file that opens the vault. `*` marks the one that opened it just now.
    """
    with call.open_vault() as vault:
        slots, epochs = vault.keys.slots(), vault.keys.epochs
    if call.output.as_json:
        fields = {"vault": vault.name, "id": vault.id, "epochs": epochs, "slots": slots}
        call.output.document({"schema": "blockvault.keys/1", **fields})
    else:
        call.output.table(("slot", "", "kind", "label", "made", "costs", "state"), [_row(slot) for slot in slots])
        call.output.note(f"data keys: {epochs} (`blockvault vault key rotate` begins another)")
    damaged = [slot for slot in slots if slot.damage]
    call.warn(tuple(f"the key slot keys/{slot.slot} is damaged: {slot.damage}" for slot in damaged))
    return None


def _row(slot: KeySlotInfo) -> tuple[str, ...]:
    from blockvault.cli.render import moment

    made = moment(slot.created) if slot.created else "-"
    mark = "*" if slot.opened else ""
    if slot.damage:
        return str(slot.slot), mark, "-", "-", "-", "-", "damaged"
    return str(slot.slot), mark, slot.kind, slot.label, made, costs_text(slot), "good"


def costs_text(slot: KeySlotInfo) -> str:
    """`Argon2id 64 MiB x 3`, or `-` for a key file."""
    from blockvault.units import format_size

    if not slot.passes:
        return "-"
    return f"Argon2id {format_size(slot.memory_kib << 10)} x {slot.passes}"
