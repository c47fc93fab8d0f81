"""What stands for a GPU in the tests of the GPU check: executors on the host, a driver that takes notes."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from benchmarks.gpu_check.agreement import Agreement
from benchmarks.gpu_check.correctness import Checked
from benchmarks.gpu_check.report import Machine, Report, Speed
from benchmarks.gpu_check.speed import OURS, Attention, Decode, Measurement, Pass
from flashactor import FlashAttnActor, SmArch
from flashactor.actor.reply import PendingReply
from flashactor.executors.mock import MockExecutor

ARCH = SmArch.SM90A
MACHINE = Machine("NVIDIA H200", "sm_90a", "580.65.6", "Xeon", {"python": "3.11.7", "torch": "2.13.0"})
SPEED = Speed(
    [
        Measurement.of(
            Attention(Pass.FORWARD, 128, True, 4096),
            {OURS: [0.5], "torch flash": [1.0]},
            {"torch cudnn": "not on this device"},
        ),
        Measurement.of(Attention(Pass.BACKWARD, 64, False, 1024), {OURS: [2.0]}),
    ],
    [
        Measurement.of(Decode(4096), {OURS: [0.5], "FlashAttention-3": [1.0]}),
        Measurement.of(Decode(4096, page=0), {OURS: [0.25]}),
    ],
    4000.0,
)
AGREEMENTS = [
    Agreement("fwd", "a", {"out": 0.0, "lse": 0.0}),
    Agreement("fwd", "b", {"out": 0.25, "lse": 0.0}),
]


def a_report(*, problem=None, graph=None):
    """A report of everything, whose second case has a problem."""
    checked = [
        Checked("bf16, ragged ends", 0.4, 2e-6, None),
        Checked("f16, one key", 0.7, 1e-6, problem),
        Checked("merge", None, None, None),
    ]
    return Report(
        "2026-11-21T06:00:00+00:00",
        "python -m benchmarks.gpu_check",
        MACHINE,
        "torch",
        checked,
        [Checked("a graph", 0.3, 1e-6, None), Checked("graph", 0.3, 1e-6, graph)],
        AGREEMENTS,
        SPEED,
    )


def actor_that(script):
    """An actor whose answers a function makes of work."""
    return FlashAttnActor.start(executor=MockExecutor(script=script, arch=ARCH))


class Driver:
    """A CudaDriver that notes launches.

    Attributes:
        launched: (stream, kernel, launch) in order.
        shared: kernel -> shared memory that it was allowed.
    """

    def __init__(self, arch=ARCH):
        self.arch = arch
        self.launched = []
        self.shared = {}

    def activate(self):
        pass

    def create_stream(self):
        return SimpleNamespace(handle=7)

    def load(self, cubin, entry):
        return f"{entry} of {cubin.decode()}"

    def allow_shared_memory(self, kernel, size):
        self.shared[kernel] = size

    def launch(self, stream, kernel, step):
        self.launched.append((stream, kernel, step))


class Kernels:
    """A source of kernels that are there at once: a cubin is its kernel's label."""

    def ask(self, spec):
        pending = PendingReply()
        pending.settle(SimpleNamespace(cubin=spec.label.encode()))
        return pending


class Pointer:
    """CuPy's pointer into device memory, on a NumPy array."""

    def __init__(self, memory, offset=0):
        self.memory, self.offset = memory, offset

    def __add__(self, offset):
        return Pointer(self.memory, self.offset + offset)


def cupy_on_numpy():
    """As much of CuPy as the check needs, in host memory."""
    return SimpleNamespace(
        full=np.full,
        asarray=lambda host: SimpleNamespace(data=Pointer(host)),
        asnumpy=np.asarray,
        ndarray=lambda shape, dtype, memptr, strides: np.ndarray(
            shape, dtype, memptr.memory.data, memptr.offset, strides
        ),
    )


class Graphs:
    """torch.cuda without a device: what runs inside of ``graph`` is noted, and run again by ``replay``."""

    def __init__(self):
        self.capturing = None

    def current_stream(self):
        return SimpleNamespace(cuda_stream=7)

    def synchronize(self):
        pass

    def CUDAGraph(self):  # noqa: N802
        graph = SimpleNamespace(steps=[])
        graph.replay = lambda: [step() for step in graph.steps]
        return graph

    @contextmanager
    def graph(self, graph):
        self.capturing = graph.steps
        yield
        self.capturing = None
