"""The JSON schema of suite files, so that editors complete and check them."""

from __future__ import annotations

import json
from typing import Any

URI = "https://json-schema.org/draft/2020-12/schema"


def suite_schema() -> dict[str, Any]:
    """Return the schema, generated from the models that read a suite file (draft 2020-12)."""
    from pytest_autotune import notation  # here: pydantic takes a while to import
    from pytest_autotune.suite import Objective
    from pytest_autotune.suite_file import SuiteFile

    schema = SuiteFile.model_json_schema(by_alias=True)
    definitions = {**schema.pop("$defs"), **notation.DEFINITIONS}
    properties = schema["properties"]
    # Pydantic cannot follow references of ours, so what uses them is put in afterwards.
    properties["slo"] = {"description": properties["slo"]["description"], **notation.SLO_SCHEMA}
    properties["tiers"] = {**properties["tiers"], **notation.TIERS_SCHEMA}
    properties["objective"]["default"] = str(Objective())
    for block in definitions.values():
        for name, field in block.get("properties", {}).items():
            block["properties"][name] = _written_default(field)
    for block in (schema, *definitions.values()):
        for field in block.get("properties", {}).values():
            field.pop("title", None)
            if not isinstance(field.get("default"), str | int | float):
                field.pop("default", None)  # nothing, or a whole block whose keys tell their own
    return {"$schema": URI, **schema, "title": "pytest-autotune suite", "$defs": definitions}


def schema_text() -> str:
    """Return the schema as the text of the shipped ``suite.schema.json``."""
    return json.dumps(suite_schema(), indent=2, ensure_ascii=False) + "\n"


def _written_default(field: dict[str, Any]) -> dict[str, Any]:
    """Write the default of a duration or a size as a suite would: ``30s`` instead of 30.0."""
    default = field.get("default")
    if isinstance(default, int) and field.get("type") == "string":
        return {**field, "default": f"{default / 2**30:g}GiB"}
    return {**field, "default": f"{default:g}s"} if isinstance(default, float) else field
