# Copyright: (c) 2026, The gpufleet developers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a model of Qwen2-1.5B's shape with random weights: make_model.py FOLDER. Needs a GPU, torch and transformers.

1.54 B parameters in bf16, 3.1 GB of safetensors: load time, GPU memory and checkpoint size are those of the real one. Every
token has a text of its own, so that greedy answers can be compared token by token.
"""

from __future__ import annotations

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

folder = sys.argv[1]
config = Qwen2Config(
    hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
    vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
torch.manual_seed(0)
with torch.device("cuda"):
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
model.save_pretrained(folder, safe_serialization=True)
special = ["<pad>", "<s>", "</s>"]
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
names = [*special, *letters]
names += [f"Ġ{number}" for number in range(len(names), config.vocab_size)]
tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(folder)
print(f"{sum(weights.numel() for weights in model.parameters()) / 1e9:.3f} B parameters in {folder}")
