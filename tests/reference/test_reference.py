"""The package answers what its first version answered: every value of the reference, computed anew and compared."""

import re
from typing import Any

import pytest
import torch
from answers import (
    ANSWERS,
    ROOT,
    TIMELINE_MODELS,
    TIMELINES,
    Work,
    exported_predictions,
    folds,
    metrics,
    plain_predictions,
    predictions,
    recipes,
    schema,
    timeline,
    updates,
)
from files import FOLDER, read
from inputs import CUTS, MODELS

PROBABILITIES = {"": 1e-4}
"""Processors with and without AVX-512 differ by 1e-6, float16 by 1e-3."""
SPANS = {r"\.(probabilities|whole)\.": 1e-4}
"""Times and labels are exact."""
CORRELATIONS = {r"\.correlation$": 0.05}
"""MP3 encoders differ."""
EXACT = {r"^\.(corpus|protocol|model|training|audit)\.": 0.0}
TUNED = {**EXACT, r"temperature": 0.05, "": 2e-3}
"""No random number has a part in these runs; 20 steps of training enlarge differences of rounding."""
TRAINED = {**EXACT, r"confusion_matrix": 5, r"^\.(folds|by_gender)\.": 0.3, r"\.ece|^\.deviations": 0.15, "": 0.1}
"""The head's first weights, the order of the utterances and dropout are random: with four seeds, WA and UA differed by
0.04 and ECE by 0.07. A fold has 8 test utterances."""
DRAWN = {"coverage", "intervals", "by_speaker"}
"""Parts of the metrics that follow single probabilities; their keys are compared by the schema, their values in the
runs without random numbers."""

model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Several threads only wait for each other on models this small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("reference"))


def differences(found: Any, expected: Any, tolerances: dict[str, float], path: str = "") -> list[str]:
    """Returns what differs, each with its path; a number may differ by the tolerance of the first pattern in its path.

    Texts, whole numbers where a value has no tolerance, and the keys and lengths of everything are exact.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [f"{path}: has no {key}" for key in expected.keys() - found.keys()]
        keys += [f"{path}: has {key}" for key in found.keys() - expected.keys()]
        common = [(found[key], expected[key], f"{path}.{key}") for key in expected if key in found]
        return keys + [line for one, other, to in common for line in differences(one, other, tolerances, to)]
    if isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{path}: {len(found)} items, not {len(expected)}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for n, pair in pairs for line in differences(*pair, tolerances, f"{path}.{n}")]
    if _is_number(found) and _is_number(expected):
        tolerance = next((value for pattern, value in tolerances.items() if re.search(pattern, path)), 0.0)
        return [] if abs(found - expected) <= tolerance else [f"{path}: {found}, not {expected}"]
    return [] if found == expected else [f"{path}: {found!r}, not {expected!r}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def test_every_file_of_the_reference_is_compared():
    assert {path.name for path in FOLDER.iterdir()} == {*ANSWERS}


@model
def test_the_stock_classes_give_the_probabilities_of_the_reference(work, name):
    assert differences(plain_predictions(work, name), read("predictions.json")[name], PROBABILITIES) == []


@model
def test_predict_on_a_cpu_gives_them_in_a_batch(work, name):
    assert differences(predictions(work, name), read("predictions.json")[name], PROBABILITIES) == []


@model
def test_the_exported_model_gives_them(work, name):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert differences(exported_predictions(work, name), read("predictions.json")[name], PROBABILITIES) == []


def test_the_reference_tells_waveforms_and_models_apart():
    # Answers that are all alike, or certain, would be kept by many a mistake.
    values = [[sorted(clip.items()) for clip in clips.values()] for clips in read("predictions.json").values()]
    assert all(0.0005 < p < 0.95 for clips in values for clip in clips for _, p in clip)
    for clips in values:
        assert (
            max(
                abs(a - b)
                for one, other in zip(clips, clips[1:], strict=False)
                for (_, a), (_, b) in zip(one, other, strict=True)
            )
            > 0.02
        )


@pytest.mark.parametrize("of", TIMELINES)
@pytest.mark.parametrize("name", TIMELINE_MODELS)
def test_windows_and_segments_of_a_recording_stay_where_they_are(work, name, of):
    assert differences(timeline(work, name, of), read("timelines.json")[name][of], SPANS) == []


@pytest.mark.parametrize("name", TIMELINE_MODELS)
def test_a_stream_tells_the_same_after_the_same_block(work, name):
    assert differences(updates(work, name), read("streams.json")[name], SPANS) == []


@pytest.mark.parametrize(("protocol", "corpus"), CUTS)
def test_a_protocol_cuts_a_corpus_into_the_same_folds(protocol, corpus):
    assert folds(protocol, corpus) == read("folds.json")[f"{protocol} of {corpus}"]


def test_the_audit_finds_shared_speakers_and_copies(work):
    assert differences(ANSWERS["audit.json"](work), read("audit.json"), CORRELATIONS) == []


@pytest.mark.parametrize("run", ["tuned", "tuned_by_fold"])
def test_training_a_saved_model_on_gives_the_same_figures(work, run):
    assert differences(metrics(getattr(work, run)), read(f"metrics_{run}.json"), TUNED) == []


@pytest.mark.parametrize("run", ["run", "cross_validation"])
def test_training_a_new_model_gives_like_figures(work, run):
    found, expected = (
        {name: value for name, value in of.items() if name not in DRAWN}
        for of in (metrics(getattr(work, run)), read(f"metrics_{run}.json"))
    )
    for of in (found, expected):
        for fold in of.get("folds", []):
            del fold["temperature"], fold["validation"], fold["history"]
    assert differences(found, expected, TRAINED) == []


@pytest.mark.parametrize("run", ["run", "cross_validation"])
def test_metrics_have_the_keys_and_types_of_their_schema(work, run):
    found, expected = schema(getattr(work, run)), read(f"schema_{run}.txt")
    assert (sorted({*expected} - {*found}), sorted({*found} - {*expected})) == ([], [])


@pytest.mark.parametrize("name", ["card_run.md", "card_published.md"])
def test_a_model_card_says_the_same_but_for_figures(work, name):
    assert ANSWERS[name](work).splitlines() == read(name).splitlines()


@pytest.mark.parametrize(
    "name", [str(path.relative_to(ROOT / "recipes")) for path in sorted((ROOT / "recipes").rglob("*.json"))]
)
def test_a_recipe_means_the_same_settings(work, name):
    assert recipes(work)[name] == read("recipes.json")[name]
