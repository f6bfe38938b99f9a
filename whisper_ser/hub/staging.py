"""The folder that will be uploaded: a saved model, and the card that its run's figures make."""

import json
import shutil
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import modeling_whisper_ser
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.errors import PublishError
from whisper_ser.evaluation.metrics import EvaluationError
from whisper_ser.evaluation.results import METRICS
from whisper_ser.inference.reference_output import KNOWN_ANSWER
from whisper_ser.io import read_sealed
from whisper_ser.report.figures import draw_confusion_matrix
from whisper_ser.report.model_card import model_card
from whisper_ser.report.results import results_of
from whisper_ser.report.run import CONFUSION_MATRIX
from whisper_ser.training.recipe import RECIPE
from whisper_ser.training.settings import HARMLESS_TRAINER_SETTINGS, ModelArguments, SerTrainingArguments

SPEED = "speed.json"
"""Beside `metrics.json`, if the model was timed."""
NEEDED = ("config.json", "preprocessor_config.json", "modeling_whisper_ser.py", KNOWN_ANSWER, RECIPE)
ALLOWED = (*NEEDED, "*_whisper_ser.py", "*.safetensors", "*.safetensors.index.json", "README.md", CONFUSION_MATRIX)
OF_THE_MODEL = {field.name for field in fields(ModelArguments)} - {"encoder", "model_name_or_path"}
OF_THE_DATA = {"corpus", "labels", "classes", "subset", "label_aliases"}
CODE = "*_whisper_ser.py"
AUTO_MAP = {
    "config.json": {
        "AutoConfig": "configuration_whisper_ser.WhisperSerConfig",
        "AutoModel": "modeling_whisper_ser.WhisperForEmotionClassification",
        "AutoModelForAudioClassification": "modeling_whisper_ser.WhisperForEmotionClassification",
    },
    "preprocessor_config.json": {"AutoFeatureExtractor": "feature_extraction_whisper_ser.WhisperSerFeatureExtractor"},
}
"""What saved settings name: code in the same folder."""
OF_THE_TRAINING = {field.name for field in fields(SerTrainingArguments)} - HARMLESS_TRAINER_SETTINGS
THAT_MATTER = (OF_THE_MODEL | OF_THE_DATA | OF_THE_TRAINING) - {"seed", "data_seed"}
"""Settings that change the figures, other than by who tests and by chance. Encoders are compared by their names."""
FACTS = ("languages", "license", "homepage", "citation")
EARLIER = "was written by an earlier version: train again to publish."


def stage(
    model: Path, target: Path, model_id: str, results: Path | None = None, about_corpus: str | None = None
) -> dict[str, Any]:
    """Copies the model to the new folder `target`, with card, figure and code made anew; returns the metrics shown.

    Args:
        model: `<run>/model`.
        target: does not exist yet.
        model_id: `user/name`.
        results: `metrics.json` of a cross-validation of the same recipe, whose figures the card then leads with.
        about_corpus: a published corpus by name, or a JSON file with `languages`, `license`, `homepage` and
            `citation`: what a run on a table of one's own does not know.

    Raises:
        PublishError: the folder is no saved model, holds what is no part of one, or has no metrics; the
            cross-validation is of something else.
        DamagedFileError: metrics that are not what the run wrote.
    """
    check_files(model)
    run = model.resolve().parent
    metrics = _metrics(run / METRICS, f"{model} has no metrics beside it, and what was not measured")
    corpus = {**metrics["corpus"], **_facts(about_corpus)}
    metrics = {**metrics, "corpus": corpus}
    cross_validation = _metrics(results, f"{results} is not there, and what was not measured") if results else None
    if cross_validation and results:
        _check_same(cross_validation, metrics, results, model)
        # It was run before the corpus' facts were asked for.
        cross_validation = {**cross_validation, "corpus": corpus}
    speed = run / SPEED
    shutil.copytree(model, target)
    _renew_code(target)
    try:
        card = model_card(metrics, target, model_id, cross_validation, _read(speed) if speed.is_file() else None)
        pooled = results_of(cross_validation or metrics).pooled
    except (KeyError, TypeError, EvaluationError) as error:
        raise PublishError(f"{run / METRICS} lacks {error}; it {EARLIER}") from error
    (target / "README.md").write_text(card, encoding="utf-8")
    kind = "cross-validation" if cross_validation else "test"
    title = f"{corpus['name']}, {kind}, {pooled['utterances']} utterances, UA {100 * pooled['ua']:.1f} %"
    draw_confusion_matrix(pooled["confusion_matrix"], metrics["labels"], title, target / CONFUSION_MATRIX)
    return metrics


def _renew_code(folder: Path) -> None:
    """Puts this package's code in place of what lies in `folder`, which may be anybody's and is run in the checks.

    Raises:
        PublishError: the settings there name other code.
    """
    for path in folder.glob(CODE):
        path.unlink()
    for path in Path(modeling_whisper_ser.__file__).parent.glob(CODE):
        shutil.copy(path, folder)
    for name, expected in AUTO_MAP.items():
        settings = _read(folder / name)
        found = settings.get("auto_map") if isinstance(settings, dict) else None
        if found != expected:
            raise PublishError(f"The auto_map of {name} names code that is not this package's: {found}.")


def check_files(folder: Path) -> None:
    """Raises `PublishError` unless `folder` holds a saved model and nothing else.

    Allowed is only what a model consists of, so that no recording, table of predictions, optimiser state, checkpoint
    or pickle can slip in.
    """
    if not (folder / "config.json").is_file():
        raise PublishError(f"{folder} holds no model: name the folder model/ of a run, such as outputs/demo/model.")
    entries = sorted(folder.iterdir())
    foreign = [e.name for e in entries if e.is_symlink() or not e.is_file() or not _allowed(e.name)]
    if foreign:
        raise PublishError(
            f"{folder} holds what is no part of a model and would be published with it: {', '.join(foreign)}. "
            "Training data, optimiser state, checkpoints and pickles are never uploaded: move them away."
        )
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if lacking:
        raise PublishError(f"{folder} lacks {', '.join(lacking)}; it {EARLIER}")


def _allowed(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in ALLOWED)


def _metrics(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise PublishError(
            f"{what} is not published: train with run_train.py, and publish the folder model/ it wrote."
        )
    metrics = _read(path)
    if not isinstance(metrics, dict) or not metrics.get("test") or "base_model" not in metrics:
        raise PublishError(f"{path} has no figures of a test, or {EARLIER}")
    return read_sealed(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{path} cannot be read as JSON ({error}).") from error


def _facts(about_corpus: str | None) -> dict[str, Any]:
    """Returns what is known of a corpus that a table of one's own was made of."""
    if about_corpus is None:
        return {}
    if about_corpus in CORPORA:
        spec = CORPORA[about_corpus]
        return {
            "languages": [spec.language],
            "license": spec.license,
            "homepage": spec.homepage,
            "citation": spec.citation,
        }
    if not Path(about_corpus).is_file():
        raise PublishError(
            f"--about_corpus {about_corpus} is neither a JSON file nor a corpus known by name ({', '.join(CORPORA)})."
        )
    facts = _read(Path(about_corpus))
    unknown = sorted(set(facts) - {*FACTS}) if isinstance(facts, dict) else ["something else"]
    if unknown or not isinstance(facts.get("languages", []), list):
        raise PublishError(
            f"{about_corpus} must be a JSON object with {', '.join(FACTS)}, languages a list of codes such as "
            f'["de"]; it has {", ".join(unknown) or "languages that are no list"}.'
        )
    return facts


def _check_same(cross_validation: dict[str, Any], metrics: dict[str, Any], results: Path, model: Path) -> None:
    """Raises unless the cross-validation trained as the model was trained, on the same corpus."""
    if "folds" not in cross_validation:
        raise PublishError(f"{results} is of a single split, not of a cross-validation.")
    theirs, ours = (_read(folder / RECIPE) for folder in (results.parent, model.resolve().parent))
    compared = sorted({*theirs, *ours} & THAT_MATTER)
    pairs = [(name, theirs.get(name), ours.get(name)) for name in compared]
    other = [f"{name} {their} not {our}" for name, their, our in pairs if their != our]
    for name in ("labels", "base_model"):
        if cross_validation[name] != metrics[name]:
            other.append(f"{name} {cross_validation[name]} not {metrics[name]}")
    for name in ("name", "utterances"):
        if cross_validation["corpus"][name] != metrics["corpus"][name]:
            other.append(f"corpus {name} {cross_validation['corpus'][name]} not {metrics['corpus'][name]}")
    if other:
        raise PublishError(f"{results} does not tell of models like {model}: {'; '.join(other)}.")
