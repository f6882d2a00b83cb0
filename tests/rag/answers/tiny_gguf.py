"""A language model of random numbers, half a megabyte, for a real model server to run: what it writes means nothing.

    python tests/rag/answers/tiny_gguf.py tiny.gguf
    python -m llama_cpp.server --model tiny.gguf --n_ctx 512

Needs the package ``gguf``; `test_real_servers` says what for.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np

WIDTH, HEADS, HIDDEN, CONTEXT, SEED = 64, 4, 128, 512, 7
WORDS = "the acid kills mites in winter while there is no brood and bees dance to show each other where flowers are"


def write(path: str) -> None:
    words = [f"▁{word}".encode() for word in dict.fromkeys(WORDS.split())]
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256)), *words]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(words)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, 0.3, (rows, columns)).astype(np.float32)

    output = matrix(len(tokens), WIDTH)
    # It says words, and no bytes that are no text.
    output[: 3 + 256] = 0.0
    ones = np.ones(WIDTH, dtype=np.float32)
    tensors = {
        "token_embd": matrix(len(tokens), WIDTH),
        "output_norm": ones,
        "output": output,
        "blk.0.attn_norm": ones,
        "blk.0.attn_q": matrix(WIDTH, WIDTH),
        "blk.0.attn_k": matrix(WIDTH, WIDTH),
        "blk.0.attn_v": matrix(WIDTH, WIDTH),
        "blk.0.attn_output": matrix(WIDTH, WIDTH),
        "blk.0.ffn_norm": ones,
        "blk.0.ffn_gate": matrix(HIDDEN, WIDTH),
        "blk.0.ffn_up": matrix(HIDDEN, WIDTH),
        "blk.0.ffn_down": matrix(WIDTH, HIDDEN),
    }
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
