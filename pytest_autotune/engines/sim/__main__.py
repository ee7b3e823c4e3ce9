"""Starts the embedded server: ``python -m pytest_autotune.engines.sim --port 8000``."""

from __future__ import annotations

import sys

from pytest_autotune.engines.sim.server import main

if __name__ == "__main__":
    sys.exit(main())
