"""Settings come from the environment, are read in one place, and have defaults that fit the installation."""

import os
from pathlib import Path

import platformdirs
import pytest

from flashactor import settings
from flashactor.settings import Settings, default_cache_dir

CHECKOUT = Path(__file__).resolve().parent.parent


def test_defaults():
    assert Settings.from_environment({}) == Settings(default_cache_dir(), "auto", "warning")


def test_environment():
    env = {
        "FLASHACTOR_CACHE_DIR": "/somewhere/cubins",
        "FLASHACTOR_EXECUTOR": "reference",
        "FLASHACTOR_LOG_LEVEL": "debug",
    }
    assert Settings.from_environment(env) == Settings(Path("/somewhere/cubins"), "reference", "debug")


def test_an_empty_variable_counts_as_unset():
    env = dict.fromkeys(("FLASHACTOR_CACHE_DIR", "FLASHACTOR_EXECUTOR", "FLASHACTOR_LOG_LEVEL"), "")
    assert Settings.from_environment(env) == Settings.from_environment({})


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert Settings.from_environment({"FLASHACTOR_CACHE_DIR": "~/c"}).cache_dir == Path("/home/someone/c")


def test_a_checkout_keeps_its_own_cache():
    assert default_cache_dir() == CHECKOUT / "cubin_cache"


def test_an_installed_package_uses_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "PACKAGE_ROOT", tmp_path / "site-packages" / "flashactor")
    assert default_cache_dir() == platformdirs.user_cache_path("flashactor", appauthor=False)


@pytest.mark.parametrize("before", [None, "4"])
def test_processes_multiply_on_one_core_unless_told_otherwise(monkeypatch, before):
    name = "OPENBLAS_NUM_THREADS"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with settings.one_blas_thread():
        assert os.environ[name] == (before or "1")
    assert os.environ.get(name) == before
