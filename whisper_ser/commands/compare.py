"""`whisper-ser compare`: whether one run is better than another, and how sure that is."""

import argparse
import json
from pathlib import Path

import pandas

from whisper_ser.evaluation.bootstrap import CONFIDENCE, RESAMPLES
from whisper_ser.evaluation.comparison import ComparisonError, compare, comparison_table
from whisper_ser.evaluation.results import METRICS, PREDICTIONS, check_predictions, read_metrics
from whisper_ser.report.run import closing_remarks


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="whisper-ser compare",
        description="Say whether one run is better than another on the same test utterances: paired bootstrap over "
        "their speakers, with the probability that the difference is real.",
        allow_abbrev=False,
    )
    source = f"folder of a run, with its {PREDICTIONS}, or such a table (.parquet, .csv)"
    parser.add_argument("baseline", help=source)
    parser.add_argument("candidate", help="the run that may be better, given likewise")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="draws of speakers (default: %(default)s)")
    parser.add_argument(
        "--confidence", type=float, default=CONFIDENCE, help="of the intervals, a share (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="what is printed")
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Compares the two runs and prints."""
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
        print(json.dumps({**comparison, "warnings": warnings}, indent=2))
    else:
        said = [f"{name}: {line}" for name, lines in zip(names, warnings.values(), strict=True) for line in lines]
        print("\n".join([comparison_table(comparison, names), *said]))
    return 0


def read_predictions(source: str) -> pandas.DataFrame:
    """Returns the predictions of a run, given as its folder or as a table.

    Raises:
        ComparisonError: nothing there, a run that has not finished, or a file that is no such table.
        DamagedFileError: not the predictions, or metrics, that the run wrote.
    """
    path = Path(source)
    if path.is_dir():
        path = path / PREDICTIONS
        if not path.is_file():
            raise ComparisonError(
                f"{source} has no {PREDICTIONS}: give the output folder of a run of run_train.py that has finished, "
                "or a table of predictions (.parquet, .csv)."
            )
        if (Path(source) / METRICS).is_file():
            check_predictions(Path(source), read_metrics(Path(source)))
    elif not path.is_file():
        raise ComparisonError(f"There is no {source}: give the folder of a run or a table of predictions.")
    try:
        if path.suffix == ".parquet":
            return pandas.read_parquet(path)
        if path.suffix == ".csv":
            # All text, so that speaker 01 stays 01 and an emotion may be called none.
            return pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # of pyarrow and of pandas
        raise ComparisonError(f"{path} cannot be read as a {path.suffix[1:]} table ({error}).") from error
    raise ComparisonError(f"{path} is no table of predictions; expected .parquet or .csv.")


def read_warnings(source: str) -> list[str]:
    """Returns what every table of a run has to say, such as leaks that were allowed; none of a table by itself."""
    path = Path(source)
    try:
        metrics = json.loads(((path if path.is_dir() else path.parent) / METRICS).read_text(encoding="utf-8"))
        return closing_remarks(metrics)[:-1]
    except (OSError, ValueError, KeyError):
        return []


def _names(baseline: str, candidate: str) -> tuple[str, str]:
    """Returns the last part of each path, or the whole where those are the same."""
    last = Path(baseline).name, Path(candidate).name
    return (baseline, candidate) if last[0] == last[1] or not all(last) else last
