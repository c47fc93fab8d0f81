"""A folder and a bundle with two kernels, for the tests of ``flashactor cache``."""

import shutil

import pytest
from cached_kernels import SMALL

from flashactor.cache import CubinCache
from flashactor.cli.main import main


@pytest.fixture(scope="session")
def warmed(tmp_path_factory):
    """A folder with two kernels, which no test changes."""
    folder = tmp_path_factory.mktemp("warmed") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHACTOR_CACHE_DIR", str(folder))
        assert main(["warm", *SMALL]) == 0
    return folder


@pytest.fixture(scope="session")
def exported(warmed, tmp_path_factory):
    """The bytes of a bundle of those two kernels."""
    bundle = tmp_path_factory.mktemp("exported") / "two.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASHACTOR_CACHE_DIR", str(warmed))
        assert main(["cache", "export", str(bundle)]) == 0
    return bundle.read_bytes()


@pytest.fixture
def cache(warmed, tmp_path):
    """The test's own cache folder, with the two kernels."""
    shutil.copytree(warmed, tmp_path / "cache")
    return CubinCache(tmp_path / "cache")


@pytest.fixture
def bundle(exported, tmp_path):
    """A bundle file of the two kernels."""
    (tmp_path / "two.zip").write_bytes(exported)
    return tmp_path / "two.zip"
