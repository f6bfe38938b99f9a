"""The description of a corpus: as text for a terminal, and as a folder."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whisper_ser.errors import format_problems
from whisper_ser.io import replacing
from whisper_ser.report.figures import draw_durations

DESCRIPTION = "description.json"
DURATIONS = "duration_histogram.png"


def write_description(folder: Path, description: dict[str, Any], durations: list[float]) -> None:
    """Writes `description.json` and the histogram of `durations`, in seconds; each is whole or not there."""
    title = f"{description['name']}, {len(durations)} utterances, {description['hours']:.2f} h"
    with replacing(folder / DURATIONS) as path:
        draw_durations(durations, title, path)
    with replacing(folder / DESCRIPTION) as path:
        path.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def description_text(description: dict[str, Any]) -> str:
    """Returns a description, as `describe` and the command of this name make it, for a terminal."""
    facts = {name: value for name, value in _facts(description) if value}
    lines = [f"{name:<12}{value}" for name, value in facts.items()]
    lines += ["", *_folds(description), "", *_audit(description["audit"])]
    if unusable := description["unusable"]:
        problems = [f"{path} {reason}" for path, reason in unusable.items()]
        lines += ["", f"{len(unusable)} files cannot be used: training refuses them, the durations lack them."]
        lines += [format_problems(problems)]
    if description["citation"]:
        lines += ["", "cite as", textwrap.indent(description["citation"], "  ")]
    return "\n".join(lines)


def _facts(description: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "corpus", description["name"]
    yield "about", None if description["description"] == description["name"] else description["description"]
    yield "licence", description["license"]
    yield "from", description["homepage"]
    yield "utterances", str(description["utterances"])
    yield "hours", f"{description['hours']:.2f}"
    yield "seconds", ", ".join(f"{name} {value:.2f}" for name, value in description["seconds"].items())
    yield "speakers", _speakers(description["speakers"])
    yield "languages", ", ".join(description["languages"])
    yield "groups", ", ".join(f"{group} ({count})" for group, count in description["groups"].items())


def _speakers(speakers: dict[str, Any]) -> str:
    if not speakers["count"]:
        return "unknown"
    genders = ", ".join(f"{count} {gender}" for gender, count in speakers["genders"].items())
    each = " / ".join(f"{count:g}" for count in speakers["utterances_each"].values())
    text = str(speakers["count"])
    if set(speakers["genders"]) != {"unknown"}:
        text += f" ({genders})"
    text += f", {each} utterances each (min / median / max)"
    if speakers["utterances_without"]:
        text += f"; {speakers['utterances_without']} utterances have none"
    return text


def _folds(description: dict[str, Any]) -> list[str]:
    """Returns the table of labels: a row for each fold's test part, or for each part of the only fold."""
    folds, labels = description["folds"], description["labels"]
    rows = [
        (_row_name(fold["name"], name, len(folds)), part)
        for fold in folds
        for name, part in fold["parts"].items()
        if part["utterances"] and (len(folds) == 1 or name != "train")
    ]
    speakers = description["speakers"]["count"]
    rows.append(("total", {"utterances": description["utterances"], "speakers": speakers, "labels": labels}))
    cells = [["part" if len(folds) == 1 else "tests in fold", "utterances", "speakers", *labels]]
    for name, part in rows:
        cells.append([name, *map(str, (part["utterances"], part["speakers"], *part["labels"].values()))])
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    table = [
        "  ".join([name.ljust(first), *(number.rjust(width) for number, width in zip(numbers, others, strict=True))])
        for name, *numbers in cells
    ]
    return [_protocol(description["protocol"]), "", *table]


def _row_name(fold: str, part: str, folds: int) -> str:
    return part if folds == 1 else fold if part == "test" else f"{fold}, {part}"


def _protocol(protocol: dict[str, Any]) -> str:
    if protocol["problem"]:
        return f"no folds by the protocol {protocol['name']}: {protocol['problem']}"
    return f"protocol    {protocol['name']}" + (" (chosen by auto)" if protocol["asked"] == "auto" else "")


def _audit(audit: dict[str, Any] | None) -> list[str]:
    if audit is None:
        return ["Without folds nothing was audited."]
    if not audit["findings"]:
        found = ["audit       no speaker and no recording is in two parts of a fold"]
    else:
        found = ["audit       parts of a fold share what training refuses unless --allow_leaks names it:"]
        found += [f"  {finding}" for finding in audit["findings"]]
    return [*found, *(f"  {note}" for note in audit["notes"])]
