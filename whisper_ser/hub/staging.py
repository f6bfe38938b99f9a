"""The folder to upload: a saved model with a card made from the figures of its run."""

import json
import shutil
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import modeling_whisper_ser
from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.licenses import head_license, inherit, read_license
from whisper_ser.errors import PublishError
from whisper_ser.evaluation.metrics import EvaluationError
from whisper_ser.evaluation.results import METRICS
from whisper_ser.inference.engines.graphs import FOLDER as GRAPH_FOLDER
from whisper_ser.inference.engines.graphs import write_graphs
from whisper_ser.inference.reference_output import REFERENCE_OUTPUT, replace_setting
from whisper_ser.io import read_sealed
from whisper_ser.report.figures import draw_confusion_matrix
from whisper_ser.report.model_card import model_card
from whisper_ser.report.results import results_of
from whisper_ser.report.run import CONFUSION_MATRIX
from whisper_ser.training.recipe import RECIPE, translate
from whisper_ser.training.settings import all_settings, is_harmless, metadata

SPEED = "speed.json"
"""File of measured times beside `metrics.json`, if there is one."""
NEEDED = ("config.json", "preprocessor_config.json", "modeling_whisper_ser.py", REFERENCE_OUTPUT, RECIPE)
GRAPH_FILES = "*.onnx"
ALLOWED = (*NEEDED, "*_whisper_ser.py", "*.safetensors", "*.safetensors.index.json", "README.md", CONFUSION_MATRIX)
CODE = "*_whisper_ser.py"
AUTO_MAP = {
    "config.json": {
        "AutoConfig": "configuration_whisper_ser.WhisperSerConfig",
        "AutoModel": "modeling_whisper_ser.WhisperForEmotionClassification",
        "AutoModelForAudioClassification": "modeling_whisper_ser.WhisperForEmotionClassification",
    },
    "preprocessor_config.json": {"AutoFeatureExtractor": "feature_extraction_whisper_ser.WhisperSerFeatureExtractor"},
}
"""Expected in the saved settings: code in the same folder."""
CORPUS_FACTS = ("languages", "license", "homepage", "citation")
OLD_RUN = "was written by an earlier version: train again to publish."


def stage(
    model: Path,
    target: Path,
    model_id: str,
    results: Path | None = None,
    about_corpus: str | None = None,
    license: str | None = None,
) -> dict[str, Any]:
    """Copies the model to the new folder `target` with a new card, figure and code; returns the metrics shown.

    Args:
        model: `<run>/model`.
        target: does not exist yet.
        model_id: `user/name`.
        results: `metrics.json` of a cross-validation of the same recipe, whose figures the card shows first.
        about_corpus: facts about a table of one's own: the published corpus that it is, by name, or a JSON file with
            `languages`, `license`, `homepage` and `citation`.
        license: of the model, where none follows from its data (`head_license`).

    Raises:
        PublishError: the folder is not a saved model, holds other files, or has no metrics; the cross-validation is
            of another recipe or corpus.
        LicenseError: `license` contradicts the data.
        DamagedFileError: the metrics are not what the run wrote.
    """
    check_files(model)
    run = model.resolve().parent
    metrics = _metrics(run / METRICS, f"{model} has no metrics beside it")
    corpus = {**metrics["corpus"], **_facts(about_corpus)}
    metrics = {**metrics, "corpus": corpus}
    cross_validation = _metrics(results, f"There is no {results}") if results else None
    if cross_validation and results:
        _check_same(cross_validation, metrics, results, model)
        # Its metrics lack the facts of --about_corpus.
        cross_validation = {**cross_validation, "corpus": corpus}
    speed = run / SPEED
    shutil.copytree(model, target)
    _replace_code(target)
    write_graphs(target)
    _complete_license(target, corpus["name"], about_corpus, license)
    try:
        card = model_card(metrics, target, model_id, cross_validation, _read(speed) if speed.is_file() else None)
        pooled = results_of(cross_validation or metrics).pooled
    except (KeyError, TypeError, EvaluationError) as error:
        raise PublishError(f"{run / METRICS} lacks {error}; it {OLD_RUN}") from error
    (target / "README.md").write_text(card, encoding="utf-8")
    kind = "cross-validation" if cross_validation else "test"
    title = f"{corpus['name']}, {kind}, {pooled['utterances']} utterances, UA {100 * pooled['ua']:.1f}%"
    draw_confusion_matrix(pooled["confusion_matrix"], metrics["labels"], title, target / CONFUSION_MATRIX)
    return metrics


def _complete_license(folder: Path, corpus: str, about_corpus: str | None, stated: str | None) -> None:
    """Stores the licence in `config.json` where the command line, or a newer version, knows more than the run did."""
    config = WhisperSerConfig.from_pretrained(folder)
    saved = read_license(config)
    sources: dict[str, str | None] = dict(saved.sources) if saved else {corpus: None}
    if saved is None and (base := _read(folder / RECIPE).get("model_name_or_path")):
        sources = inherit(sources, None, base)
    if about_corpus in CORPORA and sources.get(corpus) is None:
        sources[corpus] = CORPORA[about_corpus].license_id
    license = head_license(sources, stated or (saved.id if saved and saved.stated else None))
    if license != saved:
        replace_setting(folder, "license", asdict(license))


def _replace_code(folder: Path) -> None:
    """Replaces the model code in `folder`, which could be anybody's and is run by the checks, by this package's.

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
            raise PublishError(f"The auto_map of {name} names code that is not part of this package: {found}.")


def check_files(folder: Path) -> None:
    """Raises `PublishError` unless `folder` holds a saved model and nothing else.

    Only files of a model are allowed: no recordings, predictions, optimiser state, checkpoints or pickles.
    """
    if not (folder / "config.json").is_file():
        raise PublishError(f"{folder} holds no model: give the folder model/ of a run, such as outputs/demo/model.")
    graphs = folder / GRAPH_FOLDER
    inside = sorted(graphs.iterdir()) if graphs.is_dir() and not graphs.is_symlink() else []
    entries = [entry for entry in sorted(folder.iterdir()) if not (inside and entry == graphs)]
    foreign = [e.name for e in entries if e.is_symlink() or not e.is_file() or not _allowed(e.name)]
    foreign += [f"{GRAPH_FOLDER}/{e.name}" for e in inside if e.is_symlink() or not e.match(GRAPH_FILES)]
    if foreign:
        raise PublishError(
            f"{folder} holds files that are not part of a model and would be published with it: {', '.join(foreign)}. "
            "Training data, optimiser state, checkpoints and pickles are never uploaded: move them away."
        )
    lacking = [name for name in NEEDED if not (folder / name).is_file()]
    if lacking:
        raise PublishError(f"{folder} lacks {', '.join(lacking)}; it {OLD_RUN}")


def _allowed(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in ALLOWED)


def _metrics(path: Path, problem: str) -> dict[str, Any]:
    if not path.is_file():
        raise PublishError(
            f"{problem}, and models without measured results are not published: train with run_train.py, and publish "
            "the folder model/ that it wrote."
        )
    metrics = _read(path)
    if not isinstance(metrics, dict) or not metrics.get("test") or "base_model" not in metrics:
        raise PublishError(f"{path} has no results of a test, or {OLD_RUN}")
    return read_sealed(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{path} cannot be read as JSON ({error}).") from error


def _facts(about_corpus: str | None) -> dict[str, Any]:
    """Returns the facts that `--about_corpus` gives about a table of one's own."""
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
    unknown = sorted(set(facts) - {*CORPUS_FACTS}) if isinstance(facts, dict) else ["something else"]
    if unknown or not isinstance(facts.get("languages", []), list):
        raise PublishError(
            f"{about_corpus} must be a JSON object with {', '.join(CORPUS_FACTS)}, languages a list of codes such as "
            f'["de"]; it has {", ".join(unknown) or "languages that are not a list"}.'
        )
    return facts


def _check_same(cross_validation: dict[str, Any], metrics: dict[str, Any], results: Path, model: Path) -> None:
    """Raises unless the cross-validation has the recipe and the corpus of the model."""
    if "folds" not in cross_validation:
        raise PublishError(f"{results} has the results of a single split, not of a cross-validation.")
    theirs, ours = (translate(_read(folder / RECIPE)) for folder in (results.parent, model.resolve().parent))
    # What affects results but folds and seeds; encoders are compared by name.
    about = {name: metadata(one) for name, one in all_settings().items() if not is_harmless(one)}
    compared = sorted(
        name
        for name in {*theirs, *ours} & about.keys()
        if about[name]["belongs"] not in ("folds", "seed", "grid") and not about[name].get("checkpoint")
    )
    pairs = [(name, theirs.get(name), ours.get(name)) for name in compared]
    other = [f"{name} {their} not {our}" for name, their, our in pairs if their != our]
    for name in ("labels", "base_model"):
        if cross_validation[name] != metrics[name]:
            other.append(f"{name} {cross_validation[name]} not {metrics[name]}")
    for name in ("name", "utterances"):
        if cross_validation["corpus"][name] != metrics["corpus"][name]:
            other.append(f"corpus {name} {cross_validation['corpus'][name]} not {metrics['corpus'][name]}")
    if other:
        raise PublishError(f"{results} is of another recipe or corpus than {model}: {'; '.join(other)}.")
