"""What all of ``flashactor cache`` says to bad input and to folders that are not private."""

import pytest
from cached_kernels import BF16


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["prune", "--max-bytes", "much"],
        ["prune", "--max-bytes", "-1"],
        ["prune", "--older-than", "-1"],
        ["prune", "--older-than", "nan"],
        ["prune", "--older-than", "soon"],
        ["import"],
        ["show"],
        ["export", "x.zip", "--head-dim", "100"],
        ["list", "a", "b"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(flashactor, arguments):
    run = flashactor("cache", *arguments)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)


def test_a_folder_that_others_may_write_is_refused(flashactor, cache):
    cache.path.chmod(0o777)
    for command in (["list"], ["stats"], ["prune"], ["clear"], ["show", BF16], ["export", "x.zip"]):
        run = flashactor("cache", *command)
        assert (run.code, run.err.count("\n")) == (2, 1), command
        assert "chmod" in run.err
    assert flashactor("cache", "verify").code == 1
