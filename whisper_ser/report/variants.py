"""The table of the variants of a grid: what each scores, and how it differs from the first."""

from collections.abc import Mapping
from pathlib import Path

import pandas

from whisper_ser.evaluation.comparison import compare
from whisper_ser.evaluation.results import METRICS_FILE, RunResult, deviations_of, read_predictions, read_result
from whisper_ser.io import replacing
from whisper_ser.report.protocol import cautions, protocol_line, stamp
from whisper_ser.report.tables import Bounds, Columns, Mean, Row, Table, percent

TABLE = "variants"
ABOUT = """In percent. WA, UA, macro F1 and ECE (expected calibration error): mean ± deviation over folds and seeds.
"UA, all utterances": of all test utterances pooled, with its 95% interval over speakers. "against the first": the
difference of that figure, with its 95% interval when the same speakers are drawn for both; p is two-sided, of each
comparison by itself: of twenty, one is expected below 0.05 by chance. Seconds: of training, without encoding."""


def write_variants(output_dir: Path, folders: Mapping[str, Path]) -> str:
    """Writes `variants.md` and `variants.csv` into `output_dir`; returns the former.

    Args:
        folders: of the cross-validation of each variant; the first is what the others are compared with.
    """
    results = {name: read_result(of / METRICS_FILE) for name, of in folders.items()}
    predictions = {name: read_predictions(of) for name, of in folders.items()}
    first = next(iter(folders))
    rows = [_row(name, results[name], predictions[first], predictions[name]) for name in folders]
    table = Table(TABLE, "", rows, COLUMNS, digits=1)
    stamps = pandas.DataFrame([stamp(result) for result in results.values()])
    with replacing(output_dir / f"{TABLE}.csv") as path:
        table.frame({}).join(stamps).to_csv(path, index=False, lineterminator="\n")
    said = dict.fromkeys(caution for result in results.values() for caution in cautions(result))
    lines = [f"# Variants on {results[first].corpus.name}", *(f"> **{caution}**" for caution in said)]
    page = "\n\n".join([*lines, table.markdown(), ABOUT, f"<sub>{protocol_line(results[first])}</sub>"]) + "\n"
    with replacing(output_dir / f"{TABLE}.md") as path:
        path.write_text(page, encoding="utf-8")
    return page


def _row(name: str, result: RunResult, first: pandas.DataFrame, own: pandas.DataFrame) -> Row:
    """Returns the figures of a variant in percent, `None` where there is no interval over speakers."""
    interval = result.intervals.ua if result.intervals else None
    against = compare(first, own).metrics["ua"] if interval else None
    deviations = deviations_of(result.folds).folds
    means = {
        key: Mean(percent(getattr(result.test, key)), percent(getattr(deviations, key)))
        for key in ("wa", "ua", "macro_f1", "ece")
    }
    return {
        "variant": name,
        **means,
        "ua_interval": Bounds(*map(percent, (interval.value, interval.low, interval.high))) if interval else None,
        "ua_difference": percent(against.difference) if against else None,
        "ua_difference_low": percent(against.low) if against else None,
        "ua_difference_high": percent(against.high) if against else None,
        "p": round(against.p, 5) if against else None,
        "seconds": result.training.seconds if result.training else None,
    }


def _against_first(row: Row) -> str:
    if row["ua_difference"] is None:
        return "-"
    bounds = f"[{row['ua_difference_low']:+.1f}, {row['ua_difference_high']:+.1f}]"
    return f"{row['ua_difference']:+.1f} {bounds}, p {row['p']:.3g}"


COLUMNS: Columns = {
    "variant": "variant",
    "WA": "wa",
    "UA": "ua",
    "macro F1": "macro_f1",
    "ECE": "ece",
    "UA, all utterances [95%]": "ua_interval",
    "against the first": _against_first,
    "seconds": lambda row: f"{row['seconds']:.0f}",
}
