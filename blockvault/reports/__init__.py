"""What people and other programs are told: alerts and messages about them, reports, metrics.

`alert_rules` are pure functions of what is known; `alerts` finds that out, keeps what became of each alert in
`store/alert_book.py` and writes messages into its outbox, which `notify` sends. `facts` reads vaults into plain rows;
what reports and metrics make of them are pure functions of rows and `now`. `docs/telling.md` says what is told when.
"""
