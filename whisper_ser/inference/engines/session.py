"""Sessions of ONNX Runtime: threads that do not wait busily, and errors that say what to do."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whisper_ser.errors import ExportError

GRAPH_ERRORS_ONLY = 3
"""Of ONNX Runtime's log levels."""
SPIN_MICROSECONDS = "30"
"""How long a thread waits busily for its share of the next operation, which is longer than most waits within a call.

Without it two threads take 10% longer in float32 and 25% in int8. ONNX Runtime's default, 1 ms, takes the processor
from others: beside two busy processes 1.5 times the processor time of one thread, instead of 1.1
(`benchmarks/RESULTS.md`).
"""


def open_session(
    graph: Path | bytes,
    weights: Mapping[str, np.ndarray] | None = None,
    threads: int | None = None,
    exact: bool = False,
) -> Any:
    """Returns an `onnxruntime.InferenceSession` on the CPU.

    Args:
        graph: the file, or its content.
        weights: tensors that the graph names and does not hold, all of them. They must live as long as the session.
        threads: that work on one call; by default as `thread_count` says.
        exact: computes 8-bit products as products of the floats that they stand for: slower, and right on every
            processor.

    Raises:
        ExportError: ONNX Runtime is not installed, or it cannot read the graph, or the weights do not fit it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError("Models run on ONNX Runtime on a CPU: pip install onnxruntime.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or thread_count()
    options.log_severity_level = GRAPH_ERRORS_ONLY
    if exact:
        # Nothing is fused: integer products exist only where ONNX Runtime fuses the nodes around them.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)) for x in weights.values()]
        options.add_external_initializers(list(weights), values)
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common type of their own
        name = "The graph" if isinstance(graph, bytes) else graph
        raise ExportError(f"{name} is no ONNX model that can be read here ({error}).") from error


def thread_count() -> int:
    """Returns how many threads work on one call: `OMP_NUM_THREADS`, which torchrun sets, else the cores there are."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
