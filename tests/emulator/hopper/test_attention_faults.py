"""Faults planted in the attention kernel: each must be found, and called by its name."""

import pytest
from attention_kernel import attend, faulty_ptx, sound_ptx, tensors

from flashactor.errors import (
    AsyncHazardError,
    BarrierError,
    DataRaceError,
    DeadlockError,
    DivergenceError,
    MemoryAccessError,
    UninitializedReadError,
)

LOAD_K = (
    "load(base + kK + stage * kTileBytes, &map_k, base + kFullK + 8 * stage, head_kv, tile * kKeys, batch);"
)
FENCE_INIT = '        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");\n'
FENCE_PROXY = '    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");\n'
READ_Q = '    asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");  // all have read Q\n'
WRITTEN_O = '    asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");  // all have written O\n'
BULK_WAIT = '        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");\n'
BULK_COMMIT = '        asm volatile("cp.async.bulk.commit_group;" ::: "memory");\n'
EXPECT_K = "expect(base + kFullK + 8 * stage, kTileBytes);"
ARRIVE_V = "        arrive(base + kEmptyV + 8 * before);\n"
WAIT_PRODUCT = "        wgmma_wait<0>();  // weighted\n"

FAULTS = {
    # Waits for the producer.
    "no wait for Q": ("    wait(base + kFullQ, 0);\n", "", DataRaceError),
    "no wait for the first K": ("    wait(base + kFullK, 0);  // first\n", "", UninitializedReadError),
    "no wait for K": ("        wait(base + kFullK + 8 * stage, parity);\n", "", UninitializedReadError),
    "no wait for V": (
        "        wait(base + kFullV + 8 * before, before_parity);\n",
        "",
        DataRaceError,
    ),
    "wrong parity of a full wait": (
        "wait(base + kFullK + 8 * stage, parity);",
        "wait(base + kFullK + 8 * stage, parity ^ 1);",
        UninitializedReadError,
    ),
    # Waits for the consumers.
    "no wait for an empty K": (
        "                wait(base + kEmptyK + 8 * stage, parity ^ 1);\n",
        "",
        BarrierError,
    ),
    "no wait for an empty V": (
        "                wait(base + kEmptyV + 8 * stage, parity ^ 1);\n",
        "",
        BarrierError,
    ),
    "wrong parity of an empty wait": (
        "wait(base + kEmptyK + 8 * stage, parity ^ 1);",
        "wait(base + kEmptyK + 8 * stage, parity);",
        DeadlockError,
    ),
    # Counts.
    "expects too few bytes": (EXPECT_K, EXPECT_K.replace("kTileBytes", "kTileBytes / 2"), DeadlockError),
    "expects too many bytes": (EXPECT_K, EXPECT_K.replace("kTileBytes", "kTileBytes + 16"), DeadlockError),
    "an arrival count too large": (
        "init(base + kEmptyK + 8 * stage, kConsumers);",
        "init(base + kEmptyK + 8 * stage, kConsumers + 1);",
        DeadlockError,
    ),
    "an arrival count too small": (
        "init(base + kEmptyK + 8 * stage, kConsumers);",
        "init(base + kEmptyK + 8 * stage, kConsumers - 1);",
        BarrierError,
    ),
    "no arrival at an empty barrier": (ARRIVE_V, "", DeadlockError),
    # Initialisation.
    "no barrier after the init": ("    __syncthreads();  // after init\n", "", DataRaceError),
    "a barrier that is not initialised": (
        "            init(base + kFullV + 8 * stage, 1);\n",
        "",
        BarrierError,
    ),
    "no fence after the init": (FENCE_INIT, "", AsyncHazardError),
    # Products in flight.
    "frees V before its product is waited for": (
        (WAIT_PRODUCT + "        pin(o);\n" + ARRIVE_V),
        ARRIVE_V + WAIT_PRODUCT + "        pin(o);\n",
        AsyncHazardError,
    ),
    "frees K before its product is waited for": (
        "    wgmma_wait<0>();  // first\n    pin(s);\n    arrive(base + kEmptyK);  // first\n",
        "    arrive(base + kEmptyK);  // first\n    wgmma_wait<0>();  // first\n    pin(s);\n",
        AsyncHazardError,
    ),
    "no wait for the scores": ("        wgmma_wait<1>();  // scores\n", "", AsyncHazardError),
    "waits for one group too few": (WAIT_PRODUCT, WAIT_PRODUCT.replace("<0>", "<1>"), AsyncHazardError),
    "no wait for the last product": ("    wgmma_wait<0>();  // last\n", "", AsyncHazardError),
    "no commit": ("    wgmma_commit();  // weighted\n", "", AsyncHazardError),
    "no fence before the scores": ("    wgmma_fence();  // scores\n", "", AsyncHazardError),
    "no fence before the weighted sum": ("    wgmma_fence();  // weighted\n", "", AsyncHazardError),
    # The epilogue.
    "no proxy fence before the store": (FENCE_PROXY, "", AsyncHazardError),
    "the proxy fence behind the barrier, of another thread": (
        FENCE_PROXY + WRITTEN_O,
        WRITTEN_O + FENCE_PROXY.replace("    asm", "    if (threadIdx.x % 128 == 32) asm"),
        AsyncHazardError,
    ),
    "no barrier before O is written over Q": (READ_Q, "", DataRaceError),
    "no barrier before the store": (WRITTEN_O, "", DataRaceError),
    "one barrier for both warpgroups": (
        WRITTEN_O,
        WRITTEN_O.replace("consumer + 1", "1"),
        BarrierError,
    ),
    "leaves before the store has read": (BULK_WAIT, "", AsyncHazardError),
    "no commit of the store": (BULK_COMMIT, "", AsyncHazardError),
    # Addresses.
    "a load to the wrong stage": (
        LOAD_K,
        LOAD_K.replace("stage * kT", "(stage ^ 1) * kT"),
        UninitializedReadError,
    ),
    "a load on the wrong barrier": (
        LOAD_K,
        LOAD_K.replace("kFullK + 8 * stage", "kFullV + 8 * stage"),
        DeadlockError,
    ),
    "a product of the wrong stage": (
        "scores(s, q, base + kK + stage * kTileBytes);",
        "scores(s, q, base + kK + before * kTileBytes);",
        UninitializedReadError,
    ),
    "a tensor map that is none": (LOAD_K, LOAD_K.replace("&map_k", "&map_k + 16"), MemoryAccessError),
    "a misaligned tile": (LOAD_K, LOAD_K.replace("base + kK", "base + 64 + kK"), MemoryAccessError),
    "a descriptor of another tile": ("u32 stride = 1024,", "u32 stride = 2048,", UninitializedReadError),
    "a descriptor beyond shared memory": (
        "u32 stride = 1024,",
        "u32 stride = 16384,",
        MemoryAccessError,
    ),
    # Who takes part.
    "a warpgroup's instruction in one warp": (
        "    wgmma_wait<0>();  // last\n",
        "    if (warp == 0) wgmma_commit();\n    wgmma_wait<0>();  // last\n",
        DeadlockError,
    ),
    "too few threads at a named barrier": (
        WRITTEN_O,
        "    if (warp != 3) " + WRITTEN_O.lstrip(),
        DeadlockError,
    ),
    "a warp's instruction in one lane": (
        "sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);",
        "if (lane) sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);",
        DivergenceError,
    ),
}

WRONG_RESULTS = {
    "a descriptor's swizzle": ("u64 swizzle = 1)", "u64 swizzle = 2)"),
    "a coordinate": (LOAD_K, LOAD_K.replace("tile * kKeys", "tile * kKeys + 1")),
    "the swizzle of the epilogue": ("(tile ^ (lane / 4)) * 16", "tile * 16"),
    "the head": (LOAD_K, LOAD_K.replace("head_kv", "head_kv ^ 1")),
}
"""Faults that only the results show: every access is one that the kernel may make."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, tmp_path):
    old, new, error = FAULTS[name]
    ptx = faulty_ptx([(old, new)], tmp_path)
    with pytest.raises(error) as caught:
        attend(ptx, *tensors(1, 1, 1, 256), schedule="all", races=True)
    assert type(caught.value) is error
    assert caught.value.at.ptx_line


@pytest.mark.parametrize("name", WRONG_RESULTS)
def test_a_wrong_result_is_seen(name, tmp_path):
    q, k, v = tensors(1, 2, 2, 256)
    right, _ = attend(sound_ptx(), q, k, v)
    wrong, _ = attend(faulty_ptx([WRONG_RESULTS[name]], tmp_path), q, k, v)
    assert abs(wrong.astype(float) - right.astype(float)).max() > 0.1
