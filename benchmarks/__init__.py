"""Benchmarks: `pytest benchmarks/` measures, `python -m benchmarks.table` measures and writes the table.

`test_kernels.py` holds the kernels against their ceilings, `test_processes.py` whole processes against `cat`, `cp` and
`zstd`, `test_space.py` what is stored for each byte that changed, `test_limits.py` memory, huge images and the cost of
`--help`. Each ceiling is measured in the same run, round by round in turns, and what is reported is the median of the
rounds' ratios: a machine that slows down slows both.

`python -m benchmarks.peers` takes BlockVault and every other tool that it finds through one scenario
(`docs/performance.md`).
"""
