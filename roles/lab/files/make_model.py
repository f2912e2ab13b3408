# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a GGUF model with random weights from a fixed seed: the lab's stand-in for a real one.

Usage: make_model.py small|large FILE. Writes FILE and nothing else; needs gguf and numpy on the controller.
It speaks nonsense, and always the same nonsense: with temperature 0 every host must give the same tokens.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import gguf
import numpy as np

SEED = 20261121
CONTEXT = 2048
HEAD_WIDTH = 64
# name: layers, width, width of the feed-forward part
SIZES = {"small": (4, 256, 768), "large": (16, 1024, 3072)}


def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types: the special ones, every byte, then letters and syllables (the only ones ever spoken)."""
    kind = gguf.TokenType
    special = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    special += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    words = ["▁", *map(chr, range(ord("a"), ord("z") + 1))]
    words += ["▁" + "".join(pair) for pair in itertools.product("bdfgklmnprst", "aeiou")]
    tokens = [token for token, type_ in special] + words
    types = [int(type_) for token, type_ in special] + [int(kind.NORMAL)] * len(words)
    scores = [0.0] * len(special) + [-float(rank) for rank in range(len(words))]
    return tokens, scores, types


def write_model(size: str, path: Path) -> None:
    layers, width, inner = SIZES[size]
    tokens, scores, types = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"gpufleet-lab-{size}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(width // HEAD_WIDTH)
    writer.add_head_count_kv(width // HEAD_WIDTH)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    random = np.random.default_rng(SEED)

    def weights(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)).astype(np.float16)

    ones = np.ones(width, dtype=np.float32)
    output = weights(len(tokens), width)
    output[: types.index(int(gguf.TokenType.NORMAL))] = 0  # never the likeliest: no end of text, no stray byte
    writer.add_tensor("token_embd.weight", weights(len(tokens), width))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(width, width))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(inner, width))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(width, inner))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in SIZES:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(SIZES)} FILE")
    path = Path(sys.argv[2])
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # renamed when complete: a lab never sees half a model
    try:
        write_model(sys.argv[1], partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
