"""How often the kernel has killed for want of memory in the control group of this process, and so of its servers."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")


def oom_kills() -> int | None:
    """Return the count, of the machine's killer and of one for the group's own limit; None where nothing tells it."""
    try:
        groups = _GROUPS.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return None
    for file in counters(groups, _ROOT):
        try:
            return read_count(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeError):
            continue
    return None


def counters(groups: str, root: Path) -> list[Path]:
    """Return the files that may hold the count, the best first, by what ``/proc/self/cgroup`` says.

    Version 1 has them below its memory controller, version 2 below the root. In a container the group's path may be one
    of the machine's, and the group itself be at the top.
    """
    found = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            top, name = root / "memory", "memory.oom_control"
        elif not controllers:
            top, name = root, "memory.events"
        else:
            continue
        found += [top / path.lstrip("/") / name, top / name]
    return list(dict.fromkeys(found))


def read_count(text: str) -> int | None:
    """Return ``oom_kill`` of ``memory.events`` or ``memory.oom_control``; None before Linux 4.13."""
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.isascii() and count.isdigit():
            return int(count)
    return None
