"""The page under visitors at the same time: every answer is that of `predict`, and memory does not grow."""

import pytest
from test_benchmarks import load

pytest.importorskip("psutil")
pytest.importorskip("gradio")
REQUESTS = 120


@pytest.mark.slow
def test_visitors_get_what_predict_says_and_leave_nothing_behind(small_model):
    load("soak")  # which the other takes its voices from
    figures = load("soak_page").soak(str(small_model), REQUESTS)
    assert figures["errors"] == []
    assert {state["requests"] for state in figures["states"]} == set(range(12, REQUESTS + 1, 12))
    # Empty, and made by gradio when it is imported.
    assert figures["left"] in ([], ["gradio"])
    assert figures["grown_megabytes"] < 100
