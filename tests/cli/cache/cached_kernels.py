"""The kernels that the tests of ``flashactor cache`` have in their folders, and ways to spoil them."""

import json

SMALL = ("--arch", "sm_80", "--feature", "combine")
"""Selects two kernels that take little to compile."""
BF16 = "sm80_mma.combine.bf16.sm_80"
F16 = "sm80_mma.combine.f16.sm_80"
UNCACHED = "sm80_mma.fwd.bf16.d64.plain.128x64w4.sm_80"


def key_of(cache, label=BF16):
    return next(record.key for record in cache.records() if record.label == label)


def cubin_files(folder):
    return sorted(path for path in (folder / "cubins" / "entries").rglob("*") if path.is_file())


def damage(cache, label=BF16):
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
