"""Kills and power cuts by the thousand, counted: `python -m tests.reliability`.

What is claimed, how it is counted and the figures stand in `docs/reliability.md`, whose table this package writes.

| module | what |
|---|---|
| `operations` | the table of what is disturbed; a new verb is one entry |
| `world` | a host with images, a vault, and the digests that its points must restore to |
| `checks` | what must hold after each end, looked at in a fresh process |
| `kills` | SIGKILL at named steps and at random moments |
| `cuts` | power cuts: the device under the file system is cloned while the work goes on |
| `ground` | file systems in files; all of them vanish with the process |
| `syncs` | stops a process right after each sync that it makes |
| `tally` | counts, and the table |
"""
