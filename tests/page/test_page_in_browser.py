"""The page as a visitor meets it, in headless Chromium: upload, record, long and bad files, and on a telephone."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, speechlike

pytest.importorskip("gradio", reason="the page needs whisper-ser[app]")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from whisper_ser import predict
from whisper_ser.page.recordings import MAX_BYTES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 120_000
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "true", reason="no chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    assert CHROMIUM, "no chromium to try the page with: apt-get install chromium"
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(spoken, np.tile(speechlike(2.0, 150), 30), RATE)
    microphone = ["use-fake-ui-for-media-stream", "use-fake-device-for-media-stream"]
    switches = [*microphone, f"use-file-for-fake-audio-capture={spoken}", "no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{switch}" for switch in switches])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, space) -> Iterator[Page]:
    """The page, just opened. Whatever a test does with it, nothing is asked of other machines, and no script fails."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    requests: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(space.url)
    expect(page.get_by_role("button", name="Recognise")).to_be_visible()
    yield page
    context.close()
    assert [url for url in requests if not url.startswith((space.url, "data:", "blob:"))] == []
    assert failures == []


def give(page: Page, path: Path) -> None:
    """Chooses a file and waits until the page has it."""
    with page.expect_response(lambda response: "/gradio_api/upload?" in response.url):
        page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_test_id("waveform-controls")).to_be_visible()


def recognised(page: Page) -> str:
    """Presses the button and returns the label that the page answers with."""
    page.get_by_role("button", name="Recognise").click()
    label = page.get_by_test_id("label-output-value")
    expect(label).to_be_visible()
    return label.inner_text()


def expect_bars(page: Page, probabilities: dict[str, float]) -> None:
    """Waits until the bars of the page tell these and no others."""
    expect(page.locator("[data-testid$=-confidence-set]")).to_have_count(len(probabilities))
    for label, value in probabilities.items():
        bar = page.get_by_test_id(f"{label}-confidence-set")
        expect(bar).to_have_text(re.compile(rf"^\s*{label}\s*{round(100 * value)}%\s*$"))


def test_an_upload_is_answered_with_bars_timeline_and_attention(page, small_model, tmp_path):
    soundfile.write(tmp_path / "voice.wav", speechlike(6.0, 150), RATE)
    (expected,) = predict(tmp_path / "voice.wav", small_model)
    give(page, tmp_path / "voice.wav")
    assert recognised(page) == expected.label
    expect_bars(page, expected.probabilities)
    expect(page.get_by_test_id("matplotlib").locator("img")).to_be_visible()
    expect(page.locator(".vega-embed canvas, .vega-embed svg").first).to_be_visible()
    page.get_by_text("Segments").click()
    expect(page.locator("tbody")).to_contain_text("00:00:06.000")


def test_another_model_gives_another_answer(page, small_model, other_model, tmp_path):
    soundfile.write(tmp_path / "voice.wav", speechlike(2.0, 150), RATE)
    give(page, tmp_path / "voice.wav")
    for name, model in (("user/tones", small_model), ("means", other_model)):
        page.get_by_label("Model").click()
        page.get_by_role("option", name=name).click()
        (expected,) = predict(tmp_path / "voice.wav", model)
        page.get_by_role("button", name="Recognise").click()
        expect_bars(page, expected.probabilities)


def test_a_long_recording_has_a_timeline_in_minutes_and_no_attention(page, tmp_path):
    soundfile.write(tmp_path / "long.flac", np.tile(speechlike(10.0, 150), 25), RATE)
    give(page, tmp_path / "long.flac")
    recognised(page)
    page.get_by_text("Segments").click()
    expect(page.locator("tbody")).to_contain_text("00:04:10.000")
    expect(page.get_by_test_id("matplotlib")).to_have_count(0)


@pytest.mark.parametrize(
    "content, told", [(b"no audio", "cannot be read as audio"), (b"\0" * (MAX_BYTES + 1), "exceed the maximum")]
)
def test_a_bad_file_gets_a_message_instead_of_a_stack_trace(page, tmp_path, content, told):
    (tmp_path / "bad.wav").write_bytes(content)
    page.locator("input[type=file]").set_input_files(tmp_path / "bad.wav")
    if len(content) <= MAX_BYTES:
        page.wait_for_timeout(500)
        page.get_by_role("button", name="Recognise").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text(told)
    assert "Traceback" not in page.content() and page.get_by_test_id("label-output-value").count() == 0


def test_the_microphone_is_heard(page):
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(2500)
    # The recording is shown before it is uploaded, and fetched again afterwards.
    with page.expect_response(lambda response: "/gradio_api/file=" in response.url):
        page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_test_id("waveform-controls")).to_be_visible()
    assert recognised(page) in ("angry", "happy", "sad")


def test_on_a_telephone_nothing_reaches_beyond_the_screen(page, tmp_path):
    page.set_viewport_size({"width": 390, "height": 844})
    soundfile.write(tmp_path / "voice.wav", speechlike(6.0, 150), RATE)
    give(page, tmp_path / "voice.wav")
    recognised(page)
    expect(page.get_by_test_id("matplotlib").locator("img")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in (page.get_by_role("button", name="Recognise"), page.get_by_test_id("matplotlib").locator("img")):
        box = part.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
