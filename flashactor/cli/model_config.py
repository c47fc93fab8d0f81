"""From a Hugging Face ``config.json`` to the attention requests that inference of the model makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashactor.cli.options import reject
from flashactor.errors import RequestError
from flashactor.requests import AttentionRequest, Fa2FwdRequest, PagedAttentionRequest, VarlenFwdRequest
from flashactor.requests.bare import bare_request
from flashactor.types import DType, MaskKind, PositionBias, is_count

Config = dict[str, Any]

INFERENCE_TYPES: tuple[type[AttentionRequest], ...] = (
    Fa2FwdRequest,
    VarlenFwdRequest,
    PagedAttentionRequest,
)
"""Dense prefill, packed prefill and decode over a paged cache."""

LARGEST_COUNT = 1 << 31
"""No field counts so much; and a kernel's sizes are 32 bits."""

FULL, SLIDING = "full_attention", "sliding_attention"
WITHOUT_ATTENTION = frozenset({"linear_attention", "mamba", "conv", "recurrent"})
"""Layer types that call no attention kernel."""

MIXED_MODELS = frozenset({"gemma2", "gemma3", "gemma3_text", "cohere2", "gpt_oss"})
"""Models with full layers between sliding ones, which older configurations of theirs do not spell out."""

MIXED_FIELDS = ("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers")
"""Fields that only models with layers of both kinds have."""


def model_requests(path: Path, dtypes: Sequence[DType] = ()) -> list[AttentionRequest]:
    """The bare requests that a model's inference makes, without an architecture.

    Args:
        path: a ``config.json``, or the folder that holds one.
        dtypes: element types to use instead of the model's.

    Raises:
        RequestError: the file is no configuration, or one of a model whose attention is another.
        DispatchError: a head_dim that no kernel takes.
        OSError: it cannot be read.
    """
    config = _read(path / "config.json" if path.is_dir() else path)
    _refuse_latent_attention(config)
    heads = _count(config, "num_attention_heads")
    fields: dict[str, Any] = {
        "head_dim": _head_dim(config, heads),
        "gqa_ratio": _gqa_ratio(config, heads),
        "softcap": _softcap(config),
        "bias": PositionBias.ALIBI if config.get("alibi") is True else PositionBias.NONE,
        "sink_logits": config.get("model_type") == "gpt_oss",
    }
    return [
        bare_request(request_type, arch=None, dtype=dtype, mask=mask, **fields)
        for dtype in (dtypes or [_dtype(config)])
        for mask in _masks(config)
        for request_type in INFERENCE_TYPES
    ]


def _read(path: Path) -> Config:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _wrong(str(path), f"{type(error).__name__}: {error}", "a JSON file") from error
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        # A model of several modalities: the language model is what its kernels are for. What it does not say
        # of its own, such as the dtype, is said for all.
        config = {**config, **config["text_config"]}
    if not isinstance(config, dict):
        raise _wrong(str(path), type(config).__name__, "a JSON object, as Hugging Face models have")
    return config


def _refuse_latent_attention(config: Config) -> None:
    if config.get("kv_lora_rank") is None:
        return
    qk = _count(config, "qk_nope_head_dim") + _count(config, "qk_rope_head_dim")
    v = _count(config, "v_head_dim")
    if v != qk:
        raise RequestError(
            field="v_head_dim",
            got=f"{v}, with {qk} of q and k (multi-head latent attention)",
            expected="heads of one size: no kernel here computes latent attention",
            remedy="use another model",
        )


def _head_dim(config: Config, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _count(config, "head_dim")
    hidden = _count(config, "hidden_size")
    if hidden % heads:
        raise _wrong("hidden_size", hidden, f"a multiple of num_attention_heads, {heads}, or a head_dim")
    return hidden // heads


def _gqa_ratio(config: Config, heads: int) -> int:
    if config.get("num_key_value_heads") is None:  # multi-head attention, from before there was another
        return 1
    heads_kv = _count(config, "num_key_value_heads")
    if heads % heads_kv:
        raise _wrong("num_key_value_heads", heads_kv, f"a divisor of num_attention_heads, {heads}")
    return heads // heads_kv


def _dtype(config: Config) -> DType:
    name = config.get("dtype") or config.get("torch_dtype")
    dtype = DType.parse(name.removeprefix("torch.")) if name in _SIXTEEN_BIT else None
    if dtype is None:
        raise RequestError(
            field="torch_dtype",
            got="no such field" if name is None else repr(name),
            expected="float16 or bfloat16",
            remedy="say in what type the model runs: --dtype bf16",
        )
    return dtype


_SIXTEEN_BIT = ("float16", "bfloat16", "torch.float16", "torch.bfloat16")


def _masks(config: Config) -> list[MaskKind]:
    """The causal masks of the layers, each once."""
    kinds = _layer_kinds(config)
    masks = [MaskKind.causal()] if FULL in kinds else []
    if SLIDING in kinds:
        masks.append(MaskKind.sliding_causal(_count(config, "sliding_window")))
    return masks


def _layer_kinds(config: Config) -> set[str]:
    layer_types = config.get("layer_types")
    if layer_types is not None:
        if not isinstance(layer_types, list) or not all(isinstance(kind, str) for kind in layer_types):
            raise _wrong("layer_types", repr(layer_types)[:80], "a list of names")
        kinds = set(layer_types) - WITHOUT_ATTENTION
        if not kinds or kinds - {FULL, SLIDING}:
            odd = ", ".join(sorted(kinds - {FULL, SLIDING})) or "no layer with attention"
            raise _wrong("layer_types", odd, f"{FULL} or {SLIDING}")
        return kinds
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return {FULL}
    mixed = str(config.get("model_type")) in MIXED_MODELS or any(map(config.get, MIXED_FIELDS))
    return {FULL, SLIDING} if mixed else {SLIDING}


def _softcap(config: Config) -> float:
    softcap = config.get("attn_logit_softcapping")
    if softcap is None:
        return 0.0
    if isinstance(softcap, bool) or not isinstance(softcap, int | float) or not 0 < softcap < LARGEST_COUNT:
        raise _wrong("attn_logit_softcapping", repr(softcap)[:80], "a positive number or null")
    return float(softcap)


def _count(config: Config, name: str) -> int:
    value = config.get(name)
    if value is None:
        raise _wrong(name, "no such field", "a positive integer")
    if not is_count(value, 1) or value >= LARGEST_COUNT:
        raise _wrong(name, repr(value)[:80], f"a positive integer below {LARGEST_COUNT}")
    return int(value)


def _wrong(field: str, got: object, expected: str) -> RequestError:
    return reject(field, got, expected, "name the config.json of a model with attention, and correct it")
