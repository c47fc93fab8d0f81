"""``flashactor cache show``: one kernel, by whatever names it."""

import json
from hashlib import sha256

import pytest
from cached_kernels import BF16, F16, damage, key_of, rewrite_record


@pytest.mark.parametrize("name", [BF16, "common.combine.b", "key", "prefix"])
def test_show_by_label_key_or_prefix(flashactor, cache, name):
    key = key_of(cache)
    name = {"key": key, "prefix": key[:20]}.get(name, name)
    document = json.loads(flashactor("cache", "show", name, "--json").out)
    assert (document["label"], document["key"], document["current"]) == (BF16, key, True)
    assert document["options"][0] == "-arch=sm_80"
    assert key in flashactor("cache", "show", name).out


def test_show_writes_the_cubin(flashactor, cache, tmp_path):
    document = json.loads(flashactor("cache", "show", BF16, "-o", "k.cubin", "--json").out)
    content = (tmp_path / "k.cubin").read_bytes()
    assert content.startswith(b"\x7fELF")
    assert sha256(content).hexdigest() == document["sha256"]


def test_show_writes_no_damaged_cubin(flashactor, cache, tmp_path):
    damage(cache)
    run = flashactor("cache", "show", BF16, "-o", "k.cubin")
    assert (run.code, run.err.count("\n"), (tmp_path / "k.cubin").exists()) == (1, 1, False)


@pytest.mark.parametrize(
    ("name", "candidate"), [("sm80_mma", F16), ("combine.bf61", BF16), ("", BF16)], ids=str
)
def test_show_lists_candidates(flashactor, cache, name, candidate):
    run = flashactor("cache", "show", name)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert candidate in run.err


def test_of_two_kernels_of_a_label_the_current_one_is_shown(flashactor, cache):
    key = key_of(cache)
    kernel = cache.folder.peek(key)
    old = rewrite_record(cache, BF16, source_digest="0" * 64)
    cache.folder.store(kernel.record, kernel.cubin)
    assert json.loads(flashactor("cache", "show", BF16, "--json").out)["key"] == key
    assert json.loads(flashactor("cache", "show", old, "--json").out)["current"] is False
