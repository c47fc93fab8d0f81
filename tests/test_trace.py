"""The trace of keys: each new key once, whoever sees it, and back again as requests."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from filelock import FileLock

from flashactor import (
    DType,
    Fa2BwdRequest,
    Fa2FwdFp8Request,
    Fa2FwdRequest,
    Fa3FwdFp8Request,
    Fa3FwdRequest,
    FlashAttnActor,
    FlashAttnMsg,
    MaskKind,
    MergeStatesRequest,
    PositionBias,
    SmArch,
    VarlenFwdRequest,
)
from flashactor.errors import MockModeError, RequestError
from flashactor.executors.base import Work
from flashactor.executors.mock import MockExecutor
from flashactor.kernels.select import choose_kernels
from flashactor.requests import ChunkedPrefillRequest, PagedAttentionRequest, VarlenBwdRequest
from flashactor.requests.bare import REQUEST_TYPES, bare_request
from flashactor.trace import KeyTrace, read_trace

CELL = {"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 64}
CAUSAL = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 4, MaskKind.causal())


def work_of(request, arch=None):
    return Work(request, *request.resolve(arch))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.jsonl"


def test_a_key_is_written_once_with_its_fields(path):
    trace = KeyTrace(path)
    for _ in range(3):
        trace.record(work_of(CAUSAL))
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == {
        "request": "Fa2FwdRequest",
        "arch": "sm_90a",
        "dtype": "bf16",
        "kv_dtype": None,
        "head_dim": 128,
        "gqa_ratio": 4,
        "causal": True,
        "sliding_window": None,
        "sink_tokens": 0,
        "sink_logits": False,
        "alibi": False,
        "softcap": False,
        "dropout": False,
        "implementation": None,
        "kernel_name": "flashactor::fa3::fwd<bf16, 128, causal>_gqa4",
    }


def test_lengths_scales_and_amounts_make_no_new_key(path):
    trace = KeyTrace(path, SmArch.SM80)
    for seqlen in (3, 5):
        q = np.ones((1, seqlen, 2, 64), np.float16)
        for scale, softcap in ((0.1, 20.0), (0.2, 30.0)):
            request = Fa2FwdRequest.from_arrays(q, q, q, softmax_scale=scale, softcap=softcap)
            trace.record(work_of(request, SmArch.SM80))
    assert len(path.read_text().splitlines()) == 1


REQUESTS = [
    bare_request(request_type, arch=SmArch.SM90A, dtype=DType.BF16, head_dim=96, gqa_ratio=8, **options)
    for request_type, options in [
        (Fa2FwdRequest, {"mask": MaskKind.sliding_causal(4096), "sink_tokens": 4}),
        (Fa2FwdRequest, {"mask": MaskKind.full(), "softcap": 1.0, "implementation": "reference"}),
        (Fa2BwdRequest, {"mask": MaskKind.causal(), "dropout_p": 0.5}),
        (Fa3FwdRequest, {"bias": PositionBias.ALIBI}),
        (VarlenFwdRequest, {}),
        (VarlenBwdRequest, {}),
        (PagedAttentionRequest, {"mask": MaskKind.causal()}),
        (ChunkedPrefillRequest, {"mask": MaskKind.causal()}),
    ]
] + [
    Fa3FwdFp8Request(SmArch.SM90A, DType.F8E4M3, 128, kv_dtype=DType.F8E5M2),
    Fa2FwdFp8Request(SmArch.SM89, DType.F8E5M2, 64, v_dtype=DType.F8E4M3, out_dtype=DType.F16),
    MergeStatesRequest(SmArch.SM80, DType.BF16, 64),
]
# Each has a key of REQUESTS, and is told from it by another field.
VARIANTS = [
    bare_request(request_type, arch=SmArch.SM90A, dtype=DType.BF16, head_dim=96, gqa_ratio=8, **options)
    for request_type, options in [
        (Fa2FwdRequest, {"head_dim_v": 64}),
        (Fa2FwdRequest, {"mask": MaskKind.sliding(-1, 7)}),
        (Fa2FwdRequest, {"mask": MaskKind.sliding(7, -1)}),
        (VarlenFwdRequest, {"batch_invariant": True}),
        (Fa2BwdRequest, {"mask": MaskKind.causal(), "dropout_p": 0.5, "deterministic": False}),
        (VarlenBwdRequest, {"deterministic": False}),
        (PagedAttentionRequest, {"kv_dtype": DType.F8E4M3}),
        (PagedAttentionRequest, {"guard": True}),
        (PagedAttentionRequest, {"varlen": True}),
        (PagedAttentionRequest, {"varlen": True, "sink_logits": True}),
        (ChunkedPrefillRequest, {"paged": True, "kv_dtype": DType.F8E5M2, "head_dim_v": 64}),
    ]
]


def test_every_type_of_request_comes_back(path):
    trace = KeyTrace(path)
    for request in REQUESTS + VARIANTS:
        trace.record(work_of(request))
    assert read_trace(path) == REQUESTS + VARIANTS


def test_a_variant_is_a_line_of_its_own_with_only_the_fields_that_say_something(path):
    plain = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 96)
    KeyTrace(path).record(work_of(plain))
    fields = set(json.loads(path.read_text()))
    trace = KeyTrace(path)
    for changes in ({"batch_invariant": True}, {"head_dim_v": 64}):
        trace.record(work_of(dataclasses.replace(plain, **changes)))
        assert set(json.loads(path.read_text().splitlines()[-1])) == fields | changes.keys()
    assert len(path.read_text().splitlines()) == 3


def test_a_cache_of_qs_type_is_the_line_that_it_was_before_there_were_others(path):
    KeyTrace(path).record(work_of(bare_request(PagedAttentionRequest, **CELL)))
    assert json.loads(path.read_text())["kv_dtype"] is None


@pytest.mark.parametrize(
    ("request_type", "variant"),
    [(Fa2FwdRequest, "varlen"), (Fa2FwdRequest, "paged"), (MergeStatesRequest, "paged")],
)
def test_a_variant_that_a_type_does_not_have(request_type, variant):
    with pytest.raises(RequestError) as caught:
        bare_request(request_type, **CELL, **{variant: True})
    assert caught.value.field == variant


def test_a_request_without_an_architecture_gets_the_devices_or_none(path):
    request = Fa2FwdRequest(None, DType.F16, 64)
    KeyTrace(path, SmArch.SM89).record(work_of(request, SmArch.SM89))
    KeyTrace(path, None).record(work_of(request))
    assert [traced.arch for traced in read_trace(path)] == [SmArch.SM89, None]
    assert {spec.arch for spec in choose_kernels(read_trace(path)[0], SmArch.SM89)} == {SmArch.SM89}


@pytest.mark.parametrize("name", [name for name in REQUEST_TYPES if name != "MergeStatesRequest"])
def test_learned_sinks_come_back(path, name):
    dtype = DType.F8E5M2 if REQUEST_TYPES[name].TAKES_FP8 else DType.BF16
    fields = {"arch": SmArch.SM90A, "dtype": dtype, "head_dim": 64, "gqa_ratio": 4}
    request = bare_request(REQUEST_TYPES[name], sink_logits=True, **fields)
    KeyTrace(path).record(work_of(request))
    assert json.loads(path.read_text())["sink_logits"] is True
    (traced,) = read_trace(path)
    assert traced == request
    assert traced.operands.sink_logits.shape == (4,)
    KeyTrace(path.with_suffix(".again")).record(work_of(traced))
    assert path.with_suffix(".again").read_text() == path.read_text()


def test_threads_write_a_key_once(path):
    trace, start = KeyTrace(path), threading.Barrier(8)

    def record():
        start.wait()
        for request in REQUESTS:
            trace.record(work_of(request))

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_text().splitlines()) == len(REQUESTS)


PROGRAM = """
import sys
from pathlib import Path
from flashactor import DType, Fa2FwdRequest, SmArch
from flashactor.executors.base import Work
from flashactor.trace import KeyTrace
trace = KeyTrace(Path(sys.argv[1]))
for head_dim in range(8, 257, 8):
    request = Fa2FwdRequest(SmArch.SM80, DType.BF16, head_dim)
    trace.record(Work(request, *request.resolve(None)))
"""


def test_processes_write_a_key_once(path):
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert sorted(request.head_dim for request in read_trace(path)) == list(range(8, 257, 8))
    assert len(path.read_text().splitlines()) == 32


def test_a_line_that_a_killed_writer_left_behind_is_passed_over(path):
    KeyTrace(path).record(work_of(CAUSAL))
    whole = path.read_text()
    path.write_text(whole + whole[:50])
    assert read_trace(path) == [CAUSAL]
    KeyTrace(path).record(work_of(REQUESTS[0]))
    assert read_trace(path) == [CAUSAL, REQUESTS[0]]
    assert path.read_text().count("\n") == 2


def test_a_file_that_is_no_trace_is_left_as_it_is(path, caplog):
    path.write_text("somebody's notes")
    KeyTrace(path).record(work_of(CAUSAL))
    assert path.read_text() == "somebody's notes"
    assert "keys are not traced" in caplog.text


def test_a_special_file_is_no_trace(tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe")
    KeyTrace(tmp_path / "pipe").record(work_of(CAUSAL))
    assert "no regular file" in caplog.text
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_file_that_another_process_locks_holds_nobody_up(path):
    trace = KeyTrace(path)
    with FileLock(f"{path}.lock"):
        began = time.monotonic()
        trace.record(work_of(CAUSAL))
        assert time.monotonic() - began < 2
        assert not path.exists()
    trace.record(work_of(REQUESTS[0]))
    assert read_trace(path) == [CAUSAL, REQUESTS[0]]
    with FileLock(f"{path}.lock"):
        trace.record(work_of(REQUESTS[1]))
    trace.close()
    assert read_trace(path)[-1] == REQUESTS[1]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        "null",
        '{"request": "os.system"}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_line_that_is_no_key_is_named_by_its_number(path, line):
    KeyTrace(path).record(work_of(CAUSAL))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RequestError, match=r"keys.jsonl:2: "):
        read_trace(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deterministic", 0),
        ("deterministic", False),
        ("causal", None),
        ("causal", -1),
        ("alibi", []),
        ("head_dim", 100),
        ("head_dim", "128"),
        ("arch", "sm_75"),
        ("dtype", 3),
        ("request", "Nothing"),
        ("head_dim_v", 100),
        ("window_right", -2),
        ("window_right", 3),
        ("batch_invariant", 1),
        ("guard", True),
        ("kv_dtype", "e4m3"),
        ("paged", True),
    ],
)
def test_a_field_that_is_wrong_is_refused(path, field, value):
    KeyTrace(path).record(work_of(CAUSAL))
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}) + "\n")
    with pytest.raises(RequestError, match=r"keys.jsonl:1: "):
        read_trace(path)


def test_a_file_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    trace = KeyTrace(tmp_path / "file" / "keys.jsonl")
    for request in REQUESTS:
        trace.record(work_of(request))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "keys are not traced" in caplog.text


def test_an_actor_traces_what_it_is_asked(path, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_TRACE_KEYS", str(path))
    with FlashAttnActor.start(executor="mock") as actor:
        for _ in range(3):
            with pytest.raises(MockModeError):
                actor.ask(FlashAttnMsg.forward(CAUSAL)).result(10)
    assert read_trace(path) == [CAUSAL]
    with FlashAttnActor.start(executor=MockExecutor(arch=SmArch.SM89)) as actor, pytest.raises(MockModeError):
        actor.ask(FlashAttnMsg.forward(Fa2FwdRequest(None, DType.F16, 64))).result(10)
    assert [request.arch for request in read_trace(path)] == [SmArch.SM90A, SmArch.SM89]


def test_without_the_variable_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("FLASHACTOR_TRACE_KEYS", raising=False)
    monkeypatch.chdir(tmp_path)
    with FlashAttnActor.start(executor="mock") as actor:
        actor.tell(FlashAttnMsg.forward(CAUSAL))
    assert os.listdir(tmp_path) == []
