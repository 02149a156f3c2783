"""Teachers of a few thousand weights, made in a moment and saved as checkpoints."""

from pathlib import Path
from typing import Any

import torch

TRAINING_TEXT = (
    "the quick brown fox jumps over the lazy dog while the river runs to the sea and the wind moves the trees; "
    "a teacher reads the tokens before a position and says which token may follow it"
)
#: 256 bytes, <bos> and <eos>: the least that a byte-level tokenizer can have
SMALLEST_TOKENIZER = 258

COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
#: configuration class and its own settings; the large logit scales make a head that forgets them visibly wrong
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", COMMON | {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2Config", {k: v for k, v in COMMON.items() if k != "head_dim"}),
    "gemma2": ("Gemma2Config", COMMON | {"final_logit_softcapping": 1.5, "query_pre_attn_scalar": 8}),
    "cohere": ("CohereConfig", {k: v for k, v in COMMON.items() if k != "head_dim"} | {"logit_scale": 0.25}),
    "granite": ("GraniteConfig", {k: v for k, v in COMMON.items() if k != "head_dim"} | {"logits_scaling": 4.0}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt_neox": (
        "GPTNeoXConfig",
        {k: v for k, v in COMMON.items() if k not in ("head_dim", "num_key_value_heads")},
    ),
}


def make_tiny_teacher(
    directory: Path,
    *,
    vocab_size: int = 320,
    architecture: str = "llama",
    context_length: int = 64,
    tokenizer_size: int | None = 300,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a causal language model of random weights, with a tokenizer, and return `directory`.

    Args:
        directory: made where absent.
        vocab_size: columns of the logits; those from `tokenizer_size` on have no token.
        architecture: a key of ARCHITECTURES.
        context_length: longest sequence.
        tokenizer_size: tokens of the tokenizer, from 258 to `vocab_size`; None for no tokenizer.
        seed: of the weights.
        dtype: of the weights as saved.
    """
    import transformers

    class_name, settings = ARCHITECTURES[architecture]
    config = getattr(transformers, class_name)(
        vocab_size=vocab_size,
        max_position_embeddings=context_length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
        initializer_range=0.3,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(directory)
    if tokenizer_size is not None:
        make_tiny_tokenizer(tokenizer_size).save_pretrained(directory)
    return directory


def make_tiny_tokenizer(size: int = 300) -> Any:
    """Return a byte-level BPE tokenizer of `size` tokens: <bos> is 0, <eos> is 1; it takes any text."""
    import tokenizers
    import transformers

    if size < SMALLEST_TOKENIZER:
        raise ValueError(f"a byte-level tokenizer has at least {SMALLEST_TOKENIZER} tokens, not {size}")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([TRAINING_TEXT], trainer)
    made = backend.get_vocab_size()
    if made != size:
        raise ValueError(f"the training text gives {made} tokens, not {size}; ask for fewer")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", model_max_length=64
    )
