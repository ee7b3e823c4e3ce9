"""`cores:` of a suite: how it may be written, what it changes, and how many servers fit."""

from __future__ import annotations

import pytest

from pytest_autotune import hardware
from pytest_autotune.deploy.cores import missing_cores, settled
from pytest_autotune.errors import SuiteError
from pytest_autotune.suite_cores import NONE, Cores
from pytest_autotune.suite_file import load_suite
from pytest_autotune.workers import workers_for

HEAD = "name: chat\nengine: command\ncommand: [serve, '{port}']\n"


@pytest.fixture
def load(tmp_path):
    """Load a suite with some lines."""

    def loaded(*lines):
        path = tmp_path / "chat.yaml"
        path.write_text("".join(f"{line}\n" for line in (HEAD.rstrip(), *lines)))
        return load_suite(path)

    return loaded


@pytest.fixture
def machine(monkeypatch):
    """Eight cores, all of whose time may be used."""
    monkeypatch.setattr(hardware, "usable_cores", lambda: frozenset(range(8)))
    monkeypatch.setattr(hardware, "cpu_quota", lambda: None)


@pytest.mark.parametrize(
    ("written", "cores"),
    [
        ("4", Cores(per_server=4)),
        ("auto", Cores()),
        ("none", NONE),
        ("{per_server: auto}", Cores()),
        ("{per_server: 2, generator: 3, wait: 5m}", Cores(per_server=2, generator=3, wait_s=300.0)),
        ("{pool: auto}", Cores()),
        ("{pool: [0-3, 8]}", Cores(members=(0, 1, 2, 3, 8))),
    ],
)
def test_every_form_is_read(load, written, cores):
    assert load(f"cores: {written}").cores == cores


def test_without_it_nobody_keeps_count(load):
    assert load().cores == NONE


FORMS = "a number of cores, auto, none, or a mapping, e.g. {per_server: 4, generator: 2, pool: [0-15]}"


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("0", "cores: 0 is too small; write a whole number of at least 1"),
        ("many", f"cores: 'many' is not {FORMS}"),
        ("auot", f"cores: 'auot' is not {FORMS} (did you mean 'auto'?)"),
        ("[0, 1]", f"cores: [0, 1] is not {FORMS}; a list of cores is a pool"),
        ("{}", "cores: an empty mapping says nothing; remove the key"),
        ("{per_sever: 1}", "cores.per_sever: unknown key (did you mean 'per_server'?)"),
        ("{per_server: none}", "cores.per_server: 'none' is not a number of cores, or auto"),
        ("{generator: 0}", "cores.generator: 0 is too small; write a whole number of at least 1"),
        ("{pool: 0-3}", "cores.pool: '0-3' is not auto, or a list of cores, e.g. [0-15, 32]"),
        ("{pool: []}", "cores.pool: an empty list has no core; write auto, or list some, e.g. [0-15]"),
        ("{pool: [3-1]}", "cores.pool[0]: 3-1 is no range; write 1-3"),
        ("{pool: [0-3, 2]}", "cores.pool[1]: core 2 is listed twice"),
        ("{pool: [all]}", "cores.pool[0]: 'all' is not a core; write its number as lscpu shows it, or a range such as 0-15"),
        ("{pool: [true]}", "cores.pool[0]: true is not a core; write its number as lscpu shows it, or a range such as 0-15"),
        ("{pool: [0-99999]}", "cores.pool[0]: core 99999 is too many; write 4095 at most"),
        ("{wait: soon}", "cores.wait: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(load, written, problem):
    with pytest.raises(SuiteError) as refused:
        load(f"cores: {written}")
    told = str(refused.value).partition("chat.yaml:4: ")[2]
    assert told == problem if not problem.endswith(": ") else told.startswith(problem)


def test_only_what_one_server_takes_is_part_of_what_was_measured(load):
    plain, four = load().measurement_key(), load("cores: 4").measurement_key()
    assert plain != four
    assert load("cores: none").measurement_key() == plain
    assert load("cores: {per_server: 4, pool: [0-7], generator: 2, wait: 5m}").measurement_key() == four
    assert load("cores: 3").measurement_key() != four


@pytest.mark.parametrize(
    ("written", "servers", "share"),
    [("auto", 1, 7), ("auto", 2, 3), ("auto", 7, 1), ("auto", 8, None), ("{generator: 4}", 2, 2), ("3", 2, 3)],
)
def test_servers_that_run_at_a_time_share_what_is_left(load, machine, written, servers, share):
    assert settled(load(f"cores: {written}"), servers).cores.per_server == share


def test_what_is_not_counted_is_not_shared(load, machine):
    assert settled(load(), 2).cores == NONE


FEWER = "let there be fewer cores, or write cores: none"
REMEDY = "let there be fewer servers at a time (-n), or write cores: none"


@pytest.mark.parametrize(
    ("written", "servers", "missing"),
    [
        ("none", 99, None),
        ("3", 2, None),
        ("4", 1, None),
        ("4", 2, f"cores: 2 servers of 4 cores and 1 for the load generator need 9 of 8 cores; {REMEDY}"),
        (
            "8", 1,
            f"cores: 1 server of 8 cores and 1 for the load generator need 9 of 8 cores; {FEWER}",
        ),
        ("auto", 8, f"cores: 8 servers of 1 core and 1 for the load generator need 9 of 8 cores; {REMEDY}"),
        (
            "{per_server: 2, pool: [4-6]}", 2,
            f"cores: 2 servers of 2 cores and 1 for the load generator need 5 of 3 cores; {REMEDY}",
        ),
        ("{pool: [0, 9]}", 1, "cores: pool: there is no core 9 for this process, only 0-7"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_anything_starts(load, machine, written, servers, missing):
    assert missing_cores(settled(load(f"cores: {written}"), servers), servers=servers) == missing


def test_no_more_cores_are_counted_than_the_control_group_has_time_for(load, machine, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_quota", lambda: 3.5)
    assert settled(load("cores: auto"), 1).cores.per_server == 2
    assert "need 4 of 3 cores" in missing_cores(load("cores: 3"), servers=1)


@pytest.mark.parametrize(
    ("lines", "workers"),
    [
        pytest.param([], 7, id="all share all"),
        pytest.param(["cores: 2"], 3, id="as many as fit"),
        pytest.param(["cores: 8"], 1, id="none fits"),
        pytest.param(["cores: auto"], 1, id="one has all of them"),
        pytest.param(["cores: auto", "gpus: {pretend: 4, per_server: 1}"], 4, id="GPUs decide"),
        pytest.param(["cores: 3", "gpus: {pretend: 4, per_server: 1}"], 2, id="whatever is short"),
        pytest.param(["cores: 1", "gpus: {pretend: 4, per_server: 2}"], 2, id="GPUs are short"),
    ],
)
def test_as_many_workers_are_started_as_servers_fit(load, machine, lines, workers):
    assert workers_for([load(*lines).path]) == workers
