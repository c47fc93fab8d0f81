"""Settings come from the environment, are read in one place, and have defaults that fit the installation."""

import os
from pathlib import Path

import platformdirs
import pytest

from flashactor import settings
from flashactor.errors import SettingsError
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


def test_paths_are_absolute_from_the_start(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    env = {"FLASHACTOR_CACHE_DIR": "c", "FLASHACTOR_CACHE_BUNDLES": "a:b", "FLASHACTOR_TRACE_KEYS": "t"}
    found = Settings.from_environment(env)
    assert (found.cache_dir, found.trace_keys) == (tmp_path / "c", tmp_path / "t")
    assert found.cache_bundles == (tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLASHACTOR_CACHE_DIR", "~nosuchuser/x"),
        ("FLASHACTOR_CACHE_MAX_BYTES", "-1"),
        ("FLASHACTOR_CACHE_MAX_BYTES", "9" * 5000),
        ("FLASHACTOR_CACHE_MAX_BYTES", "many"),
        ("FLASHACTOR_NO_COMPILE", "perhaps"),
        ("FLASHACTOR_CACHE_SHARED", "2"),
    ],
)
def test_a_value_that_means_nothing_is_named(name, value):
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: value})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("1000", 1000), ("500M", 500 << 20), ("2 GiB", 2 << 30), ("1kb", 1024)]
)
def test_sizes(text, size):
    assert Settings.from_environment({"FLASHACTOR_CACHE_MAX_BYTES": text}).cache_max_bytes == size


@pytest.mark.parametrize(("text", "chosen"), [("1", True), ("true", True), ("0", False), ("False", False)])
def test_switches(text, chosen):
    assert Settings.from_environment({"FLASHACTOR_NO_COMPILE": text}).no_compile is chosen


@pytest.mark.parametrize(("text", "port"), [("9100", 9100), ("0", 0), (" 65535 ", 65535), ("", None)])
def test_a_port(text, port):
    assert Settings.from_environment({"FLASHACTOR_METRICS_PORT": text}).metrics_port == port


@pytest.mark.parametrize("text", ["65536", "-1", "http", "1.5", "٣"])
def test_what_is_no_port(text):
    with pytest.raises(SettingsError, match=r"FLASHACTOR_METRICS_PORT: got .*from 0 to 65535"):
        Settings.from_environment({"FLASHACTOR_METRICS_PORT": text})


def test_the_monitor_is_a_switch():
    assert Settings.from_environment({"FLASHACTOR_MONITOR": "1"}).monitor
    assert not Settings.from_environment({}).monitor


def test_sockets_lie_in_the_sessions_folder_if_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert settings.runtime_dir() == tmp_path / "flashactor"


@pytest.mark.parametrize("session", ["", "relative", "/nowhere/at/all"])
def test_sockets_lie_in_tmp_otherwise(monkeypatch, session):
    monkeypatch.setenv("XDG_RUNTIME_DIR", session)
    assert settings.runtime_dir() == Path(f"/tmp/flashactor-{os.geteuid()}")
