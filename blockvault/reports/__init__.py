"""What BlockVault tells people: alerts and messages about them, and reports.

`alert_rules` are pure functions of what is known; `alerts` finds that out, keeps what became of each alert in
`store/alert_book.py` and writes messages into its outbox, which `notify` sends. `docs/telling.md` says what is told
when.
"""
