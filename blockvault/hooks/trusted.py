"""Opening what will be run: a file is trusted only as far as everybody who could change it is.

A script that runs as root is as much root as whoever may write it, or may put another in its place. So each folder
from `/` down, each symbolic link on the way, and the file must belong to root or to the user who runs this, and must
not be writable by group or others. A sticky folder (`/tmp`) may be: there only a file's owner can replace it, and that
is checked next.

Invariant: each step is opened from the step before (`openat` with `O_NOFOLLOW`) and what is checked is the open
descriptor, so that nothing can be exchanged between the look and the use. The file is run by its descriptor too.
"""

from __future__ import annotations

import os
import stat

from blockvault.errors import HookError

_LINKS_MAX = 40  # as the kernel's own limit on a path


def open_trusted(path: str) -> int:
    """A descriptor (`O_PATH`) of a file or folder that nobody but root and this user can change.

    Raises:
        FileNotFoundError: there is none.
        HookError: `hook.not-trusted`, naming the step that others can change.
    """
    rest = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    shown = "/"
    fds = [_checked(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "/")]
    try:
        while rest:
            part = rest.pop()
            if part == "..":
                if len(fds) > 1:
                    os.close(fds.pop())
                shown = os.path.dirname(shown)
                continue
            here = os.path.join(shown, part)
            fd = _checked(os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1]), here)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                fds.append(fd)
                shown = here
                continue
            try:
                target = os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
            links += 1
            if links > _LINKS_MAX:
                raise HookError(
                    "hook.not-trusted",
                    f"{path} leads in circles",
                    why="too many symbolic links",
                    do=f"see `namei {path}`",
                )
            if target.startswith("/"):
                while len(fds) > 1:
                    os.close(fds.pop())
                shown = "/"
            rest += [step for step in reversed(target.split("/")) if step not in ("", ".")]
        return os.dup(fds[-1])
    finally:
        for fd in fds:
            os.close(fd)


def _checked(fd: int, shown: str) -> int:
    """The descriptor, if only root and this user can change what it is of; else it is closed."""
    status = os.fstat(fd)
    why = do = None
    if status.st_uid not in (0, os.geteuid()):
        why = f"{shown} belongs to user {status.st_uid}, who could change it"
        do = f"chown root {shown}" if os.geteuid() == 0 else f"put it where only you can write, not under {shown}"
    elif stat.S_ISLNK(status.st_mode):
        pass  # a link has no mode of its own; the folder that it lies in was checked
    elif status.st_mode & 0o022 and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        why = f"{shown} can be written by its group or by others (mode {stat.S_IMODE(status.st_mode):04o})"
        do = f"chmod go-w {shown}"
    if why is not None:
        os.close(fd)
        raise HookError("hook.not-trusted", "a hook is not run that others could change", why=why, do=do)
    return fd
