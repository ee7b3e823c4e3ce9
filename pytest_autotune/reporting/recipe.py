"""What it takes to start the best server on another machine, gathered once for every form that tells it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_autotune.deploy.docker import image_of
from pytest_autotune.engines.containers import LEFT_OUT, container_of, settings_start
from pytest_autotune.engines.registry import builtin
from pytest_autotune.masking import holds_secret
from pytest_autotune.reporting.command import PORT, Word, stable_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_autotune.engines.containers import Container
    from pytest_autotune.reporting.report import SuiteReport
    from pytest_autotune.selection import JudgedTrial

MOUNTED_MODEL = "/model"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(?:/|\.{1,2}/|~).*", re.DOTALL)
_LONGEST_NAME = 50  # of 63 characters, so that there is room for what is appended to it


@dataclass(frozen=True, slots=True)
class Recipe:
    """The server of one suite or tier, without what belonged to its deployment here; secrets by name only."""

    name: str  # a DNS label
    container: Container
    model: str  # of a hub, or an absolute path
    served_as: str
    host: str  # where it listened here
    settings: tuple[Word, ...]
    env: Mapping[str, str]
    secrets: tuple[str, ...]  # variables that the server must have, too
    gpus: int
    health: str  # path that answers when the server is up
    start_s: float  # how long that may take
    remarks: tuple[str, ...]

    @property
    def local(self) -> bool:
        """Whether the model is a directory, which a container must be given."""
        return self.model.startswith("/")

    @property
    def image(self) -> str:
        """The image with its tag."""
        return f"{self.container.repository}:{self.container.tag}"

    @property
    def asked(self) -> tuple[str, ...]:
        """The variables that stand for secrets among the settings."""
        return tuple(dict.fromkeys(word.value for word in self.settings if word.kind == "secret"))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The secrets of the server's environment, with the one for gated models if it downloads its model."""
        token = () if self.local or self.container.token in self.secrets else (self.container.token,)
        return (*token, *self.secrets)

    def arguments(self) -> tuple[Word, ...]:
        """Return the words after the entry command, in a container: it listens on all of its own interfaces."""
        model = MOUNTED_MODEL if self.local else self.model
        values = (model, self.served_as, "0.0.0.0", str(PORT))  # noqa: S104
        addressed = (word for pair in zip(self.container.addressed, values, strict=True) for word in pair)
        return (*(Word("literal", word) for word in addressed), *self.settings)


def recipe_of(report: SuiteReport, best: JudgedTrial, *, tier: str, remarks: Sequence[str]) -> Recipe | None:
    """Return how to start the selected server elsewhere; None when its engine has no container, or it is not known how.

    A command line that this package did not make is not known, nor is a model whose name holds a secret.
    """
    engine, argv = builtin(report.suite.engine), best.trial.argv
    container = _container(report, best)
    start = settings_start(argv)
    if engine is None or container is None or start is None:
        return None
    words = stable_words(report, argv)
    model, served_as, host = (words[start - back] for back in (7, 5, 3))
    if "secret" in (model.kind, served_as.kind):
        return None
    settings = tuple(words[start:])
    env = {name: value for name, value in sorted(report.server_env.items()) if name not in LEFT_OUT}
    unnamed = [name for name in env if not _NAME.fullmatch(name)]
    hidden = [name for name in env if name not in unnamed and holds_secret(name, env[name], report.secrets)]
    return Recipe(
        name=_dns_label(f"{report.suite.name}-{tier}" if tier else report.suite.name),
        container=container,
        model=model.prefix + model.value,
        served_as=served_as.prefix + served_as.value,
        host=host.value,
        settings=settings,
        env={name: value for name, value in env.items() if name not in (*unnamed, *hidden)},
        secrets=tuple(hidden),
        gpus=best.trial.gpus,
        health=engine.abilities.health,
        start_s=report.suite.timeouts.start_s,
        remarks=(*remarks, *_left_to_the_reader(settings, unnamed)),
    )


def _container(report: SuiteReport, best: JudgedTrial) -> Container | None:
    """Return the image that was measured, else the published one of the version that was."""
    suite = report.suite
    container = container_of(suite.engine, report.engine_version, gpus=best.trial.gpus)
    if container is None or suite.deploy != "docker":
        return container
    image = image_of(suite)
    repository, _, tag = image.rpartition(":")
    if not repository or "/" in tag:  # the colon of a registry's port, or none
        repository, tag = image, "latest"
    python, *module = container.entry
    return replace(container, repository=repository, tag=tag, entry=(suite.engine_python or python, *module))


def rendered(words: Sequence[Word], literal: Callable[[str], str], secret: Callable[[str], str]) -> list[str]:
    """Return each word as a form writes it: `literal` makes its text, `secret` a reference to a variable."""
    return [
        word.prefix + secret(word.value) if word.kind == "secret" else literal(word.prefix + word.value)
        for word in words
    ]


def _left_to_the_reader(settings: Sequence[Word], unnamed: Sequence[str]) -> list[str]:
    paths = [word.value for word in settings if word.kind == "literal" and _PATH.fullmatch(word.value)]
    return [
        *(f"If {path} is a file of the machine that measured, it must be there, too." for path in paths),
        *(f"{name} was set too; that is no name for a variable here." for name in unnamed),
    ]


def _dns_label(text: str) -> str:
    """Return a name that Kubernetes takes for anything: lower-case letters, digits, dashes, a letter first."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    label = label if label[:1].isalpha() else f"server-{label}"
    return label[:_LONGEST_NAME].strip("-")
