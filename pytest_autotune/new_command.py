"""``python -m pytest_autotune new``: writes a suite to begin with, from options or by asking."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_autotune.errors import AutotuneError, SuiteError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pytest_autotune.drafting import Draft, Wanted
    from pytest_autotune.hardware import Gpu

HELP = "write a suite to begin with, from options or by asking, the model's config.json and the GPUs that are here"
_LENGTHS = {"prompt_tokens": (512, "tokens of a prompt"), "output_tokens": (128, "tokens of an answer")}


class _Refused(AutotuneError):
    """What was said makes no suite, or its file is in the way."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; on a terminal, what is not given is asked."""
    from pytest_autotune.drafting import ENGINES

    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="the suite (default: suites/<name>.yaml)")
    parser.add_argument("--engine", choices=ENGINES, help="default: vllm where there are GPUs, else sim")
    parser.add_argument(
        "--model", metavar="MODEL", help="a directory, or a name on a hub (sim: the shape of Llama 3.1 8B)"
    )
    parser.add_argument("--url", metavar="URL", help="of a server that is running (engine endpoint)")
    parser.add_argument("--image", metavar="IMAGE", help="run the servers in containers of this image")
    parser.add_argument("--engine-python", metavar="PATH", help="interpreter of the engine's own environment")
    for name, (default, text) in _LENGTHS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, metavar="N", type=int, help=f"{text} (default: {default})")
    slo = "a preset of limits (default: chat), or limits: ttft.p99=500ms; several times for several"
    parser.add_argument("--slo", metavar="LIMIT", action="append", default=[], help=slo)
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def run(given: argparse.Namespace) -> int:
    """Write the suite and return 0; raise `AutotuneError` for what makes none."""
    import os

    from pytest_autotune import hardware
    from pytest_autotune.drafting import TooLong, draft
    from pytest_autotune.engines.requirements import files_of
    from pytest_autotune.engines.vllm_rules import Checkpoint, read_checkpoint

    gpus = hardware.gpus()
    wanted = _wanted(given, gpus, asking=_Asking(sys.stdin, sys.stdout) if sys.stdin.isatty() else None)
    path = given.file or Path("suites") / f"{wanted.name}.yaml"
    if path.exists() and not given.force:
        raise _Refused(f"{path} is there; --force replaces it")
    try:
        checkpoint = Checkpoint() if wanted.model is None else read_checkpoint(files_of(wanted.model, os.environ))
        drafted = draft(wanted, checkpoint, gpus)
    except TooLong as error:
        raise _Refused(str(error)) from error
    lacking = (f"missing here: {sentence}" for sentence in _write(path, drafted))
    lines = [*drafted.remarks, "", f"written: {path}", *lacking, f"next: pytest {path} --autotune", ""]
    sys.stdout.write("\n".join(lines))
    return 0


def _wanted(given: argparse.Namespace, gpus: Sequence[Gpu], *, asking: _Asking | None) -> Wanted:
    """Return what the options say, then what is answered, then what is usual."""
    from pytest_autotune.drafting import ENGINES, Wanted
    from pytest_autotune.engines.sim.arguments import Settings

    engine = given.engine or ("endpoint" if given.url else None) or ("vllm" if gpus else "sim")
    if asking is not None and given.engine is None and given.url is None:
        engine = asking.for_one("engine", engine, ENGINES)
    model, url = given.model, given.url
    if asking is not None and engine == "endpoint" and url is None:
        url = asking.for_text("its base URL", "http://127.0.0.1:8000")
    usual = Settings().model if engine == "sim" else ""
    if asking is not None and engine != "endpoint" and model is None:
        model = asking.for_text("model: a directory, or a name on a hub", usual)
    if engine == "endpoint" and not url:
        raise _Refused("an endpoint needs --url, e.g. http://127.0.0.1:8000")
    if engine != "endpoint" and not (model := model or usual):
        raise _Refused("which model is to be served? say --model, a directory or a name on a hub")
    if engine == "endpoint" and (given.image or given.engine_python):
        raise _Refused("nothing is started of an endpoint: --image and --engine-python are for other engines")
    if model is not None and Path(model).is_dir():
        model = str(Path(model).absolute())
    lengths = {name: _length(name, getattr(given, name), asking) for name in _LENGTHS}
    return Wanted(
        name=_name(given.file, model or "endpoint"),
        engine=engine,
        model=model,
        url=url,
        image=given.image,
        engine_python=given.engine_python,
        limits=_limits(given.slo, asking),
        **lengths,
    )


def _length(name: str, given: int | None, asking: _Asking | None) -> int:
    default, text = _LENGTHS[name]
    if given is None and asking is not None:
        return asking.for_number(text, default)
    if given is not None and given < 1:
        raise _Refused(f"--{name.replace('_', '-')} {given} is less than 1")
    return default if given is None else given


def _limits(given: Sequence[str], asking: _Asking | None) -> Mapping[str, str] | str:
    """Return limits by metric, or the preset; the file is validated as a whole afterwards."""
    from pytest_autotune.presets.library import all_presets

    if not given and asking is not None:
        names = [preset.name for preset in all_presets(beside=None) if preset.kind == "slo"]
        return f"preset:{asking.for_one('limits', 'chat', names)}"
    if len(given) == 1 and "=" not in given[0]:
        return f"preset:{given[0].removeprefix('preset:')}"
    limits = {}
    for each in given:
        metric, equals, bound = each.partition("=")
        if not equals:
            raise _Refused(f"--slo {each}: one preset, or limits like ttft.p99=500ms")
        limits[metric.strip()] = bound.strip()
    return limits or "preset:chat"


def _name(path: Path | None, model: str) -> str:
    import re

    text = path.stem if path is not None else model.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:80] or "suite"


def _write(path: Path, drafted: Draft) -> tuple[str, ...]:
    """Write the file once it is known that pytest accepts it; return what its engine lacks here."""
    from tempfile import TemporaryDirectory

    from pytest_autotune.engines.registry import builtin
    from pytest_autotune.files import write_atomically
    from pytest_autotune.reporting.yaml_text import yaml_text
    from pytest_autotune.suite_file import load_suite

    text = yaml_text(drafted.remarks, drafted.document, inline=True)
    with TemporaryDirectory() as directory:
        tried = Path(directory) / "suite.yaml"
        tried.write_text(text, encoding="utf-8")
        try:
            suite = load_suite(tried)
        except SuiteError as error:
            raise _Refused(error.problem) from error
    engine = builtin(suite.engine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise _Refused(f"{path}: {error}") from error
    if engine is None or suite.deploy == "docker":  # an image would be pulled to be asked
        return ()
    return engine.inspect(suite).missing


class _Asking:
    """Questions on a terminal; an empty answer takes what is in brackets."""

    def __init__(self, reading: TextIO, writing: TextIO) -> None:
        self._reading = reading
        self._writing = writing

    def for_text(self, question: str, default: str) -> str:
        """Return a line."""
        self._writing.write(f"{question}{f' [{default}]' if default else ''}: ")
        self._writing.flush()
        line = self._reading.readline()
        if not line:
            raise _Refused("the answers ended before the questions")
        return line.strip() or default

    def for_one(self, question: str, default: str, known: Sequence[str]) -> str:
        """Return one of what there is; ask again for anything else."""
        while True:
            answer = self.for_text(f"{question} ({', '.join(known)})", default)
            if answer in known:
                return answer
            self._writing.write(f"{answer!r} is none of them\n")

    def for_number(self, question: str, default: int) -> int:
        """Return a whole number of at least 1; ask again for anything else."""
        while True:
            answer = self.for_text(question, str(default))
            if answer.isdecimal() and int(answer) > 0:
                return int(answer)
            self._writing.write(f"{answer!r} is not a whole number of at least 1\n")
