"""Bytes <-> model: what every object of a vault looks like on disk. `docs/format.md` is the byte-exact description."""
