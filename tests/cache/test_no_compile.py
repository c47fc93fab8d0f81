"""A cache that may not compile: what is there works, what is not is named, and nothing is created."""

import pytest
from cache_tools import files_below, read_only, small_spec

from flashactor.cache import cubin_cache as cache_module
from flashactor.cache.bundle import write_bundle
from flashactor.errors import CacheMissError

SPEC, OTHER = small_spec(1), small_spec(2)


def test_a_hit_is_served(make_cache, fake_compiler):
    cubin = make_cache().get_or_compile(SPEC).cubin
    cache = make_cache(compiling=False)
    kernels = [cache.get_or_compile(SPEC), cache.get_or_compile(SPEC)]
    assert [kernel.source for kernel in kernels] == ["disk", "memory"]
    assert {kernel.cubin for kernel in kernels} == {cubin}


def test_a_miss_names_the_command_that_helps(make_cache, fake_compiler, tmp_path):
    cache = make_cache(compiling=False, bundles=[tmp_path / "bundle"])
    with pytest.raises(CacheMissError) as caught:
        cache.get_or_compile(SPEC)
    error = caught.value
    assert error.remedy.endswith("flashactor warm --kernel small-1")
    assert "FLASHACTOR_NO_COMPILE" in error.expected
    for word in ("small-1", str(cache.path), str(tmp_path / "bundle"), "0.0 (fake)"):
        assert word in error.got
    assert "another compiler" not in error.got
    assert fake_compiler == []
    assert not cache.path.exists()


def test_a_kernel_of_another_compiler_is_mentioned(make_cache, fake_compiler, monkeypatch):
    make_cache().get_or_compile(SPEC)
    monkeypatch.setattr(cache_module, "nvrtc_version", lambda: "99.9")
    with pytest.raises(CacheMissError, match=r"another compiler: 0\.0 \(fake\)") as caught:
        make_cache(compiling=False).get_or_compile(SPEC)
    assert "NVRTC 99.9" in caught.value.got
    with pytest.raises(CacheMissError) as caught:
        make_cache(compiling=False).get_or_compile(OTHER)
    assert "another compiler" not in caught.value.got


def test_a_kernel_of_another_compiler_in_a_bundle_is_mentioned(
    make_cache, fake_compiler, monkeypatch, tmp_path
):
    write_bundle(tmp_path / "kernels.zip", [make_cache("origin").get_or_compile(SPEC)])
    monkeypatch.setattr(cache_module, "nvrtc_version", lambda: "99.9")
    with pytest.raises(CacheMissError, match=r"another compiler: 0\.0 \(fake\)"):
        make_cache(compiling=False, bundles=[tmp_path / "kernels.zip"]).get_or_compile(SPEC)


def test_a_lookup_says_nothing(make_cache, fake_compiler):
    assert make_cache(compiling=False).lookup(SPEC) is None


def test_a_read_only_folder_is_enough(make_cache, fake_compiler, tmp_path, caplog):
    make_cache().get_or_compile(SPEC)
    before = files_below(tmp_path)
    with read_only(tmp_path / "cache"):
        cache = make_cache(compiling=False)
        assert cache.get_or_compile(SPEC).source == "disk"
        with pytest.raises(CacheMissError):
            cache.get_or_compile(OTHER)
    assert files_below(tmp_path) == before
    assert caplog.records == []


def test_a_damaged_kernel_is_missing_even_where_nothing_can_be_mended(
    make_cache, fake_compiler, tmp_path, caplog
):
    make_cache().get_or_compile(SPEC)
    (cubin,) = files_below(tmp_path / "cache" / "cubins")
    cubin.write_bytes(b"damaged")
    before = files_below(tmp_path)
    with read_only(tmp_path / "cache"):
        cache = make_cache(compiling=False)
        for _ in range(2):
            with pytest.raises(CacheMissError):
                cache.get_or_compile(SPEC)
    assert files_below(tmp_path) == before
    assert cache.counts().damaged == 2
    assert "is damaged" in caplog.text


def test_a_damaged_kernel_comes_from_a_bundle(make_cache, fake_compiler, tmp_path):
    write_bundle(tmp_path / "kernels.zip", [make_cache().get_or_compile(SPEC)])
    (cubin,) = files_below(tmp_path / "cache" / "cubins")
    cubin.write_bytes(b"damaged")
    cache = make_cache(compiling=False, bundles=[tmp_path / "kernels.zip"])
    assert cache.get_or_compile(SPEC).source == "bundle"
    assert cache.counts().damaged == 1


def test_a_layer_that_cannot_be_read_is_still_a_miss(make_cache, fake_compiler, tmp_path):
    make_cache("bundle").get_or_compile(SPEC)
    (tmp_path / "bundle" / "records").chmod(0o000)
    with read_only(tmp_path / "bundle"):
        cache = make_cache(compiling=False, bundles=[tmp_path / "bundle", tmp_path / "gone.zip"])
        with pytest.raises(CacheMissError):
            cache.get_or_compile(SPEC)
