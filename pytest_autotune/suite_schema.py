"""The JSON schema of suite files, so that editors complete and check them."""

from __future__ import annotations

import json
from typing import Any

URI = "https://json-schema.org/draft/2020-12/schema"


def suite_schema() -> dict[str, Any]:
    """Return the schema, generated from the models that read a suite file (draft 2020-12)."""
    from pytest_autotune.suite_file import SuiteFile  # here: pydantic takes a while to import  # noqa: PLC0415

    schema = SuiteFile.model_json_schema(by_alias=True)
    return {"$schema": URI, **schema, "title": "pytest-autotune suite"}


def schema_text() -> str:
    """Return the schema as the text of the shipped ``suite.schema.json``."""
    return json.dumps(suite_schema(), indent=2, ensure_ascii=False) + "\n"
