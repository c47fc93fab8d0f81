"""Attention in NumPy and float64: what the kernels are measured against, and what computes without a GPU."""

from flashactor.reference.backward import Gradients, backward
from flashactor.reference.chunked import append, forward_chunked
from flashactor.reference.forward import forward
from flashactor.reference.low_precision import backward_low_precision, forward_low_precision
from flashactor.reference.masks import visible
from flashactor.reference.merge import merge_states
from flashactor.reference.paged import forward_paged, gather
from flashactor.reference.params import AttentionParams
from flashactor.reference.philox import keep_mask, philox4x32
from flashactor.reference.quantization import dequantize, quantize
from flashactor.reference.rotary import rotate
from flashactor.reference.varlen import backward_varlen, forward_varlen

__all__ = [
    "AttentionParams",
    "Gradients",
    "append",
    "backward",
    "backward_low_precision",
    "backward_varlen",
    "dequantize",
    "forward",
    "forward_chunked",
    "forward_low_precision",
    "forward_paged",
    "forward_varlen",
    "gather",
    "keep_mask",
    "merge_states",
    "philox4x32",
    "quantize",
    "rotate",
    "visible",
]
