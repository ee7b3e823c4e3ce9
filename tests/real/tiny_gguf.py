"""Write a small random Llama-shaped model with its tokenizer as one GGUF file, for llama.cpp.

    python tests/real/tiny_gguf.py FILE.gguf

Run it with an interpreter that has `gguf`, which brings numpy. It reaches no hub; equal versions write equal files.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import gguf
import numpy as np

WORDS = 1500
HIDDEN, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 512, 8, 4, 1024, 4096
BOS, EOS, UNKNOWN = 1, 2, 0
CONTROLS, BYTES = 3, 256


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small random model.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--layers", type=int, default=8, help="step time of the server grows with them")
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(arguments.file, "llama")
    writer.add_name("tiny")
    vocabulary = add_tokenizer(writer)
    add_shape(writer, layers=arguments.layers, vocabulary=vocabulary)
    add_weights(writer, layers=arguments.layers, vocabulary=vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter) -> int:
    """Add pieces as SentencePiece has them: control tokens, all bytes, letters, words of random letters."""
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = dict.fromkeys("".join(chance.choices(letters, k=chance.randint(2, 5))) for _ in range(WORDS))
    pieces = dict.fromkeys(
        [*(f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in words), *letters, "\N{LOWER ONE EIGHTH BLOCK}", *words]
    )
    kinds = gguf.TokenType
    tokens = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(BYTES)]
    tokens += [(piece, kinds.NORMAL) for piece in pieces]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([float(-at) for at, _ in enumerate(tokens)])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    return len(tokens)


def add_shape(writer: gguf.GGUFWriter, *, layers: int, vocabulary: int) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def add_weights(writer: gguf.GGUFWriter, *, layers: int, vocabulary: int) -> None:
    chance = np.random.default_rng(0)
    key = HIDDEN // HEADS * KV_HEADS

    def add(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (0.02 * chance.standard_normal((rows, columns), dtype=np.float32)).astype(np.float16))

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(HIDDEN, dtype=np.float32))

    add("token_embd.weight", vocabulary, HIDDEN)
    for layer in range(layers):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm.weight")
        add(f"{block}.attn_q.weight", HIDDEN, HIDDEN)
        add(f"{block}.attn_k.weight", key, HIDDEN)
        add(f"{block}.attn_v.weight", key, HIDDEN)
        add(f"{block}.attn_output.weight", HIDDEN, HIDDEN)
        add_norm(f"{block}.ffn_norm.weight")
        add(f"{block}.ffn_gate.weight", FEED_FORWARD, HIDDEN)
        add(f"{block}.ffn_up.weight", FEED_FORWARD, HIDDEN)
        add(f"{block}.ffn_down.weight", HIDDEN, FEED_FORWARD)
    add_norm("output_norm.weight")
    # No text has half a character or ends early: bytes and control tokens are never among the likely ones.
    likely = np.where(np.arange(vocabulary) < CONTROLS + BYTES, 0.0, 0.2)[:, np.newaxis]
    output = likely * chance.standard_normal((vocabulary, HIDDEN), dtype=np.float32)
    writer.add_tensor("output.weight", output.astype(np.float16))


if __name__ == "__main__":
    main()
