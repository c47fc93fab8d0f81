"""What ``flashactor warm --config`` reads out of a model's config.json."""

import json

import pytest

from flashactor import DType, SmArch
from flashactor.cli.model_config import model_requests
from flashactor.errors import FlashAttnError, RequestError, UnsupportedHeadDimError
from flashactor.kernels.select import IMPLEMENTATIONS, choose_kernels
from flashactor.requests import Fa2FwdFp8Request, Fa2FwdRequest, PagedAttentionRequest, VarlenFwdRequest
from flashactor.types import MaskKind, PositionBias

# The fields that matter of the configurations of real models.
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
}
GEMMA2 = {
    "model_type": "gemma2",
    "hidden_size": 2304,
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "torch_dtype": "float16",
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "dtype": "bfloat16",
}
CAUSAL = MaskKind.causal()


@pytest.fixture
def requests_of(tmp_path):
    """The requests of a configuration, which may also be the text of a file."""

    def read(config, dtypes=()):
        path = tmp_path / "config.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return model_requests(path, dtypes)

    return read


def test_fp8_queries_are_dense_alone(requests_of):
    e4m3, *others = requests_of(LLAMA, [DType.F8E4M3, DType.BF16])
    assert (type(e4m3), e4m3.dtype, e4m3.gqa_ratio) == (Fa2FwdFp8Request, DType.F8E4M3, 4)
    assert {kernel.arch for kernel in choose_kernels(e4m3, SmArch.SM89)} == {SmArch.SM89}
    assert masks(others) == [CAUSAL]


def masks(requests):
    assert [type(request) for request in requests] == [
        Fa2FwdRequest,
        VarlenFwdRequest,
        PagedAttentionRequest,
    ] * (len(requests) // 3)
    return [request.mask for request in requests[::3]]


def test_llama(requests_of):
    found = requests_of(LLAMA)
    assert masks(found) == [CAUSAL]
    for request in found:
        assert (request.arch, request.dtype, request.head_dim, request.gqa_ratio) == (
            None,
            DType.BF16,
            128,
            4,
        )
        assert (request.softcap, request.bias, request.operands) == (0.0, PositionBias.NONE, None)


def test_gemma_2_has_a_cap_and_layers_of_both_kinds(requests_of):
    found = requests_of(GEMMA2)
    assert masks(found) == [CAUSAL, MaskKind.sliding_causal(4096)]
    assert {(request.head_dim, request.gqa_ratio, request.softcap) for request in found} == {(256, 2, 50.0)}
    assert {request.dtype for request in found} == {DType.F16}


def test_gpt_oss_has_learned_sinks(requests_of):
    found = requests_of(GPT_OSS)
    assert masks(found) == [CAUSAL, MaskKind.sliding_causal(128)]
    for request in found:
        assert request.operands.sink_logits.shape == (8,)
        assert IMPLEMENTATIONS[0].reasons_against(request, SmArch.SM90A) == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sliding_window": 4096}, [MaskKind.sliding_causal(4096)]),
        ({"sliding_window": None}, [CAUSAL]),
        ({"sliding_window": 4096, "use_sliding_window": False}, [CAUSAL]),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 21}, [CAUSAL, 4096]),
        ({"sliding_window": 64, "max_window_layers": 28, "num_hidden_layers": 28}, [CAUSAL]),
        ({"sliding_window": 64, "max_window_layers": 28, "num_hidden_layers": 32}, [CAUSAL, 64]),
        ({"sliding_window": 64, "max_window_layers": 0, "num_hidden_layers": 28}, [64]),
        ({"sliding_window": 64, "model_type": "qwen2"}, [CAUSAL]),
        ({"model_type": "mistral"}, [4096]),
        ({"model_type": "mistral", "sliding_window": None}, [CAUSAL]),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, [CAUSAL, MaskKind.sliding_causal(512)]),
        ({"sliding_window": 512, "layer_types": ["full_attention"]}, [CAUSAL]),
        ({"sliding_window": 512, "layer_types": ["sliding_attention"]}, [MaskKind.sliding_causal(512)]),
        ({"layer_types": ["linear_attention", "full_attention"]}, [CAUSAL]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_windows(requests_of, fields, expected):
    wanted = [MaskKind.sliding_causal(mask) if isinstance(mask, int) else mask for mask in expected]
    assert masks(requests_of({**LLAMA, **fields})) == wanted


HALF = {"torch_dtype": "float16"}


@pytest.mark.parametrize(
    ("config", "head_dim", "gqa_ratio"),
    [
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560}}, 256, 2),
        (
            {
                "model_type": "gemma3",
                "text_config": {
                    "model_type": "gemma3_text",
                    "hidden_size": 5376,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 16,
                    "head_dim": 128,
                },
            },
            128,
            2,
        ),
        (
            {
                "model_type": "falcon",
                "hidden_size": 4544,
                "num_attention_heads": 71,
                "num_kv_heads": 71,
                "multi_query": True,
                "new_decoder_architecture": False,
            },
            64,
            71,
        ),
        (
            {
                "model_type": "falcon",
                "hidden_size": 8192,
                "num_attention_heads": 128,
                "num_kv_heads": 8,
                "multi_query": True,
                "new_decoder_architecture": True,
            },
            64,
            16,
        ),
        ({"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8}, 64, 16),
        (
            {
                "model_type": "chatglm",
                "hidden_size": 4096,
                "kv_channels": 128,
                "num_attention_heads": 32,
                "multi_query_attention": True,
                "multi_query_group_num": 2,
            },
            128,
            16,
        ),
        (
            {
                "model_type": "chatglm",
                "hidden_size": 4096,
                "num_attention_heads": 32,
                "multi_query_attention": False,
                "multi_query_group_num": 2,
            },
            128,
            1,
        ),
        ({"model_type": "gpt2", "n_embd": 768, "n_head": 12}, 64, 1),
        ({"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48}, 128, 48),
        ({"model_type": "gpt_bigcode", "n_embd": 6144, "n_head": 48, "multi_query": False}, 128, 1),
        ({"model_type": "bloom", "n_embed": 1024, "n_head": 16}, 64, 1),
        ({"model_type": "mpt", "d_model": 4096, "n_heads": 32, "attn_config": {"alibi": True}}, 128, 1),
        (
            {
                "model_type": "mpt",
                "d_model": 4096,
                "n_heads": 32,
                "attn_config": {"attn_type": "multiquery_attention"},
            },
            128,
            32,
        ),
        (
            {
                "model_type": "dbrx",
                "d_model": 6144,
                "n_heads": 48,
                "attn_config": {"model_type": "", "kv_n_heads": 8},
            },
            128,
            6,
        ),
        ({"model_type": "mistral", "hidden_size": 4096}, 128, 4),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_heads_by_other_names_and_by_default(requests_of, config, head_dim, gqa_ratio):
    found = requests_of({**HALF, **config})
    assert {(request.head_dim, request.gqa_ratio) for request in found} == {(head_dim, gqa_ratio)}


def test_gemma_3_has_layers_of_both_kinds(requests_of):
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "sliding_window": 1024}
    found = requests_of({"model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16"})
    assert masks(found) == [CAUSAL, MaskKind.sliding_causal(1024)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "bloom"}, PositionBias.ALIBI),
        ({"model_type": "mpt"}, PositionBias.ALIBI),
        ({"model_type": "mpt", "attn_config": {"alibi": True}}, PositionBias.ALIBI),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, PositionBias.NONE),
        ({"model_type": "falcon", "alibi": False}, PositionBias.NONE),
        ({"position_embedding_type": "alibi"}, PositionBias.ALIBI),
    ],
    ids=str,
)
def test_alibi(requests_of, fields, expected):
    assert {request.bias for request in requests_of({**LLAMA, **fields})} == {expected}


@pytest.mark.parametrize(
    ("fields", "softcap"),
    [
        ({"model_type": "grok-1", "max_attn_value": 30.0}, 30.0),
        ({"attn_logit_softcap": 20}, 20.0),
        ({"attn_logit_cap": 10.0}, 10.0),
        ({"model_type": "gemma2", "sliding_window": None}, 50.0),
        ({"model_type": "gemma2", "attn_logit_softcapping": None}, 0.0),
        ({"final_logit_softcapping": 30.0}, 0.0),
    ],
    ids=str,
)
def test_caps_of_the_logits_of_attention(requests_of, fields, softcap):
    assert {request.softcap for request in requests_of({**LLAMA, **fields})} == {softcap}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, "model_type: got bert, which means an encoder, without a causal mask"),
        ({"model_type": "roberta"}, "without a causal mask"),
        ({"model_type": "their-own", "architectures": ["OwnForMaskedLM"]}, "without a causal mask"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "cross-attention"),
        ({"model_type": "qwen2", "is_causal": False}, "is_causal: got False, which means no causal mask"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "no causal mask"),
        ({"model_type": "paligemma", "text_config": {"model_type": "gemma"}}, "a prefix"),
        ({"model_type": "chatglm", "position_encoding_2d": True}, "a prefix"),
        ({"model_type": "mpt", "attn_config": {"prefix_lm": True}}, "a prefix"),
        ({"model_type": "phi3small", "blocksparse_block_size": 64}, "block-sparse attention"),
        ({"text_config": {"attention_chunk_size": 8192}}, "chunked attention"),
    ],
    ids=str,
)
def test_attention_that_is_not_causal_over_all_keys_or_a_window_is_refused(requests_of, fields, message):
    with pytest.raises(RequestError) as caught:
        requests_of({**LLAMA, **fields})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decoder_of_an_encoders_family_is_causal(requests_of):
    assert masks(requests_of({**LLAMA, "model_type": "bert", "is_decoder": True})) == [CAUSAL]
    assert masks(requests_of({**LLAMA, "attention_chunk_size": None, "is_encoder_decoder": False}))


def test_a_model_of_several_modalities_means_its_language_model(requests_of):
    text = {name: value for name, value in LLAMA.items() if name != "torch_dtype"}
    nested = {"model_type": "llava", "hidden_size": 7, "torch_dtype": "float16", "text_config": text}
    found = requests_of(nested)
    assert {(request.head_dim, request.dtype) for request in found} == {(128, DType.F16)}


def test_heads_of_before_gqa_and_other_dtypes(requests_of):
    plain = {"hidden_size": 768, "num_attention_heads": 12, "alibi": True, "torch_dtype": "float32"}
    found = requests_of(plain, [DType.F16, DType.BF16])
    assert [request.dtype for request in found] == [DType.F16] * 3 + [DType.BF16] * 3
    assert {(request.head_dim, request.gqa_ratio) for request in found} == {(64, 1)}
    assert {request.bias for request in found} == {PositionBias.ALIBI}
    with pytest.raises(RequestError, match="--dtype bf16"):
        requests_of(plain)


def test_latent_attention_has_heads_of_two_sizes(requests_of):
    deepseek = {**LLAMA, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    deepseek |= {"num_key_value_heads": 32}
    found = requests_of({**deepseek, "v_head_dim": 128})
    assert masks(found) == [CAUSAL]
    assert {(request.head_dim, request.head_dim_v, request.gqa_ratio) for request in found} == {(192, 128, 1)}
    (head_dims,) = {choose_kernels(request, SmArch.SM90A)[0].head_dims for request in found}
    assert head_dims == (192, 128)
    with pytest.raises(RequestError, match="v_head_dim: got no such field"):
        requests_of(deepseek)
    with pytest.raises(UnsupportedHeadDimError, match="head_dim: got 300"):
        requests_of({**deepseek, "v_head_dim": 128, "qk_rope_head_dim": 172})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": None}, "num_attention_heads: got no such field"),
        ({"hidden_size": None}, "hidden_size: got no such field"),
        ({"num_attention_heads": 0}, "num_attention_heads: got 0"),
        ({"num_attention_heads": -8}, "num_attention_heads: got -8"),
        ({"num_attention_heads": "32"}, "num_attention_heads"),
        ({"num_attention_heads": True}, "num_attention_heads: got True"),
        ({"num_attention_heads": 32.0}, "num_attention_heads: got 32.0"),
        ({"num_attention_heads": 10**400}, "below"),
        ({"num_attention_heads": 33}, "hidden_size"),
        ({"num_attention_heads": None, "n_head": 0}, "n_head: got 0"),
        ({"num_key_value_heads": None, "num_kv_heads": 5}, "num_kv_heads: got 5"),
        ({"sliding_window": 4, "max_window_layers": -1}, "max_window_layers: got -1"),
        ({"max_attn_value": 0}, "max_attn_value: got 0"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: got 5"),
        ({"head_dim": [128]}, "head_dim"),
        ({"sliding_window": 0}, "sliding_window: got 0"),
        ({"sliding_window": "wide"}, "sliding_window"),
        ({"layer_types": ["sliding_attention"]}, "sliding_window: got no such field"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"layer_types": [1]}, "layer_types"),
        ({"layer_types": []}, "no layer with attention"),
        ({"layer_types": ["chunked_attention"]}, "chunked_attention"),
        ({"layer_types": ["mamba"]}, "no layer with attention"),
        ({"attn_logit_softcapping": "much"}, "attn_logit_softcapping"),
        ({"attn_logit_softcapping": -1.0}, "attn_logit_softcapping"),
        ({"attn_logit_softcapping": float("nan")}, "attn_logit_softcapping"),
        ({"attn_logit_softcapping": True}, "attn_logit_softcapping"),
        ({"torch_dtype": None}, "torch_dtype: got no such field"),
        ({"torch_dtype": "int8"}, "int8"),
        ({"torch_dtype": ["bfloat16"]}, "torch_dtype"),
        ({"model_type": ["llama"], "head_dim": 100}, "head_dim: got 100"),
        ({"model_type": "gpt_oss", "head_dim": 100}, "head_dim: got 100"),
        ({"head_dim": 512}, "head_dim: got 512"),
        ({"kv_lora_rank": 512}, "qk_nope_head_dim"),
    ],
    ids=str,
)
def test_absurd_values(requests_of, fields, message):
    with pytest.raises(FlashAttnError) as caught:
        requests_of({**LLAMA, **fields})
    assert message in str(caught.value)
    assert isinstance(caught.value, RequestError | UnsupportedHeadDimError)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"x"',
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "\x00",
        '{"text_config": 3}',
    ],
    ids=lambda text: text[:8],
)
def test_what_is_no_configuration(requests_of, text):
    with pytest.raises(RequestError):
        requests_of(text)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(RequestError):
        model_requests(tmp_path)
