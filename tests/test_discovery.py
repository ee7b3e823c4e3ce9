"""Which files are suites, and whether a run collects any that can be verified."""

from pathlib import Path

import pytest

from pytest_autotune.discovery import is_suite, may_verify

PATTERNS = ("suites/*.yaml", "suites/**/*.yaml")


@pytest.mark.parametrize(
    ("path", "given", "found"),
    [
        ("suites/chat.yaml", False, True),
        ("suites/deep/chat.yaml", False, True),
        ("other/chat.yaml", False, False),
        ("other/chat.yaml", True, True),
        ("other/chat.yml", True, True),
        ("suites/chat.yml", False, False),
        ("suites/chat.json", True, False),
        ("suites/chat.preset.yaml", False, False),
        ("suites/chat.preset.yaml", True, False),
        ("suites/suite_chat.py", True, True),
        ("suites/suite_chat.py", False, False),
        ("suites/test_chat.py", True, False),
    ],
)
def test_a_suite_is_told_by_its_name_and_unless_it_is_given_by_the_patterns(path, given, found):
    assert is_suite(Path(path), given=given, patterns=PATTERNS) is found


@pytest.fixture
def verifies(pytester):
    """Say whether a run with these arguments may verify; the project has the suites `suites/chat.yaml` and `own.yaml`."""
    for name in ("suites/chat.yaml", "own.yaml", "suite_own.py", "tests/test_it.py", "suites/build/gen.yaml"):
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()

    def verifies(*arguments, store=Path("missing.db"), patterns=PATTERNS):
        return may_verify(pytester.parseconfig(*arguments), patterns, store)

    return verifies


@pytest.mark.parametrize(
    ("recorded", "arguments", "found"),
    [
        ("suites/chat.best.json", [], True),
        ("suites/chat.best.json", ["suites"], True),
        ("suites/chat.best.json", ["suites/chat.yaml"], True),
        ("suites/chat.best.json", ["suites/chat.yaml::best"], True),
        ("suites/chat.best.json", ["tests", "suites"], True),
        ("suites/chat.best.json", ["tests"], False),
        ("suites/chat.best.json", ["own.yaml"], False),
        ("suites/chat.best.json", ["missing.yaml"], False),
        ("suites/chat.best.json", ["missing"], False),
        ("own.best.json", [], False),
        ("own.best.json", ["own.yaml"], True),
        ("own.best.json", ["suite_own.py"], True),
        ("own.best.json", ["tests/test_it.py"], False),
        ("suites/build/gen.best.json", [], False),
        ("suites/build/gen.best.json", ["suites/build"], True),
        (None, [], False),
        (None, ["suites/chat.yaml"], False),
    ],
)
def test_a_recorded_best_counts_beside_a_suite_that_is_collected(pytester, verifies, recorded, arguments, found):
    if recorded is not None:
        (pytester.path / recorded).touch()
    assert verifies(*arguments) is found


@pytest.mark.parametrize("arguments", [[], ["suites"], ["own.yaml"], ["suite_own.py"]])
def test_with_a_store_any_suite_may_have_been_searched(pytester, verifies, arguments):
    store = pytester.path / "results.db"
    assert not verifies(*arguments, store=store)
    store.touch()
    assert verifies(*arguments, store=store)
    assert verifies(*arguments, store=None)


def test_without_a_suite_nothing_is_verified_whatever_is_stored(verifies):
    assert not verifies("tests", store=None)
    assert not verifies(store=None, patterns=())


def test_arguments_are_taken_from_where_pytest_was_invoked(pytester, verifies, monkeypatch):
    (pytester.path / "suites" / "chat.best.json").touch()
    monkeypatch.chdir(pytester.path / "suites")
    assert verifies("chat.yaml")
    assert not verifies("suites/chat.yaml")
