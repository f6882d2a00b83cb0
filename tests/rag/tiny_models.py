"""Real sentence-transformers models of a few kilobytes with random weights: every part of the way, none of the wait."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST = 128


def make_model(
    folder: Path,
    *,
    pooling: str = "mean",
    dimension: int = 16,
    normalize: bool = True,
    prompts: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """A BERT of one layer over single characters, saved as the library saves models. Returns ``folder``."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = folder.with_name(f"{folder.name}-source")
    source.mkdir(parents=True)
    letters = string.ascii_lowercase + string.digits + string.punctuation + "йцукеншщзхъ蜜蜂"
    (source / "vocab.txt").write_text("\n".join([*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]))
    torch.manual_seed(seed)
    BertTokenizerFast(str(source / "vocab.txt"), model_max_length=LONGEST).save_pretrained(source)
    config = BertConfig(
        vocab_size=len(SPECIAL) + 2 * len(letters),
        hidden_size=dimension,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * dimension,
        max_position_embeddings=LONGEST,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(source)
    modules = [
        Transformer(str(source)),
        Pooling(dimension, pooling_mode=pooling),
        *([Normalize()] if normalize else []),
    ]
    SentenceTransformer(modules=modules, device="cpu", prompts=dict(prompts or {})).save(str(folder))
    return folder


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None takes one away."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), encoding="utf-8")
