"""How a trial's items are reported: findings break no build, errors come without traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import AutotuneError, DeployError, Inconclusive, Infeasible, SloViolation

if TYPE_CHECKING:
    import pytest

Markup = tuple[str, str, tuple[str, dict[str, bool]]]

LETTERS = {"compliant": ".", "violating": "v", "infeasible": "i", "inconclusive": "?", "deployed": "d"}
COLOURS = {
    "compliant": "green",
    "violating": "yellow",
    "infeasible": "yellow",
    "inconclusive": "yellow",
    "deployed": "cyan",
}


def restate(report: pytest.TestReport, item: pytest.Item, error: BaseException | None, *, findings: bool) -> None:
    """Make of a trial item's report what the class of `error` calls for; `findings` says that this is a search.

    | error                                      | in a search                    | in a verification        |
    | `SloViolation`                             | xfail, category *violating*    | failure, its text        |
    | a check's `AssertionError`                 | xfail, category *violating*    | failure, as pytest has it |
    | `Inconclusive`                             | xfail, category *inconclusive* | failure, its text        |
    | `Infeasible`                               | xfail, category *infeasible*   | as other `AutotuneError` |
    | any other `AutotuneError`                  | error or failure, its text and the server log             |
    | skip                                       | skip, placed in the suite file                            |
    """
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        report.longrepr = (str(item.path), 1, report.longrepr[2])
        return
    if not findings and isinstance(error, AutotuneError | SloViolation):
        report.longrepr = str(error)
    elif not findings:
        return
    elif isinstance(error, Infeasible):
        _find(report, item, category="infeasible", reason=error.reason)
    elif isinstance(error, AssertionError):
        category = "inconclusive" if isinstance(error, Inconclusive) else "violating"
        _find(report, item, category=category, reason=str(error).partition("\n")[0] or "assertion failed")
    elif isinstance(error, AutotuneError):
        report.longrepr = str(error)
    if isinstance(error, DeployError) and error.log_tail:
        report.sections.append(("end of server log", error.log_tail))
    if findings and isinstance(error, SloViolation):
        report.sections.append(("limits", str(error).partition("\n")[2]))


def _find(report: Any, item: pytest.Item, *, category: str, reason: str) -> None:
    """Turn a failed report into a finding: expected in a search, so it neither fails nor stops the run."""
    report.outcome = "skipped"
    report.wasxfail = reason
    properties = [("autotune.outcome", category), ("autotune.reason", reason)]
    report.user_properties += properties  # of this phase, for the status word
    item.user_properties += properties  # of the phases to come: JUnit takes those of the last


def status(report: pytest.TestReport) -> Markup | None:
    """Return category, letter and status word of a trial item's report; None leaves it to pytest."""
    properties = dict(report.user_properties)
    configuration = properties.get("autotune.configuration")
    category = str(properties.get("autotune.outcome", ""))
    found = hasattr(report, "wasxfail")
    if configuration is None or category not in LETTERS or not (found or (report.when == "call" and report.passed)):
        return None
    words = [{"violating": "VIOLATES"}.get(category, category.upper()), str(configuration)]
    capacity = next((f"capacity {value}" for name, value in properties.items() if name.startswith("capacity.")), "")
    reason = str(properties.get("autotune.reason", "")) if found else capacity
    if reason:
        words.append(f"({reason})")
    if "autotune.recorded" in properties:
        words.append("[recorded]")
    return category, LETTERS[category], (" ".join(words), {COLOURS[category]: True})
