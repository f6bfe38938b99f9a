"""Publishing against a Hub on this machine: what may leave, what arrives, and what happens when something breaks."""

import json
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from hub_server import READER, WRITER, Files, Hub
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file

import modeling_whisper_ser
from whisper_ser import cli
from whisper_ser.commands import push as push_to_hub
from whisper_ser.data.licenses import LicenseError
from whisper_ser.errors import ExportError, PublishError
from whisper_ser.evaluation.results import RunResult
from whisper_ser.hub import hub_errors as faults
from whisper_ser.hub.checks import check, check_license
from whisper_ser.hub.publish import Target, push
from whisper_ser.hub.space import push_space, stage_space
from whisper_ser.hub.staging import stage
from whisper_ser.hub.verify import download, verify, verify_published
from whisper_ser.inference.reference_output import ReferenceOutputError, weight_hashes

MODEL = "user/tones"
OLD = {"config.json": b'{"model_type": "whisper_ser"}', "modeling_whisper_ser.py": b""}
LICENCE = '{"license": "CC0-1.0"}'


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Seconds that the client wanted to wait between its own attempts."""
    slept: list[float] = []
    impatient = SimpleNamespace(**{**vars(time), "sleep": slept.append})
    monkeypatch.setattr("huggingface_hub.utils._http.time", impatient)
    monkeypatch.setattr("huggingface_hub.file_download.time", impatient)
    return slept


@pytest.fixture(scope="module")
def about(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("about") / "about.json"
    file.write_text(LICENCE)
    return str(file)


@pytest.fixture(scope="module")
def staged(trained, about, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "model"
    stage(trained / "model", folder, MODEL, about_corpus=about)
    return folder


def content(folder: Path) -> Files:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def on_hub(hub: Hub, revision: str = "main") -> Files | None:
    """Returns what the Hub shows of the model, without the file that every repository has."""
    files = hub.files(MODEL, revision)
    return None if files is None else {name: c for name, c in files.items() if name != ".gitattributes"}


def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url)


def message_of(hub: Hub, folder: Path, target: Target) -> str:
    with pytest.raises(PublishError) as raised:
        push(api(hub), folder, target, "a model")
    message = str(raised.value)
    assert WRITER not in message and READER not in message
    return message


# What arrives


def test_all_files_arrive_in_one_commit(hub, staged):
    published = push(api(hub), staged, Target(MODEL, private=True), "a model")
    assert on_hub(hub) == content(staged)
    repository = hub.repositories["model", MODEL]
    assert repository.private and len(repository.commits) == 2 and repository.refs["main"] == published.commit
    assert published.url == f"{hub.url}/{MODEL}"
    assert sum("commit/main" in request for request in hub.requests) == 1


def test_pushed_again_unchanged_nothing_happens(hub, staged):
    first = push(api(hub), staged, Target(MODEL), "a model")
    assert push(api(hub), staged, Target(MODEL), "a model").commit == first.commit


def test_an_earlier_model_is_replaced_with_no_weights_left_behind(hub, staged):
    graphs = {"onnx/pooling-0.onnx": b"g", "packed_encoder_whisper_ser.py": b"c"}
    hub.add(MODEL, {**OLD, **graphs, "model-00001-of-00002.safetensors": b"x", "notes.md": b"y"})
    push(api(hub), staged, Target(MODEL), "a model")
    assert on_hub(hub) == {**content(staged), "notes.md": b"y"}


def test_a_branch_is_made_and_main_stays(hub, staged):
    hub.add(MODEL, OLD)
    published = push(api(hub), staged, Target(MODEL, revision="v2"), "a model")
    assert on_hub(hub, "v2") == content(staged) and set(on_hub(hub) or {}) == {*OLD}
    assert published.url == f"{hub.url}/{MODEL}/tree/v2"


def test_a_pull_request_leaves_main_as_it_is(hub, staged):
    hub.add("other/tones", OLD)
    assert "no write access to other/tones" in message_of(hub, staged, Target("other/tones"))
    published = push(api(hub), staged, Target("other/tones", create_pr=True), "a model")
    assert published.url == f"{hub.url}/other/tones/discussions/1"
    assert content(staged).items() <= hub.files("other/tones", "refs/pr/1").items()
    assert set(hub.files("other/tones")) == {".gitattributes", *OLD}


def test_what_was_published_is_verified_by_name_and_revision(hub, staged, capsys):
    published = push(api(hub), staged, Target(MODEL, revision="v1"), "a model")
    assert verify(download(MODEL, published.commit)) < 1e-5
    assert cli.main(["verify", MODEL, "--revision", "v1"]) == 0
    assert cli.main(["verify", MODEL, "--revision", "v2"]) == 1
    assert "no such revision" in capsys.readouterr().err
    assert cli.main(["verify", "user/absent"]) == 1
    assert "no such repository" in capsys.readouterr().err


def test_a_space_is_pushed_with_what_it_needs(hub, tmp_path):
    stage_space(tmp_path / "space", MODEL)
    published = push_space(api(hub), tmp_path / "space", MODEL, private=False)
    files = hub.files(MODEL, repo_type="space")
    assert published.url == f"{hub.url}/spaces/{MODEL}"
    assert b"whisper_ser.commands.app" in files["app.py"] and b"transformers<" in files["requirements.txt"]
    assert b"espeakng-loader==" in files["requirements.txt"]
    readme = files["README.md"].decode()
    assert "models:\n- user/tones\n" in readme and "do not use it to judge people" in readme
    assert "license: apache-2.0\n" in readme and "Each model has its own licence" in readme
    # The versions that are tried here; the Hub's own Python would be too old.
    tried = (
        f"sdk: gradio\nsdk_version: {version('gradio')}\npython_version: '{sys.version_info[0]}.{sys.version_info[1]}'"
    )
    assert tried in readme
    assert {"whisper_ser/__init__.py", "modeling_whisper_ser/__init__.py"} <= set(files)
    assert hub.repositories["space", MODEL].variables == {"WHISPER_SER_MODEL": MODEL}
    assert push_space(api(hub), tmp_path / "space", MODEL, private=False).commit == published.commit


def test_a_space_is_not_made_where_its_page_cannot_be_tried(tmp_path, monkeypatch):
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(PublishError, match="gradio, which is not installed"):
        stage_space(tmp_path / "space", MODEL)


# What breaks: each has its message, the Hub is never half written, and a retry succeeds

BREAKS = {
    "token refused": ("whoami", {"status": 401}, "rejects the token.*hf auth login"),
    "token revoked meanwhile": ("commit/main", {"status": 401}, "rejects the token"),
    "no permission": ("commit/main", {"status": 403}, "no write access to user/tones.*--create_pr"),
    "gone": ("commit/main", {"status": 404}, "no such repository"),
    "conflict": ("commit/main", {"status": 409}, "changed by somebody else"),
    "moved on": ("commit/main", {"status": 412}, "changed by somebody else"),
    "too many requests": ("commit/main", {"status": 429, "headers": {"Retry-After": "7"}}, "command again in 7 s"),
    "anything else": ("commit/main", {"status": 413}, r"refuses the request \(413\): injected Bearer hf_\*\*\*"),
    "server error": ("commit/main", {"status": 500}, r"internal error \(500\)"),
    "server error at the weights": ("PUT /lfs", {"status": 500}, r"internal error \(500\)"),
    "dies between upload and commit": ("commit/main", {"die": True}, "cannot be reached, or the connection broke"),
    "dies during the upload": ("PUT /lfs", {"die": True}, "cannot be reached, or the connection broke"),
    "too slow": ("preupload", {"seconds": 0.6}, "did not respond in time"),
}


@pytest.mark.parametrize("there_before", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("fault", BREAKS)
def test_a_fault_has_its_message_and_leaves_the_hub_whole_and_a_retry_succeeds(
    hub, staged, naps, monkeypatch, fault, there_before
):
    if there_before:
        hub.add(MODEL, OLD)
    pattern, what, expected = BREAKS[fault]
    hub.inject(pattern, **what)
    monkeypatch.setattr(faults, "TIMEOUT_SECONDS", 0.1 if fault == "too slow" else 30.0)
    message = message_of(hub, staged, Target(MODEL))
    assert re.search(expected, message), message
    # Of a new repository nothing is there but its empty beginning.
    assert on_hub(hub) == (OLD if there_before else None if fault == "token refused" else {})
    assert ("nothing is half uploaded. Run the same command again" in message) == (fault != "token refused")
    hub.revive()
    monkeypatch.setattr(faults, "TIMEOUT_SECONDS", 30.0)
    push(api(hub), staged, Target(MODEL), "a model")
    assert on_hub(hub) == content(staged)


def test_where_the_answer_is_lost_the_retry_finds_the_commit(hub, staged):
    hub.inject("commit/main", lose=True)
    assert "the connection broke" in message_of(hub, staged, Target(MODEL))
    commit = hub.repositories["model", MODEL].refs["main"]
    assert push(api(hub), staged, Target(MODEL), "a model").commit == commit
    assert on_hub(hub) == content(staged)


def test_passing_faults_are_waited_out(hub, staged, naps):
    hub.inject("preupload", times=1, status=429, headers={"Retry-After": "7"})
    hub.inject("PUT /lfs", times=2, status=500)
    hub.inject("PUT /lfs", times=1, seconds=0.2)
    push(api(hub), staged, Target(MODEL), "a model")
    assert on_hub(hub) == content(staged)
    assert any(7 <= nap <= 8 for nap in naps) and len(naps) == 3


def test_a_failed_push_to_a_new_branch_leaves_it_as_main_is(hub, staged):
    hub.add(MODEL, OLD)
    hub.inject("commit/v2", status=500)
    message_of(hub, staged, Target(MODEL, revision="v2"))
    assert on_hub(hub, "v2") == on_hub(hub) == OLD
    hub.revive()
    push(api(hub), staged, Target(MODEL, revision="v2"), "a model")
    assert on_hub(hub, "v2") == content(staged) and on_hub(hub) == OLD


def test_a_branch_that_moves_meanwhile_is_not_overwritten(hub, staged):
    repository = hub.add(MODEL, OLD)
    client = api(hub)
    create = client.create_commit

    def after_somebody_else(*arguments, **options):
        repository.commit("main", {".gitattributes": b"", **OLD, "theirs.md": b""})
        return create(*arguments, **options)

    client.create_commit = after_somebody_else
    with pytest.raises(PublishError, match="changed by somebody else.*Run the same command again"):
        push(client, staged, Target(MODEL), "a model")
    assert set(on_hub(hub) or {}) == {*OLD, "theirs.md"}


def test_no_network_no_token_and_offline_are_told_apart(hub, staged, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(PublishError, match=f"{nowhere} cannot be reached"):
            push(HfApi(endpoint=nowhere), staged, Target(MODEL), "a model")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="There is no token.*hf auth login"):
        push(api(hub), staged, Target(MODEL), "a model")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "no write access to" in message_of(hub, staged, Target(MODEL))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE forbids"):
        push(api(hub), staged, Target(MODEL), "a model")
    assert on_hub(hub) is None


def test_what_is_somebody_elses_is_left_alone(hub, staged):
    hub.add(MODEL, {"config.json": b'{"model_type": "bert"}', "vocab.txt": b""})
    assert "holds something else (config.json, vocab.txt)" in message_of(hub, staged, Target(MODEL))
    hub.add(MODEL, {"data.csv": b""})
    assert "holds something else (data.csv)" in message_of(hub, staged, Target(MODEL))
    hub.add(MODEL, OLD)
    assert "exists and is public" in message_of(hub, staged, Target(MODEL, private=True))
    assert set(on_hub(hub) or {}) == {*OLD}


def test_a_download_that_breaks_off_says_that_the_upload_is_whole(hub, staged, naps):
    published = push(api(hub), staged, Target(MODEL), "a model")
    hub.inject("GET .*model.safetensors", truncate=True)
    with pytest.raises(PublishError, match="completely(?s:.*)whisper-ser verify user/tones --revision") as raised:
        verify_published(api(hub), MODEL, published, staged)
    assert published.commit in str(raised.value)
    assert on_hub(hub) == content(staged)
    with pytest.raises(PublishError):
        download(MODEL)
    hub.revive()
    assert verify(download(MODEL)) < 1e-5


def test_a_slow_download_that_breaks_off_once_is_taken_up_by_the_client(hub, staged):
    push(api(hub), staged, Target(MODEL), "a model")
    hub.inject("GET .*model.safetensors", times=1, truncate=True, seconds=0.1)
    assert verify(download(MODEL)) < 1e-5


def test_what_is_not_what_was_sent_is_found(hub, staged):
    published = push(api(hub), staged, Target(MODEL), "a model")
    files = hub.files(MODEL) or {}
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    files["model.safetensors"] = bytes(weights)
    with pytest.raises(PublishError, match="not with the content that was uploaded"):
        verify_published(api(hub), MODEL, published, staged)


# What may leave the machine


def test_what_is_no_part_of_a_model_never_leaves(trained, tmp_path):
    model = Path(shutil.copytree(trained, tmp_path / "run")) / "model"
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "scaler.pkl",
        "trainer_state.json",
        "predictions.parquet",
        "a.wav",
    ):
        (model / name).write_bytes(b"x")
    for folder in ("checkpoint-5", "onnx"):
        (model / folder).mkdir(exist_ok=True)
        (model / folder / "model.safetensors").write_bytes(b"x")
    (model / "more_whisper_ser.py").symlink_to(model / "config.json")
    (model / "pooling_whisper_ser.py").write_text("raise SystemExit")
    stage(model, tmp_path / "staged", MODEL)
    files = content(tmp_path / "staged")
    graphs = {name for name in files if name.startswith("onnx/")}
    assert {name.partition("-")[0] for name in graphs} == {"onnx/encoder", "onnx/frame_vectors", "onnx/pooling"}
    assert files.keys() - graphs == {
        *("config.json", "preprocessor_config.json", "model.safetensors", "known_answer.json", "recipe.json"),
        *("README.md", "confusion_matrix.png", "configuration_whisper_ser.py", "encoder_whisper_ser.py"),
        *("feature_extraction_whisper_ser.py", "modeling_whisper_ser.py", "pooling_whisper_ser.py"),
    }
    package = Path(modeling_whisper_ser.__file__).parent
    assert files["pooling_whisper_ser.py"] == (package / "pooling_whisper_ser.py").read_bytes()
    with pytest.raises(PublishError, match="holds no model"):
        stage(tmp_path, tmp_path / "other", MODEL)


def test_weights_that_were_added_are_found(trained, about, tmp_path):
    model = Path(shutil.copytree(trained, tmp_path / "run")) / "model"
    save_file({"exp_avg": torch.zeros(3)}, model / "optimizer.safetensors")
    metrics = stage(model, tmp_path / "staged", MODEL, about_corpus=about)
    with pytest.raises(ReferenceOutputError, match="not those that were saved: optimizer.safetensors"):
        check(tmp_path / "staged", metrics)


@pytest.fixture
def checked(trained, about, tmp_path, monkeypatch) -> tuple[Path, RunResult]:
    """A staged model that may be spoilt, and its result; the clean process answers as the model does."""
    folder = tmp_path / "staged"
    result = stage(trained / "model", folder, MODEL, about_corpus=about)
    monkeypatch.setattr(
        "whisper_ser.hub.checks.predict_in_clean_process",
        lambda model, audio: json.loads((folder / "known_answer.json").read_text())["probabilities"],
    )
    return folder, result


def spoil(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_whole_model_passes(checked):
    check(*checked)


@pytest.mark.parametrize("label", ["LABEL_1", "1", " ", "class 1"])
def test_labels_must_be_names(checked, label):
    folder, result = checked
    spoil(folder / "config.json", id2label={"0": "calm", "1": label}, label2id={"calm": 0, label: 1})
    with pytest.raises(PublishError, match="do not look like emotions"):
        check(folder, replace(result, labels=["calm", label]))


def test_graphs_that_answer_otherwise_are_found(checked):
    folder, metrics = checked
    assert sum(path.stat().st_size for path in (folder / "onnx").iterdir()) < 100_000, "graphs have no weights"
    (graph,) = (folder / "onnx").glob("pooling-*.onnx")
    halved = onnx.load(graph)
    (softmax,) = [node for node in halved.graph.node if "probabilities" in node.output]
    softmax.output[0] = "before"
    halved.graph.node.extend(
        [
            onnx.helper.make_node("Constant", [], ["half"], value_float=0.5),
            onnx.helper.make_node("Mul", ["before", "half"], ["probabilities"]),
        ]
    )
    onnx.save(halved, graph)
    with pytest.raises(ReferenceOutputError, match="for the reference waveform"):
        check(folder, metrics)
    graph.write_bytes(b"x")
    with pytest.raises(ExportError, match=re.escape(graph.name)):
        check(folder, metrics)


def test_metrics_must_be_of_the_model(checked):
    folder, result = checked
    with pytest.raises(PublishError, match="metrics belong to a model with the labels excited, calm"):
        check(folder, replace(result, labels=["excited", "calm"]))


def test_the_language_of_the_data_must_be_known(checked):
    folder, result = checked
    with pytest.raises(PublishError, match="language of the corpus is not known: give it by --about_corpus"):
        check(folder, replace(result, corpus=replace(result.corpus, languages=[])))


def licence_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["license"]


def test_the_licence_of_ones_own_data_has_to_be_stated(trained, tmp_path):
    stage(trained / "model", tmp_path / "unknown", MODEL)
    with pytest.raises(PublishError, match=r"people\d+ \(licence unknown\).*state its licence: --license ID"):
        check_license(tmp_path / "unknown")
    stage(trained / "model", tmp_path / "stated", MODEL, license="CC-BY-4.0")
    check_license(tmp_path / "stated")
    assert licence_of(tmp_path / "stated")["id"] == "cc-by-4.0"
    assert verify(tmp_path / "stated") < 1e-5


def test_a_table_that_is_a_published_corpus_has_its_licence(trained, tmp_path):
    stage(trained / "model", tmp_path / "ravdess", MODEL, about_corpus="ravdess")
    assert licence_of(tmp_path / "ravdess")["id"] == "cc-by-nc-sa-4.0"
    stage(trained / "model", tmp_path / "savee", MODEL, about_corpus="savee")
    assert licence_of(tmp_path / "savee")["id"] is None
    with pytest.raises(LicenseError, match="does not keep the terms of .*people.*cc-by-nc-sa-4.0"):
        stage(trained / "model", tmp_path / "lax", MODEL, about_corpus="ravdess", license="apache-2.0")


def test_a_model_of_0_1_0_says_nothing_of_its_licence(trained, tmp_path):
    model = Path(shutil.copytree(trained, tmp_path / "run")) / "model"
    config, known = (json.loads((model / name).read_text()) for name in ("config.json", "known_answer.json"))
    del config["license"], known["settings_sha256"]
    for name, content in (("config.json", config), ("known_answer.json", known)):
        (model / name).write_text(json.dumps(content))
    stage(model, tmp_path / "unknown", MODEL)
    with pytest.raises(PublishError, match="--license ID"):
        check_license(tmp_path / "unknown")
    stage(model, tmp_path / "emodb", MODEL, about_corpus="emodb")
    check_license(tmp_path / "emodb")
    # What it was trained on before its last corpus is not known, whatever that corpus allows.
    recipe = json.loads((model / "recipe.json").read_text())
    (model / "recipe.json").write_text(json.dumps({**recipe, "model_name_or_path": "user/earlier"}))
    stage(model, tmp_path / "fine-tuned", MODEL, about_corpus="emodb")
    with pytest.raises(PublishError, match=r"the model user/earlier \(licence unknown\)"):
        check_license(tmp_path / "fine-tuned")


def test_a_licence_is_not_added_to_settings_that_were_changed(trained, tmp_path):
    model = Path(shutil.copytree(trained, tmp_path / "run")) / "model"
    spoil(model / "config.json", temperature=2.0)
    with pytest.raises(ReferenceOutputError, match="config.json is not the file that was saved"):
        stage(model, tmp_path / "staged", MODEL, license="cc-by-4.0")


def test_no_token_leaves(checked, monkeypatch):
    folder, result = checked
    spoil(folder / "recipe.json", hub_token="hf_abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(PublishError, match="recipe.json contains a token") as raised:
        check(folder, result)
    assert "hf_abc" not in str(raised.value)


def test_tensors_that_are_not_the_models_are_found(checked):
    folder, result = checked
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "exp_avg": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ReferenceOutputError, match="model.safetensors"):
        check(folder, result)
    spoil(folder / "known_answer.json", sha256=weight_hashes(folder))
    with pytest.raises(PublishError, match="do not belong to the model: exp_avg"):
        check(folder, result)


def test_code_that_a_stranger_cannot_run_is_found(trained, about, tmp_path):
    result = stage(trained / "model", tmp_path / "staged", MODEL, about_corpus=about)
    code = tmp_path / "staged" / "pooling_whisper_ser.py"
    code.write_text("import whisper_ser\n" + code.read_text())
    with pytest.raises(PublishError, match="does not load as remote code in a clean process.*whisper_ser"):
        check(tmp_path / "staged", result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repo_id", "name"], "user/name"),
        (["--repo_id", "a b/c"], "--repo_id a b/c"),
        (["--repo_id", MODEL, "--create_pr", "--revision", "v2"], "leave --revision out"),
        (["--repo_id", MODEL, "--create_pr", "--space"], "pull request is merged"),
    ],
)
def test_arguments_that_cannot_work_are_named(arguments, message):
    with pytest.raises(PublishError, match=message):
        push_to_hub.main(["outputs/x/model", *arguments])


@pytest.fixture
def trusting(monkeypatch) -> None:
    """Clean processes answer at once; the whole way through real ones is in commands/test_push.py."""

    def known(model, audio, revision=None, cache=None):
        folder = Path(model) if Path(model).is_dir() else next(Path(cache).glob("models--*/snapshots/*"))
        return json.loads((folder / "known_answer.json").read_text())["probabilities"]

    for user in ("checks", "verify"):
        monkeypatch.setattr(f"whisper_ser.hub.{user}.predict_in_clean_process", known)


def test_a_dry_run_checks_everything_sends_nothing_and_writes_the_card(
    hub, trained, about, trusting, tmp_path, capsys
):
    card = tmp_path / "cards" / "tones.md"
    own = [str(trained / "model"), "--repo_id", MODEL, "--about_corpus", about, "--license", "cc-by-4.0"]
    push_to_hub.main([*own, "--dry_run", "--card", str(card)])
    assert "nothing was uploaded" in capsys.readouterr().out and not hub.requests
    push_to_hub.main(own)
    assert (on_hub(hub) or {})["README.md"] == card.read_bytes()


def test_without_a_licence_a_dry_run_warns_and_a_push_is_refused(hub, trained, about, trusting, capsys):
    own = [str(trained / "model"), "--repo_id", MODEL, "--about_corpus", about]
    push_to_hub.main([*own, "--dry_run"])
    printed = capsys.readouterr()
    assert "All checks passed" in printed.out and "Warning: The licence of the model is not known" in printed.err
    with pytest.raises(PublishError, match="--license ID"):
        push_to_hub.main(own)
    assert not hub.requests
    push_to_hub.main([*own, "--license", "our-agreement"])
    files = on_hub(hub) or {}
    assert b"\nlicense: other\nlicense_name: our-agreement\n" in files["README.md"]
    assert json.loads(files["config.json"])["license"]["id"] == "our-agreement"


def test_the_door_says_where_it_is_and_how_to_use_it(hub, trained, about, trusting, capsys):
    own = [str(trained / "model"), "--repo_id", MODEL, "--about_corpus", about, "--license", "cc-by-4.0"]
    push_to_hub.main([*own, "--revision", "v1"])
    lines = capsys.readouterr().out.splitlines()
    commit = hub.repositories["model", MODEL].refs["v1"]
    url = f"{hub.url}/{MODEL}/tree/v1"
    assert lines[0].startswith(f"Uploaded: {url} (commit {commit}).") and lines[1] == f"Checked: {url}"
    assert lines[3:6] == [
        "from transformers import pipeline",
        'classifier = pipeline("audio-classification", model="user/tones", revision="v1", trust_remote_code=True)',
        "print(classifier(audio))  # mono, 16,000 Hz",
    ]
