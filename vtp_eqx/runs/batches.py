"""Batches of trainings: from any source of images and captions, or from arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from vtp_eqx.config import FinetuneConfig, GenerateConfig, require
from vtp_eqx.data import loader
from vtp_eqx.data.bad_examples import BadExampleLog
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import make_sampler, Mixture
from vtp_eqx.data.prefetch import ExampleBatch, ExampleReader, Prefetcher
from vtp_eqx.data.sampler import ShardedSampler
from vtp_eqx.data.skipped import skipped_of
from vtp_eqx.data.sources import is_prepared, open_source, split_of
from vtp_eqx.runs.log import warn
from vtp_eqx.runs.multihost import is_main_process
from vtp_eqx.runs.throughput import throttled_print
from vtp_eqx.training.pretrain_views import CaptionedBatch


BAD_EXAMPLES = "bad_examples-{}.jsonl"  # of each process of a run
OLD_BAD_EXAMPLES = "remarks-{}.jsonl"  # what these files were called before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """`batches(first)` yields the batches of this process from number `first` on.

    - `folder`: where bad examples are logged, a file a process.
    - `workers`: threads that read and decode, or `processes`.
    - `max_skip_rate`: share of unreadable examples above which the run stops.
    """

    reader: ExampleReader
    folder: Path
    workers: int = 8
    processes: bool = False
    max_skip_rate: float = 0.1

    def __call__(self, first: int) -> Iterator[CaptionedBatch]:
        for examples in self.examples(first):
            yield CaptionedBatch(examples.image, examples.tokens)

    def examples(self, first: int) -> Iterator[ExampleBatch]:
        """The same with labels and rows, as they were read."""
        index, count = jax.process_index(), jax.process_count()
        self._rename_old_logs(index, count)
        log = BadExampleLog(
            self.folder / BAD_EXAMPLES.format(index),
            start_step=first,
            max_skip_rate=self.max_skip_rate,
        )
        stream = Prefetcher(
            self.reader,
            start_step=first,
            shard=(index, count),
            num_workers=self.workers,
            processes=self.processes,
            log=log,
        )
        if index == 0:
            self._truncate_other_logs(first, count)
        with contextlib.closing(log), stream:
            yield from stream

    def rows(self, batch: int) -> Sequence[int]:
        """The rows of the source of a batch of all processes."""
        return self.reader.sampler(batch).tolist()

    def _truncate_other_logs(self, first: int, count: int) -> None:
        """Deletes entries of batches >= `first` by processes that no longer exist.

        A run that continues with fewer processes writes those entries again.
        """
        current = {BAD_EXAMPLES.format(index) for index in range(count)}
        for path in self.folder.glob(BAD_EXAMPLES.format("*")):
            if path.name not in current:
                BadExampleLog(path, start_step=first).close()

    def _rename_old_logs(self, index: int, count: int) -> None:
        """Gives logs of runs that were begun before their present names.

        Each process renames its own, which no other may have opened, and the main one
        those of processes that no longer exist.
        """
        for path in self.folder.glob(OLD_BAD_EXAMPLES.format("*")):
            number = int(path.stem.rpartition("-")[2])
            if number == index or (index == 0 and number >= count):
                path.rename(self.folder / BAD_EXAMPLES.format(number))


def check_batch_size(config: FinetuneConfig | GenerateConfig, mesh: Mesh) -> None:
    """A `ValueError` where a batch cannot be split over devices and microbatches."""
    num_devices = mesh.devices.size
    batch_size, accumulate = config.batch_size, config.accumulate
    require(
        batch_size % (num_devices * accumulate) == 0,
        f"`batch_size` ({batch_size}) must be a multiple of devices ({num_devices}) "
        f"times `accumulate` ({accumulate}): choose another batch size.",
    )


@dataclasses.dataclass(frozen=True)
class ArrayBatches:
    """`batches(first)` yields this process's part of batches from number `first` on.

    Each is `make(**rows)`, with the rows of every array by its name. `group`: this many
    consecutive examples stay together. `parts`: the sizes of consecutive parts of the
    arrays, where each batch is of one part, for examples that must not meet in a batch.
    """

    make: Callable[..., Any]
    arrays: Mapping[str, np.ndarray]
    batch_size: int
    _: dataclasses.KW_ONLY
    seed: int
    group: int = 1
    parts: tuple[int, ...] = ()

    def __call__(self, first: int) -> Iterator[Any]:
        local = self.batch_size // jax.process_count()
        start = jax.process_index() * local
        for batch in itertools.count(first):
            rows = self.rows(batch)[start : start + local]
            yield self.make(**{name: a[rows] for name, a in self.arrays.items()})

    def rows(self, batch: int) -> Sequence[int]:
        """The rows of the arrays that are a batch of all processes."""
        if self.parts:
            return self._sampler(batch).tolist()
        return loader.rows_at(
            batch, loader.common_length(self.arrays), self.batch_size, seed=self.seed,
            group=self.group,
        ).tolist()  # fmt: skip

    @functools.cached_property
    def _sampler(self) -> ShardedSampler:
        return ShardedSampler(
            [self.parts], self.batch_size, seed=self.seed, group=self.group,
            window=1, one_shard_batches=True,
        )  # fmt: skip


def open_sources(
    paths: Sequence[str],
    split: str = "",
    weights: Sequence[float] = (),
) -> Source:
    """The source at a path, or the mixture of several, by default as large as they are.

    See `data.sources.open_source` for what a path may be; indexing tars prints how far
    it is. `split` is for those of the paths that have splits and name none. The first
    process warns of what is missing of damaged tars, and what else is no example.
    """
    require(
        not weights or len(weights) == len(paths) > 1,
        "Weights are shares of several sources, one of each; got "
        f"{len(weights)} for {len(paths)}: list one a source, or leave them out.",
    )
    named = [split_of(path) for path in paths]
    lacking = [is_prepared(folder) and not own for folder, own in named]
    require(
        not split or any(lacking),
        "A split is for data sets of TensorFlow Datasets that name none; got "
        f"{split!r} for {', '.join(paths)}: leave it out.",
    )
    progress = throttled_print("tars indexed: {} of {}")
    sources = []
    for path, lacks in zip(paths, lacking, strict=True):
        source = open_source(path, split if lacks else "", progress=progress)
        sources.append(source)
        for skipped in skipped_of(source):
            if is_main_process():
                warn(f"{path}: {skipped}")
    return sources[0] if len(sources) == 1 else Mixture(sources, weights or None)


def random_examples(
    source: Source, count: int, size: int, *, seed: int
) -> ExampleBatch:
    """Examples drawn at random: at most `count`, and no more than the source has.

    Those that cannot be read are replaced, as in a run.
    """
    count = min(count, len(source))
    sampler = make_sampler(source, count, seed=seed)
    reader = ExampleReader(source=source, sampler=sampler, size=size, random_crop=False)
    return reader.read(0, np.arange(count))
