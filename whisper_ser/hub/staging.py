"""The folder to upload: a saved model with a card made from the figures of its run."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import modeling_whisper_ser
from modeling_whisper_ser import WhisperSerConfig
from whisper_ser.data.corpora.registry import CORPORA
from whisper_ser.data.licenses import head_license, inherit, read_license
from whisper_ser.errors import PublishError
from whisper_ser.evaluation.results import METRICS_FILE, RunResult, read_result
from whisper_ser.inference.engines.graphs import write_graphs
from whisper_ser.inference.reference_output import REFERENCE_OUTPUT, replace_setting
from whisper_ser.report.model_card import model_card
from whisper_ser.report.run import CONFUSION_MATRIX, draw_results
from whisper_ser.training.recipe import RECIPE, translate
from whisper_ser.training.settings import all_settings, is_harmless, metadata

SPEED = "speed.json"
"""File of measured times beside `metrics.json`, if there is one."""
NEEDED = ("config.json", "preprocessor_config.json", REFERENCE_OUTPUT, RECIPE)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
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
) -> RunResult:
    """Copies the model to the new folder `target` with a new card, figure and code; returns the result of its run.

    Settings, weights, recipe and reference output are copied from the model; nothing else in its folder is uploaded.
    Code and the graphs for ONNX Runtime, which have no weights, are those of this package. Card and figure are made
    from the metrics.

    Args:
        model: `<run>/model`.
        target: does not exist yet.
        model_id: `user/name`.
        results: `metrics.json` of a cross-validation of the same recipe, whose figures the card shows first.
        about_corpus: facts about a table of your own: the name of the published corpus that it is, or a JSON file with
            `languages`, `license`, `homepage` and `citation`.
        license: of the model, if none follows from its data (`head_license`).

    Raises:
        PublishError: the folder is not a saved model, or has no metrics; the cross-validation is of another recipe or
            corpus.
        LicenseError: `license` contradicts the data.
        DamagedFileError, ResultError: the metrics are not what the run wrote, or are of an earlier version.
    """
    _check_complete(model)
    run = model.resolve().parent
    result = _result(run / METRICS_FILE, f"{model} has no metrics beside it")
    # The corpus of a table of one's own lacks the facts of --about_corpus.
    corpus = replace(result.corpus, **_facts(about_corpus))
    result, cross_validation = replace(result, corpus=corpus), None
    if results:
        cross_validation = _result(results, f"There is no {results}")
        _check_same(cross_validation, result, results, model)
        cross_validation = replace(cross_validation, corpus=corpus)
    speed = run / SPEED
    target.mkdir(parents=True)
    for file in [*(model / name for name in NEEDED), *(path for one in WEIGHTS for path in model.glob(one))]:
        shutil.copy(file, target)
    for file in Path(modeling_whisper_ser.__file__).parent.glob("*_whisper_ser.py"):
        shutil.copy(file, target)
    write_graphs(target)
    _complete_license(target, corpus.name, about_corpus, license)
    card = model_card(result, target, model_id, cross_validation, _read(speed) if speed.is_file() else None)
    (target / "README.md").write_text(card, encoding="utf-8")
    draw_results(cross_validation or result, target / CONFUSION_MATRIX)
    return result


def _complete_license(folder: Path, corpus: str, about_corpus: str | None, stated: str | None) -> None:
    """Stores the licence in `config.json` if the command line or this version knows more than the run did."""
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


def _check_complete(folder: Path) -> None:
    """Raises `PublishError` unless `folder` holds a saved model whose settings name the code of this package."""
    if not (folder / "config.json").is_file():
        raise PublishError(f"{folder} holds no model: give the folder model/ of a run, such as outputs/demo/model.")
    if lacking := [name for name in NEEDED if not (folder / name).is_file()]:
        raise PublishError(f"{folder} lacks {', '.join(lacking)}; it {OLD_RUN}")
    for name, expected in AUTO_MAP.items():
        settings = _read(folder / name)
        found = settings.get("auto_map") if isinstance(settings, dict) else None
        if found != expected:
            raise PublishError(f"The auto_map of {name} names code that is not part of this package: {found}.")


def _result(path: Path, problem: str) -> RunResult:
    if not path.is_file():
        raise PublishError(
            f"{problem}, and models without measured results are not published: train with run_train.py, and publish "
            "the folder model/ that it wrote."
        )
    return read_result(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{path} cannot be read as JSON ({error}).") from error


def _facts(about_corpus: str | None) -> dict[str, Any]:
    """Returns the facts of `--about_corpus` about a table of your own."""
    if about_corpus is None:
        return {}
    if about_corpus in CORPORA:
        spec = CORPORA[about_corpus]
        return {"languages": [spec.language], **{name: getattr(spec, name) for name in CORPUS_FACTS[1:]}}
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


def _check_same(cross_validation: RunResult, result: RunResult, results: Path, model: Path) -> None:
    """Raises unless the cross-validation has the recipe and the corpus of the model."""
    if not cross_validation.is_cross_validation:
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
    pairs += [
        ("labels", cross_validation.labels, result.labels),
        ("base model", cross_validation.model.base, result.model.base),
        ("corpus name", cross_validation.corpus.name, result.corpus.name),
        ("corpus utterances", cross_validation.corpus.utterances, result.corpus.utterances),
    ]
    other = [f"{name} {their} not {our}" for name, their, our in pairs if their != our]
    if other:
        raise PublishError(f"{results} is of another recipe or corpus than {model}: {'; '.join(other)}.")
