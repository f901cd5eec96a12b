"""A control: every image gets the caption of another one.

A caption then says nothing of its image, while the texts are the same ones.
"""

from jaxtyping import Int
import numpy as np


def caption_rows(count: int, seed: int) -> Int[np.ndarray, " {count}"]:
    """Of each of `count` examples, the row whose caption it gets.

    A function of both numbers alone. Every caption is given once, and from two examples
    on none to its own image: all rows are one random cycle. Eight bytes a row.
    """
    order = np.random.default_rng([seed, count]).permutation(count)
    rows = np.empty(count, np.int64)
    rows[order] = np.roll(order, -1)
    return rows
