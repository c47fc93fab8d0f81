"""``flashactor doctor``."""

import json


def test_doctor(flashactor):
    run = flashactor("doctor")
    assert (run.code, run.err) == (0, "")
    for found in ("NVRTC compiles", "cache folder", "reference executor", "CUDA device", "torch arrays"):
        assert found in run.out


def test_doctor_json(flashactor):
    findings = {finding["what"]: finding for finding in json.loads(flashactor("doctor", "--json").out)}
    assert findings["NVRTC compiles"]["works"]
    assert findings["reference executor"]["essential"]
    assert all(finding["remedy"] for finding in findings.values() if not finding["works"])


def test_doctor_fails_without_a_cache_folder(flashactor, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLASHACTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    run = flashactor("doctor")
    assert run.code == 1
    assert "FLASHACTOR_CACHE_DIR" in run.out
