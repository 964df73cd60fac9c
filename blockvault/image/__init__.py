"""Disk images as sources and targets: raw files and block devices, holes, clones, who else uses them."""
