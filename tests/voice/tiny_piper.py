"""A Piper voice of some 100 kB with two speakers, for the real loader to load: one tone for each phoneme."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from voice.engines.piper import FILES

RATE_HZ = 16_000
PHONEMES = 256
NORMAL, LONGEST = 480, 960
"""Samples of a phoneme: 30 ms, and as many as the slowest style may make of them."""
SPEAKERS = {"ada": 0, "bea": 1}


def make(folder: Path, *, speakers: dict[str, int] = SPEAKERS) -> Path:
    """Write the voice into ``folder``, by the names that the registry's roles have on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    at = np.arange(LONGEST) / RATE_HZ
    pitches = np.array([[100.0 + 3 * number, 240.0 + 5 * number] for number in range(PHONEMES)]).T.reshape(-1, 1)
    tones = (np.sin(2 * np.pi * pitches * at) * 0.3).astype(np.float32)
    tones[[0, PHONEMES]] = 0
    constants = {
        "tones": tones,
        "normal": np.array(float(NORMAL), np.float32),
        "phonemes": np.array(PHONEMES, np.int64),
        "which": np.array(1, np.int64),
        "zero": np.array([0], np.int64),
        "axis": np.array([2], np.int64),
        "line": np.array([1, 1, 1, -1], np.int64),
        "one": np.array([1], np.int64),
    }
    has_several = len(speakers) > 1
    nodes = [
        helper.make_node("Mul", ["sid", "phonemes"], ["offset"]),
        helper.make_node("Add", ["input", "offset"], ["ids"]),
    ]
    nodes = [
        *(nodes if has_several else [helper.make_node("Identity", ["input"], ["ids"])]),
        helper.make_node("Gather", ["tones", "ids"], ["sounds"]),
        helper.make_node("Gather", ["scales", "which"], ["length_scale"]),
        helper.make_node("Mul", ["length_scale", "normal"], ["length"]),
        helper.make_node("Cast", ["length"], ["samples"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["samples", "one"], ["end"]),
        helper.make_node("Slice", ["sounds", "zero", "end", "axis"], ["cut"]),
        helper.make_node("Reshape", ["cut", "line"], ["output"]),
    ]
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, "phonemes_said"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
        *([helper.make_tensor_value_info("sid", TensorProto.INT64, [1])] if has_several else []),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, "samples_said"])
    used = constants if has_several else {name: value for name, value in constants.items() if name != "phonemes"}
    graph = helper.make_graph(
        nodes, "tones", inputs, [output], [numpy_helper.from_array(value, name) for name, value in used.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / FILES["model"]))
    (folder / FILES["config"]).write_text(json.dumps(_config(speakers)), encoding="utf-8")
    return folder


def _config(speakers: dict[str, int]) -> dict[str, object]:
    # The marks of begin, end and pause, and the sounds that a test's English is made of, by the numbers of Piper.
    symbols = "_^$ !'(),-.:;?abcdefhijklmnopqrstuvwxyzæçðøħŋœɐɑɒɓɔɕɖɗɘəɚɛɜɞ"
    symbols += "ɟɠɡɢɣɤɥɦɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢʲˈˌːˑ˞βθχᵻⱱ"
    return {
        "audio": {"sample_rate": RATE_HZ},
        "espeak": {"voice": "en-gb-x-rp"},
        "num_symbols": PHONEMES,
        "num_speakers": len(speakers),
        "speaker_id_map": speakers if len(speakers) > 1 else {},
        "phoneme_id_map": {symbol: [number] for number, symbol in enumerate(symbols)},
        "inference": {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8},
    }
