"""Every error that flashactor raises, as one tree::

    FlashAttnError
    ├── DispatchError                     the cell of the dispatch table is impossible
    │   ├── UnsupportedHeadDimError
    │   ├── Fp8RequiresHopperError
    │   ├── Fp8BackwardUnsupportedError
    │   ├── SinkWithoutMaskError
    │   ├── InvalidGqaRatioError
    │   ├── ZeroWindowError
    │   ├── PagedFlagNotSetError
    │   ├── UnknownKeyError
    │   └── NoKernelError                 (.reasons: each implementation's reasons against)
    ├── RequestError                      the request contradicts itself
    │   ├── Fa3RequiresHopperError
    │   ├── Fp8MustUseFp8RequestError
    │   ├── EmptyBatchError
    │   ├── ZeroSeqlenError
    │   ├── SeqlenOverflowError
    │   ├── EmptyPagedCacheError
    │   ├── InvalidPagedBlockSizeError
    │   ├── PagedHeadDimMismatchError
    │   ├── ChunkIndexOutOfRangeError
    │   ├── OperandError                  an array has the wrong shape, dtype, stride, device, alignment
    │   └── MissingOperandsError
    ├── MockModeError                     the mock executor computes nothing
    ├── CompileError                      (.log, .source_line)
    ├── CacheError
    │   ├── CacheCorruptError             an entry is not what was stored; it is compiled again
    │   ├── CacheMissError                a kernel is not cached, and compiling is switched off
    │   ├── CachePermissionError          others may write the folder, or it is none
    │   ├── UnknownKernelError            a name is no cached kernel's, or that of several
    │   └── BundleError                   a file is no bundle of cubins, or is damaged
    ├── EmulationError                    (.at: kernel, PTX line, CUDA line, block, thread, address)
    │   ├── PtxSyntaxError
    │   ├── UnsupportedPtxError           an instruction or declaration that the emulator does not know
    │   ├── MemoryAccessError             out of bounds or misaligned
    │   ├── UninitializedReadError        of memory that was never written, or is still in flight
    │   ├── DataRaceError
    │   ├── DivergenceError               a .sync instruction without all of its lanes
    │   ├── AsyncHazardError              a missing wait, commit or fence
    │   ├── BarrierError                  a barrier used against its rules
    │   └── DeadlockError
    ├── LaunchError                       the driver refused a launch; nothing runs
    ├── ContextPoisonedError              a sticky CUDA error: nothing more runs in its context
    ├── OutOfMemoryError
    ├── DeviceUnavailableError
    ├── UnknownImplementationError        also a ValueError
    ├── SettingsError                     a variable of the environment is wrong; also a ValueError
    ├── OutputError                       a file or stdout cannot be written
    └── ActorError
        ├── MailboxFullError
        ├── AskTimeoutError               also a TimeoutError
        ├── AskCancelledError             everybody who waited for the reply has gone
        ├── DependencyFailedError         what the request was to wait for (``after=``) failed
        ├── BlockingAskError              waiting on a thread that the reply needs
        ├── ActorFailedError              a fault of the actor itself, not of the request
        └── ActorStoppedError

An error says which field was wrong, what it got, what it takes, and what to do about it. The four are
attributes, so a program can act on them; ``str()`` puts them into one line. A fifth, ``retry_safe``, says
whether to ask again. Errors pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class FlashAttnError(Exception):
    """Base of every error of this package.

    Attributes:
        field: what was wrong: an argument, a setting, a device.
        got: the value that it had.
        expected: what it takes.
        remedy: what to do about it.
        retry_safe: whether asking for the same again, unchanged, can help and do no harm: no kernel of this
            request runs any more, its inputs are intact, and the cause may have gone.
    """

    retry_safe: bool = False

    def __init__(self, field: str, got: object, expected: str, remedy: str) -> None:
        super().__init__(field, got, expected, remedy)
        self.field = field
        self.got = got
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field}: got {self.got}; expected {self.expected}. Remedy: {self.remedy}."

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(
    error_type: type[FlashAttnError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> FlashAttnError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(attributes)
    return error


class DispatchError(FlashAttnError):
    """No kernel exists for this combination of fields."""


class UnsupportedHeadDimError(DispatchError):
    """head_dim or head_dim_v is not a multiple of 8 between 8 and 256."""


class Fp8RequiresHopperError(DispatchError):
    """The architecture's tensor cores do not multiply fp8."""


class Fp8BackwardUnsupportedError(DispatchError):
    """There is no backward pass in fp8."""


class SinkWithoutMaskError(DispatchError):
    """Sink tokens mean something only under a window or a causal mask."""


class InvalidGqaRatioError(DispatchError):
    """The ratio of query heads to key/value heads is not a positive integer."""


class ZeroWindowError(DispatchError):
    """A sliding window must hold at least one key."""


class PagedFlagNotSetError(DispatchError):
    """A paged message carries a request whose key is not paged."""


class UnknownKeyError(DispatchError):
    """The table holds no pre-registered cell for this key."""


class NoKernelError(DispatchError):
    """The key is valid, but no kernel implements the request on this architecture yet.

    Attributes:
        reasons: for each implementation, why it refuses the request.
    """

    def __init__(
        self,
        field: str,
        got: object,
        expected: str,
        remedy: str,
        reasons: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(field, got, expected, remedy)
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        listed = "; ".join(f"{name}: {', '.join(why)}" for name, why in self.reasons.items())
        return f"{super().__str__()} Reasons: {listed}."


class RequestError(FlashAttnError):
    """A request, or an argument of it, contradicts itself."""


class Fa3RequiresHopperError(RequestError):
    """The FlashAttention-3 generation needs sm_90a or sm_100a."""


class Fp8MustUseFp8RequestError(RequestError):
    """An fp8 q and the fp8 requests belong together, and neither goes with anything else."""


class EmptyBatchError(RequestError):
    """There is no sequence in the batch."""


class ZeroSeqlenError(RequestError):
    """A length that must be positive is zero."""


class SeqlenOverflowError(RequestError):
    """More tokens than the batch's longest lengths allow."""


class EmptyPagedCacheError(RequestError):
    """The paged cache has no block, head or page slot."""


class InvalidPagedBlockSizeError(RequestError):
    """The page size is not one that kernels take."""


class PagedHeadDimMismatchError(RequestError):
    """The cache's head_dim is not the request's."""


class ChunkIndexOutOfRangeError(RequestError):
    """chunk_index is not below total_chunks."""


class OperandError(RequestError):
    """An array argument has the wrong rank, shape, dtype, stride, device or alignment."""


class MissingOperandsError(RequestError):
    """A bare cell was sent to an executor that computes, or a request has no arrays of this kind."""


class MockModeError(FlashAttnError):
    """The mock executor records requests and computes nothing."""


class CompileError(FlashAttnError):
    """NVRTC refused the source, or warned where a warning means a slow or wrong kernel.

    Attributes:
        log: NVRTC's full log.
        source_line: the first source position that the log names (``file(line)``), or "".
    """

    def __init__(
        self,
        field: str,
        got: object,
        expected: str,
        remedy: str,
        log: str = "",
        source_line: str = "",
    ) -> None:
        super().__init__(field, got, expected, remedy)
        self.log = log
        self.source_line = source_line


class CacheError(FlashAttnError):
    """The cubin cache cannot do its work."""


class CacheCorruptError(CacheError):
    """A cache entry is not what was stored."""


class CacheMissError(CacheError):
    """A kernel is in no layer of the cache, and FLASHACTOR_NO_COMPILE forbids to make it."""


class CachePermissionError(CacheError):
    """The cache folder may be written by others, or its path is no folder."""


class UnknownKernelError(CacheError):
    """A name is that of no kernel, or of several."""


class BundleError(CacheError):
    """A file is no bundle of cubins, or not as it was written."""


@dataclass(frozen=True, slots=True)
class FaultLocation:
    """Where in a kernel a fault happened; None where it does not apply.

    Attributes:
        kernel: the entry's name.
        ptx_line: line of the PTX text, from 1.
        instruction: the instruction's text.
        cuda_line: ``file(line)`` of the CUDA source, and where that was inlined; the PTX must tell.
        block: block indices x, y, z.
        thread: linear index in the block.
        address: the address that was accessed; in shared memory, the offset.
    """

    kernel: str | None = None
    ptx_line: int | None = None
    instruction: str | None = None
    cuda_line: str | None = None
    block: tuple[int, int, int] | None = None
    thread: int | None = None
    address: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.kernel:
            parts.append(self.kernel)
        if self.ptx_line is not None:
            parts.append(f"PTX line {self.ptx_line}")
        if self.cuda_line:
            parts.append(self.cuda_line)
        if self.block is not None:
            parts.append(f"block ({', '.join(map(str, self.block))})")
        if self.thread is not None:
            parts.append(f"thread {self.thread}")
        if self.address is not None:
            parts.append(f"address {self.address:#x}")
        text = ", ".join(parts)
        return f"{text}: {self.instruction}" if self.instruction else text


class EmulationError(FlashAttnError):
    """The emulator found a fault in a kernel.

    Attributes:
        at: where.
    """

    def __init__(
        self, field: str, got: object, expected: str, remedy: str, at: FaultLocation | None = None
    ) -> None:
        super().__init__(field, got, expected, remedy)
        self.at = at or FaultLocation()

    def __str__(self) -> str:
        where = str(self.at)
        return f"{super().__str__()} At {where}." if where else super().__str__()


class PtxSyntaxError(EmulationError):
    """The text is not PTX."""


class UnsupportedPtxError(EmulationError):
    """PTX that the emulator does not know. It never skips an instruction."""


class MemoryAccessError(EmulationError):
    """An access outside of every allocation, or at an address that is no multiple of its size."""


class UninitializedReadError(EmulationError):
    """A read of memory that nothing has written yet, or that an asynchronous copy is still writing."""


class DataRaceError(EmulationError):
    """Two accesses to one place, one of them a write, that no synchronisation orders."""


class DivergenceError(EmulationError):
    """A ``.sync`` instruction that not all of its lanes execute together."""


class AsyncHazardError(EmulationError):
    """Registers or memory used while an asynchronous operation owns them: a wait or a fence is missing."""


class BarrierError(EmulationError):
    """A barrier or mbarrier used against its rules."""


class DeadlockError(EmulationError):
    """Every thread that is left waits, and nothing will ever wake one."""


class LaunchError(FlashAttnError):
    """The driver refused a launch."""

    retry_safe = True


class ContextPoisonedError(FlashAttnError):
    """A sticky CUDA error: nothing more can run in this context."""


class OutOfMemoryError(FlashAttnError):
    """The device has no room for an output or workspace, also after the pools' free memory was released."""

    retry_safe = True


class DeviceUnavailableError(FlashAttnError):
    """There is no usable device, driver or library for this."""


class UnknownImplementationError(FlashAttnError, ValueError):
    """The registry has no implementation or executor of this name."""


class SettingsError(FlashAttnError, ValueError):
    """A variable of the environment has a value that it cannot have."""


class OutputError(FlashAttnError):
    """What was to be written cannot be: a file, a folder or stdout."""


class ActorError(FlashAttnError):
    """The actor could not take or answer a message."""


class MailboxFullError(ActorError):
    """The actor's mailbox is at its limit."""

    retry_safe = True


class AskTimeoutError(ActorError, TimeoutError):
    """No reply came within the caller's limit."""


class AskCancelledError(ActorError):
    """The request was cancelled, or the last coroutine that awaited it was."""


class DependencyFailedError(ActorError):
    """The request was to run after another one, which failed."""

    retry_safe = True


class BlockingAskError(ActorError):
    """A thread was about to wait for something that only the same thread, or its event loop, can do."""


class ActorFailedError(ActorError):
    """The actor failed in a way that says nothing about the request."""


class ActorStoppedError(ActorError):
    """The actor has stopped, or stopped before it reached this message."""
