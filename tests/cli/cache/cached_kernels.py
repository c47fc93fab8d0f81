"""The kernels that the tests of ``flashactor cache`` have in their folders, and ways to spoil them."""

import json

from flashactor import DType, SmArch
from flashactor.kernels.sm80 import forward_spec

SMALL = ("--arch", "sm_80", "--feature", "combine")
"""Selects two kernels that take little to compile."""
BF16 = "common.combine.bf16.sm_80"
F16 = "common.combine.f16.sm_80"
UNCACHED = forward_spec(SmArch.SM80, DType.BF16, 64).label


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
