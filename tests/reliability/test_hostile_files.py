"""Files from strangers run no code, reach nothing outside their folder, and are refused when they are absurd."""

import csv
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import save_small_model, speechlike, write_corpus, write_table
from safetensors.torch import load_file, save_file

import whisper_ser
from modeling_whisper_ser import (
    ConfigError,
    EncoderCheckpointError,
    WhisperForEmotionClassification,
    WhisperSerConfig,
    WhisperSerFeatureExtractor,
)
from whisper_ser import cli
from whisper_ser.commands import train as run_train
from whisper_ser.data.corpora.table import load_table
from whisper_ser.errors import CorpusError, InferenceError, PublishError, RecipeError
from whisper_ser.hub.staging import stage
from whisper_ser.inference.formats import csv_lines
from whisper_ser.inference.reference_output import write_reference_output
from whisper_ser.io import FORMULA_SIGNS
from whisper_ser.training.recipe import parse_arguments


class Evil:
    """What a pickle may hold: reading it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def hostile(small_checkpoint, tmp_path) -> tuple[Path, Path]:
    """A good model whose folder holds code and settings of somebody else, and the file that tells that they ran."""
    folder, mark = save_small_model(small_checkpoint, tmp_path / "model"), tmp_path / "ran"
    write_reference_output(folder)
    known = json.loads((folder / "known_answer.json").read_text())
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(mark)!r}, 'w')\n" + path.read_text())
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Model: pass\n")
    for name, kinds in (
        ("config.json", ("AutoConfig", "AutoModel", "AutoModelForAudioClassification", "AutoTokenizer")),
        ("preprocessor_config.json", ("AutoFeatureExtractor", "AutoProcessor")),
    ):
        fields = json.loads((folder / name).read_text())
        fields["auto_map"] = dict.fromkeys(kinds, "evil.Model") | {"AutoTokenizer": "somebody/else--evil.Model"}
        fields |= {"custom_pipelines": {"audio-classification": {"impl": "evil.Model"}}, "trust_remote_code": True}
        (folder / name).write_text(json.dumps(fields))
    del known["settings_sha256"]  # a stranger's folder is consistent with itself
    (folder / "known_answer.json").write_text(json.dumps(known))
    for name in ("pytorch_model.bin", "model.pkl", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    return folder, mark


def test_no_command_runs_what_lies_in_a_model_folder(hostile, corpus, tmp_path, tried, capsys):
    folder, mark = hostile
    voice = str(next(corpus.glob("*.wav")))
    for argv in (
        ["predict", voice, "--model", str(folder)],
        ["timeline", voice, "--model", str(folder)],
        ["verify", str(folder)],
        ["export", "onnx", str(folder), str(tmp_path / "model.onnx")],
    ):
        assert cli.main(argv) == 0, capsys.readouterr().err
        assert not mark.exists(), argv
        tried(1)


def test_training_on_a_strangers_model_passes_none_of_its_code_on(hostile, corpus, tmp_path, tried):
    folder, mark = hostile
    argv = ["--model_name_or_path", str(folder), "--data_dir", str(corpus), "--test_speakers", "05"]
    run_train.main([*argv, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")])
    assert not mark.exists()
    saved = tmp_path / "run" / "model"
    for name in ("config.json", "preprocessor_config.json"):
        text = (saved / name).read_text()
        assert "evil" not in json.dumps(json.loads(text).get("auto_map")) and "somebody" not in text
    assert not [path for path in saved.glob("*.py") if str(mark) in path.read_text()]
    tried(1)


def test_publishing_runs_this_packages_code_alone(trained, tmp_path, tried):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    mark = tmp_path / "ran"
    (run / "model" / "pooling_whisper_ser.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (run / "model" / "evil_whisper_ser.py").write_text(f"open({str(mark)!r}, 'w')\n")
    stage(run / "model", tmp_path / "staged", "user/name")
    ours = {
        path.name: path.read_text() for path in Path(whisper_ser.__file__).parent.parent.glob("modeling_*/*_ser.py")
    }
    staged = {path.name: path.read_text() for path in (tmp_path / "staged").glob("*.py")}
    assert ours and staged == ours
    config = json.loads((run / "model" / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "somebody/else--evil.Model"
    (run / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishError, match="auto_map of config.json names code"):
        stage(run / "model", tmp_path / "again", "user/name")
    tried(2)


def test_weights_that_are_a_pickle_are_never_read(small_checkpoint, tmp_path, tried, capsys):
    folder, mark = save_small_model(small_checkpoint, tmp_path / "model"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    assert cli.main(["predict", "x.wav", "--model", str(folder)]) == 1
    assert "safetensors" in capsys.readouterr().err
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        whisper_ser.load_model(folder)
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    shutil.copy(small_checkpoint / "config.json", encoder)
    for name in ("pytorch_model.bin", "model.bin"):
        (encoder / name).write_bytes(pickle.dumps(Evil(mark)))
        with pytest.raises(EncoderCheckpointError):
            WhisperForEmotionClassification.from_encoder(encoder, ["a", "b"])
        tried(1)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(OSError):
        whisper_ser.load_model(folder)
    assert not mark.exists()
    tried(3)


ENCODER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
ABSURD_CONFIGS = (
    *(
        {name: value}
        for name in ("d_model", "num_pooling_heads", "pooling_head_dim")
        for value in (0, -1, 10**12, 1.5)
    ),
    *({"encoder_config": {**ENCODER, name: value}} for name in ENCODER for value in (0, -1, 10**12)),
    {"encoder_config": {**ENCODER, "num_mel_bins": 10**9}},
    {"encoder_config": {**ENCODER, "max_source_positions": 10**9}},
    {"encoder_config": {**ENCODER, "d_model": 8192, "encoder_layers": 256, "encoder_ffn_dim": 2**15}},
    {"encoder_config": {**ENCODER, "encoder_attention_heads": 5}},
    {"num_pooling_heads": 2**14, "pooling_head_dim": 2**14},
    {"id2label": {i: f"label {i}" for i in range(100_000)}},
    {"id2label": {0: "a", 1: 7}},
    {"id2label": {0: "a", 1: "\x1b[2Jgone"}},
    {"id2label": {0: "a", 1: "b\nc"}},
    {"chunk_seconds": 1e9},
    {"chunk_seconds": float("nan")},
    {"temperature": float("inf")},
    {"frame_averaging": 10**9},
    {"layer_index": 10**9},
    {"ensemble": [{}] * 2 + [{"layer_indices": [99]}]},
)


@pytest.mark.parametrize("fields", ABSURD_CONFIGS, ids=lambda fields: str(fields)[:60])
def test_absurd_configs_are_refused_before_anything_is_built(fields, tried):
    with pytest.raises(ConfigError):
        WhisperSerConfig(**{"encoder_config": ENCODER, **fields})
    tried(1)


@pytest.mark.parametrize(
    "fields",
    [
        {name: value}
        for name in ("feature_size", "sampling_rate", "hop_length", "n_fft", "pad_to_seconds")
        for value in (0, -1, 10**12, float("nan"), "much")
    ],
    ids=str,
)
def test_absurd_front_ends_are_refused(fields, tried):
    with pytest.raises(ConfigError):
        WhisperSerFeatureExtractor(**fields)
    tried(1)


def test_a_model_folder_with_an_absurd_config_is_refused_in_one_line(small_checkpoint, tmp_path, tried, capsys):
    folder = save_small_model(small_checkpoint, tmp_path / "model")
    good = json.loads((folder / "config.json").read_text())
    capsys.readouterr()
    for change in (
        {"encoder_config": {**good["encoder_config"], "d_model": 10**9}},
        {"encoder_config": {**good["encoder_config"], "d_model": "wide"}},
        {"encoder_config": {**good["encoder_config"], "activation_function": "__import__"}},
        {"encoder_config": 7},
        {"encoder_config": None},
        {"layer_index": None, "layer_indices": [10**9]},
        {"id2label": [1, 2]},
        {"class_weights": "heavy"},
        {"pooling_queries": 3},
        {"dtype": "float7"},
        {"architectures": ["Evil"], "model_type": "evil"},
    ):
        (folder / "config.json").write_text(json.dumps({**good, **change}))
        assert cli.main(["predict", "x.wav", "--model", str(folder)]) == 1, change
        told = capsys.readouterr().err
        assert "Traceback" not in told and told.startswith("whisper-ser:"), change
        tried(1)
    for text in ("[" * 100_000, "{}", "null", "[]", '{"model_type": "whisper_ser"', "\ufeff"):
        (folder / "config.json").write_text(text)
        assert cli.main(["predict", "x.wav", "--model", str(folder)]) == 1, text[:9]
        tried(1)


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"learning_rate": -1},
        {"num_train_epochs": float("nan")},
        {"num_train_epochs": -1},
        {"num_train_epochs": 1e300},
        {"num_train_epochs": 0},
        {"per_device_train_batch_size": 0},
        {"per_device_eval_batch_size": -5},
        {"gradient_accumulation_steps": 0},
        {"weight_decay": float("nan")},
        {"warmup_steps": -3},
        {"seed": -1},
        {"seed": 2**70},
        {"seeds": [1, -2], "protocol": "loso"},
        {"layer_index": [1, 2]},
        {"layer_index": {"a": 1}},
        {"encoder": ["a", "b"]},
        {"optim": "__import__('os')"},
        {"label_smoothing_factor": 0.5},
        {"jobs": 0},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_recipes_out_of_range_are_refused_by_their_names(fields, tmp_path, tried):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"encoder": "x", "data_dir": "x", **fields}))
    with pytest.raises(RecipeError, match="recipe.json"):
        parse_arguments([str(recipe)])
    tried(1)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "7", "", "{", '"a"', "\x00", '{"a": 1'])
def test_recipes_that_are_none_are_refused_by_their_names(text, tmp_path, tried):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(RecipeError, match="recipe.json"):
        parse_arguments([str(tmp_path / "recipe.json")])
    tried(1)


def rows(names: list[str]) -> list[dict[str, str]]:
    return [{"file_name": name, "emotion": "calm", "speaker": "00"} for name in names]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_paths_of_a_table_stay_in_its_folder(tmp_path, tried, suffix):
    folder = write_corpus(tmp_path / "corpus", speakers=2)
    shutil.copy(next(folder.glob("*.wav")), tmp_path / "secret.wav")
    (folder / "metadata.csv").unlink()
    escapes = ["../secret.wav", "a/../../secret.wav", "./../secret.wav", "..", "x" * 5000, "a\0b.wav", ".", "", " "]
    good = sorted(path.name for path in folder.glob("*.wav"))
    table = [{**row, "emotion": row["file_name"].split("_")[1]} for row in rows(good)] + rows(escapes)
    if suffix == ".csv":
        write_table(folder, table)
    else:
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, table)))
    with pytest.raises(CorpusError) as error:
        load_table(folder)
    assert f"{len(escapes)} rows that cannot be used" in str(error.value)
    assert str(error.value).count("lies outside") == 4
    tried(len(escapes))


def test_absurd_numbers_of_labels_and_labels_that_are_none(tmp_path, tried):
    folder = write_corpus(tmp_path / "corpus", speakers=12)
    names = sorted(path.name for path in folder.glob("*.wav"))
    extra = [f"more_{number}.wav" for number in range(60)]
    for name in extra:
        shutil.copy(folder / names[0], folder / name)
    write_table(folder, [{**row, "emotion": row["file_name"]} for row in rows(names + extra)])
    with pytest.raises(CorpusError, match="132 different labels.*column of the emotion"):
        load_table(folder)
    for label in ("a" * 101, "\x1b[31mred", "two\nlines", "\u202egnirts"):
        table = rows(names)
        table[0] |= {"emotion": label}
        write_table(folder, table)
        with pytest.raises(CorpusError, match="do not look like emotions"):
            load_table(folder)
        tried(1)
    tried(1)


@pytest.mark.parametrize("sign", FORMULA_SIGNS)
def test_cells_that_a_spreadsheet_would_run_are_text(sign, tried):
    formula = f"{sign}HYPERLINK(1)"
    lines = list(csv_lines([{"file": formula, "label": formula, "score": -0.5}]))
    ((cell, label, score),) = csv.reader([lines[1]])
    assert cell == label == f"'{formula}" and score == "-0.5"
    tried(1)


def test_a_report_has_no_formula(small_checkpoint, tmp_path, tried):
    corpus = write_corpus(tmp_path / "corpus", speakers=3)
    table = (corpus / "metadata.csv").read_text().replace(",calm,", ",=1+1,").replace(",excited,", ",@SUM(A1),")
    (corpus / "metadata.csv").write_text(table)
    encoder = Path(shutil.copytree(small_checkpoint, tmp_path / "=cmd"))
    flags = [
        "--grid",
        '{"layers": [[1]], "pooling_type": ["mean"]}',
        "--num_train_epochs",
        "1",
        "--jobs",
        "1",
        "--protocol",
        "loso",
    ]
    run_train.main(
        ["--data_dir", str(corpus), "--encoder", str(encoder), "--output_dir", str(tmp_path / "sweep"), *flags]
    )
    cells = 0
    for path in (tmp_path / "sweep" / "report").glob("*.csv"):
        with open(path, newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                is_number = cell.removeprefix("-").replace(".", "", 1).replace("e-", "", 1).isdigit()
                assert is_number or not cell.startswith(FORMULA_SIGNS), (path.name, cell)
                cells += "1+1" in cell or "cmd" in cell
    assert cells > 3
    tried(cells)


def test_names_of_encoders_and_folds_become_no_paths(small_checkpoint, tmp_path, tried):
    from whisper_ser.training.runs import fold_folder, folder_name

    for name in ("../../etc", "/etc/passwd", "..", "a/b", "a\0b", "con:", "~", ""):
        made = fold_folder(0, name)
        assert "/" not in made and "\0" not in made and (tmp_path / made).resolve().parent == tmp_path.resolve()
        assert "/" not in folder_name(name)
        tried(1)


def test_answers_that_are_no_numbers_are_refused(small_checkpoint, tmp_path, tried):
    folder = save_small_model(small_checkpoint, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for value in (float("nan"), float("inf"), 3e38):
        spoilt = {**weights, "classifier.weight": torch.full_like(weights["classifier.weight"], value)}
        save_file(spoilt, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(InferenceError, match="not a number"):
            whisper_ser.predict(speechlike(0.5), whisper_ser.load_model(folder, "cpu"))
        tried(1)
