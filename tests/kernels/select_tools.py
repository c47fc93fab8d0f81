"""Requests without arrays, and what a family has against one: what tests of the choice share."""

from flashactor import DType, SmArch, explain
from flashactor.requests.bare import REQUEST_TYPES, bare_request

CELL = {"arch": SmArch.SM90A, "dtype": DType.BF16, "head_dim": 128}


def bare(request_type, arch=SmArch.SM90A, dtype=DType.BF16, head_dim=128, **options):
    return bare_request(request_type, arch=arch, dtype=dtype, head_dim=head_dim, **options)


def fp8(name, arch=SmArch.SM90A, dtype=DType.F8E4M3, **options):
    return bare(REQUEST_TYPES[name], arch, dtype, **options)


def refusals(request, implementation):
    return next(c for c in explain(request).candidates if c.implementation == implementation)
