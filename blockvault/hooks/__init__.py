"""What is done around a capture so that the guest stands still: scripts, the guest agent, frozen file systems.

    trusted      opens a file of which every owner and mode on the way is checked, without a race
    scripts      the pre and post scripts of an item: which, in what order, and how they ran
    guest_agent  the QEMU guest agent's words, spoken through its socket
    mounts       file systems that are mounted on this host: what they lie on, freezing and thawing one
    watchdog     a process of its own that thaws when the program is gone or the limit is over
    freeze       all of that for one capture: freeze, thaw, how long, and whether it held

Nothing here knows of vaults, points or snapshots.
"""
