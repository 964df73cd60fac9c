"""BlockVault beside its peers, on one image and one churn, in one run: `python -m benchmarks.peers`.

Nothing is installed: each tool that is found on the path is measured, the others are named as not found. `tool.py`
says what a tool is; there is one file for each peer, `ours.py` for BlockVault and `ceilings.py` for what only copies or
compresses; `scenario.py` is the order of the steps, `measuring.py` takes the figures of one step, `tables.py` and
`pictures.py` show them.
"""
