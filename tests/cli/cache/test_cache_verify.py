"""``flashactor cache verify``: what is damaged, and what is set aside."""

import json
import os

from cached_kernels import BF16, F16, damage, key_of

from flashactor.cache.claim import KeyClaim


def test_verify_finds_every_damaged_entry(flashactor, cache, bundle, monkeypatch):
    monkeypatch.setenv("FLASHACTOR_CACHE_BUNDLES", f"{bundle}{os.pathsep}{bundle.with_name('gone.zip')}")
    damage(cache, BF16)
    damage(cache, F16)
    run = flashactor("cache", "verify")
    assert run.code == 1
    assert run.out == "4 entries, 3 damaged\n"
    assert all(name in run.err for name in (BF16, F16, "gone.zip"))
    assert run.err.count("\n") == 3
    document = json.loads(flashactor("cache", "verify", "--json").out)
    assert (document["entries"], len(document["damaged"])) == (4, 3)


def test_verify_repairs_the_folder(flashactor, cache):
    damage(cache)
    (cache.folder.records_path / f"{key_of(cache, F16)}.json").write_text("no record")
    run = flashactor("cache", "verify", "--repair")
    assert run.code == 0
    assert run.out == "2 entries, 2 damaged, 2 of them set aside\n"
    assert flashactor("cache", "verify").out == "0 entries, 0 damaged\n"
    assert len(list(cache.folder.quarantine_path.glob("*.cubin"))) == 2


def test_verify_leaves_what_a_process_is_busy_with(flashactor, cache):
    damage(cache)
    claim = KeyClaim(cache.folder.locks_path, key_of(cache))
    assert claim.acquire()
    with claim:
        assert flashactor("cache", "verify", "--repair").code == 1
