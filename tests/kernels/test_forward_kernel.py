"""The forward kernels in the emulator: equal bits whatever else is in a batch, and offsets of 64 bits."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from contraction import contracted_ptx

from flashactor import (
    Fa2FwdRequest,
    MaskKind,
    PagedAttentionRequest,
    SmArch,
    VarlenFwdRequest,
)
from flashactor.executors.emulator import emulate, kernel_ptx
from flashactor.executors.operands import with_outputs
from flashactor.kernels.select import choose_family
from flashactor.kernels.splits import MULTIPROCESSORS

BF16 = ml_dtypes.bfloat16
HEADS, HEADS_KV, HEAD_DIM = 2, 1, 64
PAGE = 16
SINKS = np.array([1.5, 3.0], np.float32)


def compute(request, ptx=kernel_ptx):
    """out and lse of a request, by the kernels of its architecture."""
    arrays, arch = with_outputs(request, request.arrays()), request.arch or SmArch.SM80
    emulate(request, arch, choose_family(request, arch), arrays, ptx=ptx)
    return arrays["out"].to_numpy(), arrays["lse"].to_numpy()


def sequence(seqlen_q, seqlen_k, seed):
    """q, k and v of one sequence, ``[rows, heads, head_dim]``.

    Numbers of few bits: the emulator sums a product in an order that depends on the row's place in the matrix
    (a tensor core does not), so sums must be exact.
    """
    rng = np.random.default_rng(seed)
    shapes = (seqlen_q, HEADS), (seqlen_k, HEADS_KV), (seqlen_k, HEADS_KV)
    return tuple((rng.integers(-8, 9, (*shape, HEAD_DIM)) / 4).astype(BF16) for shape in shapes)


def dense(sequences, **options):
    """out and lse of each sequence, all of one length, computed in one batch."""
    q, k, v = (np.stack(x) for x in zip(*sequences, strict=True))
    out, lse = compute(Fa2FwdRequest.from_arrays(q, k, v, **options))
    return list(zip(out, lse, strict=True))


def packed(sequences, **options):
    """The same for sequences of any lengths."""
    q, k, v = (np.concatenate(x) for x in zip(*sequences, strict=True))
    cu_q, cu_k = (offsets([len(s[i]) for s in sequences]) for i in (0, 1))
    out, lse = compute(VarlenFwdRequest.from_arrays(q, k, v, cu_q, cu_k, **options))
    return [(out[a:b], lse[:, a:b]) for a, b in itertools.pairwise(cu_q)]


def paged(sequences, *, pack=False, spare=0, **options):
    """The same for keys in pages, which are dealt out backwards."""
    pages = [-(-len(k) // PAGE) for _, k, _ in sequences]
    table = np.zeros((len(sequences), max(pages) + spare), np.int32)
    caches = [np.zeros((sum(pages) + 1, PAGE, HEADS_KV, HEAD_DIM), BF16) for _ in "kv"]
    free = sum(pages)
    for row, (sequence_, count) in enumerate(zip(sequences, pages, strict=True)):
        for page in range(count):
            table[row, page] = free
            for cache, x in zip(caches, sequence_[1:], strict=True):
                part = x[page * PAGE : (page + 1) * PAGE]
                cache[free, : len(part)] = part
            free -= 1
    lens = np.array([len(k) for _, k, _ in sequences], np.int32)
    queries = [q for q, _, _ in sequences]
    if pack:
        cu_q = offsets([len(q) for q in queries])
        request = PagedAttentionRequest.from_arrays(
            np.concatenate(queries), *caches, table, lens, cu_seqlens_q=cu_q, **options
        )
        out, lse = compute(request)
        return [(out[a:b], lse[:, a:b]) for a, b in itertools.pairwise(cu_q)]
    out, lse = compute(PagedAttentionRequest.from_arrays(np.stack(queries), *caches, table, lens, **options))
    return list(zip(out, lse, strict=True))


def paged_packed(sequences, **options):
    return paged(sequences, pack=True, **options)


def offsets(lengths):
    return np.cumsum([0, *lengths], dtype=np.int32)


def bits(result):
    return [np.ascontiguousarray(x).view(f"u{x.itemsize}") for x in result]


def same_bits(one, other):
    return all(np.array_equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


INVARIANT = {"batch_invariant": True, "softmax_scale": 1 / 16}
OPTIONS = {
    "causal": {"mask": MaskKind.causal()},
    "sinks": {"sink_logits": SINKS},
    "window": {"mask": MaskKind.sliding(150, 0), "sink_tokens": 5},
}


@pytest.fixture
def short_splits(monkeypatch):
    """Sequences of several splits need not be long."""
    monkeypatch.setattr("flashactor.kernels.splits.INVARIANT_KEYS_PER_SPLIT", 128)


@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("length", [(70, 300), (3, 300), (2, 60)], ids=str)
@pytest.mark.parametrize("many", [dense, packed, paged, paged_packed], ids=lambda many: many.__name__)
def test_a_sequence_has_the_same_bits_alone_and_in_any_company(many, length, options):
    require_the_same_bits(many, length, options)


@pytest.mark.usefixtures("short_splits")
@pytest.mark.parametrize(
    ("many", "length", "option"),
    [(packed, (70, 300), "causal"), (paged_packed, (3, 300), "sinks"), (dense, (2, 60), "window")],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_on_hopper_too(many, length, option):
    require_the_same_bits(many, length, {**OPTIONS[option], "arch": SmArch.SM90A})


def require_the_same_bits(many, length, options):
    """Compute a sequence alone, first, last, beside longer ones."""
    target, *others = (sequence(*length, seed) for seed in range(3))
    options = {**INVARIANT, **options}
    (alone,) = many([target], **options)
    first, second, _ = many([target, *others], **options)
    assert same_bits(first, alone)
    assert not same_bits(second, alone)
    assert same_bits(many([others[1], target], **options)[1], alone)
    if many is not dense:
        more_keys = sequence(length[0], length[1] + 300, 9)  # more splits than the sequence itself needs
        assert same_bits(many([more_keys, target], **options)[1], alone)
    if many in (packed, paged_packed):
        more_of_both = sequence(length[0] + 130, length[1] + 130, 10)
        assert same_bits(many([more_of_both, target], **options)[1], alone)


def test_products_that_are_fused_with_differences_change_no_invariance():
    """At a scale that is no power of two, a maximum that stays must not change what is accumulated."""
    target, other = sequence(70, 400, 0), sequence(200, 430, 10)
    options = {
        "batch_invariant": True,
        "softmax_scale": 0.7,
        "mask": MaskKind.sliding(150, 0),
        "sink_tokens": 5,
    }

    def lse_of_the_last(*sequences):
        q, k, v = (np.concatenate(x) for x in zip(*sequences, strict=True))
        cu_q, cu_k = (offsets([len(s[i]) for s in sequences]) for i in (0, 1))
        request = VarlenFwdRequest.from_arrays(q, k, v, cu_q, cu_k, **options)
        return compute(request, contracted_ptx)[1][:, -len(target[0]) :]

    assert np.array_equal(lse_of_the_last(target), lse_of_the_last(other, target))


@pytest.mark.usefixtures("short_splits")
def test_long_prefills_have_the_same_bits_dense_and_packed():
    target = sequence(130, 300, 0)
    assert same_bits(dense([target], **INVARIANT)[0], packed([target], **INVARIANT)[0])


@pytest.mark.usefixtures("short_splits")
def test_room_for_more_pages_changes_no_bit():
    target = sequence(3, 300, 0)
    few, many = (paged([target], spare=spare, **INVARIANT)[0] for spare in (0, 40))
    assert same_bits(few, many)


@pytest.mark.usefixtures("short_splits")
def test_learned_sinks_join_at_the_same_step_whatever_the_splits():
    """A sink that is added to one split's sum rounds otherwise than one that is added to the merged sum."""
    targets = [sequence(16, 60, seed) for seed in range(40)]
    options = {**INVARIANT, "sink_logits": SINKS}
    few, many = (paged(targets, spare=spare, **options) for spare in (0, 20))
    assert all(map(same_bits, few, many))


def test_without_the_option_the_batch_decides(monkeypatch):
    """So that the tests above could fail: here company changes the number of splits, and with it bits."""
    monkeypatch.setitem(MULTIPROCESSORS, SmArch.SM80, 2)
    target, *others = (sequence(8, 600, seed) for seed in range(8))
    for options, is_same in (INVARIANT, True), ({"softmax_scale": 1 / 16}, False):
        (alone,) = dense([target], **options)
        assert same_bits(dense([target, *others], **options)[0], alone) is is_same


FAR = 2**31 + 2**20
"""Elements from one entry to the next: more than an int counts."""


def far(array, axis):
    """A copy of an array of two entries along an axis, the second one FAR behind the first.

    No memory stands behind what lies between.
    """
    strides = list(array.strides)
    strides[axis] = FAR * array.itemsize
    reach = FAR + array.size
    view = np.lib.stride_tricks.as_strided(np.zeros(reach, array.dtype), array.shape, strides)
    view[...] = array
    return view


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["batch", "row", "head"])
def test_offsets_beyond_32_bits(name, axis):
    require_far_offsets(name, axis)


@pytest.mark.parametrize(("name", "axis"), [("q", 2), ("k", 1), ("v", 0), ("out", 0)])
def test_offsets_beyond_32_bits_on_hopper(name, axis):
    require_far_offsets(name, axis, arch=SmArch.SM90A)


def require_far_offsets(name, axis, **options):
    """Compute with an array's parts far from each other, and near."""
    rng = np.random.default_rng(0)
    arrays = {x: rng.standard_normal((2, 2, 2, HEAD_DIM)).astype(BF16) for x in "qkv"}
    arrays["out"] = np.zeros((2, 2, 2, HEAD_DIM), BF16)
    near = [x.copy() for x in compute(Fa2FwdRequest.from_arrays(**arrays, **options))]
    arrays[name] = far(arrays[name], axis)
    assert same_bits(compute(Fa2FwdRequest.from_arrays(**arrays, **options)), near)


def test_pages_beyond_32_bits():
    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, 1, HEADS, HEAD_DIM)).astype(BF16)
    caches = [rng.standard_normal((2, PAGE, HEADS_KV, HEAD_DIM)).astype(BF16) for _ in "kv"]
    table, lens = np.array([[1, 0]], np.int32), np.array([PAGE + 5], np.int32)
    near, distant = (
        compute(PagedAttentionRequest.from_arrays(q, *pool, table, lens))
        for pool in (caches, [far(cache, 0) for cache in caches])
    )
    assert same_bits(near, distant)
