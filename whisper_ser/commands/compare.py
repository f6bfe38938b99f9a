"""`whisper-ser compare`: whether one run is better than another, and how certain that is."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pandas

from whisper_ser.errors import DamagedFileError
from whisper_ser.evaluation.bootstrap import CONFIDENCE, RESAMPLES
from whisper_ser.evaluation.comparison import ComparisonError, compare, comparison_table
from whisper_ser.evaluation.results import METRICS_FILE, PREDICTIONS, ResultError, check_predictions, read_result
from whisper_ser.report.protocol import closing_remarks


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser compare",
        description="Compare two runs on the same test utterances by a paired bootstrap over their speakers, with the "
        "probability that the difference is real.",
        allow_abbrev=False,
    )
    source = f"folder of a run with {PREDICTIONS}, or a table of predictions (.parquet, .csv)"
    parser.add_argument("baseline", help=source)
    parser.add_argument("candidate", help="the run that may be better, in the same form")
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, help="number of draws of speakers (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=CONFIDENCE,
        help="confidence of the intervals, a share (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="output format (default: %(default)s)"
    )
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Compares the two runs and prints the result."""
    baseline, candidate = read_predictions(arguments.baseline), read_predictions(arguments.candidate)
    comparison = compare(
        baseline,
        candidate,
        resamples=arguments.resamples,
        confidence=arguments.confidence,
        seed=arguments.seed,
    )
    names = _names(arguments.baseline, arguments.candidate)
    warnings = {
        run: read_warnings(source)
        for run, source in (("baseline", arguments.baseline), ("candidate", arguments.candidate))
    }
    if arguments.format == "json":
        print(json.dumps({**asdict(comparison), "warnings": warnings}, indent=2))
    else:
        said = [f"{name}: {line}" for name, lines in zip(names, warnings.values(), strict=True) for line in lines]
        print("\n".join([comparison_table(comparison, names), *said]))
    return 0


def read_predictions(source: str) -> pandas.DataFrame:
    """Returns the predictions of a run, given as its folder or as a table.

    Raises:
        ComparisonError: there is no such folder or table, the run has not finished, or the table cannot be read.
        DamagedFileError: predictions or metrics were changed after the run.
    """
    path = Path(source)
    if path.is_dir():
        path = path / PREDICTIONS
        if not path.is_file():
            raise ComparisonError(
                f"{source} has no {PREDICTIONS}: give the folder of a finished run, or a table of predictions "
                "(.parquet, .csv)."
            )
        if (Path(source) / METRICS_FILE).is_file():
            check_predictions(Path(source))
    elif not path.is_file():
        raise ComparisonError(f"There is no {source}: give the folder of a run or a table of predictions.")
    try:
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        if path.suffix == ".csv":
            # As text: speaker 01 stays 01, and an emotion may be called none.
            return pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # of pyarrow and of pandas
        raise ComparisonError(f"{path} cannot be read as a {path.suffix[1:]} table ({error}).") from error
    raise ComparisonError(f"{path} is not a table of predictions; expected .parquet or .csv.")


def read_warnings(source: str) -> list[str]:
    """Returns the warnings of a run, such as leaks that were allowed; a table by itself has none."""
    path = Path(source)
    metrics = (path if path.is_dir() else path.parent) / METRICS_FILE
    try:
        return closing_remarks(read_result(metrics)) if metrics.is_file() else []
    except (DamagedFileError, ResultError) as error:
        # A table may have any file beside it, and an older run can still be compared.
        return [f"its warnings are unknown: {error}"]


def _names(baseline: str, candidate: str) -> tuple[str, str]:
    """Returns the last component of each path, or the whole paths if these are equal."""
    last = Path(baseline).name, Path(candidate).name
    return (baseline, candidate) if last[0] == last[1] or not all(last) else last
