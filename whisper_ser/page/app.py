"""The Gradio page: a recording in; probabilities, timeline and attention out."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Read when gradio is imported: no usage statistics are sent.
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
from whisper_ser.page.recordings import MAX_BYTES, MAX_MINUTES, read_recording

CLEANUP_SECONDS = (60, 3600)
"""Between two deletions, and the age at which recordings are deleted."""
MAX_WAITING = 20
MAX_THREADS = 4
"""One runs the model, the others read uploads and write files; each keeps memory once it has worked."""
MAX_STEPS = 400
"""Of a timeline: longer recordings get longer steps."""
PLOT_INCHES = 5.0
"""Width of the attention plot, legible on a telephone too."""
ABOUT = """# Speech emotion recognition
Upload or record speech, and see which emotion the voice resembles, when, and which moments the model weighed most. It
is what a voice resembles in acted recordings, not what a person feels: see the limits below."""
FORMATS = (
    f"WAV, FLAC, OGG or MP3, up to {MAX_MINUTES} minutes and {MAX_BYTES // 2**20} MB. What you upload is "
    "processed where this page runs, shown to nobody else, and deleted about an hour later."
)
ATTENTION = f"""The weight of each moment in each pooling head; 1 is the weight that every moment would have if all
were equal. Drawn for recordings of up to {MAX_SECONDS} s."""
LIMITS = """### Limits
A model names the emotion that a **voice resembles** in the recordings it was trained on, not what a person feels. It
knows its own labels only, and mostly acted speech of one language: in everyday life, and with other languages and
microphones, it errs far more often than its test figures say. A high probability is no guarantee.
**Do not use it to judge people.** The demo model was trained on a speech synthesiser and knows no real voices."""


def main(arguments: list[str]) -> None:
    """Opens the page for the models named."""
    logging.disable_progress_bar()
    models = load_models(chosen_models(arguments))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # deletes the folder below
    with tempfile.TemporaryDirectory(prefix="whisper-ser-page-", ignore_cleanup_errors=True) as folder:
        # By default, all pages of a machine share one folder.
        os.environ |= {"GRADIO_TEMP_DIR": f"{folder}/uploads", "GRADIO_EXAMPLES_CACHE": f"{folder}/cache"}
        serve(page(models, write_examples(Path(folder))))


def page(models: dict[str, LoadedModel], examples: dict[str, Path]) -> gr.Blocks:
    """Returns the page for models and example recordings by name."""
    with gr.Blocks(
        title="Speech emotion recognition", analytics_enabled=False, delete_cache=CLEANUP_SECONDS
    ) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column():
                audio = gr.Audio(type="filepath", sources=["upload", "microphone"], label="Recording", buttons=[])
                gr.Markdown(FORMATS)
                choices = [(f"{name}: {', '.join(model.labels)}", name) for name, model in models.items()]
                model = gr.Dropdown(choices, value=choices[0][1], label="Model", filterable=False)
                button = gr.Button("Recognise", variant="primary")
                chosen = examples_part(examples, audio) if examples else None
            with gr.Column():
                results = [gr.Label(label="Whole recording"), *timeline_part(), *attention_part()]
        gr.Markdown(LIMITS)
        # One recording at a time: each uses all processors.
        run: dict[str, Any] = {
            "fn": partial(recognise, models),
            "inputs": [audio, model],
            "outputs": results,
            "concurrency_id": "run",
        }
        # A click during a run, such as with another model, is queued instead of ignored.
        button.click(**run, show_progress_on=results[0], trigger_mode="always_last", api_name="recognise")
        if chosen is not None:
            chosen.load_input_event.then(**run, show_progress_on=results[0], api_visibility="private")
    return blocks


def examples_part(examples: dict[str, Path], audio: gr.Audio) -> Any:
    """Returns the examples to choose from."""
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
    """Yields the values of all outputs, each time with one more result: probabilities, timeline, attention.

    Raises:
        gr.Error: shown to the visitor.
    """
    hidden = gr.Column(visible=False)
    no_timeline, no_attention = [hidden, None, None, None], [hidden, None]
    yield [None, *no_timeline, *no_attention]
    if path is None:
        raise gr.Error("Upload or record something first.", print_exception=False)
    model = models[name]
    try:
        recording = read_recording(path, model.sampling_rate)
        (prediction,) = predict(recording, model)
        yield [prediction.probabilities, *no_timeline, *no_attention]
        over_time = timeline_values(recording, model, prediction.seconds)
        yield [prediction.probabilities, *over_time, *no_attention]
        if prediction.seconds <= MAX_SECONDS:
            figure = attention_figure(replace(explain(recording, model), file="Attention"), PLOT_INCHES)
            yield [prediction.probabilities, *over_time, gr.Column(visible=True), figure]
    except AudioFileError as error:
        raise gr.Error(f"This recording {error.reason}.", print_exception=False) from None
    finally:
        trim_memory()


def timeline_values(recording: np.ndarray, model: LoadedModel, seconds: float) -> list[Any]:
    """Returns the values of `timeline_part` for a recording `(samples,)` of that many seconds."""
    try:
        found = timeline(recording, model, hop=max(0.5, seconds / MAX_STEPS))
    except InferenceError as error:  # such as of a model that pads to 30 s
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
    blocks.queue(max_size=MAX_WAITING).launch(
        share=False,
        ssr_mode=False,  # its server would stand before the guard
        run_history=False,  # would keep recordings in the browser, which others may use
        footer_links=[],
        enable_monitoring=False,
        max_threads=MAX_THREADS,
        max_file_size=MAX_BYTES,
        blocked_paths=[str(Path(__file__).parent)],
        app_kwargs={"middleware": [Middleware(Guard, largest_upload=MAX_BYTES)]},
        **options,
    )
