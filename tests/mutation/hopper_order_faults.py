"""Faults of order in the Hopper kernels: barriers, phases, asynchronous products, turns, registers."""

from functools import partial

from planted import (
    ASYNC,
    ATTEND,
    BARRIER,
    CONFIG,
    DEADLOCK,
    HOPPER_DECODE,
    HOPPER_KERNEL,
    HOPPER_PTX,
    LOAD,
    ODD,
    ONE_RESIDENT,
    PHASES,
    RACE,
    RING,
    ROLES,
    SMALL_PAGES,
    SPILLS,
    UNWRITTEN,
    at,
    fault,
    in_file,
    in_hopper,
    in_hopper_decode,
)

in_ring, in_attend, in_load = (
    partial(in_hopper_decode, RING),
    partial(in_hopper_decode, ATTEND),
    partial(in_hopper_decode, LOAD),
)
in_products, in_config = partial(in_hopper_decode, HOPPER_KERNEL), partial(in_hopper_decode, CONFIG)

FENCE_INIT = "      fence_mbarrier_init();\n"
SET_UP_FENCE = "    fence_async_shared();\n    __syncthreads();\n"
LEAVES = "    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty() + at.stage * 8);\n"
TURNS = "      stage = 0;\n      phase ^= 1;\n    }\n"
FIRST_KEYS = "    shared.k_ring.wait_full(k_at);\n#pragma unroll 1\n"
VALUES_HAVE_COME = "        shared.value_ring.wait_full(v_at);\n"
EXPECTED_Q = "C::TileQ::kSlabs * p.consumer_rows * C::kSlabRowBytes"

BARRIERS = (
    in_config(
        "a stage counts a departure too few",
        "k_ring.init(1, C::kConsumers * 4);",
        "k_ring.init(1, C::kConsumers * 4 - 1);",
        BARRIER,
    ),
    in_config(
        "a stage counts a departure too many",
        "k_ring.init(1, C::kConsumers * 4);",
        "k_ring.init(1, C::kConsumers * 4 + 1);",
        DEADLOCK,
    ),
    in_config("a tile's arrival counts twice", "k_ring.init(1,", "k_ring.init(2,", DEADLOCK),
    in_config("all lanes are to leave the queries", ".init(1, 4);", ".init(1, 128);", DEADLOCK, ONE_RESIDENT),
    in_ring("all lanes of a warp leave", LEAVES, LEAVES.replace("if (threadIdx.x % 32 == 0) ", ""), BARRIER),
    in_ring("nobody leaves", LEAVES, "", DEADLOCK),
    in_ring(
        "a warp leaves before all of its lanes have read",
        "    __syncwarp();\n" + LEAVES,
        LEAVES,
        RACE,
        races=True,
    ),
    in_config("no barrier after the set-up", SET_UP_FENCE, "    fence_async_shared();\n", RACE, races=True),
    fault(
        "TMA does not see the barriers' initial state",
        ASYNC,
        HOPPER_DECODE,
        PHASES,
        at(CONFIG, FENCE_INIT, ""),
        at(CONFIG, SET_UP_FENCE, "    __syncthreads();\n"),
    ),
    in_load(
        "too few bytes are expected",
        "mbarrier_arrive_expect(barrier, Tile::kBytes)",
        "mbarrier_arrive_expect(barrier, Tile::kBytes / 2)",
        DEADLOCK,
    ),
    in_load(
        "too many bytes are expected",
        "mbarrier_arrive_expect(barrier, Tile::kBytes)",
        "mbarrier_arrive_expect(barrier, Tile::kBytes + 16)",
        DEADLOCK,
    ),
    in_load(
        "every lane of the producer arrives",
        "if (lane == 0) mbarrier_arrive_expect(barrier,",
        "mbarrier_arrive_expect(barrier,",
        BARRIER,
    ),
    in_load("a whole tile of queries is expected", EXPECTED_Q, "C::TileQ::kBytes", DEADLOCK, ODD),
    in_config(
        "the rings of keys and values overlap",
        "v_ring{k_ring.full + Ring<C::kStages>::kBytes}",
        "v_ring{k_ring.full + Ring<C::kStages>::kBytes / 2}",
        BARRIER,
    ),
    in_config(
        "the barriers lie in the last tile",
        "q_rings{base + C::kTileBytes}",
        "q_rings{base + C::kTileBytes - 64}",
        RACE,
        races=True,
    ),
    in_load(
        "values complete the keys' barrier",
        "shared.v_of(v_at), shared.v_ring.full_of(v_at)",
        "shared.v_of(v_at), shared.k_ring.full_of(v_at)",
        BARRIER,
    ),
)
"""Who arrives where, and what is expected."""

PHASES_OF_RINGS = (
    in_ring("the phase does not change", TURNS, TURNS.replace("      phase ^= 1;\n", ""), BARRIER),
    in_ring(
        "the phase changes at every stage", TURNS, "      stage = 0;\n    }\n    phase ^= 1;\n", DEADLOCK
    ),
    in_ring("a ring stays at its first stage", "if (++stage == Stages) {", "if (stage == Stages) {", BARRIER),
    in_ring("a ring is a stage too long", "if (++stage == Stages) {", "if (++stage > Stages) {", ASYNC),
    in_ring("the producer waits as consumers do", "at.phase ^ 1);", "at.phase);", DEADLOCK),
    in_ring(
        "consumers wait as the producer does",
        "mbarrier_wait(full_of(at), at.phase);",
        "mbarrier_wait(full_of(at), at.phase ^ 1);",
        UNWRITTEN,
    ),
    in_load(
        "keys come although their stage is full", "        shared.k_ring.wait_empty(k_at);\n", "", BARRIER
    ),
    in_load(
        "values come although their stage is full", "        shared.v_ring.wait_empty(v_at);\n", "", ASYNC
    ),
    in_load("queries come over results", "    ring.wait_empty(at);\n", "", BARRIER, ONE_RESIDENT),
    in_load("the producer stays at its stage of keys", "        k_at.advance();\n", "", BARRIER),
    in_load("the producer stays at its stage of values", "        v_at.advance();\n", "", BARRIER),
    in_load("the producer stays in the queries' phase", "    q_at.advance();\n", "", BARRIER, ONE_RESIDENT),
    in_attend("no wait for the queries", "    q_ring.wait_full(q_at);\n", "", UNWRITTEN),
    in_attend(
        "no wait for the first keys",
        FIRST_KEYS,
        FIRST_KEYS.replace("    shared.k_ring.wait_full(k_at);\n", ""),
        RACE,
        races=True,
    ),
    in_attend(
        "values are cleared before they have come",
        VALUES_HAVE_COME + "        if",
        "        if",
        ASYNC,
        SMALL_PAGES,
    ),
    in_attend(
        "no wait for the values of a block",
        VALUES_HAVE_COME + "        Products",
        "        Products",
        UNWRITTEN,
    ),
    in_attend(
        "no wait for the next keys",
        "if (block > unit.first || never) shared",
        "if (never) shared",
        UNWRITTEN,
    ),
    in_attend(
        "no wait for the values of the last block",
        "    shared.value_ring.wait_full(v_at);\n    Products",
        "    Products",
        UNWRITTEN,
    ),
    in_attend(
        "a consumer stays at its keys",
        "      shared.k_ring.leave(k_at);\n      k_at.advance();\n",
        "      shared.k_ring.leave(k_at);\n",
        UNWRITTEN,
    ),
    in_attend("a consumer stays at its values", "        v_at.advance();\n", "", UNWRITTEN),
    in_attend("a consumer stays in the queries' phase", "    q_at.advance();\n", "", UNWRITTEN, ONE_RESIDENT),
    in_attend(
        "a consumer waits for keys that do not come",
        "if (block > unit.first || never) shared",
        "if (block >= unit.first || never) shared",
        DEADLOCK,
    ),
    in_attend(
        "the keys of the last but one block are never left",
        "      shared.k_ring.leave(k_at);\n      k_at.advance();\n",
        "      k_at.advance();\n",
        DEADLOCK,
    ),
)
"""Which stage is next, in which phase, and who waits for it."""

WAIT_SCORES = "      wgmma_wait<1>();\n      pin(s[0]);\n"
LEAVE_KEYS = "      shared.k_ring.leave(k_at);\n"
WAIT_VALUES = "      Products::wait_pv(o, sums);\n"
LEAVE_VALUES = "        shared.value_ring.leave(v_at);\n"
RESCALED = "      Products::rescale(o, sums, rescale);\n"
ISSUE_QK, ISSUE_PV = "  pin(s[0]);\n  wgmma_fence();\n", "    pin(o[0]);\n    wgmma_fence();\n"
COMMIT_QK = "step > 0);\n  }\n  wgmma_commit();\n"
COMMIT_PV = "true);\n    }\n    wgmma_commit();\n"

PRODUCTS_IN_FLIGHT = (
    in_attend(
        "keys are left before their product is complete",
        WAIT_SCORES + LEAVE_KEYS,
        LEAVE_KEYS + WAIT_SCORES,
        RACE,
        races=True,
    ),
    fault(
        "values are left before their product is complete",
        ASYNC,
        HOPPER_DECODE,
        PHASES,
        at(ATTEND, WAIT_VALUES, "      if (!begins) shared.value_ring.leave(v_at);\n" + WAIT_VALUES),
        at(ATTEND, LEAVE_VALUES, ""),
        races=True,
    ),
    in_attend("no wait for the scores", WAIT_SCORES, "", ASYNC),
    in_attend(
        "a wait for the scores that leaves both products",
        WAIT_SCORES,
        WAIT_SCORES.replace("<1>", "<2>"),
        ASYNC,
    ),
    in_attend(
        "the first block has one group of products",
        "        wgmma_commit();  // no product",
        "        // no product",
        ASYNC,
    ),
    fault(
        "O is rescaled under its product",
        ASYNC,
        HOPPER_DECODE,
        PHASES,
        at(ATTEND, RESCALED, ""),
        at(ATTEND, WAIT_VALUES, RESCALED + "      pin(o[0]);\n" + WAIT_VALUES),
    ),
    in_products("no wait for P V", "    wgmma_wait<0>();\n", "", ASYNC),
    in_products("a wait for P V that leaves it", "    wgmma_wait<0>();\n", "    wgmma_wait<1>();\n", ASYNC),
    in_attend("no fence before Q K^T", ISSUE_QK, "  pin(s[0]);\n", ASYNC),
    in_products("no fence before P V", ISSUE_PV, "    pin(o[0]);\n", ASYNC),
    in_attend("Q K^T is not committed", COMMIT_QK, COMMIT_QK.replace("  wgmma_commit();\n", ""), ASYNC),
    in_products("P V is not committed", COMMIT_PV, COMMIT_PV.replace("    wgmma_commit();\n", ""), ASYNC),
    in_file(
        HOPPER_PTX,
        "a wait for other groups than it says",
        "wgmma.wait_group.sync.aligned %0;",
        "wgmma.wait_group.sync.aligned 7;",
        ASYNC,
        HOPPER_DECODE,
        PHASES,
    ),
)
"""Products, and the registers and tiles that are theirs while they run."""

TURN_COUNT = "named_arrive(kTurnBarrier + (consumer + 1) % C::kConsumers, 2 * 128)"

TURNS_TAKEN = (
    in_hopper(ATTEND, "products do not wait for their turn", "      turn.take();\n", "", DEADLOCK),
    in_hopper(ATTEND, "the turn is not passed on", "      turn.pass();\n", "", DEADLOCK),
    in_hopper(ATTEND, "nobody has the first turn", "  turn.begin();\n", "", DEADLOCK),
    in_hopper(
        ATTEND, "a turn counts one consumer", TURN_COUNT, TURN_COUNT.replace("2 * 128", "128"), DEADLOCK
    ),
    in_hopper(ATTEND, "a turn counts all consumers", "2 * 128", "C::kConsumers * 128", DEADLOCK, times=2),
    in_hopper(
        ATTEND,
        "the turn goes back",
        "(consumer + 1) % C::kConsumers",
        "(consumer + C::kConsumers - 1) % C::kConsumers",
        DEADLOCK,
    ),
    in_hopper(ATTEND, "the turn stays", "(consumer + 1) % C::kConsumers", "consumer", DEADLOCK),
)
"""Consumers that issue products by turns."""

REGISTERS = (
    in_hopper(
        CONFIG,
        "consumers claim more registers than there are",
        "kConsumers == 3 ? 160 :",
        "kConsumers == 3 ? 168 :",
        DEADLOCK,
    ),
    in_hopper(
        CONFIG,
        "the producer keeps registers that consumers claim",
        "kConsumers == 3 ? 32 :",
        "kConsumers == 3 ? 40 :",
        DEADLOCK,
    ),
    in_hopper(
        CONFIG,
        "consumers claim half of a unit",
        "kConsumers == 3 ? 160 :",
        "kConsumers == 3 ? 156 :",
        BARRIER,
    ),
    in_hopper(
        CONFIG,
        "consumers claim fewer registers than their tiles take",
        "kConsumers == 3 ? 160 :",
        "kConsumers == 3 ? 136 :",
        SPILLS,
    ),
    in_hopper(
        HOPPER_PTX, "the producer claims instead of releasing", "setmaxnreg.dec", "setmaxnreg.inc", BARRIER
    ),
    in_hopper(
        HOPPER_PTX, "consumers release instead of claiming", "setmaxnreg.inc", "setmaxnreg.dec", BARRIER
    ),
    in_hopper(
        ROLES,
        "one warp of the producer releases registers",
        "if constexpr (C::kConsumers > 1) release",
        "if (threadIdx.x < 32) release",
        DEADLOCK,
    ),
    in_hopper(
        ROLES,
        "the producer releases nothing",
        "    if constexpr (C::kConsumers > 1) release_registers<C::kProducerRegisters>();\n",
        "",
        DEADLOCK,
    ),
)
"""The split of the registers."""

HOPPER_ORDER_FAULTS = (*BARRIERS, *PHASES_OF_RINGS, *PRODUCTS_IN_FLIGHT, *TURNS_TAKEN, *REGISTERS)
