r"""Entering a box that bubblewrap made, and leaving every privilege at its door. Linux, by ctypes.

bwrap makes the namespaces and mounts; a process that was forked from the warm server then joins them. So the box is
fresh for each submission, while torch was imported once.
As a program (`python -m coursekit_box.namespaces UID PATH... -- COMMAND...`, as root): show the slot's user what it
needs and no more, then become that user and run COMMAND.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import sys
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_NS_GET_USERNS = 0xB701
_MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 32, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}


def join(pid: int) -> int:
    r"""Put this process into the namespaces of `pid`, its children into the pid namespace.

    Returns a descriptor of the user namespace that the box's programs live in: with --disable-userns it is inside of
    the one that owns the mounts, and is entered last, by `leave_privileges`. Raises OSError.
    """
    spaces = {n: os.open(f"/proc/{pid}/ns/{n}", os.O_RDONLY) for n in
              ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")}  # fmt: skip
    owner = fcntl.ioctl(spaces["mnt"], _NS_GET_USERNS)
    _setns(owner, NEWUSER)
    os.close(owner)
    for name, kind in (("cgroup", NEWCGROUP), ("ipc", NEWIPC), ("uts", NEWUTS), ("net", NEWNET),
                       ("pid", NEWPID), ("mnt", NEWNS)):  # fmt: skip
        _setns(spaces[name], kind)
        os.close(spaces[name])
    return spaces["user"]


def limit_tmpfs(path: str, size: int, inodes: int) -> None:
    r"""Bytes and files of the tmpfs at `path`: bwrap has a flag for the first only."""
    data = f"size={size},nr_inodes={inodes}"
    if _LIBC.mount(b"none", path.encode(), None, _MS_REMOUNT | _MS_NOSUID | _MS_NODEV, data.encode()) != 0:
        _fail(f"cannot limit {path}")


def leave_privileges(user: int | None) -> None:
    r"""Enter the innermost user namespace, drop all capabilities for good, filter system calls."""
    if user is not None:
        inside = os.stat("/proc/self/ns/user").st_ino if os.path.exists("/proc/self/ns/user") else -1
        if os.fstat(user).st_ino != inside:
            _setns(user, NEWUSER)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(64):
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # beyond the last one of this kernel
    header = struct.pack("=Ii", 0x20080522, 0)
    if _LIBC.syscall(_SYS_CAPSET[os.uname().machine], header, bytes(24)) != 0:
        _fail("cannot drop capabilities")
    _prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self belongs to nobody here
    _filter_calls()


def end_with_parent() -> None:
    r"""SIGKILL when the parent ends."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    r"""Children of children that ended become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def show_only(paths: list[str]) -> None:
    r"""As root, in a mount namespace of one's own: let other users reach `paths` below folders closed to them.

    Python often lies in somebody's home (pyenv, conda), which the box's user may not enter. The closed folder gives
    way to an empty one that holds nothing but `paths`.
    """
    if not any(_first_closed(path) for path in paths):
        return
    if _LIBC.unshare(NEWNS) != 0:
        _fail("cannot make a namespace")
    if _LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        _fail("cannot make the mounts private")
    opened = {path: os.open(path, os.O_PATH) for path in sorted(set(paths), key=len)}
    covered: set[str] = set()
    for path, descriptor in opened.items():
        closed = _first_closed(path)
        if closed is None and not any(path.startswith(c + "/") for c in covered):
            continue
        if closed is not None:
            if _LIBC.mount(b"none", closed.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=755,size=1m") != 0:
                _fail(f"cannot cover {closed}")
            covered.add(closed)
        os.makedirs(path, exist_ok=True)
        source = f"/proc/self/fd/{descriptor}".encode()
        if _LIBC.mount(source, path.encode(), None, _MS_BIND | _MS_REC, None) != 0:
            _fail(f"cannot show {path}")
    for descriptor in opened.values():
        os.close(descriptor)


def _first_closed(path: str) -> str | None:
    r"""The first folder above `path` that other users cannot enter."""
    above = ""
    for part in path.strip("/").split("/")[:-1]:
        above += "/" + part
        if os.path.isdir(above) and not os.stat(above).st_mode & 0o001:
            return above
    return None


#: Calls that a notebook has no use for. Some reach deep into the kernel (namespaces, mounts, tracing, keys, BPF,
#: io_uring), some take memory that no limit of a process counts (memfd, System V shared memory and queues).
_DENIED = {
    "x86_64": (0xC000003E, (
        29, 68, 319, 447,
        101, 155, 161, 165, 166, 167, 168, 169, 175, 176, 246, 248, 249, 250, 272, 298, 303, 304, 308, 310, 311, 313,
        320, 321, 323, 425, 426, 427, 428, 429, 430, 431, 432, 433, 442,
    )),
    "aarch64": (0xC00000B7, (
        186, 194, 279, 447,
        39, 40, 41, 51, 97, 104, 105, 106, 117, 142, 217, 218, 219, 224, 225, 241, 264, 265, 268, 270, 271, 273,
        280, 282, 294, 425, 426, 427, 428, 429, 430, 431, 432, 433, 442,
    )),
}  # fmt: skip


def filter_program() -> bytes:
    r"""A seccomp filter: the denied calls fail with EPERM; a foreign architecture's calls end the process.

    Every process of a box needs it: a submission can write into the memory of the others, which are the same user's.
    """
    architecture, denied = _DENIED[os.uname().machine]
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, 0x80000000),
        (load, 0, 0, 0), (above, 0, 1, 0x40000000), (give, 0, 0, 0x00050001),
    ]  # fmt: skip
    for call in denied:
        program += [(equal, 0, 1, call), (give, 0, 0, 0x00050001)]
    program.append((give, 0, 0, 0x7FFF0000))
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def _filter_calls() -> None:
    code = filter_program()
    buffer = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    if _LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        _fail("cannot filter system calls")


def _setns(descriptor: int, kind: int) -> None:
    if _LIBC.setns(descriptor, kind) != 0:
        _fail(f"cannot enter a namespace of kind {kind:#x}")


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        _fail(f"prctl {option}")


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")


def main(arguments: list[str]) -> None:
    r"""Replaces this process by COMMAND, run by setpriv as user UID."""
    at = arguments.index("--")
    user, paths, command = arguments[0], arguments[1:at], arguments[at + 1 :]
    with contextlib.suppress(
        OSError
    ):  # where that is allowed: the kernel shall end a submission before its prefork server
        Path("/proc/self/oom_score_adj").write_text("-500")
    show_only(paths)
    drop = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-all", "--no-new-privs"]
    os.execvp(drop[0], [*drop, "--", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
