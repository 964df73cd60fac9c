"""Every Python of the tour reads its clock from a file: `$TOUR_CLOCK` holds the moment, RFC 3339 in UTC.

The program has one place that asks the system for the time (`blockvault.clock`), and the vault's folder one that tells
its own; both are replaced before anything else is imported.
"""

import os

_PATH = os.environ.get("TOUR_CLOCK")

if _PATH:
    from datetime import datetime

    import blockvault.clock
    import blockvault.store.local

    def _now() -> datetime:
        with open(_PATH) as file:
            return datetime.fromisoformat(file.read().strip())

    blockvault.clock.utc_now = _now
    blockvault.store.local.LocalStore.now = lambda _self: _now().timestamp()
