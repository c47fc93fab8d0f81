"""``flashactor attend``: files in, files out, and one line for whatever is wrong."""

import resource

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flashactor import reference
from flashactor.reference import AttentionParams


def random(*shape, seed=0, dtype=np.float16):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture
def arrays():
    return {"q": random(2, 9, 4, 64), "k": random(2, 11, 2, 64, seed=1), "v": random(2, 11, 2, 64, seed=2)}


@pytest.fixture
def files(tmp_path, arrays):
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return [f"{name}.npy" for name in arrays]


def expected(arrays, **params):
    params = AttentionParams(**{"softmax_scale": arrays["q"].shape[-1] ** -0.5, **params})
    out, lse = reference.forward(arrays["q"], arrays["k"], arrays["v"], params)
    return out.astype(np.float16), lse.astype(np.float32)


def assert_written(path, out, lse):
    with np.load(path) as written:
        assert written["out"].dtype == out.dtype
        np.testing.assert_array_equal(written["out"], out)
        np.testing.assert_array_equal(written["lse"], lse)


def test_three_files(flashactor, files, arrays, tmp_path):
    run = flashactor("attend", *files, "--causal", "-o", "o.npz", "--executor", "reference")
    assert (run.code, run.err) == (0, "")
    assert "flashactor::fa2::fwd<f16, 64, causal>_gqa2" in run.out
    assert "o.npz" in run.out
    assert_written(tmp_path / "o.npz", *expected(arrays, window_right=0))


def test_the_default_output(flashactor, files, arrays, tmp_path):
    assert flashactor("attend", *files).code == 0
    assert_written(tmp_path / "out.npz", *expected(arrays))


def test_every_option_arrives(flashactor, files, arrays, tmp_path):
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    np.save(tmp_path / "slopes.npy", slopes)
    options = (
        "--causal",
        "--window",
        4,
        "--sink",
        2,
        "--alibi",
        "slopes.npy",
        "--scale",
        0.3,
        "--softcap",
        5,
    )
    assert flashactor("attend", *files, *options).code == 0
    params = {"window_left": 3, "window_right": 0, "sink_tokens": 2, "softcap": 5.0, "alibi_slopes": slopes}
    assert_written(tmp_path / "out.npz", *expected(arrays, softmax_scale=0.3, **params))


def test_one_npz_with_its_own_scale_and_sinks(flashactor, arrays, tmp_path):
    logits = np.array([0.0, 1.0, -1.0, 2.0], np.float32)
    np.savez(tmp_path / "in.npz", **arrays, sink_logits=logits, softmax_scale=0.2, note=np.array("hello"))
    assert flashactor("attend", "in.npz").code == 0
    assert_written(tmp_path / "out.npz", *expected(arrays, softmax_scale=0.2, sink_logits=logits))


def test_one_safetensors_file_in_bfloat16(flashactor, arrays, tmp_path):
    converted = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    save_file(converted, tmp_path / "in.safetensors")
    assert flashactor("attend", "in.safetensors").code == 0
    out, _ = reference.forward(*converted.values(), AttentionParams(0.125))
    with np.load(tmp_path / "out.npz") as written:
        assert written["out"].dtype == np.float32
        np.testing.assert_array_equal(written["out"], out.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_one_sequence_without_a_batch(flashactor, arrays, tmp_path):
    single = {name: array[0] for name, array in arrays.items()}
    np.savez(tmp_path / "in.npz", **single)
    assert flashactor("attend", "in.npz").code == 0
    out, lse = expected(arrays)
    assert_written(tmp_path / "out.npz", out[0], lse[0])


def test_packed_sequences(flashactor, tmp_path):
    q, k, v = random(10, 4, 64), random(10, 2, 64, seed=1), random(10, 2, 64, seed=2)
    offsets = np.array([0, 4, 10])
    np.savez(tmp_path / "in.npz", q=q, k=k, v=v, cu_seqlens_q=offsets)
    run = flashactor("attend", "in.npz")
    assert run.code == 0
    assert "_varlen" in run.out
    out, lse = reference.forward_varlen(q, k, v, offsets, offsets, AttentionParams(0.125))
    assert_written(tmp_path / "out.npz", out.astype(np.float16), lse.astype(np.float32))


INT32 = np.array([0, 4, 10], np.int32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int64])
def test_offsets_of_any_integer_type(flashactor, tmp_path, dtype):
    q = random(10, 4, 64)
    np.savez(tmp_path / "in.npz", q=q, k=q, v=q, cu_seqlens_q=INT32.astype(dtype), cu_seqlens_k=INT32)
    assert "_varlen" in flashactor("attend", "in.npz").out


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ({"cu_seqlens_q": np.array([0, 2**32 + 10])}, "cu_seqlens_q: got int64 from 0 to 4294967306"),
        ({"cu_seqlens_q": INT32, "cu_seqlens_k": np.array([0, 2**31])}, "cu_seqlens_k: got int64"),
        ({"cu_seqlens_q": np.array([0, 2**64 - 1], np.uint64)}, "cu_seqlens_q: got uint64"),
        ({"cu_seqlens_q": np.array([0, 4.5, 10])}, "cu_seqlens_q: got float64"),
        ({"cu_seqlens_q": np.array([])}, "cu_seqlens_q: got float64;"),
        ({"cu_seqlens_q": np.array(["0", "10"])}, "cu_seqlens_q: got str"),
        ({"cu_seqlens_k": INT32}, "cu_seqlens_q: got no array"),
        ({"alibi_slopes": np.array([1e300, 1, 1, 1])}, "alibi_slopes: got float64 with a number beyond"),
        ({"softmax_scale": np.ones(2)}, "softmax_scale: got an array of shape [2]"),
        ({"softmax_scale": np.ones(0)}, "softmax_scale: got an array of shape [0]"),
        ({"softmax_scale": np.array("x")}, "softmax_scale.dtype: got str"),
        ({"sink_logits": np.array(["x"] * 4)}, "sink_logits.dtype: got str"),
        ({"alibi_slopes": np.ones(4, np.complex64)}, "alibi_slopes.dtype: got complex64"),
    ],
    ids=str,
)
def test_arrays_are_never_changed_silently(flashactor, tmp_path, offsets, message):
    q = random(10, 4, 64)
    np.savez(tmp_path / "in.npz", q=q, k=q, v=q, **offsets)
    run = flashactor("attend", "in.npz")
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert message in run.err
    assert not (tmp_path / "out.npz").exists()


def test_float32_needs_a_dtype(flashactor, arrays, tmp_path):
    np.savez(tmp_path / "in.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    run = flashactor("attend", "in.npz")
    assert run.code == 2
    assert "pass --dtype bf16 or --dtype f16" in run.err
    assert flashactor("attend", "in.npz", "--dtype", "f16").code == 0
    assert_written(tmp_path / "out.npz", *expected(arrays))


def test_unaligned_and_strided_files_are_read_all_the_same(flashactor, arrays, tmp_path):
    np.savez(tmp_path / "in.npz", **{name: np.asfortranarray(array) for name, array in arrays.items()})
    assert flashactor("attend", "in.npz").code == 0
    assert_written(tmp_path / "out.npz", *expected(arrays))


def bad_inputs(folder):
    """Files and options that cannot work, each with what the line must say."""
    good = random(1, 4, 2, 64)
    np.save(folder / "good.npy", good)
    np.save(folder / "flat.npy", good.ravel())
    np.save(folder / "odd.npy", random(1, 4, 2, 60))
    np.save(folder / "complex.npy", good.astype(np.complex64))
    np.save(folder / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "noq.npz", k=good, v=good)
    (folder / "text.npy").write_text("hello")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "cut.npz").write_bytes((folder / "noq.npz").read_bytes()[:200])
    (folder / "bad.safetensors").write_bytes(b"\xff" * 64)
    (folder / "folder").mkdir()
    three = ["good.npy"] * 3
    return [
        (["attend"], "required: FILE"),
        (["attend", "missing.npz"], "no such file"),
        (["attend", "folder"], "not a regular file"),
        (["attend", "good.npy", "good.npy"], "three .npy files"),
        (["attend", "good.npy"], "three .npy files"),
        (["attend", "text.npy", "good.npy", "good.npy"], "damaged"),
        (["attend", "pickled.npy", "good.npy", "good.npy"], "never read"),
        (["attend", "noq.npz"], "store q in the file"),
        (["attend", "noq.npz", "good.npy", "good.npy"], "one array in a .npy file"),
        (["attend", "empty.npz"], "damaged"),
        (["attend", "cut.npz"], "damaged"),
        (["attend", "bad.safetensors"], "damaged"),
        (["attend", "flat.npy", "good.npy", "good.npy"], "q.ndim"),
        (["attend", "odd.npy", "odd.npy", "odd.npy"], "multiple"),
        (["attend", "complex.npy", "good.npy", "good.npy"], "q.dtype"),
        (["attend", *three, "--window", "0"], "sliding_window"),
        (["attend", *three, "--window", "x"], "--window"),
        (["attend", *three, "--sink", "3"], "sink_tokens"),
        (["attend", *three, "--scale", "nan"], "softmax_scale"),
        (["attend", *three, "--scale", "-1"], "softmax_scale"),
        (["attend", *three, "--softcap", "-1"], "softcap"),
        (["attend", *three, "--arch", "sm_75"], "sm_80"),
        (["attend", *three, "--dtype", "int8"], "f16, bf16"),
        (["attend", *three, "--dtype", "e4m3"], "f16 or bf16"),
        (["attend", *three, "--executor", "mock"], "invalid choice"),
        (["attend", *three, "--executor", "cuda"], "device"),
        (["attend", *three, "--alibi", "missing.npy"], "no such file"),
        (["attend", *three, "--alibi", "good.npy"], "alibi_slopes"),
        (["attend", *three, "-o", "nowhere/out.npz"], "--output"),
        (["attend", *three, "-o", "folder"], "--output"),
        (["attend", *three, "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        ([], "COMMAND"),
    ]


@pytest.mark.parametrize("number", range(33))
def test_bad_input_is_one_line_and_exit_code_2(flashactor, tmp_path, number):
    arguments, message = bad_inputs(tmp_path)[number]
    run = flashactor(*arguments)
    assert run.code == 2, (arguments, run.out)
    assert run.err.count("\n") == 1, run.err
    assert run.err.startswith("flashactor: error: ")
    assert message in run.err
    assert run.out == ""
    assert not (tmp_path / "out.npz").exists()


def test_all_bad_inputs_are_tried(tmp_path):
    assert len(bad_inputs(tmp_path)) == 33


def test_a_device_that_takes_nothing_is_one_line(flashactor, files):
    run = flashactor("attend", *files, "-o", "/dev/full")
    assert (run.code, run.out) == (1, "")
    assert "output: got /dev/full: No space left on device" in run.err
    assert run.err.count("\n") == 1


def test_a_full_disk_leaves_the_file_that_was_there(flashactor, files, tmp_path):
    (tmp_path / "out.npz").write_bytes(b"before")
    before = sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        run = flashactor("attend", *files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run.code, run.out) == (1, "")
    assert "output: got out.npz: File too large" in run.err
    assert run.err.count("\n") == 1
    assert (tmp_path / "out.npz").read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == before
