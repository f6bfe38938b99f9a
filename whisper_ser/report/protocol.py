"""The protocol of a result in words: corpus, classes, folds, speakers, selection, seeds, and what flatters."""

from typing import Any

from whisper_ser.data.leakage import AuditResult
from whisper_ser.evaluation.results import RunResult

TEST_BEST = (
    "selection=test_best: each epoch was chosen on the test part that it is reported for. All figures flatter and "
    "serve only the comparison with the paper."
)
EPOCHS = {
    "last": "last epoch kept",
    "validation": "epoch chosen on the validation speakers",
    "test_best": "epoch chosen on the test part itself, which flatters",
}
FOLDS = {
    "loso": "each speaker left out once",
    "group": "each session or published group left out once",
    "speaker_groups": "groups of speakers left out in turn",
    "fold": "the published folds",
    "fixed": "the published parts",
    "stratified": "random folds of utterances, since speakers are not known",
}


def cautions(result: RunResult) -> list[str]:
    """Returns what every table and figure must state: selection on the test part, and leaks that were allowed."""
    chosen_on_test = [TEST_BEST] if result.protocol.selection == "test_best" else []
    return [*chosen_on_test, *result.warnings]


def closing_remarks(result: RunResult) -> list[str]:
    """Returns the cautions of a result and the description of its corpus, for the end of a summary."""
    return [*cautions(result), *filter(None, [result.corpus.description])]


def speaker_overlap(audit: AuditResult | None) -> str:
    """Returns whether parts of a fold share speakers, as the audit found."""
    if audit is None or audit.without_speaker:
        known = "speakers not known, parts may share them"
    else:
        known = "no speaker in two parts of a fold"
    shared = {leak.fold: leak.parts for leak in audit.leaks if leak.kind == "speakers"} if audit else {}
    if not (audit and shared):
        return known
    return f"speakers shared ({' and '.join(sorted({*shared.values()}))}) in {len(shared)} of {len(audit.folds)} folds"


def protocol_line(result: RunResult) -> str:
    """Returns corpus and protocol in one sentence."""
    corpus, protocol = result.corpus, result.protocol
    about = f" ({corpus.description})" if corpus.description else ""
    return (
        f"{corpus.name}{about}: {corpus.utterances} utterances of {corpus.speakers or 'unknown'} speakers, "
        f"{len(result.labels)} classes; {protocol.name}, {counted(protocol.folds, 'fold')}, "
        f"{speaker_overlap(result.audit)}; {EPOCHS[protocol.selection or 'last']}{_refitted(result)}; "
        f"{counted(protocol.seeds, 'seed')}."
    )


def figure_line(result: RunResult) -> str:
    """Returns the line below a figure, which says the protocol where the figure is copied elsewhere."""
    protocol = result.protocol
    short = (
        f"{result.corpus.name}, {len(result.labels)} classes; {protocol.name}, {counted(protocol.folds, 'fold')}; "
        f"selection={protocol.selection}{_refitted(result)}; {counted(protocol.seeds, 'seed')}"
    )
    return "\n".join([short, *result.warnings])


def stamp(result: RunResult) -> dict[str, Any]:
    """Returns the columns that every CSV ends with."""
    protocol = result.protocol
    return {
        "corpus": result.corpus.name,
        "classes": len(result.labels),
        "protocol": protocol.name,
        "folds": len(protocol.folds),
        "seeds": len(protocol.seeds),
        "speakers": speaker_overlap(result.audit),
        "selection": f"{protocol.selection}{_refitted(result)}",
        "warnings": " ".join(result.warnings),
    }


def card_protocol(result: RunResult) -> str:
    """Returns the protocol as a model card has it, with the speakers of a single split."""
    protocol, folds = result.protocol, result.folds
    unknown = any("" in fold.test_speakers or not fold.test_speakers for fold in folds)
    shared = any(set(fold.test_speakers) & set(fold.train_speakers) for fold in folds)
    sharing = "training and test share speakers" if shared else "no speaker in two parts"
    if result.is_cross_validation:
        how = f"{len(protocol.folds)} folds, {FOLDS[protocol.name]}"
        sharing = "speakers are not known" if unknown else sharing
    else:
        parts = [f"speakers {', '.join(folds[0].test_speakers)} test"]
        if folds[0].validation_speakers:
            parts.append(f"{', '.join(folds[0].validation_speakers)} validate")
        how = f"one split: {', '.join([*parts, f'{len(folds[0].train_speakers)} others train'])}"
    refit = "; trained anew on validation speakers too, once they gave the temperature" if protocol.refit else ""
    seeds = f"seed{'s' * (len(protocol.seeds) > 1)} {', '.join(map(str, protocol.seeds))}"
    return f"{how}; {sharing}; {EPOCHS[protocol.selection or 'last']}{refit}; {seeds}"


def counted(things: list[Any], name: str) -> str:
    """Returns `1 fold`, `10 folds`."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _refitted(result: RunResult) -> str:
    return ", trained anew on validation speakers too" if result.protocol.refit else ""
