"""Export a sentence-transformers model to one ONNX file that ONNX Runtime serves.

The whole module chain (transformer, pooling, normalisation) goes into the graph, so whatever the model's own
configuration says is what is served. Run as a child process, because torch's memory is then given back::

    python -m rag.recipes.onnx_export MODEL_FOLDER OUTPUT_FOLDER [--pooling P] [--query-prompt Q] [--document-prompt D]

The output folder then holds ``model.onnx``, ``tokenizer.json`` and ``export.json`` (dimension, token limit, prompts);
the last line on stdout is the smallest cosine between a vector as it will be served and the original's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.pipeline.embed import Encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Lengths differ on purpose: a trace that froze a length or a branch would show here, and so would padding that is
# looked at. Case, accents and scripts show a tokenizer that is not the model's.
PROBES = (
    "short",
    "A sentence of middling length about the drag of a slender wing.",
    "Another of nearly that length, on the lift of a delta wing at sea level.",
    "Ünïcode, UPPER CASE and camelCase; пчёлы, 蜜蜂, النحل 🐝",
    " ".join(f"word{number} of a long passage" for number in range(80)),
    "",
)

SMALLEST_COSINE = 0.9999
"""Agreement with the original that an export must reach on every probe. Measured: 0.9999999."""

POOLING_MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
"""Our names of the pooling modes and those of sentence-transformers."""


class ExportError(Exception):
    """The model can't be exported, or its export does not agree with the original."""


def export(
    model_folder: Path, output_folder: Path, *, pooling: str = "", query_prompt: str = "", document_prompt: str = ""
) -> float:
    """Write the three files and return the smallest cosine that was measured.

    ``pooling`` takes the place of the model's own. Raises `ExportError` when the export doesn't reproduce the model's
    vectors.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    encoder = SentenceTransformer(
        str(model_folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
    )
    encoder.float().eval()
    if pooling:
        _set_pooling(encoder, pooling)

    class SentenceEmbedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.encoder({"input_ids": input_ids, "attention_mask": attention_mask})
            embedding: torch.Tensor = output["sentence_embedding"]
            return embedding

    if not hasattr(encoder.tokenizer, "backend_tokenizer"):
        raise ExportError(
            f"{model_folder.name} has no transformer with a fast tokenizer (tokenizer.json), which serving needs."
        )
    sample = encoder.tokenizer(list(PROBES[:2]), padding=True, return_tensors="pt")
    output_folder.mkdir(parents=True, exist_ok=True)
    model_path = output_folder / "model.onnx"
    variable = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer remarks on branches of the model; the probes below check them
        torch.onnx.export(
            SentenceEmbedding(),
            (sample["input_ids"], sample["attention_mask"]),
            str(model_path),
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_axes={
                "input_ids": variable,
                "attention_mask": variable,
                "sentence_embedding": {0: "batch"},
            },
            opset_version=17,
            # The tracing exporter writes one file and a graph that ran 10 to 15 % faster than the dynamo exporter's.
            dynamo=False,
        )
    (output_folder / "tokenizer.json").write_text(encoder.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    dimension, max_tokens = encoder.get_embedding_dimension(), encoder.max_seq_length
    if dimension is None or max_tokens is None:
        raise ExportError(f"{model_folder.name} does not say how long its vectors are and how many tokens it reads.")
    parameters = {
        "dimension": dimension,
        "max_tokens": max_tokens,
        "query_prompt": query_prompt,
        "document_prompt": document_prompt,
        "pooling": _pooling(encoder),
        "normalize": any(type(module).__name__ == "Normalize" for module in encoder),
    }
    (output_folder / "export.json").write_text(json.dumps(parameters), encoding="utf-8")
    served = Encoder(
        model_path, output_folder / "tokenizer.json", dimension=dimension, max_tokens=max_tokens, threads=1
    )
    cosine = min(_agreement(served, encoder, prompt) for prompt in {"", query_prompt, document_prompt})
    if not cosine >= SMALLEST_COSINE:
        raise ExportError(f"The export of {model_folder.name} differs from the model: cosine {cosine:.6f}.")
    return cosine


def _agreement(served: Encoder, original: SentenceTransformer, prompt: str) -> float:
    """The smallest cosine over the probes: served alone and in one padded batch, against the original alone."""
    texts = [prompt + probe for probe in PROBES]
    batch = served.encode(texts).vectors
    cosines = []
    for position, probe in enumerate(PROBES):
        wanted = original.encode([probe], normalize_embeddings=True, prompt=prompt)[0]
        cosines += [float(found @ wanted) for found in (batch[position], served.encode([texts[position]]).vectors[0])]
    return min(cosines)


def _set_pooling(encoder: SentenceTransformer, pooling: str) -> None:
    modules = _pooling_modules(encoder)
    if not modules:
        raise ExportError("The model has no pooling module whose way could be chosen.")
    for module in modules:
        module.pooling_mode = POOLING_MODES[pooling]


def _pooling(encoder: SentenceTransformer) -> str:
    """Our name of the model's pooling; several modes, or others, keep the library's."""
    modes = [module.pooling_mode for module in _pooling_modules(encoder)][:1] or ["model"]
    names = {theirs: ours for ours, theirs in POOLING_MODES.items()}
    flat = [one for mode in modes for one in ([mode] if isinstance(mode, str) else mode)]
    return "+".join(names.get(one, one) for one in flat)[:16]


def _pooling_modules(encoder: SentenceTransformer) -> list[Any]:
    return [module for module in encoder if hasattr(module, "pooling_mode")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--pooling", choices=["", *POOLING_MODES], default="")
    parser.add_argument("--query-prompt", default="")
    parser.add_argument("--document-prompt", default="")
    arguments = vars(parser.parse_args())
    try:
        sys.stdout.write(f"{export(**arguments):.7f}\n")
    except Exception:
        shutil.rmtree(arguments["output_folder"], ignore_errors=True)
        raise
