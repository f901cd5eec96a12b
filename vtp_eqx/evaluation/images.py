"""Images to be evaluated: of arrays or of a source, read ahead of use by threads."""

from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import functools
import itertools
from typing import Any, TypeVar

from jaxtyping import Int, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.changes import last_changes
from vtp_eqx.data.crops import CenterCrop, Crop
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.labels import label_of, NO_LABEL
from vtp_eqx.data.loader import read_ahead, Source
from vtp_eqx.data.mixture import example_name
from vtp_eqx.data.sources import ArraySource


Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images to be evaluated: those of `source`, each made a square by `crop`.

    `limit` takes that many of them, evenly spread over the source, so that a few
    images of a sorted folder are still of all its classes. To take features of them is
    an error unless as many as `num_samples` can be read.
    """

    source: Source
    crop: Crop
    limit: int | None = None
    num_samples: int | None = None

    def __post_init__(self):
        count = len(self.source)
        require(
            self.limit is None or 0 < self.limit <= count,
            f"`limit` takes some of the {count} images; got {self.limit}: change it.",
        )

    @classmethod
    def of(cls, image: UInt8[np.ndarray, "count size size 3"]) -> "Images":
        """Square images in memory, as they are."""
        source = ArraySource({"image": image})
        return cls(source=source, crop=CenterCrop(image.shape[1]))

    @property
    def rows(self) -> Int[np.ndarray, " count"]:
        """The rows of the source that are read, in order."""
        count = len(self.source)
        return np.arange(self.limit or count) * count // (self.limit or count)

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What determines the images: source, its last changes, crop and limit."""
        fingerprint = getattr(self.source, "fingerprint", None)
        require(
            fingerprint is not None,
            "A source that is evaluated has a `fingerprint`, by which results are "
            f"found again; got a {type(self.source).__name__}: add one.",
        )
        return {
            "source": fingerprint,
            "changed": last_changes(self.source),
            "crop": repr(self.crop),
            "limit": self.limit,
        }


@dataclasses.dataclass
class Example:
    """One row of a source: its square and label, or why there is no square."""

    row: int
    image: UInt8[np.ndarray, "size size 3"] | None
    label: int = NO_LABEL
    name: str = ""
    reason: str = ""


def read_square(images: Images, row: int) -> Example:
    """A row of the source as a square image; without one where it cannot be read."""
    name = example_name(images.source, row)
    try:
        example = images.source[row]
    except UnreadableImageError as error:
        return Example(row, None, name=name, reason=error.reason)
    try:
        image = images.crop(example["image"])
    except ValueError as error:  # a shape that the crop cannot take
        return Example(row, None, name=name, reason=str(error))
    return Example(row, image, label_of(example), name)


def read_blocks(
    read: Callable[[int], Value],
    blocks: Mapping[Key, np.ndarray],
    *,
    batch_size: int,
    num_threads: int,
    finished: Collection[Key] = (),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Key, Iterator[list[Value]]]]:
    """Each block of rows, `read` ahead by threads (`read_square`, say), in batches.

    All but the `finished` ones. The batches of a block are to be used up before the
    next block is asked for. `report(done, total)` counts the rows of all blocks: it is
    called before the first batch, and after each.
    """
    missing = {key: rows for key, rows in blocks.items() if key not in finished}
    total = sum(map(len, blocks.values()))
    done = total - sum(map(len, missing.values()))
    examples = read_ahead(
        lambda row: read(int(row)),
        itertools.chain.from_iterable(missing.values()),
        num_threads=num_threads,
        num_ahead=2 * batch_size,
    )

    def batches(count: int) -> Iterator[list[Value]]:
        nonlocal done
        for start in range(0, count, batch_size):
            batch = [*itertools.islice(examples, min(batch_size, count - start))]
            yield batch
            done += len(batch)
            report(done, total)

    report(done, total)
    for key, rows in missing.items():
        yield key, batches(len(rows))
