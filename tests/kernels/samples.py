"""Random arrays that tests of several kernels compute on."""

import ml_dtypes


def normal(rng, *shape, dtype=ml_dtypes.bfloat16):
    """Normally distributed numbers."""
    return rng.standard_normal(shape).astype(dtype)
