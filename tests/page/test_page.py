"""The page: started as a Space, it answers like the library, keeps visitors apart, and lets nobody further in."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, ROOT, speechlike
from space import Space

pytest.importorskip("gradio", reason="the page needs whisper-ser[app]")

from gradio_client import Client, handle_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from whisper_ser import predict
from whisper_ser.audio.decoding import decode
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference.outputs import Span, Timeline
from whisper_ser.page.charts import bars, legend, segments, time_unit
from whisper_ser.page.examples import write_examples
from whisper_ser.page.guard import Guard
from whisper_ser.page.models import chosen_models, load_models
from whisper_ser.page.recordings import MAX_BYTES, read_recording


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "voice.wav", speechlike(2.0, 150), RATE)
    return tmp_path / "voice.wav"


def client_of(space: Space, folder: Path) -> Client:
    return Client(space.url, verbose=False, analytics_enabled=False, download_files=str(folder))


def probabilities_of(answer: tuple) -> dict[str, float]:
    return {entry["label"]: entry["confidence"] for entry in answer[0]["confidences"]}


def asked(space: Space, *data: object) -> str:
    """Returns how the page ends a question put to it without its own scripts."""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(
        f"{space.url}/gradio_api/call/recognise", body, {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    return urllib.request.urlopen(f"{space.url}/gradio_api/call/recognise/{event}").read().decode()


def upload(space: Space, content: bytes, name: str = "voice.wav") -> str:
    """Returns where the page put an uploaded file."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    (path,) = json.load(urllib.request.urlopen(urllib.request.Request(f"{space.url}/gradio_api/upload", body, kind)))
    return path


def status_of(url: str) -> int:
    try:
        return urllib.request.urlopen(url).status
    except urllib.error.HTTPError as error:
        return error.code


# What it answers


def test_the_space_answers_as_the_library_does(space, voice, small_model, other_model, tmp_path):
    client = client_of(space, tmp_path)
    for name, model in (("user/tones", small_model), ("means", other_model)):
        (expected,) = predict(voice, model)
        answer = client.predict(handle_file(voice), name, api_name="/recognise")
        assert probabilities_of(answer) == pytest.approx(expected.probabilities, abs=1e-4)
        _, chart, key, table, attention = answer
        assert chart["value"]["mark"] == "bar" and "happy" in key
        assert table["data"][0][0] == "00:00:00.000" and attention["type"] == "matplotlib"


def test_the_picker_offers_the_models_by_names_that_tell_no_path(space):
    config = json.load(urllib.request.urlopen(f"{space.url}/config"))
    (picker,) = [one["props"] for one in config["components"] if one["type"] == "dropdown"]
    assert [value for _, value in picker["choices"]] == ["user/tones", "means"]
    assert picker["choices"][0][0] == "user/tones: angry, happy, sad" and not picker["allow_custom_value"]
    assert str(ROOT) not in json.dumps(config)


def test_visitors_at_the_same_time_get_answers_of_their_own(space, small_model, tmp_path):
    voices = []
    for number in range(4):
        voices.append(tmp_path / f"{number}" / "voice.wav")
        voices[-1].parent.mkdir()
        soundfile.write(voices[-1], speechlike(1.0 + number, 90 + 60 * number, number), RATE)
    clients = [client_of(space, path.parent) for path in voices]
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(client.predict, handle_file(path), "user/tones", api_name="/recognise")
            for client, path in zip(clients, voices, strict=True)
        ]
    expected = [one.probabilities for one in predict(voices, small_model)]
    assert [probabilities_of(one.result()) for one in asked] == [pytest.approx(one, abs=1e-4) for one in expected]


# What it refuses


def test_no_file_of_the_server_is_served(space, small_model):
    own = space.temporary.parent / "space"
    for path in (
        own / "app.py",
        own / "README.md",
        small_model / "config.json",
        "/etc/passwd",
        "app.py",
        "../log.txt",
    ):
        assert status_of(f"{space.url}/gradio_api/file={path}") == 403
        assert status_of(f"{space.url}/gradio_api/file/{path}") in (403, 404)


def test_what_is_heard_was_uploaded_to_this_page(space, voice):
    kind = {"meta": {"_type": "gradio.FileData"}}
    here = upload(space, voice.read_bytes())
    assert "event: complete" in asked(space, {"path": here, **kind}, "user/tones")
    for path in (voice, "/etc/passwd", f"{Path(here).parents[1]}/../../log.txt"):
        ended = asked(space, {"path": str(path), **kind}, "user/tones")
        assert "event: error" in ended and "event: complete" not in ended


@pytest.mark.parametrize(
    "model", ["/etc", "user/other", "../model", "", None, 0, ["user/tones"], {"path": "/etc/passwd"}]
)
def test_a_model_that_is_not_offered_is_not_taken(space, voice, model):
    path = upload(space, voice.read_bytes())
    ended = asked(space, {"path": path, "meta": {"_type": "gradio.FileData"}}, model)
    assert "event: error" in ended and "event: complete" not in ended


def test_the_page_fetches_nothing_from_elsewhere(space):
    secret = f"{space.url}/config"
    for path in (f"file={secret}", f"proxy={secret}", "file=https://example.org/a.wav", "file=HTTPS:/example.org"):
        assert status_of(f"{space.url}/gradio_api/{path}") == 403
    for question in ({"path": secret}, {"path": "HTTP://127.0.0.1/a.wav"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            asked(space, {**question, "meta": {"_type": "gradio.FileData"}}, "user/tones")


@pytest.mark.parametrize("length, status", [(str(MAX_BYTES + 10**6), 413), (str(2**63), 413), (None, 411)])
def test_uploads_that_are_too_large_or_endless_end_before_they_begin(space, length, status):
    address = urllib.parse.urlsplit(space.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader(*(("Content-Length", length) if length else ("Transfer-Encoding", "chunked")))
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"no audio", "cannot be read as audio (Format not recognised)."),
        (b"", "cannot be read as audio"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "cannot be read as audio"),
    ],
)
def test_a_bad_file_is_told_in_words(space, content, reason):
    path = upload(space, content, "bad.wav")
    ended = asked(space, {"path": path, "meta": {"_type": "gradio.FileData"}}, "user/tones")
    assert f"This recording {reason}" in ended and "Traceback" not in ended and path not in ended


def test_nothing_given_is_told_in_words(space):
    assert "Upload or record something first." in asked(space, None, "user/tones")


def test_a_recording_longer_than_allowed_is_refused_whatever_its_header_says(tmp_path):
    long, lying = tmp_path / "long.flac", tmp_path / "lying.flac"
    soundfile.write(long, np.zeros(31 * 60 * 4000, np.int16), 4000)
    with pytest.raises(AudioFileError, match="This recording is longer than 30 minutes"):
        read_recording(long, RATE)
    # The last 36 bits of the 8 bytes behind rate and channels tell the samples: 0 says that nobody knows.
    content = bytearray(long.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    lying.write_bytes(content)
    assert soundfile.info(lying).frames != 31 * 60 * 4000
    with pytest.raises(AudioFileError, match="This recording"):
        read_recording(lying, RATE)


def test_a_header_that_claims_many_channels_makes_no_large_blocks(tmp_path, monkeypatch):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 6))
    soundfile.write(tmp_path / "wide.wav", samples, RATE)
    whole = list(decode(tmp_path / "wide.wav", "wide", RATE))
    monkeypatch.setattr("whisper_ser.audio.decoding.BLOCK_SAMPLES", 600)
    blocks = list(decode(tmp_path / "wide.wav", "wide", RATE))
    assert max(map(len, blocks)) == 100 and np.array_equal(np.concatenate(blocks), np.concatenate(whole))


def test_a_recording_is_read_as_it_is(voice):
    assert np.allclose(read_recording(voice, RATE), speechlike(2.0, 150), atol=2**-15)


# What it forgets


def test_what_is_uploaded_lies_in_a_folder_of_this_page_alone(space, voice):
    kept = Path(upload(space, voice.read_bytes()))
    (own,) = space.temporary.glob("whisper-ser-page-*")
    assert kept.is_relative_to(own) and kept.is_file() and own.stat().st_mode & 0o077 == 0


def test_what_is_older_than_allowed_is_deleted_while_the_page_runs(small_model, voice, tmp_path, monkeypatch):
    from whisper_ser.page import app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setattr(app, "CLEANUP_SECONDS", (1, 1))
    blocks = app.page(load_models([str(small_model)]), {})
    app.serve(blocks, prevent_thread_lock=True, quiet=True)
    try:
        kept = Path(upload(Space(blocks.local_url.rstrip("/"), tmp_path), voice.read_bytes()))
        assert kept.is_file()
        for _ in range(100):
            if not kept.exists():
                break
            time.sleep(0.2)
        assert not kept.exists()
    finally:
        blocks.close()


# What it is made of


def guarded(largest: int = 10**7) -> TestClient:
    """Returns a client of a guard before a server that gives back what reaches it."""

    async def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    return TestClient(Guard(Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])]), largest))


def test_the_guard_lets_questions_and_uploads_through_unchanged():
    question = json.dumps(
        {"data": [{"path": "/tmp/a.wav", "url": "http://here/file=/tmp/a.wav"}, "http://text", None]}
    )
    assert guarded().post("/gradio_api/call/recognise", content=question).text == question
    assert guarded().post("/gradio_api/cancel").text == ""
    assert guarded().post("/gradio_api/upload", content=b"\x00" * 2_000_000).content == b"\x00" * 2_000_000
    assert guarded().get("/gradio_api/file=/tmp/a.wav").status_code == 200


def test_the_guard_measures_questions_and_uploads_apart():
    assert guarded().post("/gradio_api/call/upload", content=b" " * 2_000_000).status_code == 413
    assert guarded(3_000_000).post("/gradio_api/upload", content=b" " * 4_000_000).status_code == 413


def test_the_guard_finds_addresses_however_deep_and_disguised():
    hidden = {"data": [[{"value": [{"path": "HTTPS:\\/\\/example.org/a.wav"}]}]]}
    assert guarded().post("/x", content=json.dumps(hidden).replace("\\\\", "\\")).status_code == 403
    assert guarded().post("/x", content=json.dumps(hidden).replace("\\\\", "\\").encode("utf-16")).status_code == 403
    assert guarded().post("/x", content=b'{"path": "\\u0068ttp://example.org"}').status_code == 403
    deep = b'{"a":' * 950 + b'{"path": "http://example.org"}' + b"}" * 950
    assert guarded().post("/x", content=deep).status_code in (400, 403)
    assert guarded().post("/x", content=b"path=http://example.org").status_code == 400


def a_timeline(seconds: float, *windows: Span) -> Timeline:
    segments = [Span(0, 2, {"sad": 0.75, "<i>": 0.25}), Span(2, seconds, None)]
    return Timeline("a", None, seconds, 2.0, 1.0, ["sad", "<i>"], None, list(windows), segments)


def test_bars_stand_for_the_nearest_window_from_end_to_end():
    sad, calm = {"sad": 0.75, "<i>": 0.25}, {"sad": 0.5, "<i>": 0.5}
    found = bars(a_timeline(5.0, Span(0, 2, sad), Span(1, 3, None), Span(2, 4, calm), Span(3, 5, sad)))
    # Middles at 1, 2, 3 and 4; steps at 0.5, 1.5 (as near to 1 as to 2: the first), 2.5, 3.5 and 4.5.
    assert found["time"].tolist() == [0.5, 0.5, 1.5, 1.5, 3.5, 3.5, 4.5, 4.5]
    assert found["emotion"].tolist() == ["sad", "<i>"] * 4
    assert found["probability"].tolist() == [0.75, 0.25, 0.75, 0.25, 0.5, 0.5, 0.75, 0.25]


def test_a_recording_shorter_than_a_step_has_one_bar_and_silence_none():
    assert bars(a_timeline(0.2, Span(0, 0.2, {"sad": 0.5, "<i>": 0.5})))["time"].tolist() == [0.5, 0.5]
    assert bars(a_timeline(3.0, Span(0, 2, None), Span(1, 3, None))).empty


def test_long_recordings_are_drawn_in_minutes():
    assert time_unit(a_timeline(179)) == ("s", 1) and time_unit(a_timeline(180)) == ("min", 60)
    assert bars(a_timeline(180, Span(0, 180, {"sad": 1.0})))["time"].tolist()[:2] == pytest.approx(
        [0.5 / 60, 1.5 / 60]
    )


def test_segments_and_key_are_text_for_people():
    assert segments(a_timeline(5.0)).to_numpy().tolist() == [
        ["00:00:00.000", "00:00:02.000", "sad", "0.75"],
        ["00:00:02.000", "00:00:05.000", "silence", ""],
    ]
    assert "&lt;i&gt;" in legend(["sad", "<i>"]) and "<i>" not in legend(["sad", "<i>"])


def test_models_are_named_by_arguments_then_variable_then_the_demo(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPER_SER_MODEL", raising=False)
    with pytest.raises(InferenceError, match="make train"):
        chosen_models([])
    (tmp_path / "outputs/demo/model").mkdir(parents=True)
    assert chosen_models([]) == ["outputs/demo/model"]
    monkeypatch.setenv("WHISPER_SER_MODEL", "user/a, user/b,")
    assert chosen_models([]) == ["user/a", "user/b"] and chosen_models(["c"]) == ["c"]


def test_models_of_one_name_are_told_apart(other_model, small_model):
    models = load_models([str(other_model), f"{other_model}/", str(small_model)])
    assert list(models) == ["means", "means (2)", small_model.name]


def test_examples_are_one_for_each_emotion_and_all_in_a_row(tmp_path):
    pytest.importorskip("espeakng_loader")
    written = write_examples(tmp_path)
    assert list(written) == ["angry", "happy", "neutral", "sad", "one after another"]
    lengths = [soundfile.info(path).frames for path in written.values()]
    assert lengths[-1] == sum(lengths[:-1]) + 3 * 0.6 * RATE and min(lengths) > RATE
    assert len({path.name.split("_")[-1] for path in list(written.values())[:-1]}) == 4


def test_without_a_synthesiser_there_are_no_examples(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert write_examples(tmp_path) == {}
