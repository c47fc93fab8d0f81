// Causal attention in the manner of FlashAttention-3, small enough to read: the emulator's tests run it, and
// plant faults in it by replacing lines, so every line that a fault replaces is unique.
//
// A block is three warpgroups. Warpgroup 0 loads: Q once, then tiles of K and V through a ring of two stages.
// Warpgroups 1 and 2 own 64 rows of Q each; S = Q K^T comes from shared memory, O += P V takes P from registers.
// While the scores of a tile are turned into weights, the product of the tile before runs.

#define INFINITY __int_as_float(0x7F800000)

typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(64) TensorMap {
    u64 words[16];
};

constexpr int kKeys = 64, kRows = 128, kStages = 2;
constexpr int kConsumers = 256;
constexpr u32 kTileBytes = 64 * 64 * 2;

// Offsets in shared memory.
constexpr u32 kQ = 0, kK = 2 * kTileBytes, kV = kK + kStages * kTileBytes, kBarriers = kV + kStages * kTileBytes;
constexpr u32 kFullQ = kBarriers, kFullK = kFullQ + 8, kFullV = kFullK + 8 * kStages;
constexpr u32 kEmptyK = kFullV + 8 * kStages, kEmptyV = kEmptyK + 8 * kStages;

__device__ __forceinline__ u32 shared_base() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return static_cast<u32>(__cvta_generic_to_shared(memory));
}

__device__ __forceinline__ void init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
        "again:\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
        "@done bra.uni ready;\n\t"
        "bra.uni again;\n\t"
        "ready:\n\t"
        "}" ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void load(u32 to, const TensorMap* map, u32 barrier, int head, int row, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to), "l"(map), "r"(barrier), "r"(0), "r"(head), "r"(row),
        "r"(batch) : "memory");
}

__device__ __forceinline__ void store(const TensorMap* map, u32 from, int head, int row, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
        "r"(from), "r"(0), "r"(head), "r"(row), "r"(batch) : "memory");
}

// A descriptor with the 128-byte swizzle: eight rows of 128 bytes, then the next eight `stride` bytes on.
__device__ __forceinline__ u64 descriptor(u32 address, u32 stride = 1024, u64 swizzle = 1) {
    return u64((address & 0x3FFFF) >> 4) | u64(1) << 16 | u64(stride >> 4) << 32 | swizzle << 62;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from moving accesses of accumulators across a fence or a wait.
__device__ __forceinline__ void pin(float (&x)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i++) asm volatile("" : "+f"(x[i])::"memory");
}

#define FOUR(x, i) "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3])
#define ACCUMULATORS(x) \
    FOUR(x, 0), FOUR(x, 4), FOUR(x, 8), FOUR(x, 12), FOUR(x, 16), FOUR(x, 20), FOUR(x, 24), FOUR(x, 28)
#define NAMES \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"

__device__ __forceinline__ void multiply_shared(float (&d)[32], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %34, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES ", %32, %33, p, 1, 1, 0, 0;\n\t}"
        : ACCUMULATORS(d) : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiply_registers(float (&d)[32], const u32 (&a)[4], u64 b) {
    asm volatile(
        "{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %37, 0;\n\t"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES ", {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n\t}"
        : ACCUMULATORS(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// S = Q K^T of one tile: four steps of 16 along the head dimension, 32 bytes of each row.
__device__ __forceinline__ void scores(float (&s)[32], u32 q, u32 k) {
    wgmma_fence();  // scores
#pragma unroll
    for (int step = 0; step < 4; step++)
        multiply_shared(s, descriptor(q + 32 * step), descriptor(k + 32 * step), step != 0);
    wgmma_commit();  // scores
}

// O += P V of one tile: four steps of 16 keys, 16 rows of 128 bytes.
__device__ __forceinline__ void weighted(float (&o)[32], const u32 (&p)[4][4], u32 v) {
    wgmma_fence();  // weighted
#pragma unroll
    for (int step = 0; step < 4; step++) multiply_registers(o, p[step], descriptor(v + 2048 * step));
    wgmma_commit();  // weighted
}

struct Row {
    float max = -INFINITY, sum = 0.f;
};

// Scores to weights; the factors by which what was summed so far shrinks.
__device__ __forceinline__ void softmax(
    float (&s)[32], Row (&rows)[2], float (&shrink)[2], float scale, int first_key, int first_row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = rows[half].max;
#pragma unroll
        for (int tile = 0; tile < 8; tile++)
#pragma unroll
            for (int item = 0; item < 2; item++) {
                float& x = s[tile * 4 + half * 2 + item];
                const int key = first_key + tile * 8 + lane % 4 * 2 + item;
                x = key <= first_row + half * 8 ? x * scale : -INFINITY;
                top = fmaxf(top, x);
            }
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFF, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFF, top, 2));
        const float base = top == -INFINITY ? 0.f : top;
        shrink[half] = exp2f(rows[half].max - base);
        float sum = 0.f;
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            float& x = s[tile * 4 + half * 2];
            float& y = s[tile * 4 + half * 2 + 1];
            x = exp2f(x - base);
            y = exp2f(y - base);
            sum += x + y;
        }
        rows[half].max = top;
        rows[half].sum = rows[half].sum * shrink[half] + sum;
    }
}

// The weights in bf16, where the A operand of a wgmma expects them. The product before must have been waited
// for: ptxas keeps this operand in the same registers.
__device__ __forceinline__ void to_operand(const float (&s)[32], u32 (&p)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; i++) p[i / 4][i % 4] = pack(s[2 * i], s[2 * i + 1]);
}

extern "C" __global__ void __launch_bounds__(384, 1) attention(
    const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k,
    const __grid_constant__ TensorMap map_v, const __grid_constant__ TensorMap map_o, int group, float scale) {
    const u32 base = shared_base();
    const int first_row = (gridDim.x - 1 - blockIdx.x) * kRows, head = blockIdx.y, batch = blockIdx.z;
    const int tiles = first_row / kKeys + kRows / kKeys;
    const int warpgroup = __shfl_sync(0xFFFFFFFF, threadIdx.x / 128, 0);

    if (threadIdx.x == 0) {
        init(base + kFullQ, 1);
        for (int stage = 0; stage < kStages; stage++) {
            init(base + kFullK + 8 * stage, 1);
            init(base + kFullV + 8 * stage, 1);
            init(base + kEmptyK + 8 * stage, kConsumers);
            init(base + kEmptyV + 8 * stage, kConsumers);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();  // after init

    if (warpgroup == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) {
            const int head_kv = head / group;
            expect(base + kFullQ, 2 * kTileBytes);
            load(base + kQ, &map_q, base + kFullQ, head, first_row, batch);
            load(base + kQ + kTileBytes, &map_q, base + kFullQ, head, first_row + 64, batch);
#pragma unroll 1
            for (int tile = 0; tile < tiles; tile++) {
                const u32 stage = tile % kStages, parity = tile / kStages % 2;
                wait(base + kEmptyK + 8 * stage, parity ^ 1);
                expect(base + kFullK + 8 * stage, kTileBytes);
                load(base + kK + stage * kTileBytes, &map_k, base + kFullK + 8 * stage, head_kv, tile * kKeys, batch);
                wait(base + kEmptyV + 8 * stage, parity ^ 1);
                expect(base + kFullV + 8 * stage, kTileBytes);
                load(base + kV + stage * kTileBytes, &map_v, base + kFullV + 8 * stage, head_kv, tile * kKeys, batch);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");

    const int consumer = warpgroup - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const u32 q = base + kQ + consumer * kTileBytes;
    const int row = first_row + consumer * 64 + warp * 16 + lane / 4;
    float o[32], s[32], shrink[2];
    u32 p[4][4];
    Row rows[2];
#pragma unroll
    for (int i = 0; i < 32; i++) o[i] = 0.f;

    wait(base + kFullQ, 0);
    wait(base + kFullK, 0);  // first
    pin(s);
    scores(s, q, base + kK);
    wgmma_wait<0>();  // first
    pin(s);
    arrive(base + kEmptyK);  // first
    softmax(s, rows, shrink, scale, 0, row);
    to_operand(s, p);

    for (int tile = 1; tile < tiles; tile++) {
        const u32 stage = tile % kStages, parity = tile / kStages % 2;
        const u32 before = (tile - 1) % kStages, before_parity = (tile - 1) / kStages % 2;
        wait(base + kFullK + 8 * stage, parity);
        pin(s);
        scores(s, q, base + kK + stage * kTileBytes);
        wait(base + kFullV + 8 * before, before_parity);
        pin(o);
        weighted(o, p, base + kV + before * kTileBytes);
        wgmma_wait<1>();  // scores
        pin(s);
        arrive(base + kEmptyK + 8 * stage);
        softmax(s, rows, shrink, scale, tile * kKeys, row);
        wgmma_wait<0>();  // weighted
        pin(o);
        arrive(base + kEmptyV + 8 * before);
#pragma unroll
        for (int i = 0; i < 32; i++) o[i] *= shrink[i / 2 % 2];
        to_operand(s, p);
    }
    const u32 last = (tiles - 1) % kStages, last_parity = (tiles - 1) / kStages % 2;
    wait(base + kFullV + 8 * last, last_parity);
    pin(o);
    weighted(o, p, base + kV + last * kTileBytes);
    wgmma_wait<0>();  // last
    pin(o);

    // The rows of Q that this warpgroup has read become its rows of O, in the same swizzle.
    asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");  // all have read Q
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = rows[half].sum;
        sum += __shfl_xor_sync(0xFFFFFFFF, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFF, sum, 2);
        const float factor = sum > 0.f ? 1.f / sum : 0.f;
        const u32 line = q + (warp * 16 + half * 8 + lane / 4) * 128;
#pragma unroll
        for (int tile = 0; tile < 8; tile++) {
            const u32 both = pack(o[tile * 4 + half * 2] * factor, o[tile * 4 + half * 2 + 1] * factor);
            const u32 chunk = (tile ^ (lane / 4)) * 16;
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(line + chunk + lane % 4 * 4), "r"(both) : "memory");
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(consumer + 1) : "memory");  // all have written O
    if (threadIdx.x % 128 == 0) {
        store(&map_o, q, head, first_row + consumer * 64, batch);
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}
