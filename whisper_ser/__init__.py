"""Training, evaluation, use and publishing of speech emotion recognition models; never copied to the Hub."""

import os
from typing import TYPE_CHECKING, Any

# Read when torch is imported: idle threads sleep instead of taking the cores of other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when onnxruntime is imported, which otherwise reports its use to its makers and leaves a file for that in /tmp.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from whisper_ser.inference.model import load_model
    from whisper_ser.inference.predict import predict, predict_each
    from whisper_ser.inference.streaming import EmotionStream, stream
    from whisper_ser.inference.timeline import timeline

__version__ = "0.1.0"
__all__ = ["EmotionStream", "load_model", "predict", "predict_each", "stream", "timeline"]

_MODULES = {
    "EmotionStream": "streaming",
    "load_model": "model",
    "predict": "predict",
    "predict_each": "predict",
    "stream": "streaming",
    "timeline": "timeline",
}


def __getattr__(name: str) -> Any:
    """Imports a public function when it is first used: `import whisper_ser` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'whisper_ser' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"whisper_ser.inference.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
