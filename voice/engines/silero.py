"""Silero VAD by ONNX Runtime alone: its Python package, which needs torch, is found but never imported."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from voice.engines.contracts import SAMPLE_RATE_HZ, EngineMissingError

FILE = "silero_vad_16k_op15.onnx"
"""Half the load time of ``silero_vad.onnx`` with the same output; ``silero_vad_half.onnx`` is off by up to 0.8."""
CONTEXT_SAMPLES = 64


def model_path() -> Path:
    """Raises `EngineMissingError`."""
    spec = find_spec("silero_vad")
    path = Path(spec.origin).parent / "data" / FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise EngineMissingError("The voice activity model is not there: .venv/bin/pip install silero-vad.")
    return path


class SileroVad:
    """The detector of one stream. The loaded model is shared by all of a process; its state is this stream's."""

    name = "silero"
    frame_samples = 512

    def __init__(self) -> None:
        self._session = _session()
        self.reset()

    def reset(self) -> None:
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros((1, CONTEXT_SAMPLES), np.float32)

    def __call__(self, frame: bytes) -> float:
        samples: Any = np.frombuffer(frame, "<i2").astype(np.float32)[np.newaxis] / 32768
        if samples.shape[1] != self.frame_samples:
            raise ValueError(f"A frame has {self.frame_samples} samples, not {samples.shape[1]}.")
        samples = np.concatenate([self._context, samples], axis=1)
        rate = np.array(SAMPLE_RATE_HZ, np.int64)
        output, self._state = self._session.run(None, {"input": samples, "state": self._state, "sr": rate})
        self._context = samples[:, -CONTEXT_SAMPLES:]
        return float(output[0, 0])


@cache
def _session() -> Any:
    import onnxruntime  # not before somebody listens

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model_path()), sess_options=options, providers=["CPUExecutionProvider"])
