"""The model card: every part of it, from the figures of the run and from nothing else."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from transformers import pipeline

from whisper_ser.commands import train as run_train
from whisper_ser.errors import PublishError
from whisper_ser.evaluation.results import ResultError, RunResult, read_result
from whisper_ser.hub.staging import stage
from whisper_ser.inference.reference_output import read_reference_output
from whisper_ser.io import sealed
from whisper_ser.report.model_card import model_card

LICENSES = {
    "whisper-base-ser-emodb4": "apache-2.0",
    "whisper-base-ser-ravdess": "cc-by-nc-sa-4.0",
    "whisper-tiny.en-ser-demo": "apache-2.0",
}
ABOUT = {"license": "CC0-1.0", "homepage": "https://example.org/tones", "citation": "@misc{tones, title = {Tones}}"}


def result_of(run: Path) -> RunResult:
    return read_result(run / "metrics.json")


@pytest.fixture
def about(tmp_path) -> str:
    file = tmp_path / "about.json"
    file.write_text(json.dumps(ABOUT))
    return str(file)


@pytest.fixture
def card(trained, tmp_path, about) -> str:
    stage(trained / "model", tmp_path / "staged", "user/tones", about_corpus=about, license="cc-by-4.0")
    return (tmp_path / "staged" / "README.md").read_text()


@pytest.fixture(scope="module")
def cross_validated(trained, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cross") / "run"
    recipe = json.loads((trained / "recipe.json").read_text())
    folds = {"protocol": "loso", "output_dir": str(output), "test_speakers": None}
    (output.parent / "recipe.json").write_text(json.dumps({**recipe, **folds}))
    run_train.main([str(output.parent / "recipe.json")])
    return output


def row(*cells: object) -> str:
    return re.escape(f"| {' | '.join(map(str, cells))} |")


def test_the_card_is_complete(card, trained):
    result, known = result_of(trained), read_reference_output(trained / "model")
    test = result.test

    def percent(share: float) -> str:
        return f"{100 * share:.1f}"

    matrix, recall = test.confusion_matrix, test.recall
    gender, spread = result.by_gender, result.by_speaker
    pattern = "\n.*".join(
        [
            r"---\ndatasets:\n- people\d+\nlanguage:\n- de\nlibrary_name: transformers\nlicense: cc-by-4.0",
            r"pipeline_tag: audio-classification",
            r"model-index:\n- name: tones\n",
            r"# tones\n\nSpeech emotion recognition: classifies speech of any length as calm, excited\. The encoder "
            r"of\n"
            r"`small-whisper\d+` up to layer 2 of 3, `qkv` pooling",
            r"## Use\n",
            r'classifier = pipeline\("audio-classification", model="user/tones", trust_remote_code=True\)',
            r'model = AutoModelForAudioClassification.from_pretrained\("user/tones", trust_remote_code=True\)',
            r"### Long audio\n",
            r"### Timeline\n",
            r"## Verify the model\n",
            rf"- `model.safetensors`: `{known['sha256']['model.safetensors']}`",
            row("calm", "excited"),
            row(*(f"{p:.4f}" for p in known["probabilities"].values())),
            r"`whisper-ser verify user/tones` checks both\.",
            r"## Results\n\nProtocol: one split: speakers 04, 05 test, 4 others train; no speaker in two parts; last "
            r"epoch kept; seed 42\. 12 test utterances of 36 \(6 speakers\)\.",
            row("WA (accuracy)", percent(test.wa)),
            row("UA (mean recall of the classes)", percent(test.ua)),
            row("F1 (weighted by support)", percent(test.f1)),
            row("macro F1", percent(test.macro_f1)),
            row("**calm**", *matrix[0], percent(recall["calm"])),
            row("**excited**", *matrix[1], percent(recall["excited"])),
            r"!\[confusion matrix of the test\]\(confusion_matrix\.png\)",
            r"One split and one seed: with 12 test utterances",
            r"### By gender and speaker\n",
            row("female", 1, 6, percent(gender["female"].wa), percent(gender["female"].ua)),
            row("male", 1, 6, percent(gender["male"].wa), percent(gender["male"].ua)),
            row("WA", *(percent(getattr(spread.wa, of)) for of in ("min", "median", "max", "std"))),
            row("UA", *(percent(getattr(spread.ua, of)) for of in ("min", "median", "max", "std"))),
            rf"### Calibration\n\nExpected calibration error {test.ece:.3f}:",
            r"## Training\n\n`recipe\.json`",
            r"python run_train\.py recipe\.json --data_dir path/to/people\d+",
            rf"trains the model again: 2\.0 epochs, batches of 16, peak learning rate 0\.001,\nwhisper-ser "
            rf"{re.escape(result.versions['whisper-ser'])}",
            r"### Data\n\n`people\d+`: 36 utterances, 6 speakers, [\d.]+ hours, language de\. Licence: CC0-1\.0\. "
            r"From https://example\.org/tones\.",
            rf"### Environmental cost\n\nTraining took {round(result.training.seconds)} s on "
            rf"{re.escape(result.training.device)} \(1 process\)",
            r"## Limits\n",
            r"spontaneous speech",
            r"Out of scope: .*hiring.*school",
            r"Regulation 2024/1689",
            r"OpenAI's model card for Whisper",
            r"## Licence\n",
            r"head is under \*\*cc-by-4\.0\*\*, as stated by its publisher\. It learnt from people\d+ "
            r"\(licence unknown\)\.",
            r"MIT",
            r"## Citation\n",
            r"eprint = \{2602\.06000\}",
            r"Robust Speech Recognition via Large-Scale Weak Supervision",
            r"@misc\{tones, title = \{Tones\}\}\n```\n$",
        ]
    ).replace("\n.*", "(?s:.*?)")
    assert re.match(pattern, card), card
    assert not re.search(r"None|nan|path/or/hub-id|\{\{|\}\}\}\}", card)
    assert not re.search(r"Speed on CPU|95% interval", card), "two speakers and no stopwatch"


def test_the_metadata_round_trips_and_holds_every_metric(card, trained):
    test = result_of(trained).test
    data = ModelCard(card).data
    assert yaml.safe_load(data.to_yaml()) == yaml.safe_load(card.split("---\n")[1])
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    expected = {
        "WA (accuracy)": 100 * test.wa,
        "UA (mean recall of the classes)": 100 * test.ua,
        "F1 (weighted by support)": 100 * test.f1,
        "macro F1": 100 * test.macro_f1,
        "expected calibration error": test.ece,
        "recall of calm": 100 * test.recall["calm"],
        "recall of excited": 100 * test.recall["excited"],
    }
    assert values == pytest.approx(expected, abs=0.006)
    assert all("no speaker in two parts" in result.dataset_name for result in data.eval_results)


def test_generated_twice_it_is_the_same_text(card, trained, tmp_path, about):
    stage(trained / "model", tmp_path / "again", "user/tones", about_corpus=about, license="cc-by-4.0")
    assert (tmp_path / "again" / "README.md").read_text() == card
    saved = (trained / "model" / "README.md").read_text()
    assert saved == model_card(result_of(trained), trained / "model")


def test_the_figures_between_people_are_scikit_learns(trained):
    predictions = pandas.read_parquet(trained / "predictions.parquet")
    predictions = predictions[predictions["part"] == "test"]
    result = result_of(trained)
    assert set(predictions["gender"]) == {"female", "male"}
    for gender, rows in predictions.groupby("gender"):
        assert result.by_gender[gender].wa == accuracy_score(rows["emotion"], rows["predicted"])
        assert result.by_gender[gender].ua == balanced_accuracy_score(rows["emotion"], rows["predicted"])
    by_speaker = [accuracy_score(r["emotion"], r["predicted"]) for _, r in predictions.groupby("speaker")]
    assert asdict(result.by_speaker.wa) == pytest.approx(
        {"min": min(by_speaker), "median": np.median(by_speaker), "max": max(by_speaker), "std": np.std(by_speaker)}
    )


def test_what_was_not_measured_is_left_out(trained, tmp_path):
    result = result_of(trained)
    card = model_card(replace(result, by_gender=None, by_speaker=None), trained / "model")
    assert "By gender" not in card and "Speed" not in card
    speed = {
        "device": "a CPU",
        "threads": 2,
        "command": "measure --all",
        "rows": [{"runtime": "torch", "seconds": 4.0, "milliseconds": 35.06}],
    }
    timed = model_card(result, trained / "model", speed=speed)
    assert "## Speed on CPU\n\na CPU, 2 threads:\n" in timed
    assert "| torch | 4.0 | 35.1 |" in timed and "`measure --all`" in timed


def test_the_code_in_the_card_gives_the_probabilities_in_the_card(card, trained):
    code = re.search(r"```python\n(import numpy as np\n.*?)```", card, re.DOTALL)
    told: list = []
    names = {"classifier": pipeline("audio-classification", model=str(trained / "model")), "print": told.append}
    exec(code[1], names)
    expected = read_reference_output(trained / "model")["probabilities"]
    assert {a["label"]: a["score"] for a in told[0]} == pytest.approx(expected, abs=1e-4)


def test_the_timeline_in_the_card_runs(card, trained):
    code = re.search(r"```python\n(window = .*?)```", card, re.DOTALL)
    told: list = []
    classifier = pipeline("audio-classification", model=str(trained / "model"))
    audio = np.random.default_rng(0).standard_normal(10 * 16000).astype(np.float32)
    exec(code[1], {"classifier": classifier, "audio": audio, "rate": 16000, "print": lambda *a: told.append(a)})
    assert [start for start, _ in told] == ["0.0 s", "2.0 s", "4.0 s", "6.0 s"]


def test_a_run_without_metrics_cannot_be_published(trained, tmp_path):
    model = shutil.copytree(trained / "model", tmp_path / "run" / "model")
    with pytest.raises(PublishError, match="no metrics"):
        stage(Path(model), tmp_path / "staged", "user/tones")
    for content, message in (({"test": None}, "version 1 of metrics.json"), ({"version": 2}, "is not a result")):
        (tmp_path / "run" / "metrics.json").write_text(json.dumps(sealed(content)))
        with pytest.raises(ResultError, match=message):
            stage(Path(model), tmp_path / "staged", "user/tones")


def test_a_cross_validation_leads_and_says_of_what_it_is(trained, cross_validated, tmp_path, about):
    stage(trained / "model", tmp_path / "staged", "user/tones", cross_validated / "metrics.json", about)
    card, result = (tmp_path / "staged" / "README.md").read_text(), result_of(cross_validated)
    protocol = "6 folds, each speaker left out once; no speaker in two parts; last epoch kept; seed 42"
    assert f"### Cross-validation\n\nProtocol: {protocol}. 36 test utterances of 36 (6 speakers)." in card
    assert "models that the same recipe trained on the other folds, not\nto the model in this repository" in card
    interval = result.intervals.ua
    cells = [100 * value for value in (result.test.ua, result.deviations.folds.ua, result.pooled.ua)]
    bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"
    figures = " | ".join(f"{cell:.1f}" for cell in cells)
    assert f"| UA (mean recall of the classes) | {figures} | {bounds} |" in card
    assert "### This model\n\nProtocol: one split: speakers 04, 05 test" in card
    names = {result.dataset_name for result in ModelCard(card).data.eval_results}
    assert len(names) == 2 and any(protocol in name for name in names)


def test_a_cross_validation_of_something_else_is_refused(trained, cross_validated, tmp_path):
    other = Path(shutil.copytree(cross_validated, tmp_path / "other"))
    recipe = json.loads((other / "recipe.json").read_text())
    (other / "recipe.json").write_text(json.dumps({**recipe, "layer_index": 3}))
    with pytest.raises(PublishError, match=r"layers \[3\] not \[2\]"):
        stage(trained / "model", tmp_path / "staged", "user/tones", other / "metrics.json")
    with pytest.raises(PublishError, match="single split"):
        stage(trained / "model", tmp_path / "staged", "user/tones", trained / "metrics.json")


def test_a_published_corpus_brings_its_facts(trained, tmp_path):
    result = stage(trained / "model", tmp_path / "staged", "user/tones", about_corpus="ravdess")
    assert result.corpus.license == "CC BY-NC-SA 4.0"
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "Livingstone" in card and "\nlicense: cc-by-nc-sa-4.0\n" in card
    with pytest.raises(PublishError, match="neither a JSON file nor a corpus"):
        stage(trained / "model", tmp_path / "again", "user/tones", about_corpus="ravdes")


@pytest.mark.parametrize("file", sorted((ROOT / "model_cards").glob("*-*.md")), ids=lambda file: file.stem)
def test_the_cards_of_released_models_have_what_a_published_card_has(file):
    text = file.read_text()
    data = ModelCard(text).data
    assert data.model_name == file.stem and data.eval_results and data.base_model and data.language
    assert data.license == LICENSES[file.stem] and f"The trained head is under **{data.license}**" in text
