"""The daemon: what runs by itself for years.

loop      a tick: what is due becomes jobs, what waits is started, what has ended is taken in
vaults    the vaults of this host, their protected items and policies, read again when they changed
workers   processes that carry out one phase of one job each
worker    the program of such a process
control   the socket through which the command line speaks with the daemon
service   what systemd is told, and the units
run       all of it wired together, until it is stopped
"""
