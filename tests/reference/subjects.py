"""What the reference asks of the package's inside: when a name moves, it is mended here and nowhere else.

Everything else in this folder uses what the package offers in public: `modeling_whisper_ser`, `whisper_ser`, and the
`main` of `run_train`, `push_to_hub` and `whisper_ser.cli`.
"""

import re
from pathlib import Path
from typing import Any

from whisper_ser.data.corpora.dataset import Utterance, build_dataset
from whisper_ser.data.corpora.table import load_table
from whisper_ser.data.leakage import audit
from whisper_ser.data.splits import Fold, folds
from whisper_ser.training.data import plan_folds
from whisper_ser.training.recipe import parse_arguments
from whisper_ser.training.settings import DataArguments

FOUND = re.compile(r"(?P<one>\S+) as (?P<other>\S+) \((?P<likeness>[^,]+)(, correlation (?P<correlation>[\d.]+))?\)")


def cut(rows: list[dict[str, str]], protocol: str, seed: int, validation_fraction: float) -> list[Fold]:
    """Returns the folds of a corpus by a protocol; `split` is the single split of held-out speakers."""
    labels = sorted({row["emotion"] for row in rows})
    corpus = build_dataset([Utterance(**row) for row in rows], labels, "reference")
    if protocol == "split":
        return plan_folds(corpus, DataArguments(protocol="split"), seed, validation_fraction)
    return folds(corpus, protocol, seed=seed, validation_fraction=validation_fraction)


def paths_by_part(fold: Fold) -> dict[str, list[str]]:
    """Returns the paths of the utterances of each part, in order."""
    return {name: list(part["path"]) for name, part in fold.split._asdict().items()}


def findings(corpus: Path) -> dict[str, Any]:
    """Returns what the audit of the published folds of a corpus finds, with file names instead of paths."""
    result = audit(folds(load_table(corpus), "fold"), progress=False)
    return {
        "folds": result.folds,
        "utterances": result.utterances,
        "leaks": [
            {"kind": leak.kind, "fold": leak.fold, "parts": leak.parts, "found": [_found(one) for one in leak.found]}
            for leak in result.leaks
        ],
        "notes": result.notes,
    }


def _found(text: str) -> Any:
    """Returns a pair of files with how alike they are, or the name of a speaker or label."""
    match = FOUND.fullmatch(text)
    if match is None:
        return text
    return {
        "one": Path(match["one"]).name,
        "other": Path(match["other"]).name,
        "likeness": match["likeness"],
        "correlation": match["correlation"] and float(match["correlation"]),
    }


def settings(path: Path) -> dict[str, Any]:
    """Returns the settings of a recipe that are not defaults."""
    return parse_arguments([str(path)]).to_dict()
