"""What the tests of the checks share: kernels that are compiled, and read, once."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from small_kernel import SmallSpec, write_sources

from flashactor.cache import CubinCache
from flashactor.check.covering import covering_specs
from flashactor.check.sass import disassemble
from flashactor.check.static import static_findings
from flashactor.compiler.nvrtc import compile_cubin
from flashactor.kernels.catalog import all_specs
from flashactor.kernels.sm80 import forward_spec
from flashactor.types import DType, SmArch


@pytest.fixture
def small_cubin(tmp_path):
    """A function that compiles the source of a kernel ``small`` and returns its cubin."""

    def compile_(source, arch=SmArch.SM80):
        return compile_cubin(SmallSpec(arch), root=write_sources(tmp_path, source)).cubin

    return compile_


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache of the tests' own."""
    return CubinCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def code_of(cache):
    """A function from a specification to (kernel, code)."""
    kept = {}

    def of(spec):
        if spec not in kept:
            kernel = cache.get_or_compile(spec)
            kept[spec] = kernel, disassemble(kernel.cubin)
        return kept[spec]

    return of


@pytest.fixture(scope="session")
def real(code_of):
    """A function from element type to (spec, kernel, code) of a real kernel."""

    def of(dtype):
        spec = forward_spec(SmArch.SM80, dtype, 64)
        return spec, *code_of(spec)

    return of


@pytest.fixture(scope="session")
def covering_kernels(cache):
    """(kernel, findings) of the kernels that have everything between them, by spec."""

    def check(spec):
        kernel = cache.get_or_compile(spec)
        return kernel, {finding.check: finding for finding in static_findings(spec, kernel)}

    specs = covering_specs(all_specs())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(specs, pool.map(check, specs), strict=True))


@pytest.fixture(params=[DType.F16, DType.BF16], ids=lambda dtype: dtype.tag)
def dtype(request):
    """Both element types."""
    return request.param
