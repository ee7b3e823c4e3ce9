"""``python -m pytest_autotune load``: the load generator used alone, and what the fixture shares with it."""
