"""One task file of the earlier autotuner as the suites that mean the same.

What its keys meant is that of inference-autotuner at c86a814: src/web/schemas, src/utils/optimizer.py and
src/controllers. What it ran counts, not what its documents say it would: genai-bench took a time in minutes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_autotune.earlier.structured import degrees, quantizations
from pytest_autotune.engines.dialects import DIALECTS
from pytest_autotune.errors import SuiteError
from pytest_autotune.problems import Collector, dotted
from pytest_autotune.space import canonical
from pytest_autotune.spelling import nearest, show
from pytest_autotune.yaml_source import read_yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from pytest_autotune.problems import Where

ENGINES = ("sglang", "vllm")
MODELS = "/mnt/data/models"  # where the earlier system looked for a model that is named without a slash
_IMAGES = {"sglang": ("lmsysorg/sglang", "v0.5.2-cu126"), "vllm": ("vllm/vllm-openai", "latest")}
_STRATEGIES = {"grid_search": "grid", "grid": "grid", "bayesian": "tpe", "random": "random"}
_OBJECTIVES = {
    "minimize_latency": "minimize e2e.mean",
    "maximize_throughput": "maximize total_throughput_per_gpu",
    "minimize_ttft": "minimize ttft.mean",
    "minimize_tpot": "minimize tpot.mean",
}
_APIS = {"text-to-text": "chat", "text-to-embeddings": "embeddings", "text-to-rerank": "rerank"}
_DEPLOYMENTS = ("docker", "local", "ome")
_STATISTICS = ("p50", "p90", "p99")
_LIMIT = ("threshold", "weight", "hard_fail", "fail_ratio")
_RENAMED = MappingProxyType({"sglang": {"mem-frac": "mem-fraction-static"}, "vllm": {}})
_KNOWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "": (
            *("task_name", "description", "model", "base_runtime", "runtime_image_tag", "deployment_mode"),
            *("parameters", "quant_config", "parallel_config", "optimization", "benchmark", "slo", "storage"),
            *("clusterbasemodel_config", "clusterservingruntime_config"),
        ),
        "model": ("id_or_path", "name", "namespace"),
        "optimization": (
            *("strategy", "objective", "max_iterations", "timeout_per_iteration", "n_initial_random", "seed"),
            *("study_name", "storage"),
        ),
        "benchmark": (
            *("task", "model_name", "model_tokenizer", "traffic_scenarios", "num_concurrency", "additional_params"),
            *("max_time_per_iteration", "max_requests_per_iteration", "dataset_url", "dataset_deduplicate"),
        ),
        "slo": ("latency", "ttft", "tpot", "steepness"),
    }
)
_WITHOUT_EQUIVALENT = MappingProxyType(
    {
        ("model", "namespace"): "it named containers; each server has a name of its own",
        ("clusterbasemodel_config",): "nothing is created in a cluster",
        ("clusterservingruntime_config",): "nothing is created in a cluster",
        ("optimization", "n_initial_random"): "a search begins with the engine's own number of random trials",
        ("optimization", "study_name"): "a search is continued by what its suite says",
        ("optimization", "storage"): "results are in the store that --autotune-store names",
        ("benchmark", "model_name"): "each server is asked for by a name of its own",
        ("benchmark", "model_tokenizer"): "tokens are counted by the server",
        ("benchmark", "dataset_deduplicate"): "remove what is doubled from the file",
    }
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What a task file came to."""

    suites: Mapping[str, dict[str, Any]]  # by the suite's name: what its file says
    remarks: tuple[str, ...]  # what has no equivalent, or another one than one may think


def import_task(path: Path, *, engine: str | None = None, models: str = MODELS) -> Imported:
    """Convert a task file, JSON or YAML; raise `SuiteError` with the line of the first thing that is wrong.

    There is one suite for each traffic scenario: levels of different scenarios are never compared. `engine`
    replaces what `base_runtime` says; a model without a slash in its name is looked for in `models`.
    """
    source = read_yaml(path, least="task_name, model, base_runtime, parameters and benchmark")
    if not isinstance(source.value, dict):
        raise SuiteError(f"{show(source.value)} is not a task", path=path, line=source.line(()))
    reader = _Reader(source.value, engine, models)
    suites = reader.suites()
    if reader.collector.found:
        first, *others = reader.collector.found
        more = f" (and {len(others)} more)" if others else ""
        where = f"{dotted(first.where)}: " if first.where else ""
        raise SuiteError(f"{where}{first.text}{more}", path=path, line=source.line(first.where))
    return Imported(suites, tuple(reader.remarks))


class _Reader:
    """Reads one task; what is wrong goes to `collector`, what is not carried over to `remarks`."""

    def __init__(self, task: Mapping[str, Any], engine: str | None, models: str) -> None:
        self.collector = Collector()
        self.remarks: list[str] = []
        self._task = task
        self._models = models.rstrip("/")
        self._engine = engine or self._engine_of(task.get("base_runtime"))

    def suites(self) -> dict[str, dict[str, Any]]:
        """Return the suites by their names."""
        self._remark_unknown()
        suite: dict[str, Any] = {"name": self._name(), "engine": self._engine, "model": self._model()}
        if description := self._task.get("description"):
            suite["description"] = str(description)
        suite |= self._deployment()
        suite |= self._settings()
        load, scenarios = self._load()
        suite["load"] = load
        if limits := self._limits():
            suite["slo"] = limits
        suite |= self._optimization()
        if len(scenarios) == 1:
            return {suite["name"]: {**suite, "load": {**scenarios[0], **load}}}
        self._remark("benchmark.traffic_scenarios", "each has a suite of its own")
        named = {f"{suite['name']}-{_slug(each['scenario'])}": each for each in scenarios}
        return {name: {**suite, "name": name, "load": {**scenario, **load}} for name, scenario in named.items()}

    def _engine_of(self, runtime: Any) -> str:
        found = next((engine for engine in ENGINES if str(runtime).lower().startswith(engine)), None)
        if found is None:
            self._note(
                ("base_runtime",), f"{show(runtime)} names no engine; say --engine {' or --engine '.join(ENGINES)}"
            )
        return found or ENGINES[0]

    def _name(self) -> str:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(self._task.get("task_name", ""))).strip("-._")[:80]
        if not name:
            self._note(("task_name",), f"{show(self._task.get('task_name'))} has no letter or digit to name a suite by")
        return name

    def _model(self) -> str:
        block = self._block("model")
        name = block.get("id_or_path", block.get("name"))
        mounted = self._block("storage").get("mount_path")
        if mounted is not None:
            self._remark("storage", f"no volume of a cluster is mounted; the model is expected in {mounted}")
            return str(mounted)
        if not isinstance(name, str) or not name:
            self._note(("model",), f"id_or_path is {show(name)}; it names the model")
            return ""
        if "/" in name:
            return name
        self._remark("model.id_or_path", f"a name without a slash was a directory of {self._models} (--models)")
        return f"{self._models}/{name}"

    def _deployment(self) -> dict[str, Any]:
        mode, tag = self._task.get("deployment_mode", "docker"), self._task.get("runtime_image_tag")
        self._require(("deployment_mode",), mode, _DEPLOYMENTS)
        if mode == "local":
            if tag is not None:
                self._remark("runtime_image_tag", "left out: local servers have no image")
            return {}
        if mode == "ome":
            self._remark(
                "deployment_mode", "ome started servers in a cluster; here they are containers of this machine"
            )
        repository, default = _IMAGES.get(self._engine, _IMAGES["sglang"])
        return {"deploy": "docker", "docker": {"image": f"{repository}:{tag or default}"}}

    def _settings(self) -> dict[str, Any]:
        """Return `parameters` and `fixed`: what has one value only is fixed, for the earlier system had no defaults."""
        values, dialect = self._parameters(), DIALECTS[self._engine]
        if (task := self._task).get("quant_config"):
            values["quantization"] = quantizations(task["quant_config"], dialect, self.collector, self._remark)
        if task.get("parallel_config"):
            values["parallelism"] = degrees(task["parallel_config"], dialect, self.collector, self._remark)
        single = {name: value[0] for name, value in values.items() if isinstance(value, list) and len(value) == 1}
        fixed = {name: value for name, value in single.items() if value is not None}
        parameters = {name: value for name, value in values.items() if name not in single}
        return {name: value for name, value in (("fixed", fixed), ("parameters", parameters)) if value}

    def _parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, spec in self._block("parameters").items():
            flag = name.lstrip("-").replace("_", "-")
            value = self._parameter(("parameters", name), spec)
            if value:
                found[_RENAMED.get(self._engine, {}).get(flag, flag)] = value
        return found

    def _parameter(self, where: Where, spec: Any) -> Any:
        if isinstance(spec, list):
            return self._choice(where, spec)
        if not isinstance(spec, Mapping):
            self._note(where, f"{show(spec)} is neither a list nor a mapping with a type")
            return []
        kind = spec.get("type", "categorical")
        if kind in ("choice", "categorical"):
            return self._choice(where, spec.get("values", spec.get("choices")))
        if kind not in ("integer", "continuous"):
            self._note(where, f"{show(kind)} is no type; there are choice, categorical, integer, continuous")
        elif self._strategy() == "grid":
            self._note(where, f"a grid has no {kind} parameters; list values, or search bayesian or random")
        form = {"int" if kind == "integer" else "float": [spec.get("low"), spec.get("high")]}
        return {**form, **({"log": True} if spec.get("log") else {})}

    def _choice(self, where: Where, values: Any) -> list[Any]:
        """Return the values that are different command lines: a switch that is false was left out."""
        if not isinstance(values, list):
            self._note(where, f"{show(values)} is not a list of values")
            return []
        if not values:
            self._remark(dotted(where), "an empty list: left out")
        plain = [None if value is False else value for value in values]
        return list({canonical({"": value}): value for value in plain}.values())

    def _load(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the load, and what each scenario adds to it."""
        block = self._block("benchmark")
        task = block.get("task", "text-to-text")
        known = self._require(("benchmark", "task"), task, _APIS)
        minutes = block.get("max_time_per_iteration", 10)
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or minutes <= 0:
            self._note(("benchmark", "max_time_per_iteration"), f"{show(minutes)} is no number of minutes above 0")
        self._remark("benchmark.max_time_per_iteration", f"genai-bench took {minutes} as minutes, and so does duration")
        load = {
            "concurrency": block.get("num_concurrency", [1]),
            "duration": f"{minutes}m",
            "max_requests": block.get("max_requests_per_iteration", 50),
            "api": _APIS[task] if known else "chat",
        }
        self._remark_sampling(block.get("additional_params"))
        scenarios = block.get("traffic_scenarios", ["D(100,100)"])
        if not isinstance(scenarios, list) or not scenarios:
            self._note(("benchmark", "traffic_scenarios"), f"{show(scenarios)} is not a list of scenarios")
            scenarios = []
        url = block.get("dataset_url")
        if url is None:
            return load, [{"scenario": str(scenario)} for scenario in scenarios]
        name = str(url).rstrip("/").rpartition("/")[2]
        self._remark(
            "benchmark.dataset_url",
            f"nothing is downloaded: put {name} beside the suite, unpacked where it is packed. Its prompts are sent "
            "as they are, not cut to a scenario's length",
        )
        return load, [{"scenario": "dataset", "dataset": name.removesuffix(".gz")}]

    def _remark_sampling(self, given: Any) -> None:
        for name, value in (given if isinstance(given, Mapping) else {}).items():
            greedy = name == "temperature" and str(value) in ("0", "0.0")
            if not greedy and name != "ignore_eos":
                self._remark(f"benchmark.additional_params.{name}", f"{show(value)} is not sent: decoding is greedy")

    def _limits(self) -> dict[str, Any]:
        block = self._block("slo")
        limits = {}
        latency = block.get("latency") or {}
        if not isinstance(latency, Mapping):
            self._note(("slo", "latency"), f"{show(latency)} is not a mapping of statistics to limits")
            latency = {}
        for statistic in _STATISTICS:
            if statistic in latency:
                limits[f"e2e.{statistic}"] = self._limit(("slo", "latency", statistic), latency[statistic])
        for name in latency:
            if name not in _STATISTICS:
                self._remark(f"slo.latency.{name}", f"was not read; there are {', '.join(_STATISTICS)}")
        for metric in ("ttft", "tpot"):
            if metric in block:
                limits[f"{metric}.mean"] = self._limit(("slo", metric), block[metric])
        limits = {metric: limit for metric, limit in limits.items() if limit}
        if limits:
            self._remark("slo", "requests that fail were not judged; without a limit on error_rate, 1 % is one")
        if "steepness" in block:
            limits["steepness"] = block["steepness"]
        return limits

    def _limit(self, where: Where, spec: Any) -> dict[str, Any]:
        if not isinstance(spec, Mapping):
            self._note(where, f"{show(spec)} is not a mapping with a threshold")
            return {}
        for name in spec:
            if name not in _LIMIT:
                self._note((*where, name), f"is not known{nearest(name, _LIMIT)}; there are {', '.join(_LIMIT)}")
        seconds = spec.get("threshold")
        if seconds is None:
            self._remark(dotted(where), "has no threshold: left out, as it was")
            return {}
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
            self._note((*where, "threshold"), f"{show(seconds)} is no number of seconds above 0")
            return {}
        hard = spec.get("hard_fail", False)
        return {
            "max": f"{seconds}s",
            "hard_fail": hard,
            **({"fail_ratio": spec.get("fail_ratio", 0.5)} if hard else {}),
            **({"weight": spec["weight"]} if "weight" in spec else {}),
        }

    def _optimization(self) -> dict[str, Any]:
        block = self._block("optimization")
        objective = block.get("objective", "minimize_latency")
        known = self._require(("optimization", "objective"), objective, _OBJECTIVES)
        self._remark(
            "optimization.objective",
            "the earlier system averaged over load levels; a trial scores by its best compliant level",
        )
        search = {"strategy": self._strategy(), "trials": block.get("max_iterations", 100)}
        if "seed" in block:
            search["seed"] = block["seed"]
        limit_s = block.get("timeout_per_iteration")
        if limit_s is not None:
            self._remark(
                "optimization.timeout_per_iteration", "limits the start alone; batches have limits of their own"
            )
        return {
            "objective": _OBJECTIVES[objective] if known else "",
            "search": {**search, "defaults": False},
            **({} if limit_s is None else {"timeouts": {"start": f"{limit_s}s"}}),
        }

    def _strategy(self) -> str:
        written = self._block("optimization").get("strategy", "grid_search")
        known = self._require(("optimization", "strategy"), written, _STRATEGIES)
        return _STRATEGIES[written] if known else ""

    def _require(self, where: Where, value: Any, known: Collection[str]) -> bool:
        """Say whether a value is one of those that there are; else it is noted."""
        if isinstance(value, str) and value in known:
            return True
        self._note(where, f"{show(value)} is not known{nearest(str(value), known)}; there are {', '.join(known)}")
        return False

    def _remark_unknown(self) -> None:
        for key, known in _KNOWN.items():
            for name in self._block(key) if key else self._task:
                where = (key, name) if key else (name,)
                if name not in known:
                    self._remark(dotted(where), f"is no key that was read{nearest(name, known)}: left out")
                elif where in _WITHOUT_EQUIVALENT:
                    self._remark(dotted(where), f"left out: {_WITHOUT_EQUIVALENT[where]}")

    def _block(self, key: str) -> Mapping[str, Any]:
        value = self._task.get(key)
        if value is not None and not isinstance(value, Mapping):
            self._note((key,), f"{show(value)} is not a mapping")
            return {}
        return value or {}

    def _note(self, where: Sequence[str | int], problem: str) -> None:
        if not any(found.where == tuple(where) and found.text == problem for found in self.collector.found):
            self.collector.note(tuple(where), problem)

    def _remark(self, place: str, text: str) -> None:
        if (remark := f"{place}: {text}") not in self.remarks:
            self.remarks.append(remark)


def _slug(scenario: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", scenario.lower()).strip("-")
