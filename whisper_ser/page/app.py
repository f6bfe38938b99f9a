"""The page: recordings in, probabilities, timeline and attention out."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Read when gradio is imported: nobody is told that the page was started.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import numpy as np
from starlette.middleware import Middleware
from transformers.utils import logging

from whisper_ser import predict, timeline
from whisper_ser.errors import AudioFileError, InferenceError
from whisper_ser.inference.attention import MAX_SECONDS, explain
from whisper_ser.inference.memory import trim_memory
from whisper_ser.inference.model import LoadedModel
from whisper_ser.inference.plots import attention_figure
from whisper_ser.page.charts import bars, colours, legend, segments, time_unit
from whisper_ser.page.examples import write_examples
from whisper_ser.page.guard import Guard
from whisper_ser.page.models import chosen_models, load_models
from whisper_ser.page.recordings import LARGEST_BYTES, LONGEST_MINUTES, read_recording

CLEANING = (60, 3600)
"""Seconds from one deletion to the next, and age from which on recordings are deleted."""
MOST_WAITING = 20
MOST_THREADS = 4
"""One answers, the others read uploads and write files. Each keeps memory of its own, whatever it has once done."""
MOST_STEPS = 400
"""Of a timeline: longer recordings get longer steps."""
INCHES = 5.0
"""Width of the attention plot, whose letters are then legible on a telephone, too."""
ABOUT = """# Speech emotion recognition
Upload or record speech, and see which emotion the voice resembles, when, and where the model listened. It is what a
voice resembles in acted recordings, not what a person feels: see the limits below."""
FORMATS = (
    f"WAV, FLAC, OGG or MP3, up to {LONGEST_MINUTES} minutes and {LARGEST_BYTES // 2**20} MB. What you upload is "
    "processed where this page runs, shown to nobody else, and deleted about an hour later."
)
ATTENTION = f"""How much each pooling head weighed each moment, as against weighing all alike (1). Drawn for
recordings of up to {MAX_SECONDS} s."""
LIMITS = """### Limits
A model names the emotion that a **voice resembles** in the recordings it was trained on, not what a person feels. It
knows its own labels only, and mostly acted speech of one language: in everyday life, and with other languages and
microphones, it errs far more often than its test figures say. A high probability is no guarantee.
**Do not use it to judge people.** The demo model learnt from a speech synthesiser: it knows nothing of real voices."""


def main(arguments: list[str]) -> None:
    """Opens the page for the models named."""
    logging.disable_progress_bar()
    models = load_models(chosen_models(arguments))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what was uploaded is deleted then, too
    with tempfile.TemporaryDirectory(prefix="whisper-ser-page-", ignore_cleanup_errors=True) as folder:
        # Of this page alone: by default, all pages of a machine share one folder.
        os.environ |= {"GRADIO_TEMP_DIR": f"{folder}/uploads", "GRADIO_EXAMPLES_CACHE": f"{folder}/cache"}
        serve(page(models, write_examples(Path(folder))))


def page(models: dict[str, LoadedModel], examples: dict[str, Path]) -> gr.Blocks:
    """Returns the page for models and example recordings by name."""
    with gr.Blocks(title="Speech emotion recognition", analytics_enabled=False, delete_cache=CLEANING) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                audio = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Recording", buttons=[])
                gr.Markdown(FORMATS)
                choices = [(f"{name}: {', '.join(model.labels)}", name) for name, model in models.items()]
                model = gr.Dropdown(choices, value=choices[0][1], label="Model", filterable=False)
                button = gr.Button("Recognise", variant="primary")
                shown = examples_part(examples, audio) if examples else None
            with gr.Column():
                results = [gr.Label(label="Whole recording"), *timeline_part(), *attention_part()]
        gr.Markdown(LIMITS)
        # One at a time, whoever asks: torch uses all processors for each.
        run: dict[str, Any] = {
            "fn": partial(recognise, models),
            "inputs": [audio, model],
            "outputs": results,
            "concurrency_id": "run",
        }
        # A click while an answer is on its way, such as with another model, comes next instead of being lost.
        button.click(**run, show_progress_on=results[0], trigger_mode="always_last", api_name="recognise")
        if shown is not None:
            shown.load_input_event.then(**run, show_progress_on=results[0], api_visibility="private")
    return blocks


def examples_part(examples: dict[str, Path], audio: gr.Audio) -> Any:
    return gr.Examples(
        [[str(path)] for path in examples.values()],
        [audio],
        label="Examples: synthetic voices",
        example_labels=list(examples),
        cache_examples=False,
        api_visibility="private",
    )


def timeline_part() -> list[Any]:
    """Returns the part of the page, chart, key of its colours, and list of segments."""
    with gr.Column(visible=False) as part:
        chart = gr.BarPlot(
            x="time",
            y="probability",
            color="emotion",
            y_aggregate="mean",
            y_lim=[0, 1],
            x_axis_format="~g",
            colors_in_legend=[],
            height=240,
            label="Timeline",
        )
        key = gr.HTML()
        with gr.Accordion("Segments", open=False):
            table = gr.Dataframe(interactive=False, show_label=False, max_height=300)
    return [part, chart, key, table]


def attention_part() -> list[Any]:
    """Returns the part of the page, and the plot."""
    with gr.Column(visible=False) as part:
        plot = gr.Plot(show_label=False)
        gr.Markdown(ATTENTION)
    return [part, plot]


def recognise(models: dict[str, LoadedModel], path: str | None, name: str) -> Iterator[list[Any]]:
    """Yields what is shown, each time with one result more: probabilities, timeline, attention.

    Raises:
        gr.Error: shown to the visitor.
    """
    hidden = gr.Column(visible=False)
    probabilities: dict[str, float] | None = None
    timeline_shown: list[Any] = [hidden, None, None, None]
    attention_shown: list[Any] = [hidden, None]
    yield [probabilities, *timeline_shown, *attention_shown]
    if path is None:
        raise gr.Error("Upload or record something first.", print_exception=False)
    recognizer = models[name]
    try:
        recording = read_recording(path, recognizer.sampling_rate)
        (prediction,) = predict(recording, recognizer)
        probabilities = prediction.probabilities
        yield [probabilities, *timeline_shown, *attention_shown]
        timeline_shown = over_time(recording, recognizer, prediction.seconds)
        yield [probabilities, *timeline_shown, *attention_shown]
        if prediction.seconds <= MAX_SECONDS:
            explanation = replace(explain(recording, recognizer), file="Attention")
            attention_shown = [gr.Column(visible=True), attention_figure(explanation, INCHES)]
            yield [probabilities, *timeline_shown, *attention_shown]
    except AudioFileError as error:
        raise gr.Error(f"This recording {error.reason}.", print_exception=False) from None
    finally:
        trim_memory()


def over_time(recording: np.ndarray, recognizer: LoadedModel, seconds: float) -> list[Any]:
    """Returns what the part of the timeline shows."""
    try:
        found = timeline(recording, recognizer, hop=max(0.5, seconds / MOST_STEPS))
    except InferenceError as error:  # of a model that has no answers for parts of a recording
        return [gr.Column(visible=True), None, str(error), None]
    unit, length = time_unit(found)
    chart = gr.BarPlot(
        bars(found),
        color_map=colours(found.labels),
        x_title=f"time ({unit})",
        x_bin=found.hop / length,
        x_lim=[0, found.seconds / length],
    )
    return [gr.Column(visible=True), chart, legend(found.labels), segments(found)]


def serve(blocks: gr.Blocks, **options: Any) -> None:
    """Starts the page; the address is Gradio's usual one, or in GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""
    blocks.queue(max_size=MOST_WAITING).launch(
        share=False,
        ssr_mode=False,  # its server of its own would stand before the guard
        run_history=False,  # keeps recordings in the browser, which others may use
        footer_links=[],
        enable_monitoring=False,
        max_threads=MOST_THREADS,
        max_file_size=LARGEST_BYTES,
        blocked_paths=[str(Path(__file__).parent)],
        app_kwargs={"middleware": [Middleware(Guard, largest_upload=LARGEST_BYTES)]},
        **options,
    )
