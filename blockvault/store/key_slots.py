"""The objects `keys/<slot>` of an encrypted vault: each is one way to its master key.

They are created once and deleted when they are given up. One that cannot be read is told with its reason and never
hides another.
"""

from __future__ import annotations

from blockvault.errors import BlockVaultError, NotFoundError
from blockvault.keys import SLOT_NAME, Slots, read_slot
from blockvault.store.local import LocalStore

SLOT_BYTES_MAX = 64 << 10
_FOLDER = "keys"


def slot_object(number: int) -> str:
    """The object's name of a key slot."""
    return f"{_FOLDER}/{number}"


def slot_numbers(store: LocalStore) -> list[int]:
    """The numbers of all slots, readable or not, in order."""
    return sorted(int(entry) for entry in store.entries(_FOLDER) if SLOT_NAME.match(entry))


def read_slots(store: LocalStore) -> Slots:
    """All slots in order of number; of one that cannot be read the reason."""
    slots: Slots = {}
    for number in slot_numbers(store):
        try:
            slots[number] = read_slot(number, store.read(slot_object(number), limit=SLOT_BYTES_MAX))
        except NotFoundError:
            continue  # removed since it was listed
        except BlockVaultError as error:
            slots[number] = error.why or error.message
    return slots
