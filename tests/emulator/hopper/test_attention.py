"""A whole kernel in the manner of FlashAttention-3, under every schedule."""

import re

import numpy as np
import pytest
from attention_kernel import FOLDER, Source, attend, sound_ptx, tensors

from flashactor.compiler.nvrtc import compile_cubin
from flashactor.reference import AttentionParams, forward


@pytest.mark.parametrize(
    ("batch", "heads", "heads_kv", "length", "options"),
    [
        (2, 4, 4, 256, {}),
        (1, 2, 1, 384, {"schedule": "all", "races": True}),
        (1, 1, 1, 128, {"schedule": "all", "races": True}),
        (2, 1, 1, 256, {"schedule": "random", "seed": 5, "races": True}),
    ],
)
def test_it_attends(batch, heads, heads_kv, length, options):
    q, k, v = tensors(batch, heads, heads_kv, length)
    out, result = attend(sound_ptx(), q, k, v, **options)
    assert result.is_deterministic
    params = AttentionParams(softmax_scale=0.125, window_right=0)
    want, _ = forward(q, k, v, params)
    # Weights and results are rounded to bfloat16, of 8 bits.
    np.testing.assert_allclose(out.astype(np.float64), want, atol=2**-6, rtol=2**-7)


def test_ptxas_accepts_it_without_a_remark():
    """C7510 and its kin, serialised wgmma, would be in the log."""
    compiled = compile_cubin(Source(), root=FOLDER)
    assert compiled.log == ""
    assert compiled.spill_store_bytes == 0
    assert re.search(r"wgmma\.mma_async.*m64n64k16", sound_ptx())
