"""What the interpreters and images that suites name have of one engine: each asked once in a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.deploy.docker import in_container
from pytest_autotune.engines import requirements
from pytest_autotune.engines.installation import Installation, default_cache_dir, find_installation, run_here
from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_autotune.engines.installation import Package
    from pytest_autotune.suite import Suite


class Inquiry:
    """Asks for the one package; remembers answers, also that there was none."""

    def __init__(self, package: Package, *, cache_dir: Path | None = None) -> None:
        self.package = package
        self._cache_dir = cache_dir
        self._asked: dict[tuple[str | None, str, tuple[tuple[str, str], ...]], Installation | MissingRequirement] = {}

    def answer(self, suite: Suite) -> Installation:
        """Return what the interpreter of `suite` has; raise `MissingRequirement` when that is nothing usable."""
        python = requirements.interpreter_of(suite)
        env = requirements.environment_of(suite)
        image = suite.docker.image if suite.deploy == "docker" else None
        key = (image, python, tuple(sorted(env.items())))
        if key not in self._asked:
            try:
                self._asked[key] = find_installation(
                    python,
                    env=env,
                    cache_dir=self._cache_dir or default_cache_dir(),
                    package=self.package,
                    run=run_here if image is None else in_container(suite),
                ) or MissingRequirement(self._absent(python, image))
            except MissingRequirement as error:
                self._asked[key] = error
        found = self._asked[key]
        if isinstance(found, MissingRequirement):
            raise found
        return found

    def _absent(self, python: str, image: str | None) -> str:
        if image is not None:
            return f"{python} of {image} has no {self.package.title}"
        install = f"`pip install {self.package.install}`"
        return f"needs {self.package.title}: {install}, or set engine_python: to a Python that has it"
