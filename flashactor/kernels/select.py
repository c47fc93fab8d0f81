"""Which implementation computes a request, and why not the others.

An implementation refuses a request with a list of reasons. One table of reasons serves the choice, the
error that a refused request gets, ``flashactor explain`` and the support table of the README.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashactor.dispatch import DispatchKey
from flashactor.errors import NoKernelError, UnknownImplementationError
from flashactor.kernels.forward import ForwardFamily
from flashactor.kernels.plan import kernels_of, workspace_of
from flashactor.kernels.sm80_forward import SM80
from flashactor.kernels.sm90_forward import SM90
from flashactor.kernels.spec import KernelSpec
from flashactor.registry import PreferenceStack
from flashactor.requests import AttentionRequest
from flashactor.requests.base import require_type
from flashactor.types import SmArch


@dataclass(frozen=True, slots=True)
class Implementation:
    """Something that computes attention requests.

    Attributes:
        name: what requests, the registry and tables call it.
        summary: one line for people.
        reasons_against: why it does not compute a request on an architecture; empty if it does.
        family: of its forward kernels; None where nothing is compiled.
    """

    name: str
    summary: str
    reasons_against: Callable[[AttentionRequest, SmArch], tuple[str, ...]]
    family: ForwardFamily | None

    def kernels(self, request: AttentionRequest, arch: SmArch) -> tuple[KernelSpec, ...]:
        """The kernels that compute a request which it accepts, in the order of their launches; for a bare
        cell all that it may take."""
        return () if self.family is None else kernels_of(request, arch, self.family)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One implementation's stand on a request.

    Attributes:
        implementation: its name.
        chosen: whether it computes the request.
        reasons: why it was chosen, or each reason why not.
        kernels: its kernels for the request, if it accepts it and compiles any.
    """

    implementation: str
    chosen: bool
    reasons: tuple[str, ...]
    kernels: tuple[KernelSpec, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a request is dispatched on an architecture, and why so."""

    key: DispatchKey
    kernel_name: str
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate:
        """The implementation that computes the request."""
        return next(candidate for candidate in self.candidates if candidate.chosen)


def explain(request: AttentionRequest, arch: SmArch | None = None) -> Explanation:
    """Every implementation of a request on an architecture, best first, with its reasons.

    Raises:
        DispatchError, RequestError: the request is impossible on that architecture.
        UnknownImplementationError: the request names an implementation that does not exist.
        NoKernelError: the request insists on an implementation that refuses it.
    """
    require_type("request", request, AttentionRequest)
    require_type("arch", arch, SmArch, optional=True)
    key, kernel_name = request.resolve(arch)
    refusals = {impl.name: impl.reasons_against(request, key.arch) for impl in IMPLEMENTATIONS}
    wanted = _wanted(request)
    if wanted is not None and refusals[wanted]:
        raise _no_kernel(kernel_name, key.arch, {wanted: refusals[wanted]})
    accepting = [impl.name for impl in _by_preference() if not refusals[impl.name]]
    if not accepting:
        raise _no_kernel(kernel_name, key.arch, refusals)
    chosen = wanted or accepting[0]
    return Explanation(
        key,
        kernel_name,
        tuple(_candidate(impl, request, key.arch, refusals[impl.name], chosen) for impl in IMPLEMENTATIONS),
    )


def choose_family(request: AttentionRequest, arch: SmArch) -> ForwardFamily:
    """The family whose kernels compute a request on a device of an architecture.

    Raises:
        NoKernelError: no kernel does; its ``reasons`` say why not, for each implementation.
        UnknownImplementationError: the request names an implementation that does not exist.
    """
    wanted = _wanted(request)
    refusals: dict[str, tuple[str, ...]] = {}
    for impl in _by_preference():
        if wanted not in (None, impl.name):
            continue
        if impl.family is None:
            refusals[impl.name] = ("computes on the host, not on the device",)
            continue
        reasons = impl.reasons_against(request, arch)
        if not reasons:
            return impl.family
        refusals[impl.name] = reasons
    raise _no_kernel(request.kernel_name(arch), arch, refusals)


def family_of(spec: KernelSpec) -> ForwardFamily:
    """A family whose launches contain a kernel; kernels of several families are asked of the one that every
    architecture runs."""
    return SM90 if spec.family == SM90.name else SM80


def choose_kernels(request: AttentionRequest, arch: SmArch) -> tuple[KernelSpec, ...]:
    """The kernels that compute a request on a device of an architecture, in the order of their launches.

    Raises:
        NoKernelError, UnknownImplementationError: as ``choose_family``.
    """
    return kernels_of(request, arch, choose_family(request, arch))


def workspace_size(request: AttentionRequest, arch: SmArch | None = None) -> int:
    """Bytes of scratch memory that a request needs on an architecture: what ``workspace=`` must hold.

    A request that brings all outputs and as much workspace is launched without any allocation. Shapes and
    longest lengths decide, not what lengths and page tables hold, so one workspace serves all steps.

    Args:
        request: a request with arrays.
        arch: architecture of the device, where the request names none; default: the request's default.

    Raises:
        MissingOperandsError: a bare cell. DispatchError, RequestError: it is impossible on that architecture.
        NoKernelError, UnknownImplementationError: as ``choose_family``.
    """
    require_type("request", request, AttentionRequest)
    require_type("arch", arch, SmArch, optional=True)
    key, _ = request.resolve(arch)
    return workspace_of(request, key.arch, choose_family(request, key.arch)).size


def _wanted(request: AttentionRequest) -> str | None:
    names = [impl.name for impl in IMPLEMENTATIONS]
    if request.implementation is not None and request.implementation not in names:
        raise UnknownImplementationError(
            field="implementation",
            got=repr(request.implementation),
            expected="one of " + ", ".join(names),
            remedy="name one of these, or leave the choice to the table",
        )
    return request.implementation


def _by_preference() -> list[Implementation]:
    return sorted(IMPLEMENTATIONS, key=lambda impl: impl.name != _preference.preferred)


def _candidate(
    impl: Implementation, request: AttentionRequest, arch: SmArch, refusal: tuple[str, ...], chosen: str
) -> Candidate:
    is_chosen = impl.name == chosen
    reasons = refusal
    if is_chosen:
        reasons = (
            ("the request names it",)
            if request.implementation
            else (f"best that accepts it: {impl.summary}",)
        )
    elif not refusal:
        reasons = (f"accepts it, but {chosen} comes first",)
    kernels = () if refusal else impl.kernels(request, arch)
    return Candidate(impl.name, is_chosen, reasons, kernels)


def _no_kernel(kernel_name: str, arch: SmArch, reasons: dict[str, tuple[str, ...]]) -> NoKernelError:
    return NoKernelError(
        field="request",
        got=f"{kernel_name} on {arch.target}",
        expected="what one of the kernels computes",
        remedy="see flashactor explain, or compute it on the host with executor='reference'",
        reasons=reasons,
    )


def _reference_reasons(request: AttentionRequest, arch: SmArch) -> tuple[str, ...]:
    elsewhere = next((view.device for view in request.arrays().values() if not view.on_host), None)
    return () if elsewhere is None else (f"reads host memory, and the operands are on {elsewhere}",)


IMPLEMENTATIONS: tuple[Implementation, ...] = (
    Implementation(
        SM90.name,
        "FlashAttention-3 with TMA and wgmma, on Hopper",
        SM90.reasons_against,
        SM90,
    ),
    Implementation(
        SM80.name,
        "FlashAttention-2 with mma.sync, on every architecture",
        SM80.reasons_against,
        SM80,
    ),
    Implementation("reference", "NumPy in float64 on the host", _reference_reasons, None),
)
"""Best first."""

_preference = PreferenceStack()
for _implementation in IMPLEMENTATIONS:
    if _implementation.family is not None:
        _preference.register(_implementation.name)
