"""Write a small random Llama-shaped model (configuration, tokenizer, chat template) for ``--load-format dummy``.

    python tests/real/tiny_model.py DIRECTORY

Run it with an interpreter that has vLLM: it needs `tokenizers` and `transformers`, and reaches no hub.
Equal versions of those write equal files.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

VOCABULARY = 4096
BOS, EOS = "<s>", "</s>"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small random model.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=8, help="step time of the server grows with them")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    write_tokenizer(arguments.directory)
    write_configuration(arguments.directory, layers=arguments.layers)


def write_tokenizer(directory: Path) -> None:
    """Train a byte-level tokenizer on words of random letters, so that any text has many tokens."""
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 7))) for _ in range(3000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        (" ".join(chance.choices(words, k=50)) for _ in range(2000)),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(directory)


def write_configuration(directory: Path, *, layers: int) -> None:
    """Write the shape of the model; there are no weights."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        torch_dtype="bfloat16",
    ).save_pretrained(directory)


if __name__ == "__main__":
    main()
