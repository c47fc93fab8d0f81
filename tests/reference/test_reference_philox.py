"""Philox against its published answers, and the dropout mask against its definition."""

import numpy as np
import pytest

from flashactor.reference import keep_mask, philox4x32


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


# kat_vectors of Random123.
KNOWN_ANSWERS = {
    "zeros": ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    "pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS.keys())
def test_known_answers(counter: str, key: str, answer: str) -> None:
    got = philox4x32(words(counter), words(key))
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, words(answer))


def test_known_answers_all_at_once() -> None:
    counters, keys, answers = (
        np.stack([words(x) for x in column]) for column in zip(*KNOWN_ANSWERS.values(), strict=True)
    )
    np.testing.assert_array_equal(philox4x32(counters, keys), answers)
    np.testing.assert_array_equal(philox4x32(counters[:, None], keys[None])[[0, 1, 2], [0, 1, 2]], answers)


def test_keep_mask_is_its_definition() -> None:
    seed, offset, batch_index, head_index, num_heads, p = 0xFEDC_BA98_7654_3210, 2**35 + 9, 3, 5, 7, 0.4
    rows, cols = np.arange(40), np.arange(21)
    expected = np.zeros((40, 21), dtype=bool)
    for i in range(40):
        for j in range(21):
            counter = [j >> 1, ((i >> 4) << 3) | (i & 7), batch_index * num_heads + head_index, 9]
            random = philox4x32(np.array(counter, np.uint32), np.array([0x7654_3210, 0xFEDC_BA98], np.uint32))
            expected[i, j] = int(random[((i >> 3) & 1) * 2 + (j & 1)]) >= int(0.4 * 2**32)
    got = keep_mask(seed, offset, batch_index, head_index, num_heads, rows, cols, p)
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, expected)
    some_rows, some_cols = np.array([33, 2, 17, 2]), np.array([20, 0, 7])
    part = keep_mask(seed, offset, batch_index, head_index, num_heads, some_rows, some_cols, p)
    np.testing.assert_array_equal(part, expected[np.ix_(some_rows, some_cols)])


def test_four_weights_of_a_fragment_share_a_counter_but_no_word() -> None:
    """Over rows i, i + 8 and columns j, j + 1 the masks still differ: every weight has its own word."""
    masks = [keep_mask(s, 0, 0, 0, 1, np.array([0, 8]), np.array([0, 1]), 0.5).ravel() for s in range(256)]
    correlation = np.corrcoef(np.array(masks).T.astype(float))
    assert np.abs(correlation - np.eye(4)).max() < 0.25


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_keep_rate(p: float) -> None:
    masks = [keep_mask(11, 4, b, h, 4, np.arange(256), np.arange(256), p) for b in range(2) for h in range(4)]
    kept = np.stack(masks)
    sigma = np.sqrt(p * (1 - p) / kept.size)
    assert abs(kept.mean() - (1 - p)) <= 4 * sigma
    per_row, per_col = kept.mean(axis=(0, 2)), kept.mean(axis=(0, 1))
    assert max(np.abs(per_row - (1 - p)).max(), np.abs(per_col - (1 - p)).max()) <= 5 * np.sqrt(
        p * (1 - p) / (8 * 256)
    )


@pytest.mark.parametrize(
    "change",
    [{"seed": 2**32 + 1}, {"seed": 2}, {"offset": 1}, {"batch_index": 1}, {"head_index": 1}],
    ids=lambda change: next(iter(change)),
)
def test_masks_of_other_calls_batches_and_heads_are_others(change: dict[str, int]) -> None:
    base = {"seed": 1, "offset": 0, "batch_index": 0, "head_index": 0}
    rows = cols = np.arange(64)
    one = keep_mask(**base, num_heads=2, rows=rows, cols=cols, p=0.5)
    other = keep_mask(**(base | change), num_heads=2, rows=rows, cols=cols, p=0.5)
    assert 0.4 < (one != other).mean() < 0.6
