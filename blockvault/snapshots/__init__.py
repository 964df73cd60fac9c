"""The instant-restore tier: local point-in-time copies of an item's disks, kept for days.

`tier.SnapshotTier` is the door. `place` decides where and how, `reflink` clones, `raw` copies where the file
system cannot clone, `chain` and `overlay` read what `raw` wrote, `deltas` is its list of old chunks on disk,
and `records` is what the host remembers.
"""
