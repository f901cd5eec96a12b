"""Batches for training, read ahead: decoded, cropped, with bad examples replaced.

**Bad examples.** An example whose image is damaged, too small or missing is skipped,
and so is one without a caption where captions are wanted. Its position in the batch
takes the example that the sampler has for the same position 1 step later, or if that is
bad too 3, 7, 15, ... steps later. This is a function of the data and (seed, step)
alone, the same for every number of processes and every resumed run. The replacement is
read a second time when its own step comes; no other example is read twice, and no two
positions of a batch hold the same one (but for a batch in which one epoch ends). Each
skipped example is counted and named once, at its own step.

**Squares.** The largest square of each image is resized to `size`. Where on the long
side it lies is drawn from (seed, step, position). JPEGs are decoded at a reduced scale
where that is enough: by simplejpeg where installed, else by Pillow. Their pixels differ
by a few levels, so runs are equal bit for bit on equal installations.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import dataclasses
import multiprocessing
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
import os
import signal
import threading
from typing import Any

from jaxtyping import Int, Int32, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.bad_examples import BadExample, BadExampleLog
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.data.crops import Crop, SquareCrop
from vtp_eqx.data.images import decode_image, UnreadableImageError
from vtp_eqx.data.labels import label_of
from vtp_eqx.data.loader import Source
from vtp_eqx.data.mixture import example_name, read_encoded
from vtp_eqx.data.sampler import ShardedSampler


Encode = Callable[[list[str]], Int32[np.ndarray, "n context"]]
_MAX_TRIES = 24  # the last of them 16 million steps later
_NUM_AHEAD = 4  # ours: batches that are read or wait while one is used


@dataclasses.dataclass(frozen=True)
class ExampleBatch:
    """The part of the batch of `step` that a process reads.

    `row` is where each example is in the source; `label` is -1 where there is none;
    `tokens` are there where captions are encoded. `bad_examples` are those of the
    requested examples that were skipped or repaired.
    """

    step: int
    row: Int[np.ndarray, " local"]
    image: UInt8[np.ndarray, "local size size 3"]
    label: Int[np.ndarray, " local"]
    tokens: Int32[np.ndarray, "local context"] | None
    bad_examples: tuple[BadExample, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleReader:
    """Reads the examples at positions of a batch; can be pickled, for any worker."""

    source: Source
    sampler: ShardedSampler
    size: int
    encode: Encode | None = None  # captions to ids; where `None`, none are wanted
    random_crop: bool = True  # of the square on the long side; or else the middle
    crop: Crop | None = None  # of the whole image, in place of that square
    min_side: int = 16  # ours, in pixels: smaller images are skipped
    # Whose caption each row gets; by default its own (`data.caption_shuffle`).
    caption_rows: Int[np.ndarray, " rows"] | None = None

    def read(self, step: int, positions: Int[np.ndarray, " n"]) -> ExampleBatch:
        """The examples at some positions of the batch of `step`."""
        rng = CounterRNG(self.sampler.seed, step * self.sampler.batch_size + positions)
        offsets = np.full(len(positions), 0.5)
        if self.random_crop:
            offsets = rng.uniform("fit")
        requested = self.sampler.rows(step, positions)
        bad: list[BadExample] = []
        examples = [
            self._example_or_replacement(step, position, row, offset, bad)
            for position, row, offset in zip(
                positions.tolist(), requested.tolist(), offsets.tolist(), strict=True
            )
        ]
        texts = [example["caption"] for example in examples] if self.encode else []
        return ExampleBatch(
            step=step,
            row=np.array([example["row"] for example in examples]),
            image=np.stack([example["image"] for example in examples]),
            label=np.array([label_of(example) for example in examples]),
            tokens=self.encode(texts) if self.encode else None,
            bad_examples=tuple(bad),
        )

    def _example_or_replacement(
        self, step: int, position: int, row: int, offset: float, bad: list[BadExample]
    ) -> Mapping[str, Any]:
        """The example of a row, or the first readable one of later steps."""
        name = lambda: example_name(self.source, row)
        note = lambda reason, skipped: bad.append(
            BadExample(step, position, row, name(), reason, skipped)
        )
        try:
            example = self._readable(row, offset)
        except UnreadableImageError as error:
            note(error.reason, True)
        else:
            if example.get("repair"):
                note(example["repair"], False)
            return example
        for attempt in range(1, _MAX_TRIES):
            later = step + 2**attempt - 1
            other = int(self.sampler.rows(later, np.array([position]))[0])
            try:
                return self._readable(other, offset)
            except UnreadableImageError:
                continue
        raise ValueError(
            f"{bad[-1].name} ({bad[-1].reason}) cannot be read, nor can any of "
            f"{_MAX_TRIES - 1} replacements: check the data."
        )

    def _readable(self, row: int, offset: float) -> Mapping[str, Any]:
        """The example with its square, or `UnreadableImageError`."""
        example = read_encoded(self.source, row)
        name = lambda: example_name(self.source, row)
        if self.encode and self.caption_rows is not None:
            other = read_encoded(self.source, int(self.caption_rows[row]))
            example = {**example, "caption": other.get("caption", "")}
        if self.encode and not example.get("caption"):
            what = "an empty caption" if "caption" in example else "no caption"
            raise UnreadableImageError(name(), what)
        image = example["image"]
        if isinstance(image, bytes):
            least = self.size if self.crop is None else None
            image = decode_image(image, name(), least=least, min_side=self.min_side)
        height, width, _ = image.shape
        if min(height, width) < self.min_side:
            raise UnreadableImageError(name(), f"{width} x {height} pixels")
        if self.crop is None:
            square = SquareCrop(self.size)(image, offset)
        else:
            try:
                square = self.crop(image)
            except ValueError as error:  # a shape that the crop cannot take
                raise UnreadableImageError(name(), str(error)) from error
        return {**example, "row": row, "image": square}


class Prefetcher(Iterator[ExampleBatch]):
    """Batches from `start_step` on, without end, read ahead by workers.

    Iterate over it, and close it (or use it in a `with`). Which workers there are and
    how many does not change a batch.
    """

    def __init__(
        self,
        reader: ExampleReader,
        *,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        num_workers: int = 8,
        processes: bool = False,
        log: BadExampleLog | None = None,
    ):
        """Shard `(i, n)` reads the `i`-th of `n` equal parts of the batch.

        **Arguments:**

        - `processes`: workers are processes and not threads; source and `encode` must
          be picklable. Worth it where Python itself takes more time than decoding.
        - `log`: takes the bad examples of each batch when it is given out.
        """
        require(
            num_workers > 0,
            f"`num_workers` ({num_workers}) must be 1 or more: raise it.",
        )
        positions = reader.sampler.positions(shard)
        self._chunks = np.array_split(positions, min(num_workers, len(positions)))
        self._log = log
        self._read: Callable[[int, np.ndarray], ExampleBatch]
        self._pool: Executor
        if processes:
            self._read, self._pool = _read_in_worker, ProcessPoolExecutor(
                num_workers, _WorkerContext(),
                initializer=_init_worker, initargs=(reader,),
            )  # fmt: skip
        else:
            self._read, self._pool = reader.read, ThreadPoolExecutor(num_workers)
        self._step = start_step  # the next one that workers begin
        self._pending: deque[Sequence[Future[ExampleBatch]]] = deque()
        self._submit()

    def __next__(self) -> ExampleBatch:
        try:
            parts = [future.result() for future in self._pending.popleft()]
        except BrokenProcessPool as error:
            raise BrokenProcessPool(
                f"Workers that read examples must live as long as the run; one of "
                f"{len(self._chunks)} was killed, as where memory ends: lower "
                "`workers`, or leave out `processes`."
            ) from error
        self._submit()
        batch = _concatenate(parts)
        if self._log is not None:
            self._log.add(batch.step, len(batch.row), batch.bad_examples)
        return batch

    def close(self) -> None:
        """Ends the workers; what was read ahead is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _submit(self) -> None:
        while len(self._pending) < _NUM_AHEAD:
            futures = [
                self._pool.submit(self._read, self._step, chunk)
                for chunk in self._chunks
            ]
            self._pending.append(futures)
            self._step += 1


def _concatenate(parts: Sequence[ExampleBatch]) -> ExampleBatch:
    join = lambda name: np.concatenate([getattr(part, name) for part in parts])
    return ExampleBatch(
        step=parts[0].step,
        row=join("row"),
        image=join("image"),
        label=join("label"),
        tokens=None if parts[0].tokens is None else join("tokens"),
        bad_examples=tuple(bad for part in parts for bad in part.bad_examples),
    )


class _Worker(SpawnProcess):
    """A process that ignores SIGTERM: when a pool is broken, it is killed."""

    def start(self) -> None:
        # Held back from the first moment: until a worker has imported what it needs,
        # nothing in it can say that it ignores the signal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        self.kill()


class _WorkerContext(SpawnContext):
    # Spawned: a fork of a process with threads, as JAX has, may wait for ever.
    Process = _Worker


_worker_reader: list[ExampleReader] = []  # in a worker process, its reader


def _init_worker(reader: ExampleReader) -> None:
    _worker_reader[:] = [reader]
    # A cluster tells all processes to end. The run still needs its batches, to get to
    # its checkpoint, and ends the workers itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A parent that is killed ends no worker: without this, its workers wait for ever.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _read_in_worker(step: int, positions: np.ndarray) -> ExampleBatch:
    return _worker_reader[0].read(step, positions)
