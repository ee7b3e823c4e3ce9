"""`python -m pytest_autotune baselines`: what it lists, shows, promotes and removes, and what it refuses."""

import argparse
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from pytest_autotune.__main__ import main
from pytest_autotune.baseline import baseline_text, write_baseline
from pytest_autotune.baselines import StoredBaseline
from pytest_autotune.baselines_command import _age, prunable, wrong_name
from pytest_autotune.records import utc_now, utc_text
from pytest_autotune.reporting.listing import listing_lines
from pytest_autotune.store import Store
from tests.make_baselines import baseline

NOW = datetime(2026, 1, 31, tzinfo=UTC)
RUN = "20260101T020304Z-00aa"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The store of the current directory."""
    monkeypatch.chdir(tmp_path)
    with Store(f"sqlite:///{tmp_path / '.autotune' / 'results.db'}") as store:
        store.migrate()
        yield store


def keep(store, run, *names, suite="chat", day=1, **fields):
    made = baseline(run=run, suite=suite, recorded_at=f"2026-01-{day:02d}T02:03:04Z", **fields)
    store.baselines.record(made)
    for name in names:
        store.baselines.promote(name, store.baselines.find(run_id=run, suite=suite))
    return made


@pytest.fixture
def command(capsys):
    """Run the command; return its lines."""

    def command(*arguments):
        assert main(["baselines", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return command


@pytest.fixture
def refused(capsys):
    """Run the command, which must be refused as a wrong option; return its one line."""

    def refused(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["baselines", *arguments])
        output = capsys.readouterr()
        assert (ended.value.code, output.out) == (4, "")
        (line,) = output.err.splitlines()
        return line.removesuffix(" (--help lists the options)").partition(": ")[2]

    return refused


def known(store):
    return [(one.run_id, one.suite, *one.names) for one in store.baselines.find()]


def test_a_listing_has_the_first_metrics_at_the_highest_level_and_is_cut(store):
    keep(store, RUN, "nightly", "release", commit="1a2b3c4d5e6f", levels={"c16": {"ttft.p90": 0.4, "tpot.mean": 0.01}})
    keep(store, "run-2", suite="code", day=2, levels={"r2": {"error_rate": 0.0}, "r10": {"error_rate": 0.01}})
    lines = listing_lines(store.baselines.find(), width=200)
    assert lines == [
        "  name              suite  run                    commit      date        engine       at",
        "                    code   run-2                              2026-01-02  vllm 0.11.0  r10  error rate 1 %",
        f"  nightly, release  chat   {RUN}  1a2b3c4d5e  2026-01-01  vllm 0.11.0  c16  ttft.p90 400 ms  tpot.mean 10 ms",
    ]
    assert {len(line) for line in listing_lines(store.baselines.find(), width=60)} == {60}


def test_it_lists_without_a_verb_and_of_one_suite_wherever_the_option_stands(store, command, tmp_path, monkeypatch):
    keep(store, "run-1")
    keep(store, "run-2", suite="code")
    assert [line.split()[:2] for line in command()[1:]] == [["code", "run-2"], ["chat", "run-1"]]
    assert command() == command("list")
    (line,) = command("--suite", "chat")[1:]
    assert [line] == command("--suite", "chat", "list")[1:] == command("list", "--suite", "chat")[1:]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [line] == command("list", "--suite=chat", "--store", "../.autotune/results.db")[1:]


def test_what_is_shown_is_what_a_file_has(store, command, tmp_path):
    made = keep(store, "run-1", "release", model="Modèle\u2028é")
    keep(store, "run-2", day=2)
    for reference in ("release", "run-1"):
        assert "\n".join(command("show", reference)) == "\n".join(baseline_text(made).splitlines())


def test_of_a_revision_the_newest_is_shown(store, command, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"], ["tag", "v1"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "v1"], check=True, capture_output=True, text=True).stdout.strip()
    for day, run in enumerate(["run-1", "run-2"], start=1):
        keep(store, run, day=day, commit=commit)
    assert '  "run": "run-2",' in command("show", "v1")


def test_without_a_run_the_newest_is_promoted_and_what_it_replaces_is_told(store, command):
    for suite in ("chat", "code"):
        keep(store, "run-1", suite=suite)
    assert command("promote", "release") == [
        "release: chat of run run-1 (2026-01-01)",
        "release: code of run run-1 (2026-01-01)",
    ]
    keep(store, "run-2", day=2, commit="1a2b3c4d5e6f")
    assert command("promote", "release") == [
        "release: chat of run run-2 (commit 1a2b3c4d5e of 2026-01-02), instead of run run-1"
    ]
    assert command("promote", "release", "--suite", "code") == ["release: code of run run-1 (2026-01-01), as before"]
    command("promote", "nightly", "--run", "run-1", "--suite", "chat")
    assert known(store) == [("run-2", "chat", "release"), ("run-1", "chat", "nightly"), ("run-1", "code", "release")]


def test_a_file_is_promoted_and_kept(store, command, refused, tmp_path):
    made = baseline(run="elsewhere")
    write_baseline(tmp_path / "old.best.json", made)
    keep(store, "run-1")
    for before in ("", ", as before"):
        told = command("promote", "release", "--file", "old.best.json")
        assert told == [f"release: chat of run elsewhere (2026-01-01){before}"]
    assert known(store) == [("run-1", "chat"), ("elsewhere", "chat", "release")]
    told = refused("promote", "release", "--file", "old.best.json", "--suite", "code")
    assert told == "old.best.json is a baseline of chat, not of code"


def test_a_name_is_forgotten_and_its_baseline_stays(store, command):
    keep(store, "run-1", "release")
    assert command("forget", "release") == ["release does not stand for a baseline of chat any more"]
    assert known(store) == [("run-1", "chat")]


def test_pruning_says_what_goes_and_leaves_what_has_a_name(store, command):
    keep(store, "run-1", "release")
    for day in (2, 3):
        keep(store, f"run-{day}", day=day)
    keep(store, "run-4", suite="code")
    now = baseline(run="run-5", recorded_at=utc_text(utc_now(), timespec="seconds"))
    store.baselines.record(now)
    assert command("prune", "--keep", "2", "--dry-run") == [
        "would remove chat of run run-2 (2026-01-02)",
        "4 baselines would be left",
    ]
    assert len(known(store)) == 5
    assert command("prune", "--keep=2") == ["removed chat of run run-2 (2026-01-02)", "4 baselines left"]
    told = command("prune", "--older-than", "1h", "--suite", "chat")
    assert told == ["removed chat of run run-3 (2026-01-03)", "2 baselines of chat left"]
    assert known(store) == [("run-5", "chat"), ("run-4", "code"), ("run-1", "chat", "release")]
    assert command("prune", "--keep=1") == ["3 baselines left"]


def stored(number, *names, suite="chat"):
    """The number-th newest, of so many days before."""
    return StoredBaseline(f"run-{number}", suite, "", NOW - timedelta(days=number), {}, names)


STORED = [stored(1), stored(2, "release"), stored(3, suite="code"), stored(4), stored(5), stored(6, suite="code")]


@pytest.mark.parametrize(
    ("keep", "days", "numbers"),
    [
        (0, 0, [1, 3, 4, 5, 6]),
        (1, 0, [4, 5, 6]),
        (2, 0, [5]),
        (0, 3.5, [4, 5, 6]),
        (0, 4, [5, 6]),
        (2, 4, [5]),
        (2, 5, []),
        (9, 0, []),
    ],
)
def test_what_may_go_has_no_name_is_old_enough_and_more_than_is_kept(keep, days, numbers):
    found = prunable(STORED, keep=keep, older_than=timedelta(days=days), now=NOW)
    assert [one.run_id for one in found] == [f"run-{number}" for number in numbers]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is no name"),
        ("-release", "looks like an option"),
        ("old.best.json", "looks like a file"),
        ("two words", "has characters that are not seen"),
        ("line\n", "has characters that are not seen"),
        ("\u200b", "has characters that are not seen"),
        ("run-1", "looks like a run"),
        (RUN, "looks like a run"),
        ("release", ""),
        ("v1.2", ""),
        ("release/2026-11", ""),
        ("Größe", ""),
    ],
)
def test_a_name_that_may_be_something_else_is_none(name, problem):
    assert wrong_name(name, {"run-1"}) == problem


@pytest.mark.parametrize(
    ("text", "age"), [("90d", timedelta(days=90)), (" 1.5 days ", timedelta(hours=36)), ("12h", timedelta(hours=12))]
)
def test_an_age_is_in_days_or_a_duration(text, age):
    assert _age(text) == age


@pytest.mark.parametrize("text", ["90", "d", "-1d", "1w", "9" * 400 + "d", "9" * 12 + "d", "9" * 20 + "h"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'.* is (not an age: write|longer than)"):
        _age(text)


PRUNE = "prune: say what is removed, by --keep N, --older-than AGE or both"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--suite", "chats"], "no baseline of 'chats' is in the store (did you mean 'chat'?); there are chat, code"),
        (
            ["show", "releese"],
            "'releese' is neither a name, nor a run, nor the revision of a baseline in results store ",
        ),
        (["show", "run-2"], " (did you mean 'run-1'?); see: python -m pytest_autotune baselines"),
        (["show", "-x"], "are required: REF"),
        (["show", "release", "--suite", "chat"], "the revision of a baseline of chat in results store "),
        (["show", "run-1"], "'run-1' stands for several suites: name one of chat, code by --suite"),
        (["promote", "old.json"], "'old.json' looks like a file; choose another name, e.g. release"),
        (["promote", "run-1"], "'run-1' looks like a run; choose another name, e.g. release"),
        (["promote", "x", "--run", "run-2"], "run run-2 has no baseline in results store "),
        (["promote", "x", "--run", "run-3"], " (did you mean 'run-1'?)"),
        (["promote", "x", "--run", "run-1", "--file", "x.json"], "argument --file: not allowed with argument --run"),
        (["promote", "x", "--file", "x.json"], "x.json: cannot be read: "),
        (["forget", "releese"], "'releese' stands for nothing (did you mean 'release'?); there are release"),
        (["prune"], PRUNE),
        (["prune", "--dry-run"], PRUNE),
        (["prune", "--keep", "-1"], "argument --keep: "),
        (["prune", "--keep", "few"], "argument --keep: 'few' is not a number of baselines"),
        (["prune", "--older-than", "90"], "argument --older-than: '90' is not an age: write days or hours, e.g. 90d"),
        (["prune", "--older", "90d"], "--older is not an option of baselines"),
        (["remove"], "argument VERB: invalid choice: 'remove'"),
        (["--store", "other.db"], "there is no store "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_or_not_there_is_one_line(store, refused, arguments, told):
    keep(store, "run-1")
    keep(store, "run-1", "release", suite="code")
    before = known(store)
    assert told in refused(*arguments)
    assert known(store) == before


def test_looking_makes_no_store_and_an_empty_one_says_how_to_fill_it(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused().startswith("there is no store ")
    assert list(tmp_path.iterdir()) == []
    with Store(f"sqlite:///{tmp_path / '.autotune' / 'results.db'}") as store:
        store.migrate()
    assert "has no baselines; a search or verification whose gate holds records them" in refused("promote", "x")
