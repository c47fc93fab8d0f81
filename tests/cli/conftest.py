"""Commands run in this process, in a folder and with a cache of the test's own."""

import pytest

from flashactor.cli.main import main


class Run:
    """What a command did."""

    def __init__(self, code, captured):
        self.code = code
        self.out = captured.out
        self.err = captured.err


@pytest.fixture
def flashactor(capsys, monkeypatch, tmp_path):
    """A function that runs ``flashactor`` with arguments."""
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return Run(code, capsys.readouterr())

    return run
