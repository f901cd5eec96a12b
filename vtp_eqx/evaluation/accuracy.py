"""Checks, unit norms, neighbors and accuracies for scores of frozen features.

Features are rows of numpy arrays, labels are integers from 0. Every score is a share of
test rows in [0, 1].
"""

from collections.abc import Iterator

from jaxtyping import Float, Int
import numpy as np


BLOCK = 1024  # rows compared at a time with all others


def unit(rows: Float[np.ndarray, "*axes width"]) -> Float[np.ndarray, "*axes width"]:
    """`rows` at norm 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(norms, np.finfo(rows.dtype).tiny)


def top_accuracy(
    logits: Float[np.ndarray, "count classes"],
    labels: Int[np.ndarray, " count"],
    among: int = 1,
) -> float:
    """Share of rows whose label has one of the `among` largest logits."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :among]
    return float(np.mean((best == labels[:, None]).any(axis=1)))


def nearest_rows(
    rows: Float[np.ndarray, "count width"],
    others: Float[np.ndarray, "others width"],
    num: int,
    *,
    is_same: bool = False,
) -> Iterator[
    tuple[slice, Int[np.ndarray, "some {num}"], Float[np.ndarray, "some {num}"]]
]:
    """The `num` nearest of `others` by inner product, and that, for a block of rows.

    With the rows that the block is. Where both sets are the same (`is_same`), a row is
    not its own neighbor. Neighbors are in no order.
    """
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        similarity = rows[block] @ others.T
        if is_same:
            each = np.arange(len(similarity))
            similarity[each, start + each] = -np.inf
        nearest = np.argpartition(-similarity, num - 1, axis=1)[:, :num]
        yield block, nearest, np.take_along_axis(similarity, nearest, 1)


def check_rows(name: str, rows: np.ndarray, labels: np.ndarray) -> None:
    """Raises `ValueError` for no rows, rows that are not finite, or labels below 0."""
    if len(rows) == 0:
        raise ValueError(f"`{name}` needs at least one row of features; got none.")
    if not np.isfinite(rows).all():
        raise ValueError(
            f"Features must be finite; got NaN or infinity in `{name}`: look at the "
            "images they come from."
        )
    if labels.min() < 0:
        raise ValueError(
            f"Labels are integers from 0; got {labels.min()} in `{name}`: leave out "
            "rows without a label."
        )
