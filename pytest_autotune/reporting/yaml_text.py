"""YAML that every reader understands alike, with remarks before it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Everything else is quoted: readers of YAML 1.1 and 1.2 disagree about what is a number, a truth value or a date.
_PLAIN = re.compile(r"(?:--)?(?!(?:y|n|yes|no|on|off|true|false|null)$)[A-Za-z/][\w./-]*", re.ASCII | re.IGNORECASE)
_NO_FOLDING = 2**30  # a line as long as its value


def yaml_text(remarks: Sequence[str], *documents: dict[str, Any], inline: bool = False) -> str:
    """Return the documents in the order of their keys, after one comment line for each remark.

    `inline` writes what has no collections in it on one line, as people do.
    """
    head = "".join(f"# {one_line(remark)}\n" for remark in remarks)
    return head + "---\n".join(_dumped(document, inline=inline) for document in documents)


def one_line(text: str) -> str:
    """Return a text that cannot leave its comment."""
    return "".join(character if character.isprintable() else " " for character in text)


def _dumped(document: dict[str, Any], *, inline: bool) -> str:
    from ruamel.yaml import YAML  # here: it costs tens of milliseconds
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):  # a class of its own, for the representers of a class are everybody's
        def ignore_aliases(self, _: object) -> bool:
            return True

        def represent_str(self, data: str) -> Any:
            style = None if _PLAIN.fullmatch(data) else '"'
            return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    Representer.add_representer(str, Representer.represent_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.default_flow_style = None if inline else False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed by its default, None
    yaml.width = _NO_FOLDING
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()
