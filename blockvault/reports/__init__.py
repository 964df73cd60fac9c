"""What people and other programs are told: reports, metrics, alerts, notifications, the log of destructive acts.

`facts` reads vaults into plain rows; what is made of them are pure functions of rows and `now`.
"""
