"""Shared by all tests."""

# numpy, which comes with optuna, cannot be imported twice in a process, and in-process pytester
# runs restore sys.modules: import it once before any of them.
import optuna  # noqa: F401
