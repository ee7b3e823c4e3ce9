"""How much memory a process of the tests has used."""

from __future__ import annotations

from pathlib import Path


def peak_mb() -> float:
    """Return the largest resident memory of this program, in MB.

    Not `ru_maxrss`: a child begins with that of its parent, here of a whole pytest run.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
