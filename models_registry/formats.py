"""Which files a model version may consist of, and the look that tells: nothing that runs code when it is read.

Allowed are ONNX, safetensors, LightGBM's model text, CTranslate2, JSON and plain text. Pickle, in any wrapping
(``.pkl``, ``.bin``, ``.pt``, ``.joblib``, ``.npy`` of objects), is not: reading it runs what its author wants.

FormatError     the file is none of these, or not whole
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, TensorProto

ONNX_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Those whose operators onnxruntime brings along; others would need a library to be loaded."""

MAX_ONNX_BYTES = 2**31 - 1
"""What protobuf can hold: a larger model keeps its tensors in other files."""

CTRANSLATE2_NAME = b"\x0c\x00WhisperSp"
"""How the name of a Whisper model begins, behind four bytes with the version of the format."""

MAX_TEXT_BYTES = 256 * 1024 * 1024
"""Texts are read whole. A large tokenizer has 20 MB, a forest of thousands of trees 100 MB."""

PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b", b"PK\x03\x04", b"\x93NUMPY", b"\x94")
"""How pickles of protocol 2 to 5 begin, and what wraps them: gzip, PyTorch's zip, NumPy's arrays."""


class FormatError(Exception):
    """The message is one sentence for an operator."""


class Format(StrEnum):
    ONNX = "ONNX"
    SAFETENSORS = "safetensors"
    LIGHTGBM = "LightGBM text"
    CTRANSLATE2 = "CTranslate2"
    JSON = "JSON"
    TEXT = "text"


MODEL_FORMATS = {
    "onnxruntime": frozenset({Format.ONNX}),
    "lightgbm": frozenset({Format.LIGHTGBM}),
    "linear": frozenset({Format.JSON}),
    "faster-whisper": frozenset({Format.CTRANSLATE2}),
    "piper": frozenset({Format.ONNX}),
}
"""What the file of the role ``model`` must be, for the providers that load files themselves."""


def require_format(path: Path, role: str, provider: str) -> Format:
    """The format of a file that a version of ``provider`` has as its ``role``. Raises `FormatError`."""
    found = recognize(path)
    wanted = MODEL_FORMATS.get(provider)
    if role == "model" and wanted is not None and found not in wanted:
        raise FormatError(f"The model file of {provider} must be {' or '.join(sorted(wanted))}, and this is {found}.")
    if role == "model" and wanted is None and found in {Format.TEXT, Format.JSON}:
        raise FormatError(f"A model file must be ONNX, safetensors or LightGBM text, and this is {found}.")
    return found


def recognize(path: Path) -> Format:
    """The format of a file, by a look at all of its structure. Raises `FormatError` for what is none of `Format`."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise FormatError("The file is empty.")
    if head.startswith(PICKLES):
        raise FormatError(
            "The file is a pickle, or an archive that may hold one: reading it could run code. "
            "Convert it to ONNX, safetensors or LightGBM's text."
        )
    if head[4:].startswith(CTRANSLATE2_NAME):
        _check_ctranslate2(path, size_bytes)
        return Format.CTRANSLATE2
    if _starts_as_safetensors(head, size_bytes):
        _check_safetensors(path)
        return Format.SAFETENSORS
    if size_bytes <= MAX_TEXT_BYTES and (text := _as_text(path)) is not None:
        return _kind_of_text(text)
    _check_onnx(path, size_bytes)
    return Format.ONNX


def _starts_as_safetensors(head: bytes, size_bytes: int) -> bool:
    """The length of a JSON object, then that object: https://github.com/huggingface/safetensors#format."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size_bytes - 8


def _check_safetensors(path: Path) -> None:
    # Imported when it is needed: most processes never look at such a file.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise FormatError(f"The safetensors file is damaged: {error}.") from error


def _check_ctranslate2(path: Path, size_bytes: int) -> None:
    """Names, shapes and numbers, each with its length before it: they must end where the file does."""

    def read(form: str) -> int:
        data = file.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            raise FormatError("The CTranslate2 model is not whole: its end is missing.")
        return int(struct.unpack(form, data)[0])

    def skip(count: int) -> None:
        if file.seek(count, os.SEEK_CUR) > size_bytes:
            raise FormatError("The CTranslate2 model is not whole: its end is missing.")

    with path.open("rb") as file:
        skip(4)
        skip(read("<H"))
        skip(4)
        for _ in range(read("<I")):
            skip(read("<H"))
            skip(4 * read("<B") + 1)
            skip(read("<I"))
        for _ in range(read("<I")):
            skip(read("<H"))
            skip(read("<H"))


def _as_text(path: Path) -> str | None:
    """The file's content if it is UTF-8 without control characters."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\n\r\t\f\u2028" for character in text[:4096]) else None


def _kind_of_text(text: str) -> Format:
    if "\0" in text:
        raise FormatError("The file is neither text nor a model of a known format.")
    if text.startswith("tree\n"):
        if "\nend of trees\n" not in text:
            raise FormatError("The LightGBM model is not whole: its end is missing.")
        return Format.LIGHTGBM
    if text.lstrip()[:1] in {"{", "["}:
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"The JSON file is damaged: {error}.") from error
        return Format.JSON
    return Format.TEXT


def _check_onnx(path: Path, size_bytes: int) -> None:
    if size_bytes > MAX_ONNX_BYTES:
        raise FormatError("The file is none of ONNX (at most 2 GiB), safetensors, LightGBM text, JSON and text.")
    # Tens of megabytes that most processes are spared.
    import onnx

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # what protobuf raises has no class that onnx names
        raise FormatError("The file is none of ONNX, safetensors, LightGBM text, JSON and text.") from error
    if not model.ir_version or not model.graph.node:
        raise FormatError("The file is none of ONNX, safetensors, LightGBM text, JSON and text.")
    domains = {entry.domain for entry in model.opset_import} - ONNX_DOMAINS
    if domains:
        raise FormatError(f"The ONNX model needs operators that are not part of ONNX: {', '.join(sorted(domains))}.")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise FormatError("The ONNX model keeps tensors in other files; save it with all of them in one.")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _tensors_of(model.graph)
    for function in model.functions:
        yield from _tensors_of(function)


def _tensors_of(graph: GraphProto | FunctionProto) -> Iterator[TensorProto]:
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)
            for inner in [attribute.g, *attribute.graphs]:
                yield from _tensors_of(inner)
