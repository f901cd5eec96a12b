"""Several sources as one, and the order in which a run goes through any source."""

from collections.abc import Mapping, Sequence
import hashlib
from typing import Any

import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.loader import Source
from vtp_eqx.data.sampler import ShardedSampler


# Ours: a window of 16 such parts takes 8 MB to shuffle, however large the source is,
# and mixes a million rows, as folders that are sorted by class need.
_PART = 2**16


class Mixture:
    """The examples of several sources, one source after the other.

    `weights` are their shares in the batches of its `make_sampler`, by default in
    proportion to their sizes. Examples are those of the sources, with `id` the row of
    the mixture.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float] | None = None
    ):
        require(
            bool(sources) and not any(isinstance(one, Mixture) for one in sources),
            "A mixture has sources that are none themselves; got "
            f"{[type(one).__name__ for one in sources]}: list all sources at once.",
        )
        self.sources = tuple(sources)
        self.weights = None if weights is None else tuple(weights)
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        source, own = self._source_and_row(row)
        return {**source[own], "id": row}

    def encoded(self, row: int) -> Mapping[str, Any]:
        """The same, with `image` as the bytes of its file where the source has them."""
        source, own = self._source_and_row(row)
        return {**read_encoded(source, own), "id": row}

    def name(self, row: int) -> str:
        """The name of a row, as its source gives it."""
        return example_name(*self._source_and_row(row))

    @property
    def fingerprint(self) -> str:
        """Changes whenever a source or a weight does."""
        prints = [getattr(source, "fingerprint", "") for source in self.sources]
        content = f"{prints} {self.weights}".encode()
        return hashlib.sha256(content).hexdigest()[:12]

    def _source_and_row(self, row: int) -> tuple[Source, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"The mixture has {len(self)} rows; got {row}.")
        number = int(np.searchsorted(self._ends, row, side="right"))
        source = self.sources[number]
        return source, int(row - self._ends[number] + len(source))


def make_sampler(
    source: Source,
    batch_size: int,
    *,
    seed: int,
    window: int = 16,
    group: int = 1,
    one_shard_batches: bool = False,
) -> ShardedSampler:
    """The `ShardedSampler` of any source, shuffled by its `shard_sizes` if it has them.

    Other sources are cut into parts of 65,536 rows, each of which counts as a shard.
    """
    mixed = isinstance(source, Mixture)
    sources = source.sources if mixed else (source,)
    return ShardedSampler(
        [_shard_sizes(one, group) for one in sources],
        batch_size,
        seed=seed,
        weights=source.weights if mixed else None,
        window=window,
        group=group,
        one_shard_batches=one_shard_batches,
    )


def _shard_sizes(source: Source, group: int) -> Sequence[int] | np.ndarray:
    known = getattr(source, "shard_sizes", None)
    if known is not None:
        return known
    part = max(_PART // group, 1) * group
    starts = range(0, len(source), part)
    return [min(part, len(source) - start) for start in starts]


def read_encoded(source: Source, row: int) -> Mapping[str, Any]:
    """An example with `image` as the bytes of its file, or else as pixels."""
    read = getattr(source, "encoded", source.__getitem__)
    return read(row)


def example_name(source: Source, row: int) -> str:
    """The name of a row of a source, for messages."""
    return getattr(source, "name", "row {}".format)(row)


def source_fingerprint(source: Source) -> str:
    """A text that changes when the data of a source change, to compare on resume.

    The number of examples and the fingerprint: equal for a copy in another folder, and
    other where the names, sizes or number of files are. No image is read for it.
    """
    return f"{len(source)} examples {getattr(source, 'fingerprint', '')}".strip()
