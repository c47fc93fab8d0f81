"""Sources, folders and a fast compiler that the tests of the cache share."""

import pytest
from cache_tools import FAKE_VERSION, fake_compile
from small_kernel import write_sources

from flashactor.cache import CubinCache
from flashactor.cache import cubin_cache as cache_module


@pytest.fixture
def sources(tmp_path):
    """A folder of sources that compile."""
    return write_sources(tmp_path / "sources")


@pytest.fixture
def fake_compiler(monkeypatch):
    """The compiler is a fake; the list has what it compiled."""
    compiled = []

    def counting(spec, *, root=None):
        compiled.append(spec)
        return fake_compile(spec)

    monkeypatch.setattr(cache_module, "compile_cubin", counting)
    monkeypatch.setattr(cache_module, "nvrtc_version", lambda: FAKE_VERSION)
    return compiled


@pytest.fixture
def make_cache(tmp_path, sources):
    """A function that opens a folder by name, as another process would."""
    return lambda name="cache", **more: CubinCache(tmp_path / name, root=sources, **more)
