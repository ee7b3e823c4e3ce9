"""Options and ini values, resolved once into one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the ini file say about this run."""

    active: bool  # --autotune or --autotune-rejudge, and something is to be run
    plan_only: bool  # --collect-only or --setup-plan: show, start nothing
    fresh: bool
    rejudge: bool  # judge what is recorded, deploy nothing
    store_url: str
    output: Path  # directory of results, logs and exports; not yet created
    junit: Path | None
    suite_patterns: tuple[str, ...]
    root: Path
    verbose: bool

    @classmethod
    def from_pytest(cls, config: pytest.Config) -> Settings:
        """Resolve options over ini values over defaults."""
        output = config.rootpath / config.getini("autotune_output")
        url = config.getoption("autotune_store") or config.getini("autotune_store")
        junit = config.getoption("autotune_junit")
        rejudge = config.getoption("autotune_rejudge")
        return cls(
            active=config.getoption("autotune") or rejudge,
            plan_only=bool(config.option.collectonly or config.option.setupplan),
            fresh=config.getoption("autotune_fresh"),
            rejudge=rejudge,
            store_url=_store_url(url, output, config.invocation_params.dir),
            output=output,
            junit=None if junit is None else config.invocation_params.dir / junit,
            suite_patterns=tuple(config.getini("autotune_suites")),
            root=config.rootpath,
            verbose=config.option.verbose > 0,
        )


def _store_url(text: str, output: Path, base: Path) -> str:
    """A URL is taken as it is, anything else is the path of an SQLite file."""
    if not text:
        return f"sqlite:///{output / 'results.db'}"
    return text if "://" in text else f"sqlite:///{base / text}"


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini values that `Settings` reads."""
    group = parser.getgroup("autotune", "model server tuning")
    group.addoption(
        "--autotune",
        action="store_true",
        help="search: deploy, load and judge every configuration of the suites, and select the best compliant one",
    )
    group.addoption(
        "--autotune-fresh",
        action="store_true",
        help="measure everything again instead of continuing with recorded trials",
    )
    group.addoption(
        "--autotune-rejudge",
        action="store_true",
        help="search without deploying anything: judge what is recorded by the limits and the objective of today",
    )
    group.addoption(
        "--autotune-store",
        metavar="URL",
        help="results store: path of an SQLite file or any SQLAlchemy URL (default: .autotune/results.db)",
    )
    group.addoption(
        "--autotune-junit",
        metavar="PATH",
        help="write the verdicts (gate and selected configuration of each suite) as JUnit XML",
    )
    parser.addini("autotune_store", "results store: path of an SQLite file or any SQLAlchemy URL", default="")
    parser.addini("autotune_output", "directory of results, logs and exports", default=".autotune")
    parser.addini(
        "autotune_suites",
        "glob patterns of suite files; files named on the command line are always taken",
        type="args",
        default=["suites/*.yaml", "suites/*.yml", "suites/**/*.yaml", "suites/**/*.yml"],
    )
