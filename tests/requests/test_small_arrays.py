"""Small arrays that kernels read element after element are contiguous; scales may be strided."""

import ml_dtypes
import numpy as np
import pytest
from request_arrays import chunked, dense, fp8, ints, on_device, packed, paged

from flashactor import (
    ChunkedPrefillRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    PagedAttentionRequest,
    VarlenFwdRequest,
)
from flashactor.errors import OperandError

LONGEST = {"max_seqlen_q": 6, "max_seqlen_k": 6}
FLOATS = np.ones(8, np.float32)
CASES = [
    (Fa2FwdRequest, dense(), "alibi_slopes", FLOATS),
    (Fa2FwdRequest, dense(), "alibi_slopes", np.ones((2, 8), np.float32)),
    (Fa2FwdRequest, dense(), "sink_logits", FLOATS),
    (VarlenFwdRequest, packed(**LONGEST), "cu_seqlens_q", ints(0, 4, 4, 10)),
    (VarlenFwdRequest, packed(**LONGEST), "cu_seqlens_k", ints(0, 5, 6, 12)),
    (VarlenFwdRequest, packed(**LONGEST), "seqused_q", ints(4, 0, 6)),
    (VarlenFwdRequest, packed(**LONGEST), "seqused_k", ints(1, 0, 6)),
    (PagedAttentionRequest, paged(), "seq_lens", ints(20, 16)),
    (PagedAttentionRequest, paged(), "page_table", ints(3, 1, 9, 2).reshape(2, 2)),
    (ChunkedPrefillRequest, chunked(), "prefix_lens", ints(12, 0)),
]


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize(("request_type", "arguments", "name", "array"), CASES, ids=[c[2] for c in CASES])
def test_a_last_stride_of_1(request_type, arguments, name, array, where):
    move = on_device if where == "device" else dict
    spread = np.repeat(array, 2, axis=-1)[..., ::2]
    assert request_type.from_arrays(**move({**arguments, name: array})).arrays()[name].strides[-1] == 1
    with pytest.raises(OperandError, match="expected a last stride of 1") as caught:
        request_type.from_arrays(**move({**arguments, name: spread}))
    assert caught.value.field == f"{name}.strides"


def test_what_may_be_strided():
    rows = np.ones((4, 8), np.float32)[::2]
    assert Fa2FwdRequest.from_arrays(**dense(alibi_slopes=rows)).operands.alibi_slopes.strides == (16, 1)
    scale = np.ones(4, np.float32)[::2]
    assert Fa2FwdFp8Request.from_arrays(**fp8(k_scale=scale)).k_scale.strides == (2,)
    cache = {name: np.zeros((10, 16, 2, 64), ml_dtypes.float8_e5m2) for name in ("k_cache", "v_cache")}
    assert PagedAttentionRequest.from_arrays(**paged(**cache, v_scale=scale)).v_scale.strides == (2,)
