"""One suite's outcome, gathered once from the store for everything that reports it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_autotune.budget import saved_line
from pytest_autotune.explanation import explain_best
from pytest_autotune.formatting import count, duration
from pytest_autotune.load.plan import levels_of
from pytest_autotune.masking import secret_values
from pytest_autotune.pareto import pareto_front
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pytest_autotune.budget import Cost
    from pytest_autotune.explanation import Explanation
    from pytest_autotune.gate import Gate
    from pytest_autotune.held import Verification
    from pytest_autotune.history import Series
    from pytest_autotune.pareto import Point
    from pytest_autotune.selection import JudgedTrial, Selection
    from pytest_autotune.suite import Suite
    from pytest_autotune.tiers import TierOutcome

UNFINISHED = "interrupted"


class Address(Protocol):
    """The values that were put into a server's command line for this one deployment."""

    @property
    def host(self) -> str:
        """The interface it listened on."""

    @property
    def port(self) -> int:
        """The port it listened on."""

    @property
    def model_name(self) -> str:
        """The model name it answered to."""


@dataclass(frozen=True, slots=True)
class TierReport:
    """What a run has to tell about one tier of a suite."""

    outcome: TierOutcome
    address: Address | None = None  # of the selected trial's server, as of a suite

    @property
    def name(self) -> str:
        """What the suite calls the tier."""
        return self.outcome.tier.name

    @property
    def best(self) -> JudgedTrial | None:
        """The best configuration for the tier; None when none complies."""
        return self.outcome.best


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """What a run has to tell about one suite."""

    suite: Suite
    path: str  # of the suite file, as the user would type it
    engine_version: str
    selection: Selection
    gate: Gate
    run_id: str
    started_at: datetime  # UTC
    finished_at: datetime  # UTC
    elapsed_s: float
    deployments: int  # servers that this run started for the suite
    recorded: int = 0  # trials whose result was in the store before this run
    address: Address | None = None  # of the selected trial's server; None: its command line is exported as it was
    env: Mapping[str, str] = field(default_factory=dict)  # of that server: `suite.env`, variables filled in
    environment: Mapping[str, Any] = field(default_factory=dict)  # the run's environment record
    gpu: str = ""  # e.g. "8 x NVIDIA H100 80GB HBM3"
    keys: tuple[str, ...] = ()  # header values of the load that were filled in from the environment
    root: str = ""  # pytest's root directory
    commit: str = ""  # git revision of the suite's repository
    ended: str = ""  # why the search began no further trial; empty when it went through all
    spent: Cost | None = None  # what the whole search has cost, in all its runs
    tiers: tuple[TierReport, ...] = ()
    everything: Cost | None = None  # about what the full grid would; None when that cannot be said
    verification: Verification | None = None  # None for a search
    history: tuple[Series, ...] = ()  # of a verified suite, this verification last; nothing where it is the first

    @property
    def outcomes(self) -> dict[str, int]:
        """How many trials ended how, best outcome first; an unfinished trial is interrupted."""
        counted = Counter(
            str(judged.status) if judged.trial.state == "finished" else UNFINISHED for judged in self.selection.ranking
        )
        return {name: counted[name] for name in (*map(str, Status), UNFINISHED) if counted[name]}

    @property
    def explanation(self) -> Explanation | None:
        """Why the best is the best; None when nothing was selected."""
        return explain_best(self.selection, self.suite.space.conditional)

    @property
    def front(self) -> tuple[Point, ...]:
        """The Pareto front of the suite's objectives; nothing with a single one, whose front is the best alone."""
        objectives = self.suite.objectives
        return pareto_front(self.selection.ranking, objectives) if len(objectives) > 1 else ()

    @property
    def saved(self) -> str:
        """What the search saved against the full grid, in words; empty when it saved nothing."""
        return saved_line(self.spent, self.everything) if self.spent and self.everything else ""

    @property
    def screened(self) -> str:
        """How many trials were screened out and about how long they were loaded, in words; empty without any."""
        dropped = [judged.trial for judged in self.selection.ranking if judged.status is Status.SCREENED_OUT]
        if not dropped:
            return ""
        load = self.suite.load
        whole_s = len(dropped) * len(levels_of(load)) * (load.planned_warmup_s + (load.planned_duration_s or 0.0))
        loaded_s = sum(max(0.0, (trial.elapsed_s or 0.0) - (trial.deploy_s or 0.0)) for trial in dropped)
        return (
            f"screened out {count(len(dropped), 'trial')}, after about {duration(loaded_s)} beyond start-up "
            f"instead of {duration(whole_s)}"
        )

    @property
    def server_env(self) -> dict[str, str]:
        """The environment variables that the selected server was started with, beyond the inherited ones."""
        return {**self.suite.env, **self.env}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not appear in any report, wherever they turn up."""
        fixed = {name: value for name, value in self.suite.fixed.items() if isinstance(value, str)}
        return (*self.keys, *secret_values([*self.server_env.items(), *fixed.items()]))
