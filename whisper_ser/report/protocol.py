"""What has to be said of every table and figure of a sweep: corpus, classes, folds, speakers, selection, seeds."""

from typing import Any

EPOCHS = {
    "last": "the last epoch is kept",
    "validation": "the epoch with the best UA on validation speakers is kept",
    "test_best": "the epoch that is best on the test fold is kept",
}
TEST_BEST = (
    "selection=test_best: the epoch of every cell was chosen on its own test fold. All figures flatter and serve only "
    "the comparison with the paper."
)


def cautions(results: dict[str, Any]) -> list[str]:
    """Returns what every table and figure has to say: leaks that were allowed, and selection on the test folds."""
    chosen_on_test = [TEST_BEST] if results["protocol"]["selection"] == "test_best" else []
    return [*chosen_on_test, *results["warnings"]]


def speaker_overlap(audit: dict[str, Any]) -> str:
    """Returns in words whether parts of a fold share speakers, as the audit saw it."""
    shared = {leak["fold"]: leak["parts"] for leak in audit["leaks"] if leak["kind"] == "speakers"}
    if shared:
        parts = " and ".join(sorted({*shared.values()}))
        return f"speakers shared ({parts}) in {len(shared)} of {len(audit['folds'])} folds"
    # Results of earlier versions have only the note, in this wording.
    if audit.get("without_speaker", any("have no speaker" in note for note in audit["notes"])):
        return "speakers not known, parts may share them"
    return "no speaker in two parts of a fold"


def protocol_line(results: dict[str, Any]) -> str:
    """Returns the protocol in one sentence."""
    corpus, protocol = results["corpus"], results["protocol"]
    about = f" ({corpus['description']})" if corpus["description"] else ""
    return (
        f"{corpus['name']}{about}: {corpus['utterances']} utterances of {corpus['speakers'] or 'unknown'} speakers, "
        f"{len(results['labels'])} classes; {protocol['name']}, {counted(protocol['folds'], 'fold')}, "
        f"{speaker_overlap(results['audit'])}; {EPOCHS[protocol['selection']]}{_refitted(protocol)}; "
        f"{counted(protocol['seeds'], 'seed')}."
    )


def _refitted(protocol: dict[str, Any]) -> str:
    return ", trained anew on validation speakers too" if protocol.get("refit") else ""


def figure_line(results: dict[str, Any]) -> str:
    """Returns what a figure says below itself, so that it still says it when it is copied elsewhere."""
    corpus, protocol = results["corpus"], results["protocol"]
    short = (
        f"{corpus['name']}, {len(results['labels'])} classes; {protocol['name']}, "
        f"{counted(protocol['folds'], 'fold')}; selection={protocol['selection']}{_refitted(protocol)}; "
        f"{counted(protocol['seeds'], 'seed')}"
    )
    return "\n".join([short, *results["warnings"]])


def stamp(results: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns that every CSV ends with."""
    corpus, protocol = results["corpus"], results["protocol"]
    return {
        "corpus": corpus["name"],
        "classes": len(results["labels"]),
        "protocol": protocol["name"],
        "folds": len(protocol["folds"]),
        "seeds": len(protocol["seeds"]),
        "speakers": speaker_overlap(results["audit"]),
        "selection": protocol["selection"] + _refitted(protocol),
        "warnings": " ".join(results["warnings"]),
    }


def counted(things: list[Any], name: str) -> str:
    """Returns `1 fold`, `10 folds`."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
