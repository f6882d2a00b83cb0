"""A Whisper of half a megabyte that knows a few sentences of `SPOKEN` by heart, for the real faster-whisper to run.

It is solved for, not trained, in a second or two. The encoder is two random convolutions. One head of the decoder takes
their mean over time, from which a linear map tells the sentence; the other looks where the word should be, for the
alignment of words. A layer of random features, whose outputs are solved for, makes of the sentence and the word before
the word after; so no word may come twice in a sentence. It is a lookup and recognises nothing else: what it is good for
is all that lies around a model.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import whisper_spec
from faster_whisper.audio import pad_or_trim
from faster_whisper.feature_extractor import FeatureExtractor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.voice.sounds import pcm_of, silence

WIDTH, HEAD, FEATURES, MELS, FRAMES, LONGEST = 64, 32, 384, 80, 1500, 448
CONTENT = 60
"""Of the `WIDTH` numbers of a state. The other four say where it is."""
SENTENCES = {
    "slow-queries": "What does the runbook say about slow queries?",
    "restart-server": "How do I restart the server?",
    "which-cache": "Wait, which cache?",
    "stop": "Stop.",
}
OFFSETS_MS = (0, 32, 60, 100, 128, 200, 300, 400)
PARAMETERS = {"device": "cpu", "compute_type": "float32"}
"""As the model is to be run: its numbers are too far apart for eight bits."""
SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"),
    *("<|nospeech|>", "<|notimestamps|>"),
)
CERTAINTY = 12.0
"""What a logit is worth that fits fully, against those of other words, which hardly reach half of it."""


def make(folder: Path) -> Path:
    """Write the model into ``folder``, as a converted model of the Hub lies on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": MELS}))
    size = tokenizer.get_vocab_size() + 1501
    generator = np.random.default_rng(5)
    embeddings = np.zeros((size, WIDTH), np.float32)
    embeddings[:, :CONTENT] = generator.normal(size=(size, CONTENT))
    embeddings[:, :CONTENT] -= embeddings[:, :CONTENT].mean(axis=1, keepdims=True)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    _write(folder, tokenizer, embeddings, {})

    codes, means = _heard(folder)
    scale, offset = means.std(axis=0) + 1e-6, means.mean(axis=0)
    told = _solve((means - offset) / scale, codes @ generator.normal(size=(len(SENTENCES), HEAD)))
    value, out = np.zeros((2 * WIDTH, WIDTH)), np.zeros((WIDTH, WIDTH))
    bias = np.zeros(2 * WIDTH)
    value[WIDTH : WIDTH + HEAD, :CONTENT] = (told / scale[:, np.newaxis]).T
    bias[WIDTH : WIDTH + HEAD] = -offset @ (told / scale[:, np.newaxis])
    out[:CONTENT, :HEAD] = generator.normal(size=(CONTENT, HEAD)) / 2
    out[:CONTENT] -= out[:CONTENT].mean(axis=0)
    sentences = ((means - offset) / scale) @ told @ out[:, :HEAD].T
    solved = _next_words(embeddings, tokenizer, sentences, codes)
    _write(folder, tokenizer, embeddings, {"value": value, "value_bias": bias, "out": out, **solved})
    return folder


def _places(frames: np.ndarray, radius: float) -> np.ndarray:
    """Where something is, as four numbers whose mean and length are the same everywhere."""
    angle = frames * np.pi / FRAMES
    circle = np.stack([np.cos(angle), -np.cos(angle), np.sin(angle), -np.sin(angle)], axis=1)
    return np.concatenate([np.zeros((len(frames), CONTENT)), radius * circle], axis=1).astype(np.float32)


DECODER_PLACES = _places((np.arange(LONGEST) - 1) * 15.0, 1.0)
"""The first word is at the second position; each lasts 15 frames of 20 ms."""


def _tokenizer() -> Tokenizer:
    """Bytes, and every word of the sentences in one piece, its space included."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    merges = []
    for word in sorted({word for text in SENTENCES.values() for word in text.split()}):
        pieces = "Ġ"
        for character in word:
            if pieces + character not in vocabulary:
                merges.append((pieces, character))
                vocabulary[pieces + character] = len(vocabulary)
            pieces += character
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    # No splitting before: "?" stays with its word.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            pre_tokenizers.Split("Ġ", "merged_with_next"),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _write(folder: Path, tokenizer: Tokenizer, embeddings: np.ndarray, solved: dict[str, np.ndarray]) -> None:
    """What is not ``solved`` yet is zero, and says nothing."""
    generator = np.random.default_rng(7)
    spec = whisper_spec.WhisperSpec(1, 2, 1, 2)
    for convolution, inputs in ((spec.encoder.conv1, MELS), (spec.encoder.conv2, WIDTH)):
        weight = generator.normal(scale=1.5 / np.sqrt(3 * inputs), size=(WIDTH, inputs, 3))
        weight[CONTENT:] = 0
        convolution.weight, convolution.bias = weight.astype(np.float32), np.zeros(WIDTH, np.float32)
    spec.encoder.position_encodings.encodings = _places(np.arange(FRAMES), 400.0)
    spec.decoder.position_encodings.encodings = DECODER_PLACES
    spec.decoder.embeddings.weight = embeddings
    spec.decoder.projection.weight = embeddings
    norms = [spec.encoder.layer_norm, spec.decoder.layer_norm]
    for layer, is_decoder in ((spec.encoder.layer[0], False), (spec.decoder.layer[0], True)):
        norms += [layer.self_attention.layer_norm, layer.ffn.layer_norm]
        for linear, outputs in zip(layer.self_attention.linear, (3 * WIDTH, WIDTH), strict=True):
            _set(linear, outputs, WIDTH)
        if is_decoder:
            norms.append(layer.attention.layer_norm)
            for linear, outputs in zip(layer.attention.linear, (WIDTH, 2 * WIDTH, WIDTH), strict=True):
                _set(linear, outputs, WIDTH)
        _set(layer.ffn.linear_0, FEATURES, WIDTH)
        _set(layer.ffn.linear_1, WIDTH, FEATURES)
    last = spec.decoder.layer[0]
    look = np.zeros((WIDTH, WIDTH), np.float32)
    look[HEAD : HEAD + WIDTH - CONTENT, CONTENT:] = 60 * np.eye(WIDTH - CONTENT)
    last.attention.linear[0].weight = look
    last.attention.linear[1].weight[:WIDTH] = look
    for linear, name in (
        (last.attention.linear[1], "value"),
        (last.attention.linear[2], "out"),
        (last.ffn.linear_0, "hidden"),
        (last.ffn.linear_1, "next"),
    ):
        if name in solved:
            linear.weight = linear.weight + solved[name].astype(np.float32)
        if f"{name}_bias" in solved:
            linear.bias = solved[f"{name}_bias"].astype(np.float32)
    for norm in norms:
        norm.gamma, norm.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    spec.decoder.layer_norm.gamma *= CERTAINTY / np.sqrt(WIDTH)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    spec.register_vocabulary([*tokens, *(f"<|{number * 0.02:.2f}|>" for number in range(1501))])
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [tokenizer.token_to_id("<|endoftext|>")]
    spec.config.alignment_heads = [(0, 1)]
    spec.config.lang_ids = []
    spec.validate()
    spec.save(str(folder))


def _set(linear: Any, outputs: int, inputs: int) -> None:
    linear.weight, linear.bias = np.zeros((outputs, inputs), np.float32), np.zeros(outputs, np.float32)


def _heard(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which sentence each clip is, one-hot, and its encoder's mean over time."""
    model = ctranslate2.models.Whisper(str(folder), device="cpu", intra_threads=1)
    extract = FeatureExtractor(feature_size=MELS)
    codes, means = [], []
    for number, name in enumerate(SENTENCES):
        for offset_ms in OFFSETS_MS:
            clip = silence(offset_ms) + pcm_of(name) + silence(offset_ms // 2)
            samples = np.frombuffer(clip, "<i2").astype(np.float32) / 32768
            features = pad_or_trim(extract(samples)[:, :-1])[np.newaxis]
            states = np.array(model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features))))
            codes.append(np.eye(len(SENTENCES))[number])
            means.append(states[0, :, :CONTENT].mean(axis=0))
    return np.array(codes), np.array(means, np.float64)


def _next_words(
    embeddings: np.ndarray, tokenizer: Tokenizer, told: np.ndarray, codes: np.ndarray
) -> dict[str, np.ndarray]:
    """The feed-forward layer that names the word after the one before."""
    generator = np.random.default_rng(6)
    end, start, plain = (
        tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
    )
    inputs, targets = [], []
    texts = list(SENTENCES.values())
    for sentence, code in zip(told, codes, strict=True):
        words = tokenizer.encode(f" {texts[int(code.argmax())]}").ids
        # Time 0, the words, the time after them; and without times, as the alignment of words asks.
        steps = [*itertools.pairwise([start, plain + 1, *words, plain + 1 + 15 * len(words), end]), (plain, words[0])]
        for place, (before, after) in enumerate(steps):
            inputs.append(embeddings[before] + sentence + DECODER_PLACES[place])
            targets.append(8 * embeddings[after] - embeddings[before] - sentence)
    x = np.array(inputs)
    normal = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    weight, bias = generator.normal(size=(FEATURES, WIDTH)) / np.sqrt(WIDTH), generator.normal(size=FEATURES)
    weight[:, CONTENT:] = 0  # words come in their order wherever they are
    outputs = _solve(_gelu(normal @ weight.T + bias), np.array(targets))
    return {"hidden": weight, "hidden_bias": bias, "next": outputs.T}


def _solve(inputs: np.ndarray, outputs: np.ndarray, ridge: float = 1e-2) -> np.ndarray:
    """The matrix that maps the one to the other best, by ridge regression."""
    solution: np.ndarray = np.linalg.solve(inputs.T @ inputs + ridge * np.eye(inputs.shape[1]), inputs.T @ outputs)
    return solution


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(2))))
