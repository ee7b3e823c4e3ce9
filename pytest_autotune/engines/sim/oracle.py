"""What the embedded engine answers to the shipped sanity prompts: nothing is computed, it is told the right answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest_autotune
from pytest_autotune.engines.sim.text import fingerprint, tokenize

_PROMPTS = Path(pytest_autotune.__file__).with_name("sanity.jsonl")


def known_answers(vocabulary: int) -> dict[int, str]:
    """Return the answer to each sanity prompt, by the fingerprint (of seed 0) of its tokens, completed or in a chat."""
    found = {}
    for line in _PROMPTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = row["answer"] if "answer" in row else row["choices"][0]
        for text in (row["prompt"], f"<user> {row['prompt']}\n<assistant>"):
            found[fingerprint(tokenize(text, vocabulary), 0)] = answer
    return found
