"""The pytest plugin that replays landscapes: `pytest -p benchmarks.replay.world`.

Nothing is started, sent or waited for. A suite says with ``fixed`` which landscape it is of (`file` and the fields
of `Key`), `noise` seeds the world, and `proposer` names what fills its slots instead of its own strategy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import numpy as np
import pytest

from benchmarks.replay.landscape import COLUMNS, Key, Landscape, Point, Setting, e2e_s, read
from benchmarks.replay.models import MODELS, SYSTEMS
from benchmarks.replay.proposers import PROPOSERS
from pytest_autotune import choosing
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Installed
from pytest_autotune.engines.roofline import Layout, Served
from pytest_autotune.errors import BenchmarkError, Infeasible
from pytest_autotune.load.generator import never
from pytest_autotune.samples import ClientHealth, Measurement, Sample
from pytest_autotune.search import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_autotune.deploy.server import Deployer, Launch, Server
    from pytest_autotune.engines.engine import Address, Engine, Knob
    from pytest_autotune.load.generator import LoadGenerator, Progress, Target, Workload
    from pytest_autotune.samples import Level
    from pytest_autotune.search import Observation, Strategy
    from pytest_autotune.space import Configuration, Space, Value
    from pytest_autotune.suite import Suite

START_S = 180.0  # of every server, on the simulated clock: a large model from a warm disk
METRIC = "tpot.mean"  # that the limit is on
REQUEST_SPREAD = 0.10  # standard deviation of the logarithm of one request's latencies
BATCH_SPREAD = (0.005, 0.02)  # of a whole batch: what repeats on one server differ by, as a standard deviation
_PLACE = "replay://server/"
_ARRIVALS = 4  # that the tokens of an answer come in: samples stay small
_CLIENT = ClientHealth(lag_p99_s=0.0, lag_max_s=0.0, send_p99_s=0.0, cpu_share=0.0)


class ReplayEngine:
    """An engine whose settings are the columns of a landscape."""

    name: str = "replay"
    memory_knobs: Mapping[str, Knob] = MappingProxyType({})
    abilities = Abilities(token_ids=True, ignore_eos=True)

    def inspect(self, suite: Suite) -> Installed:
        """Find nothing missing."""
        landscape_of(suite)
        return Installed(version="1")

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return a command that only the exports show."""
        flags = {**suite.fixed, **configuration}
        return Command(("replay", f"--port={address.port}", *(f"--{name}={value}" for name, value in flags.items())))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return the GPUs of the setting."""
        setting = landscape_of(suite).setting(configuration)
        return 0 if setting is None else setting.gpus

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:  # noqa: ARG002 - the contract's signature
        """Return None: what was never measured is refused when it is deployed."""
        return None

    def served(self, suite: Suite) -> Served | None:
        """Return the model and the GPU of the landscape."""
        key = landscape_of(suite).key
        known = key.model_path in MODELS and key.system in SYSTEMS
        return Served(MODELS[key.model_path], SYSTEMS[key.system]) if known else None

    def layout(self, suite: Suite, configuration: Configuration) -> Layout | None:
        """Return what the columns say; None of what was not measured."""
        setting = landscape_of(suite).setting(configuration)
        return None if setting is None else layout_of(setting)

    def classify(self, log: str, returncode: int | None) -> Cause:  # noqa: ARG002 - the contract's signature
        """Return a crash: there is no process to look at."""
        return Cause(CauseKind.CRASH, "")

    def effective(self, log: str) -> Mapping[str, Value]:  # noqa: ARG002 - the contract's signature
        """Return nothing: there is no log."""
        return {}


class ReplayServer:
    """A server that only has an address, which says what it is: no load generator needs to be told."""

    def __init__(self, configuration: Configuration) -> None:
        self.model_name = "replay"
        self.argv: tuple[str, ...] = ("replay",)
        self.started_s = START_S
        self.url = _PLACE + quote(json.dumps(dict(configuration), sort_keys=True))
        self.effective: Mapping[str, Value] = {}

    def died(self) -> Cause | None:
        """Return None: it lives."""
        return None

    def log_tail(self, lines: int = 40) -> str:  # noqa: ARG002 - the contract's signature
        """Return nothing."""
        return ""


class ReplayDeployer:
    """Starts nothing, at once."""

    @contextlib.contextmanager
    def deploy(self, launch: Launch) -> Iterator[Server]:
        """Refuse a configuration that was never measured."""
        if landscape_of(launch.suite).setting(launch.configuration) is None:
            text = f"nothing was measured of {dict(launch.configuration)}"
            raise Infeasible(text, cause=Cause(CauseKind.BAD_ARGUMENT, text))
        launch.log.touch()
        yield ReplayServer(launch.configuration)

    def sweep(self) -> tuple[str, ...]:
        """Return nothing: nothing is left behind."""
        return ()


class ReplayLoad:
    """Makes up the requests of a closed loop whose mean latencies are those of a landscape."""

    def __init__(self, suite: Suite) -> None:
        self._landscape = landscape_of(suite)
        self._noise = suite.fixed["noise"]

    def run(
        self,
        target: Target,
        level: Level,
        workload: Workload,
        *,
        died: Callable[[], object | None],  # noqa: ARG002 - it never does
        on_progress: Callable[[Progress], None],  # noqa: ARG002 - it takes no time
        enough: Callable[[Sequence[Sample], float], str] = never,
    ) -> Measurement:
        """Return the requests that such a server would have answered in the window."""
        setting = self._landscape.setting(json.loads(unquote(target.url.removeprefix(_PLACE))))
        assert setting is not None, "the deployer refuses what was not measured"
        if level.concurrency is None:
            raise BenchmarkError(f"{level} is no closed loop")
        point = setting.at(level.concurrency) or beyond(setting, level.concurrency)
        identity = f"{self._noise} {target.url} {level} {workload.seed}"
        chance = np.random.default_rng(int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]))
        samples = self._requests(chance, level.concurrency, point.ttft_s, point.tpot_s, workload)
        return _window(samples, level, workload, enough)

    def _requests(
        self, chance: np.random.Generator, streams: int, ttft_s: float, tpot_s: float, workload: Workload
    ) -> list[Sample]:
        """Return all requests in order of sending: each stream sends the next when the last has ended."""
        osl, until_s = self._landscape.key.osl, workload.duration_s
        batch = np.exp(chance.normal(0.0, chance.uniform(*BATCH_SPREAD), 2))
        whole_s = e2e_s(Point(ttft_s, tpot_s), osl)
        rounds = 2 + int((workload.warmup_s + until_s) / whole_s * 2)
        spread = np.exp(chance.normal(-(REQUEST_SPREAD**2) / 2, REQUEST_SPREAD, (2, streams, rounds)))
        firsts_s = ttft_s * batch[0] * spread[0]
        decodes_s = tpot_s * batch[1] * spread[1] * (osl - 1)
        # Streams are out of step from the start, as they are after the first answers.
        starts_s = -workload.warmup_s - whole_s * chance.random((streams, 1))
        ends_s = starts_s + np.cumsum(firsts_s + decodes_s, axis=1)
        sent_s = np.concatenate((starts_s, ends_s[:, :-1]), axis=1)
        samples = []
        for at, first, decode in sorted(
            zip(sent_s.ravel().tolist(), firsts_s.ravel().tolist(), decodes_s.ravel().tolist(), strict=True)
        ):
            if at < until_s and at + first + decode >= -workload.warmup_s:
                gaps = (decode / (_ARRIVALS - 1),) * (_ARRIVALS - 1)
                samples.append(Sample(at, at + first, at + first + decode, self._landscape.key.isl, osl, gaps))
        return samples


def _window(
    samples: Sequence[Sample], level: Level, workload: Workload, enough: Callable[[Sequence[Sample], float], str]
) -> Measurement:
    """Close the window at its time, after `max_requests`, or when enough is known, and drop what came later."""
    window_s, stopped = workload.duration_s, ""
    ends = sorted((one.end_s, index) for index, one in enumerate(samples) if one.end_s >= 0)
    if workload.max_requests is not None and len(ends) >= workload.max_requests:
        window_s = min(window_s, ends[workload.max_requests - 1][0])
    if enough is not never:
        for second in range(1, int(window_s)):
            finished = [one for one in samples if one.sent_s >= 0 and one.end_s <= second]
            if stopped := enough(finished, float(second)):
                window_s = float(second)
                break
    kept = tuple(one for one in samples if one.sent_s < window_s and one.end_s >= 0)
    early = sum(one.end_s < 0 for one in samples)
    return Measurement(level, kept, window_s, early, _CLIENT, {}, stopped=stopped)


def beyond(setting: Setting, concurrency: int) -> Point:
    """Return what stands for a load that was not measured: below, the least one's latencies; above, a full server's.

    More streams then only wait longer, and the throughput stays what the largest load had: no search finds anything
    better where nothing is known, and none sees the throughput fall under more load, which would be of our making.
    """
    levels = list(setting.points)
    if concurrency < levels[0]:
        return setting.points[levels[0]]
    last = setting.points[levels[-1]]
    longer = concurrency / levels[-1]
    return Point(last.ttft_s * longer, last.tpot_s * longer)


def layout_of(setting: Setting) -> Layout:
    """Return the layout of a setting; attention that is on fewer GPUs than the server has is there in copies.

    ``fp4`` is what its checkpoint is stored in.
    """
    of = dict(zip(COLUMNS, setting.values, strict=True))
    tp, pp, dp = (max(1, of[name]) for name in ("tp_size", "pp_size", "attention_dp_size"))
    return Layout(
        gpus=setting.gpus,
        tp=tp,
        pp=pp,
        dp=max(dp, setting.gpus // (tp * pp)),
        expert_tp=max(1, of["moe_tp_size"]),
        expert_ep=max(1, of["moe_ep_size"]),
        weight_bytes=1.0 if "fp8" in (of["precision"], of["gemm_quant_mode"]) else None,
    )


def landscape_of(suite: Suite) -> Landscape:
    """Return the landscape that a suite names."""
    fixed = suite.fixed
    key = Key(fixed["model_path"], fixed["system"], fixed["isl"], fixed["osl"])
    found = next((one for one in read(Path(fixed["file"])) if one.key == key), None)
    if found is None:
        raise suite.error(f"{fixed['file']} has no landscape {key}", "fixed")
    return found


def pytest_autotune_engine(name: str) -> Engine | None:
    """Return the engine of replayed servers."""
    return ReplayEngine() if name == "replay" else None


def pytest_autotune_deployer(name: str) -> Deployer | None:
    """Return the deployer of replayed servers, in the place of that of processes."""
    return ReplayDeployer() if name == "local" else None


def pytest_autotune_load_generator(suite: Suite) -> LoadGenerator | None:
    """Return the load generator of replayed servers."""
    return ReplayLoad(suite) if suite.engine == "replay" else None


def _suggest(
    space: Space,
    history: Sequence[Observation],
    *,
    seed: int,
    strategy: Strategy,
    fixed: Mapping[str, Value],
    defaults: Mapping[str, Value],
) -> Configuration:
    propose = PROPOSERS.get(str(fixed.get("proposer")))
    if propose is None:
        return suggest(space, history, seed=seed, strategy=strategy, fixed=fixed, defaults=defaults)
    return propose(space, history, seed, fixed)


def pytest_configure(config: pytest.Config) -> None:
    """Put `_suggest` where slots are filled, until pytest ends."""
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    patch.setattr(choosing, "suggest", _suggest)
