"""What the families of models call the fields of their config.json, leave out of it, and do otherwise."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

FULL, SLIDING = "full_attention", "sliding_attention"
WITHOUT_ATTENTION = frozenset({"linear_attention", "mamba", "conv", "recurrent"})
"""Layer types that call no attention kernel."""

MIXED_MODELS = frozenset({"gemma2", "gemma3", "gemma3_text", "cohere2", "gpt_oss"})
"""Models with full layers between sliding ones, which older configurations of theirs do not spell out."""

MIXED_FIELDS = ("sliding_window_pattern", "_sliding_window_pattern")
"""Fields that only models with layers of both kinds have."""

HEADS = ("num_attention_heads", "n_head", "n_heads")
HEADS_KV = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads")
WIDTH = ("hidden_size", "n_embd", "n_embed", "d_model")
HEAD_DIM = ("head_dim", "kv_channels")
SOFTCAP = ("attn_logit_softcapping", "attn_logit_softcap", "attn_logit_cap", "max_attn_value")
"""What models call one thing; the first that has a value counts."""

ATTN_CONFIG = ("alibi", "attn_type", "kv_n_heads", "prefix_lm")
"""Fields that MPT and DBRX have in an object ``attn_config``."""

# What a config.json leaves out and its class in Hugging Face transformers fills in
# (models/*/configuration_*.py); and bloom, whose code always adds ALiBi.
_GEMMA: Config = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096}
_QWEN: Config = {"use_sliding_window": False}
DEFAULTS: dict[str, Config] = {
    "bloom": {"alibi": True},
    "falcon": {"multi_query": True},
    "gemma": {"head_dim": 256},
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 50.0},
    "gemma3": _GEMMA,
    "gemma3_text": _GEMMA,
    "gpt_bigcode": {"multi_query": True},
    "mistral": {"num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": 4096},
    "mpt": {"alibi": True},
    "qwen2": _QWEN,
    "qwen2_moe": _QWEN,
    "qwen3": _QWEN,
    "qwen3_moe": _QWEN,
}

ENCODERS = frozenset(
    {
        "big_bird",
        "electra",
        "ernie",
        "esm",
        "longformer",
        "mpnet",
        "new",
        "nystromformer",
        "roformer",
        "xlnet",
    }
)
"""Models without a causal mask, unless they say ``is_decoder``; so are all with ``bert`` in their names."""

_PREFIX = "a prefix whose tokens see each other"
OTHER_ATTENTION: tuple[tuple[str, object, str], ...] = (
    ("is_encoder_decoder", True, "an encoder without a causal mask, and cross-attention to it"),
    ("is_causal", False, "no causal mask"),
    ("use_bidirectional_attention", True, "no causal mask"),
    ("model_type", "paligemma", _PREFIX),
    ("position_encoding_2d", True, _PREFIX),  # chatglm-6b
    ("prefix_lm", True, _PREFIX),
    ("attention_type", "block_sparse", "block-sparse attention"),
)
"""Fields whose value means attention that is not causal over all keys or a window: field, value, why."""

OTHER_PREFIXES = (("blocksparse_", "block-sparse attention"), ("attention_chunk_size", "chunked attention"))
"""What the names of fields begin with that mean the same whatever their value, unless it is null."""
