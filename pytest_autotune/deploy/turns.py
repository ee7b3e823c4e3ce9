"""Holding some of the things that processes share, all at once and in the order in which they asked."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.deploy import locks
from pytest_autotune.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.1  # between two looks at what is free
_PAUSE_S = 0.005  # between two tries to be the one who looks
_LOOK_S = 5.0  # that this may take beyond the limit: more than any look


class NotNow(Exception):
    """What is free does not do; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Held:
    """Things that nobody else of this user holds while `fds`, or copies of them in another process, are open."""

    names: tuple[str, ...]
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """Things of a kind, by names that can stand in those of files; each process may know another part of them."""

    kind: str  # names their own part of the runtime directory
    names: tuple[str, ...]

    @contextlib.contextmanager
    def held(
        self, choose: Callable[[tuple[str, ...]], Sequence[str]], *, wait_s: float, tell: Callable[[str], None]
    ) -> Iterator[Held]:
        """Hold what `choose` takes of the free ones; it raises `NotNow` to wait for others.

        Who asked first is served first: nobody takes what may be for one who came before and still waits. The dead do
        not wait. `tell` is called with what is waited for, as it changes. Raises `DeployError` after `wait_s`.
        """
        directory, deadline = locks.runtime_directory() / self.kind, time.monotonic() + wait_s
        directory.mkdir(mode=0o700, exist_ok=True)
        pause_s, told = _FIRST_PAUSE_S, ""
        with contextlib.ExitStack() as kept:
            with self._queued(directory, deadline) as number:
                while True:
                    try:
                        taken = self._take(directory, deadline, choose, number=number, kept=kept)
                        break
                    except NotNow as lacking:
                        reason = str(lacking)
                    if time.monotonic() >= deadline:
                        raise DeployError(f"not within {wait_s:g} s: {reason}")
                    if reason != told:
                        told = reason
                        tell(reason)
                    time.sleep(pause_s)  # what ends the loop are the locks, looked at anew each time
                    pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
            yield taken

    def _take(
        self,
        directory: Path,
        deadline: float,
        choose: Callable[[tuple[str, ...]], Sequence[str]],
        *,
        number: int,
        kept: contextlib.ExitStack,
    ) -> Held:
        """Lock what is chosen of what is free, if it is our turn; what else was locked to look is released again."""
        with self._alone(directory, deadline), contextlib.ExitStack() as looked:
            if ahead := self._waiting_before(directory, number):
                raise NotNow(f"{ahead} asked before")
            free: dict[str, tuple[int, contextlib.ExitStack]] = {}
            for name in self.names:
                own = looked.enter_context(contextlib.ExitStack())
                fd = own.enter_context(locks.opened(directory / f"{name}.lock"))
                if locks.lock(fd):
                    free[name] = fd, own
            chosen = tuple(choose(tuple(free)))
            for name in chosen:
                kept.push(free[name][1].pop_all())
        return Held(chosen, tuple(free[name][0] for name in chosen))

    @contextlib.contextmanager
    def _queued(self, directory: Path, deadline: float) -> Iterator[int]:
        """Stand in the queue, by a file that is locked while we wait; return our number in it."""
        with contextlib.ExitStack() as place:
            with self._alone(directory, deadline):
                number = max(self._tickets(directory), default=0) + 1
                path = self._ticket(directory, number)
                fd = place.enter_context(locks.opened(path))
                place.callback(path.unlink, missing_ok=True)  # before it is unlocked: then others may remove it
                locks.lock(fd)
                os.write(fd, json.dumps(self.names).encode())
            yield number

    def _waiting_before(self, directory: Path, number: int) -> int:
        """Return how many others that may take the same things stand before us, and remove what the dead have left."""
        waiting = 0
        for other in sorted(self._tickets(directory)):
            if other >= number:
                break
            path = self._ticket(directory, other)
            with contextlib.suppress(FileNotFoundError):  # served just now
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                with contextlib.closing(os.fdopen(fd, "rb")) as file:
                    if locks.lock(fd):
                        path.unlink(missing_ok=True)
                    else:
                        waiting += not set(self.names).isdisjoint(json.loads(file.read()))
        return waiting

    def _tickets(self, directory: Path) -> list[int]:
        return [int(path.suffix[1:]) for path in directory.glob("queue.*") if path.suffix[1:].isdigit()]

    def _ticket(self, directory: Path, number: int) -> Path:
        return directory / f"queue.{number}"

    @contextlib.contextmanager
    def _alone(self, directory: Path, deadline: float) -> Iterator[None]:
        """Be the only one who looks at the queue or changes it, but for leaving it."""
        path = directory / "queue.lock"
        with locks.opened(path) as fd:
            while not locks.lock(fd):
                if time.monotonic() >= deadline + _LOOK_S:
                    raise DeployError(f"another process holds {path}: is it stopped?")
                time.sleep(_PAUSE_S)  # for as long as another one looks
            yield
