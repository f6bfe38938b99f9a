"""The files of the reference: JSON, lines of text, or text, as the ending of their name says."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "values"
WIDTH = 160
"""Characters of a line of JSON."""


def read(name: str) -> Any:
    """Returns the value that a file holds."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        return json.loads(text)
    return text.splitlines() if name.endswith(".txt") else text


def write(name: str, value: Any) -> None:
    """Writes a value into a file."""
    if name.endswith(".json"):
        value = _lines(value, 0) + "\n"
    elif name.endswith(".txt"):
        value = "\n".join(value) + "\n"
    (FOLDER / name).write_text(value, encoding="utf-8")


def _lines(value: Any, depth: int) -> str:
    """Returns JSON with a line for each item, unless the whole is short."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or depth + len(flat) <= WIDTH:
        return flat
    inner = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_lines(one, depth + 1)}" for key, one in value.items()]
        return "{" + inner + f",{inner}".join(items) + "\n" + " " * depth + "}"
    return "[" + inner + f",{inner}".join(_lines(one, depth + 1) for one in value) + "\n" + " " * depth + "]"
