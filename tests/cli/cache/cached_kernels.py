"""The kernels that the tests of ``flashactor cache`` have in their folders, and ways to spoil them."""

import json

SMALL = ("--arch", "sm_80", "--head-dim", "32", "--dtype", "bf16")
CAUSAL = "sm80_mma.fwd.bf16.d32.causal.128x128w4.sm_80"
FULL = "sm80_mma.fwd.bf16.d32.full.128x128w4.sm_80"
UNCACHED = "sm80_mma.fwd.bf16.d64.full.128x112w4.sm_80"


def key_of(cache, label=CAUSAL):
    return next(record.key for record in cache.records() if record.label == label)


def cubin_files(folder):
    return sorted(path for path in (folder / "cubins" / "entries").rglob("*") if path.is_file())


def damage(cache, label=CAUSAL):
    """Flip a bit in the middle of a kernel's cubin."""
    content = cache.folder.peek(key_of(cache, label)).cubin
    path = next(path for path in cubin_files(cache.path) if path.read_bytes() == content)
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])


def rewrite_record(cache, label, **fields):
    """Store a kernel under the key of a record with other fields, as another installation would have."""
    key = key_of(cache, label)
    kernel = cache.folder.peek(key)
    document = {**json.loads(kernel.record.to_json()), **fields}
    record = type(kernel.record).from_json(json.dumps(document))
    cache.folder.remove(key)
    cache.folder.store(record, kernel.cubin)
    return record.key
