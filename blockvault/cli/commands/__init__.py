"""One file a command; each holds `command`, which `app` loads by name."""
