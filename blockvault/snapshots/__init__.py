"""The instant-restore tier: local point-in-time copies of an item's disks, kept for days.

Reading order: `tier` is the door; `place` decides where and how; `reflink` clones. Where a file system cannot
clone, `raw_item` captures an item's disks and `raw_disk` each of them, into the newest-state file that
`newest` keeps; what it overwrites goes to the lists and deltas of `deltas` first, `overlay` reads the two
together (R18), and `chains` says what belongs together and what may go. `records` is what the host remembers,
and the journal of it all.
"""
