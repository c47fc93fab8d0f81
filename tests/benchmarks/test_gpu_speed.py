"""What the GPU check measures, and whose launches, on a machine without a GPU."""

from types import SimpleNamespace

import pytest
import torch
from gpu_fakes import Driver, Kernels

from benchmarks.gpu_check import contenders, peers, speed, timing
from benchmarks.gpu_check.contenders import BACKENDS, BF16, FAST, MMA, PERSISTENT, Ours
from benchmarks.gpu_check.launches import prepare
from benchmarks.gpu_check.speed import (
    OURS,
    Attention,
    Decode,
    Measurement,
    Pass,
    attention_problems,
    decode_problems,
    gigabytes_per_second,
    tflops,
)
from flashactor import Fa2FwdRequest, SmArch
from flashactor.errors import Fp8RequiresHopperError
from flashactor.executors.cuda import DEFAULT_SHARED_BYTES

# Figures


def test_flops_count_as_the_field_does():
    full = Attention(Pass.FORWARD, head_dim=128, causal=False, seqlen=4096)
    assert (full.batch, full.heads) == (4, 16)
    assert full.flops == 4 * 4 * 16 * 4096**2 * 128
    assert Attention(Pass.FORWARD, 128, True, 4096).flops * 2 == full.flops
    assert Attention(Pass.BACKWARD, 128, False, 4096).flops * 2 == full.flops * 5
    assert Attention(Pass.FP8_FORWARD, 128, False, 4096).flops == full.flops


@pytest.mark.parametrize("direction", list(Pass))
def test_the_tables_have_the_agreed_rows(direction):
    rows = attention_problems(direction, quick=False)
    assert len(rows) == len(set(rows)) == 3 * 2 * 5
    assert {row.batch * row.seqlen for row in rows} == {16384}
    assert set(attention_problems(direction, quick=True)) < set(rows)


def test_decode_steps_read_a_gigabyte():
    steps = decode_problems(quick=False)
    paged = [step.context for step in steps if step.page == 64]
    assert paged == [n * 1024 for n in (4, 8, 16, 32, 64, 128)]
    assert [(step.context, step.page) for step in steps if step.page != 64] == [
        (32 * 1024, page) for page in (0, 16, 256)
    ]
    assert {step.bytes for step in steps} == {1 << 30}
    assert {step.heads_q // step.heads_kv for step in steps} == {8}
    assert set(decode_problems(quick=True)) < set(steps)


def test_medians_speeds_and_ratios():
    problem = Attention(Pass.FORWARD, 128, False, 1024)
    measured = Measurement.of(
        problem, {OURS: [1.0, 9.0, 2.0], "torch flash": [4.0, 3.0]}, {"torch cudnn": "no"}
    )
    assert measured.milliseconds == {OURS: 2.0, "torch flash": 3.5}
    assert tflops(measured, OURS) == problem.flops / 2e-3 / 1e12
    assert measured.ratio("torch flash") == 1.75
    assert measured.ratio("torch cudnn") is None
    assert tflops(measured, "torch cudnn") is None
    assert gigabytes_per_second(Measurement.of(Decode(4096), {OURS: [0.5]})) == pytest.approx((1 << 30) / 5e5)
    assert gigabytes_per_second(Measurement.of(Decode(4096), {})) is None


# Contenders


@pytest.fixture
def small(monkeypatch):
    """Problems that fit a test."""
    monkeypatch.setattr(speed, "TOKENS", 256)
    monkeypatch.setattr(speed, "MODEL_WIDTH", 128)
    monkeypatch.setattr(speed, "CACHED_TOKENS", 4096)


def kinds_of(driver):
    return [step.spec.kind for _, _, step in driver.launched]


def run_once(set_up):
    set_up()()


def ours_of(driver):
    return Ours(driver, "our stream", Kernels(), "cpu")


def test_a_prepared_request_is_launched_by_its_plan_on_any_stream():
    driver = Driver()
    q = torch.zeros(1, 1, 8, 256, dtype=torch.bfloat16)
    k = torch.zeros(1, 4096, 1, 256, dtype=torch.bfloat16)
    launches = prepare(Fa2FwdRequest.from_arrays(q, k, k), driver, Kernels())
    launches.run(driver, "a stream")
    launches.run(driver, "another")
    assert kinds_of(driver) == ["fwd", "combine"] * 2
    assert [stream for stream, *_ in driver.launched] == ["a stream"] * 2 + ["another"] * 2
    assert all(kernel == f"{step.spec.entry} of {step.spec.label}" for _, kernel, step in driver.launched)
    wanted = {step.shared_bytes for _, _, step in driver.launched if step.shared_bytes > DEFAULT_SHARED_BYTES}
    assert set(driver.shared.values()) == wanted != set()
    assert {"out", "lse", "workspace"} <= launches.arrays.keys()


def test_no_kernel_is_no_launch():
    driver = Driver(SmArch.SM80)
    q = torch.zeros(1, 1, 8, 64).to(torch.float8_e4m3fn)
    request = contenders.Fa2FwdFp8Request.from_arrays(q, q, q)
    with pytest.raises(Fp8RequiresHopperError):
        prepare(request, driver, Kernels())
    assert driver.launched == []


def families_of(driver):
    return [step.spec.family for _, _, step in driver.launched]


@pytest.mark.parametrize("direction", [Pass.FORWARD, Pass.FP8_FORWARD])
def test_forward_contenders_on_hopper_are_both_modes_and_the_other_family(monkeypatch, direction):
    monkeypatch.setattr(speed, "TOKENS", 4096)
    monkeypatch.setattr(speed, "MODEL_WIDTH", 512)
    driver = Driver()
    found = ours_of(driver).attention(Attention(direction, 64, True, 512))
    assert list(found)[:3] == [OURS, PERSISTENT, MMA]
    for name in (OURS, PERSISTENT, MMA):
        run_once(found[name])
    assert families_of(driver) == ["sm90_wgmma", "sm90_wgmma", "sm80_mma"]
    assert driver.launched[0][0] == "our stream"
    grid, persistent, _ = (step.grid[0] for _, _, step in driver.launched)
    assert grid > persistent == 132


def test_forward_contenders_elsewhere(small):
    driver = Driver(SmArch.SM89)
    found = ours_of(driver).attention(Attention(Pass.FORWARD, 64, True, 128))
    assert list(found) == [OURS, *BACKENDS]
    run_once(found[OURS])
    assert families_of(driver) == ["sm80_mma"]


def test_backward_contenders_are_of_both_kinds(small):
    driver = Driver()
    found = ours_of(driver).attention(Attention(Pass.BACKWARD, 64, False, 128))
    assert list(found) == [OURS, FAST, *BACKENDS]
    for name in (OURS, FAST):
        run = found[name]()
        assert kinds_of(driver) == ["fwd"]  # out and lse, outside of the measured time
        driver.launched.clear()
        run()
        assert "fwd" not in kinds_of(driver)
        assert "bwd_dkdv" in kinds_of(driver)
        assert ("bwd_convert" in kinds_of(driver)) is (name == FAST)
        driver.launched.clear()


def test_fp8_contenders_are_ours_in_both_types(small):
    driver = Driver(SmArch.SM89)
    found = ours_of(driver).attention(Attention(Pass.FP8_FORWARD, 64, False, 128))
    assert list(found) == [OURS, BF16]
    for set_up in found.values():
        run_once(set_up)
    assert kinds_of(driver) == ["fwd_fp8", "fwd"]


def test_decode_steps_read_pages(small):
    driver = Driver()
    for page in (64, 0):
        (set_up,) = ours_of(driver).decode(Decode(1024, page)).values()
        run_once(set_up)
        (_, _, step), *_ = driver.launched
        assert (step.spec.family, step.spec.kind) == ("sm90_wgmma", "fwd")
        assert "decode" in step.spec.features
        keys = step.tensor_maps[1]
        assert keys.dims[2] == (page or 1024)
        driver.launched.clear()


@pytest.fixture
def packages(monkeypatch):
    """FlashAttention's packages, which note how they are called; one of them is broken, and one is not there.

    Returns the calls, as (package, function, names of arguments).
    """
    calls = []

    def function(package, name):
        return lambda *operands, **options: calls.append((package, name, len(operands), sorted(options)))

    def package_of(name):
        functions = ("flash_attn_func", "flash_attn_with_kvcache")
        return SimpleNamespace(**{each: function(name, each) for each in functions})

    def import_module(name):
        if name == "flash_attn.cute":
            raise OSError("undefined symbol")
        return package_of(name)

    monkeypatch.setattr(peers.importlib, "import_module", import_module)
    return calls


def test_installed_packages_take_part_in_what_they_compute(small, packages):
    driver = Driver()
    forward = ours_of(driver).attention(Attention(Pass.FORWARD, 64, True, 128))
    fp8 = ours_of(driver).attention(Attention(Pass.FP8_FORWARD, 64, False, 128))
    backward = ours_of(driver).attention(Attention(Pass.BACKWARD, 64, False, 128))
    names = "FlashAttention-2", "FlashAttention-3"
    assert [name for name in forward if name in peers.PACKAGES] == list(names)
    assert [name for name in fp8 if name in peers.PACKAGES] == [names[1]]
    assert not backward.keys() & peers.PACKAGES.keys()
    for found in (forward[names[0]], forward[names[1]], fp8[names[1]]):
        run_once(found)
    assert packages == [
        ("flash_attn", "flash_attn_func", 3, ["causal"]),
        ("flash_attn_interface", "flash_attn_func", 3, ["causal"]),
        ("flash_attn_interface", "flash_attn_func", 3, ["causal"]),
    ]


def test_installed_packages_read_the_same_cache(small, packages):
    for page, (table_2, table_3) in ((64, (["block_table"], ["page_table"])), (0, ([], []))):
        found = ours_of(Driver()).decode(Decode(1024, page))
        assert list(found) == [OURS, "FlashAttention-2", "FlashAttention-3"]
        run_once(found["FlashAttention-2"])
        run_once(found["FlashAttention-3"])
        assert packages == [
            ("flash_attn", "flash_attn_with_kvcache", 3, [*table_2, "cache_seqlens"]),
            ("flash_attn_interface", "flash_attn_with_kvcache", 3, ["cache_seqlens", *table_3]),
        ]
        packages.clear()


@pytest.mark.parametrize("dout", [False, True], ids=["forward", "backward"])
def test_sdpa_runs_one_backend_forward_or_backward(monkeypatch, dout):
    monkeypatch.setitem(BACKENDS, "torch flash", "MATH")
    operands = tuple(torch.randn(1, 8, 2, 16) for _ in range(3))
    run = contenders._sdpa("MATH", True, operands, torch.randn(1, 8, 2, 16) if dout else None)()
    found = run()
    if dout:
        assert [each.shape for each in found] == [torch.Size((1, 2, 8, 16))] * 3
        assert torch.equal(found[0], run()[0])
    else:
        assert found.shape == (1, 2, 8, 16)
        assert not found.requires_grad


# Timing


class Clock:
    """torch.cuda.Event: time goes on by one millisecond with each event."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Clock.now += 1.0
        self.at = Clock.now

    def elapsed_time(self, end):
        return end.at - self.at


@pytest.fixture
def clock(monkeypatch):
    """PyTorch on the host, with a clock in place of the device's."""
    fake = SimpleNamespace(
        cuda=SimpleNamespace(Event=Clock, synchronize=lambda: None),
        empty=lambda size, device, dtype: torch.empty(8, dtype=dtype),
        int8=torch.int8,
    )
    monkeypatch.setattr(timing, "import_torch", lambda: fake)
    monkeypatch.setattr(contenders, "import_torch", lambda: fake)
    return fake


def test_contenders_run_in_turn_and_refusals_are_noted(clock):
    ran = []

    def refuse():
        raise RuntimeError("No available kernel.\nmore")

    def refuse_without_words():
        raise AssertionError

    (measured,) = timing.measure(
        [Attention(Pass.FORWARD, 64, False, 1024)],
        lambda problem: {
            OURS: lambda: lambda: ran.append("a"),
            "b": lambda: lambda: ran.append("b"),
            "c": refuse,
            "d": refuse_without_words,
        },
        3,
    )
    assert ran == ["a"] * timing.WARM_UPS + ["b"] * timing.WARM_UPS + ["a", "b"] * 3
    assert measured.milliseconds == {OURS: 1.0, "b": 1.0}
    assert measured.unavailable == {"c": "No available kernel.", "d": "AssertionError"}


def test_an_unknown_kernel_is_noted_too(clock):
    def refuse():
        return prepare(
            contenders.Fa2FwdFp8Request.from_arrays(*[torch.zeros(1, 1, 8, 64).to(torch.float8_e4m3fn)] * 3),
            Driver(SmArch.SM80),
            Kernels(),
        )

    running, unavailable = timing.set_up({OURS: refuse})
    assert running == {}
    assert "sm_80" in unavailable[OURS]


def test_a_copy_counts_both_ways(clock):
    assert timing.copy_bandwidth("cuda", 3) == 2 * timing.COPY_BYTES / 1e6
