"""From a Hugging Face ``config.json`` to the attention requests that inference of the model makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashactor.cli.model_families import (
    ATTN_CONFIG,
    DEFAULTS,
    ENCODERS,
    FULL,
    HEAD_DIM,
    HEADS,
    HEADS_KV,
    MIXED_FIELDS,
    MIXED_MODELS,
    OTHER_ATTENTION,
    OTHER_PREFIXES,
    SLIDING,
    SOFTCAP,
    WIDTH,
    WITHOUT_ATTENTION,
    Config,
)
from flashactor.cli.options import reject
from flashactor.errors import RequestError
from flashactor.requests import (
    AttentionRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    PagedAttentionRequest,
    VarlenFwdRequest,
)
from flashactor.requests.bare import bare_request
from flashactor.types import DType, MaskKind, PositionBias, is_count

INFERENCE_TYPES: tuple[type[AttentionRequest], ...] = (
    Fa2FwdRequest,
    VarlenFwdRequest,
    PagedAttentionRequest,
)
"""Dense prefill, packed prefill and decode over a paged cache."""

FP8_TYPES: tuple[type[AttentionRequest], ...] = (Fa2FwdFp8Request,)
"""Dense prefill; fp8 queries are neither packed nor over pages."""

LARGEST_COUNT = 1 << 31
"""No field counts so much; and a kernel's sizes are 32 bits."""


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
    heads = _count(config, *HEADS)
    head_dim, head_dim_v = _head_dims(config, heads)
    fields: dict[str, Any] = {
        "head_dim": head_dim,
        "head_dim_v": head_dim_v,
        "gqa_ratio": _gqa_ratio(config, heads),
        "softcap": _softcap(config),
        "bias": PositionBias.ALIBI if _has_alibi(config) else PositionBias.NONE,
        "sink_logits": config.get("model_type") == "gpt_oss",
    }
    return [
        bare_request(request_type, arch=None, dtype=dtype, mask=mask, **fields)
        for dtype in (dtypes or [_dtype(config)])
        for mask in _masks(config)
        for request_type in (FP8_TYPES if dtype.is_fp8 else INFERENCE_TYPES)
    ]


def _read(path: Path) -> Config:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _wrong(str(path), f"{type(error).__name__}: {error}", "a JSON file") from error
    if not isinstance(config, dict):
        raise _wrong(str(path), type(config).__name__, "a JSON object, as Hugging Face models have")
    _refuse_other_attention(config)
    if isinstance(config.get("text_config"), dict):
        # A model of several modalities: the language model is what its kernels are for. What it does not say
        # of its own, such as the dtype, is said for all.
        config = {**config, **config["text_config"]}
    if isinstance(nested := config.get("attn_config"), dict):
        config = {**{name: nested[name] for name in ATTN_CONFIG if name in nested}, **config}
    config = {**DEFAULTS.get(str(config.get("model_type")), {}), **config}
    _refuse_other_attention(config)
    return config


def _refuse_other_attention(config: Config) -> None:
    for field, value, why in OTHER_ATTENTION:
        if field in config and config[field] == value:
            raise _other_attention(field, value, why)
    for name, value in config.items():
        for prefix, why in OTHER_PREFIXES:
            if name.startswith(prefix) and value is not None:
                raise _other_attention(name, value, why)
    if config.get("is_decoder") is True:
        return
    model_type = str(config.get("model_type"))
    if model_type in ENCODERS or "bert" in model_type:
        raise _other_attention("model_type", model_type, "an encoder, without a causal mask")
    if "ForMaskedLM" in str(config.get("architectures")):
        raise _other_attention("architectures", config["architectures"], "an encoder, without a causal mask")


def _other_attention(field: str, value: object, why: str) -> RequestError:
    return RequestError(
        field=field,
        got=f"{str(value)[:80]}, which means {why}",
        expected="a model whose attention is causal, over all keys or a window",
        remedy="name its kernels without --config, by --head-dim, --dtype and --feature",
    )


def _head_dims(config: Config, heads: int) -> tuple[int, int]:
    """Of q and k, and of v. Multi-head latent attention is meant with its keys and values expanded."""
    if config.get("kv_lora_rank") is None:
        head_dim = _head_dim(config, heads)
        return head_dim, head_dim
    head_dim = _count(config, "qk_nope_head_dim") + _count(config, "qk_rope_head_dim")
    return head_dim, _count(config, "v_head_dim")


def _head_dim(config: Config, heads: int) -> int:
    if _has(config, *HEAD_DIM):
        return _count(config, *HEAD_DIM)
    hidden = _count(config, *WIDTH)
    if hidden % heads:
        raise _wrong(
            _first(config, *WIDTH), hidden, f"a multiple of {_first(config, *HEADS)}, {heads}, or a head_dim"
        )
    return hidden // heads


def _gqa_ratio(config: Config, heads: int) -> int:
    # Falcon of before its new architecture has one head of k and v, and a num_kv_heads that nothing reads.
    one_head = config.get("multi_query") is True and config.get("new_decoder_architecture") is not True
    if one_head or config.get("attn_type") == "multiquery_attention":
        return heads
    names: tuple[str, ...] = HEADS_KV
    if config.get("multi_query_attention") is True:  # ChatGLM, which has a number of groups without it too
        names = (*HEADS_KV, "multi_query_group_num")
    if not _has(config, *names):  # multi-head attention, from before there was another
        return 1
    heads_kv = _count(config, *names)
    if heads % heads_kv:
        raise _wrong(_first(config, *names), heads_kv, f"a divisor of {_first(config, *HEADS)}, {heads}")
    return heads // heads_kv


def _has_alibi(config: Config) -> bool:
    return config.get("alibi") is True or config.get("position_embedding_type") == "alibi"


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
    if config.get("max_window_layers") is not None:
        return _kinds_above(config)
    mixed = str(config.get("model_type")) in MIXED_MODELS or any(map(config.get, MIXED_FIELDS))
    return {FULL, SLIDING} if mixed else {SLIDING}


def _kinds_above(config: Config) -> set[str]:
    """Qwen's first ``max_window_layers`` layers are full, and the rest are not."""
    full = config["max_window_layers"]
    if not is_count(full, 0):
        raise _wrong("max_window_layers", repr(full)[:80], "a number of layers")
    some_slide = not _has(config, "num_hidden_layers") or full < _count(config, "num_hidden_layers")
    return ({FULL} if full else set()) | ({SLIDING} if some_slide else set())


def _softcap(config: Config) -> float:
    if not _has(config, *SOFTCAP):
        return 0.0
    name = _first(config, *SOFTCAP)
    softcap = config[name]
    if isinstance(softcap, bool) or not isinstance(softcap, int | float) or not 0 < softcap < LARGEST_COUNT:
        raise _wrong(name, repr(softcap)[:80], "a positive number or null")
    return float(softcap)


def _first(config: Config, *names: str) -> str:
    """The first name that has a value; the usual one if none has."""
    return next((name for name in names if config.get(name) is not None), names[0])


def _has(config: Config, *names: str) -> bool:
    return config.get(_first(config, *names)) is not None


def _count(config: Config, *names: str) -> int:
    name = _first(config, *names)
    value = config.get(name)
    if value is None:
        raise _wrong(name, "no such field", "a positive integer")
    if not is_count(value, 1) or value >= LARGEST_COUNT:
        raise _wrong(name, repr(value)[:80], f"a positive integer below {LARGEST_COUNT}")
    return int(value)


def _wrong(field: str, got: object, expected: str) -> RequestError:
    return reject(field, got, expected, "name the config.json of a model with attention, and correct it")
