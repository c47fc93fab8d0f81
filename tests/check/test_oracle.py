"""The oracle agrees with the executor that computes in float64, and the judge finds what is wrong."""

import numpy as np
import pytest

from flashactor.check.cases import cases_of
from flashactor.check.judge import allowed_error, judge
from flashactor.check.oracle import LSE_TOLERANCE, Expected, expected_of
from flashactor.executors.reference import compute
from flashactor.kernels.append import append_specs
from flashactor.kernels.backward_spec import backward_specs
from flashactor.kernels.merge import merge_spec
from flashactor.kernels.sm80 import forward_spec
from flashactor.kernels.sm90 import hopper_spec
from flashactor.kernels.sm90_fp8 import hopper_fp8_spec
from flashactor.kernels.spec import Scores
from flashactor.requests import AttentionRequest
from flashactor.types import DType, SmArch

ARCH = SmArch.SM80
KERNELS = {
    "dense": forward_spec(ARCH, DType.F16, 32, scores=Scores.DROPOUT),
    "decode": forward_spec(ARCH, DType.BF16, 32, decode=True, scores=Scores.MODIFIED),
    "paged": forward_spec(ARCH, DType.F16, 32, paged=True),
    "fp8 cache": forward_spec(ARCH, DType.BF16, 32, fp8_kv=True),
    "Hopper": hopper_spec(DType.BF16, 64, scores=Scores.MODIFIED, decode=True),
    "Hopper, fp8": hopper_fp8_spec(64, decode=True),
    "append": append_specs(ARCH)[0],
    "append, rotary": append_specs(ARCH)[4],
    "merge": merge_spec(ARCH, DType.F16),
    "backward": backward_specs(ARCH, DType.F16, 32, 32, Scores.DROPOUT, deterministic=True).dq,
}


@pytest.mark.parametrize("spec", KERNELS.values(), ids=KERNELS)
def test_the_oracle_agrees_with_the_reference_executor(spec):
    for case in cases_of(spec):
        request = case.request()
        expected = expected_of(request)
        outputs = compute(request)._asdict()
        results = {name: outputs.get(name) for name in expected}
        for name in ("k_cache", "v_cache"):
            if name in results:
                results[name] = request.arrays()[name].to_numpy()
        for name in ("dsink_logits", "dalibi_slopes"):
            # The executor computes out anew, the oracle takes the rounded one that the kernels get.
            if name in results:
                exact = expected.pop(name).exact
                np.testing.assert_allclose(results[name], exact, atol=0.1 * np.abs(exact).max())
        assert judge(results, expected).problem is None, case.name


def test_a_request_without_an_oracle_is_no_request_that_passes():
    with pytest.raises(TypeError, match="no oracle of AttentionRequest"):
        expected_of(AttentionRequest(SmArch.SM80, DType.BF16, 64))


def varlen():
    case = next(case for case in cases_of(KERNELS["dense"]) if case.name == "used lengths")
    request = case.request()
    expected = expected_of(request)
    compute(request)
    return request, expected, {name: request.arrays()[name].to_numpy() for name in expected}


def test_rows_that_are_not_used_see_no_key_and_those_behind_the_last_are_left_alone():
    request, expected, results = varlen()
    offsets, used = (request.arrays()[n].to_numpy() for n in ("cu_seqlens_q", "seqused_q"))
    unused = slice(offsets[0] + used[0], offsets[1])
    assert (expected["out"].exact[unused] == 0).all()
    assert (expected["lse"].exact[:, unused] == -np.inf).all()
    results["out"][-1, 0, 0] = 0
    assert judge(results, expected).problem.startswith("out[")
    results["out"][-1, 0, 0] = 0.5
    assert judge(results, expected).problem is None


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0])
def test_a_wrong_value_is_named(value):
    _, expected, results = varlen()
    results["out"][3, 0, 7] += value
    verdict = judge(results, expected)
    assert verdict.problem.startswith("out[3, 0, 7] is ")
    assert verdict.error_ratio > 2


def test_lse_is_judged_by_itself():
    _, expected, results = varlen()
    row = int(np.flatnonzero(np.isfinite(expected["lse"].exact[0]))[5])
    results["lse"][0, row] += 2 * LSE_TOLERANCE
    verdict = judge(results, expected)
    assert verdict.problem.startswith(f"lse[0, {row}] is ")
    assert LSE_TOLERANCE < verdict.lse_error < 3 * LSE_TOLERANCE


def test_a_row_without_keys_must_say_so():
    exact = np.array([[-np.inf, 1.0]])
    assert judge({"lse": np.array([[-np.inf, 1.0]])}, {"lse": Expected(exact)}).problem is None
    for wrong in (-1e30, np.nan, np.inf):
        assert judge({"lse": np.array([[wrong, 1.0]])}, {"lse": Expected(exact)}).problem


def test_memory_that_nobody_may_write_stays_poison():
    exact = np.array([np.nan, 2.0])
    wanted = {"k_cache": Expected(exact, allowed=np.array([0.0, 0.5]))}
    assert judge({"k_cache": np.array([np.nan, 2.4])}, wanted).problem is None
    assert judge({"k_cache": np.array([1.0, 2.0])}, wanted).problem.startswith("k_cache[0] is 1")
    assert judge({"k_cache": np.array([np.nan, 2.6])}, wanted).problem.startswith("k_cache[1] is 2.6")


def test_twice_the_formula_s_error_is_allowed():
    exact = np.array([1.0, 2.0])
    low = np.array([1.0, 2.25], np.float16)
    assert allowed_error(low, exact) == 0.5
    assert allowed_error(exact.astype(np.float16), exact) == 2.0 * 2**-11
    assert allowed_error(exact.astype(np.float16), exact, roundings=2) == 2.0 * 2**-10
    wanted = {"out": Expected(exact, low)}
    assert judge({"out": np.array([1.5, 2.0])}, wanted).error_ratio == 2.0
    assert judge({"out": np.array([1.5, 2.0])}, wanted).problem is None
    assert judge({"out": np.array([1.51, 2.0])}, wanted).problem


def test_an_output_of_nothing_is_right():
    empty = np.zeros((0, 4))
    assert judge({"out": empty}, {"out": Expected(empty, empty.astype(np.float16))}).problem is None
