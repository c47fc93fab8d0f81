"""The registry: storing calls nothing, activating is explicit, restoring undoes it."""

import pytest

from flashactor import registry
from flashactor.errors import UnknownImplementationError


class Recorder:
    """A register function and its handle in one."""

    def __init__(self):
        self.calls = []

    def __call__(self):
        self.calls.append("activate")
        return self

    def remove(self):
        self.calls.append("remove")


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    registry.restore()
    monkeypatch.setattr(registry, "_register_fns", dict(registry._register_fns))
    yield
    registry.restore()


@pytest.fixture
def alpha():
    recorder = Recorder()
    registry.register("alpha", register_fn=recorder)
    return recorder


@pytest.fixture
def beta():
    recorder = Recorder()
    registry.register("beta", register_fn=recorder)
    return recorder


def test_registering_stores_only(alpha):
    assert alpha.calls == []
    assert registry.current() is None
    assert "alpha" in registry.list()


def test_the_list_is_sorted_and_holds_executors_and_kernel_families(alpha, beta):
    names = registry.list()
    assert names == sorted(names)
    assert {"alpha", "beta", "cuda", "mock", "reference", "sm80_mma"} <= set(names)


def test_activation_is_idempotent(alpha):
    registry.activate("alpha")
    registry.activate("alpha")
    assert alpha.calls == ["activate"]
    assert registry.current() == "alpha"


def test_an_unknown_name_lists_what_there_is_and_changes_nothing(alpha):
    registry.activate("alpha")
    with pytest.raises(UnknownImplementationError, match="alpha") as caught:
        registry.activate("nonsense")
    assert isinstance(caught.value, ValueError)
    assert registry.current() == "alpha"
    assert alpha.calls == ["activate"]


def test_activating_another_removes_the_first(alpha, beta):
    registry.activate("alpha")
    registry.activate("beta")
    assert alpha.calls == ["activate", "remove"]
    assert registry.current() == "beta"


def test_restore_removes_the_handle_once(alpha):
    registry.activate("alpha")
    registry.restore()
    registry.restore()
    assert alpha.calls == ["activate", "remove"]
    assert registry.current() is None


def test_a_function_without_a_handle_is_fine():
    registry.register("bare", register_fn=lambda: None)
    registry.activate("bare")
    registry.restore()
    assert registry.current() is None


def test_a_failing_activation_leaves_none_active(alpha):
    def fail():
        raise RuntimeError("no device")

    registry.register("broken", register_fn=fail)
    registry.activate("alpha")
    with pytest.raises(RuntimeError, match="no device"):
        registry.activate("broken")
    assert registry.current() is None
    assert alpha.calls == ["activate", "remove"]


def test_context_manager_brings_back_what_was_active(alpha, beta):
    registry.activate("alpha")

    def fail_inside():
        with registry.activated("beta"):
            assert registry.current() == "beta"
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert registry.current() == "alpha"


def test_context_manager_restores_to_none(alpha):
    with registry.activated("alpha"):
        assert registry.current() == "alpha"
    assert registry.current() is None


def test_activating_an_executor_makes_it_what_auto_stands_for():
    from flashactor.executors.select import auto_executor
    from flashactor.settings import Settings

    settings = Settings.from_environment({"FLASHACTOR_EXECUTOR": "reference"})
    assert auto_executor(settings) == "reference"
    with registry.activated("mock"):
        assert auto_executor(settings) == "mock"
    assert auto_executor(settings) == "reference"
