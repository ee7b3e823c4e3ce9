"""Options and ini values, resolved once into one frozen object."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.discovery import may_verify
from pytest_autotune.errors import StoreError
from pytest_autotune.spelling import nearest

if TYPE_CHECKING:
    import pytest

WORKER_RUN_ID = "autotune_run_id"  # in an xdist worker's `workerinput`: the run that it belongs to
FORMATS = ("markdown", "bencher", "bigger-is-better", "smaller-is-better", "openmetrics")
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the ini file say about this run."""

    searching: bool  # --autotune or --autotune-rejudge
    active: bool  # this is a run: it searches, or there may be something to verify
    plan_only: bool  # --collect-only or --setup-plan: show, start nothing
    fresh: bool
    rejudge: bool  # judge what is recorded, deploy nothing
    compare: str | None  # what to compare with, in pairs: a file, a name or run of the store, or a revision
    record: bool  # write what a search selects beside its suite
    store_url: str
    store_file: Path | None  # of an SQLite store
    output: Path  # directory of results, logs and exports; not yet created
    junit: Path | None
    junit_family: str  # pytest's, as for its own report
    exports: tuple[tuple[str, Path], ...]  # format and path of what is written beside
    suite_patterns: tuple[str, ...]
    root: Path
    verbose: bool

    @classmethod
    def from_pytest(cls, config: pytest.Config) -> Settings:
        """Resolve options over ini values over defaults."""
        output = config.rootpath / config.getini("autotune_output")
        url = config.getoption("autotune_store") or config.getini("autotune_store")
        junit = config.getoption("autotune_junit")
        exports = config.getoption("autotune_export")
        rejudge = config.getoption("autotune_rejudge")
        searching = config.getoption("autotune") or rejudge
        patterns = tuple(config.getini("autotune_suites"))
        store_url = url_of_store(url, output, config.invocation_params.dir)
        store_file = file_of_store(store_url)
        return cls(
            searching=searching,
            active=searching or _verifying(config, patterns, store_file),
            plan_only=bool(config.option.collectonly or config.option.setupplan),
            fresh=config.getoption("autotune_fresh"),
            rejudge=rejudge,
            compare=config.getoption("autotune_compare"),
            record=config.getoption("autotune_record"),
            store_url=store_url,
            store_file=store_file,
            output=output,
            junit=None if junit is None else config.invocation_params.dir / junit,
            junit_family=config.getini("junit_family") if config.pluginmanager.hasplugin("junitxml") else "xunit2",
            exports=tuple((kind, config.invocation_params.dir / path) for kind, path in exports),
            suite_patterns=patterns,
            root=config.rootpath,
            verbose=config.option.verbose > 0,
        )


def _verifying(config: pytest.Config, patterns: tuple[str, ...], store_file: Path | None) -> bool:
    """Say whether there may be something to verify; the workers of xdist do as their controller says."""
    worker: dict[str, str] | None = getattr(config, "workerinput", None)
    if worker is not None:
        return WORKER_RUN_ID in worker
    return may_verify(config, patterns, store_file)


def _export(text: str) -> tuple[str, str]:
    """Read FORMAT=PATH; raise `ArgumentTypeError`, which argparse turns into a usage error."""
    kind, _, path = text.partition("=")
    if kind not in FORMATS or not path:
        hint = nearest(kind, FORMATS)
        raise ArgumentTypeError(f"{text!r} is not FORMAT=PATH with one of {', '.join(FORMATS)}{hint}")
    return kind, path


def file_of_store(url: str) -> Path | None:
    """Return the file of an SQLite store; None for another database."""
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None


def url_of_store(text: str, output: Path, base: Path) -> str:
    """A URL is taken as it is, anything else is the path of an SQLite file."""
    if not text:
        return f"{_SQLITE}{output / 'results.db'}"
    return text if "://" in text else f"{_SQLITE}{base / text}"


def url_of_existing(text: str, directory: Path) -> str:
    """Return the URL of a store that a command looks into, without a text the one of runs in the directory.

    Raises `StoreError` for a file that is not there: looking makes none.
    """
    url = url_of_store(text, directory / ".autotune", directory)
    file = file_of_store(url)
    if file is not None and not file.exists():
        raise StoreError(f"there is no store {file}; name another by --store")
    return url


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
        "--autotune-record",
        action="store_true",
        help="write the configuration that a search selects beside its suite (chat.best.json for chat.yaml), "
        "where runs without --autotune verify it; with --autotune-compare of equal sides, what they differ by",
    )
    group.addoption(
        "--autotune-compare",
        metavar="REF",
        help="verify, and deploy baseline and candidate in turn: the recorded best against that of a file, of a name "
        "or run that `python -m pytest_autotune baselines` lists, or of a git revision, branch or tag",
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
    group.addoption(
        "--autotune-export",
        metavar="FORMAT=PATH",
        action="append",
        type=_export,
        default=[],
        help=f"write what the suites came to, in one of the formats {', '.join(FORMATS)}; may be given several times",
    )
    parser.addini("autotune_store", "results store: path of an SQLite file or any SQLAlchemy URL", default="")
    parser.addini("autotune_output", "directory of results, logs and exports", default=".autotune")
    parser.addini(
        "autotune_suites",
        "glob patterns of suite files; files named on the command line are always taken",
        type="args",
        default=["suites/*.yaml", "suites/*.yml", "suites/**/*.yaml", "suites/**/*.yml"],
    )
