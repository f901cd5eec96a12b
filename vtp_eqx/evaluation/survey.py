"""One reading of many images: streamed, batched, split over devices, and resumed.

What a model says about each image is kept in files of some hundred images. A survey
that was killed goes on behind the last whole file and ends with the same numbers, and
one that was finished is read back. A file that cannot be read is left out and named.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Int, Shaped, UInt8
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.crops import Crop
from vtp_eqx.data.images import UnreadableImageError
from vtp_eqx.data.loader import Source
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.files import NO_WHOLE_NPZ, replacing
from vtp_eqx.mesh import data_mesh, replicate, split


Report = Callable[[str, int, int], None]
FILE_IMAGES = 1024  # ours: images a file, about; what a kill may cost
Item = TypeVar("Item")
Value = TypeVar("Value")


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Images to be judged: those of `source`, each made a square by `crop`.

    `limit` takes that many of them, evenly spread over the source, so that a few
    images of a sorted folder are still of all its classes.
    """

    source: Source
    crop: Crop
    limit: int | None = None

    def __post_init__(self):
        count = len(self.source)
        require(
            self.limit is None or 0 < self.limit <= count,
            f"`limit` takes some of the {count} images; got {self.limit}: change it.",
        )

    @property
    def rows(self) -> Int[np.ndarray, " count"]:
        """The rows of the source that are read, in order."""
        count = len(self.source)
        return np.arange(self.limit or count) * count // (self.limit or count)

    @property
    def description(self) -> dict[str, Any]:
        """What the images are a function of."""
        fingerprint = getattr(self.source, "fingerprint", None)
        require(
            fingerprint is not None,
            "A source that is judged has a `fingerprint`, by which results are found "
            f"again; got a {type(self.source).__name__}: add one.",
        )
        return {
            "source": fingerprint,
            "crop": repr(self.crop),
            "limit": self.limit,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where and how fast a survey runs; no number depends on it beyond rounding."""

    folder: Path
    batch_size: int = 64
    num_threads: int = 8
    mesh: Mesh = dataclasses.field(default_factory=data_mesh)
    report: Report = silent

    def __post_init__(self):
        devices = self.mesh.devices.size
        require(
            self.batch_size > 0 and self.batch_size % devices == 0,
            f"A batch is split evenly over {devices} devices; got `batch_size` "
            f"{self.batch_size}: make it a multiple.",
        )


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was said about each image, in the order of the source.

    `skipped` are the names of files that were left out, with reasons.
    """

    files: tuple[Path, ...]
    skipped: dict[str, str]

    def column(self, name: str) -> Shaped[np.ndarray, "count ..."]:
        """One value for each image that was read."""
        return np.concatenate(list(self.parts(name)))

    def parts(self, name: str) -> Iterator[Shaped[np.ndarray, "some ..."]]:
        """The same, a file at a time."""
        for path in self.files:
            with np.load(path) as content:
                if "row" not in content:  # none of its images could be read
                    continue
                require(
                    name in content,
                    f"A survey has what was asked for; got no `{name}` but "
                    f"{sorted(content)}: use images with it, such as class folders "
                    "for labels.",
                )
                yield content[name]

    def moments(self, name: str) -> Moments:
        """Moments over all images, with one file in memory at a time.

        Sums are float64 and parts merge around their own means, so that the order of
        files and images changes no more than the last digits (about 1e-13).
        """
        total = None
        for part in self.parts(name):
            moments = Moments.of(part)
            total = moments if total is None else total + moments
        require(total is not None, "Moments take at least one image; got none.")
        assert total is not None
        return total

    @property
    def count(self) -> int:
        """How many images were read."""
        return sum(len(part) for part in self.parts("row"))

    def check_count(self, num_images: int | None) -> None:
        """An error where another number of images was read than was asked for."""
        require(
            num_images in (None, self.count),
            f"As many images are judged as were asked for; got {self.count} of "
            f"{num_images}, and {len(self.skipped)} that could not be read, such as "
            f"{list(self.skipped.items())[:3]}: repair them, or ask for {self.count}.",
        )

    @property
    def images_hash(self) -> str:
        """Sixteen hexadecimal digits that name the pixels that were judged."""
        return hashlib.sha256(self.column("digest").tobytes()).hexdigest()[:16]


def survey(
    function: Callable[[Any, Any], Mapping[str, Any]],
    model: Any,
    images: Images,
    place: Workplace,
    *,
    stage: str,
    of: Mapping[str, str],
) -> Survey:
    """`function(model, image)`, arrays by name, of every image that can be read.

    `function` is one defined in a module (what it compiles is kept by it) and takes
    floats in [0, 1]. `of` names what the answers depend on beside the images, such as
    the hash of the weights: another value is another survey, in a folder of its own.
    """
    description = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "of": dict(of),
        "images": images.description,
        "batch_size": place.batch_size,
    }
    text = json.dumps(description, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = place.folder / f"survey-{digest}"
    with replacing(folder / "description.json") as unfinished:
        unfinished.write_text(text)

    rows = images.rows
    size = place.batch_size * max(1, FILE_IMAGES // place.batch_size)
    starts = range(0, len(rows), size)
    paths = {start: folder / f"rows-{start:08d}.npz" for start in starts}
    missing = [start for start in starts if not _is_whole(paths[start])]
    done = len(rows) - sum(len(rows[start : start + size]) for start in missing)
    place.report(stage, done, len(rows))
    if missing:
        placed = replicate(model, place.mesh)
        wanted = np.concatenate([rows[start : start + size] for start in missing])
        read = read_ahead(
            lambda row: read_square(images, int(row)),
            wanted,
            num_threads=place.num_threads,
            num_ahead=2 * place.batch_size,
        )
        for start in missing:
            answers = _Answers()
            for batch in _batches(read, rows[start : start + size], place.batch_size):
                answers.add(batch, function, placed, place)
                done += len(batch)
                place.report(stage, done, len(rows))
            answers.write(paths[start])
    found = Survey(tuple(paths.values()), _skipped(paths.values()))
    require(
        len(found.skipped) < len(rows),
        f"A survey needs images that can be read; got none of {len(rows)}, such as "
        f"{list(found.skipped.items())[:3]}: check the path and the size.",
    )
    return found


def read_ahead(
    read: Callable[[Item], Value],
    items: Iterable[Item],
    *,
    num_threads: int,
    num_ahead: int,
) -> Iterator[Value]:
    """`map(read, items)` in threads, with at most `num_ahead` values before use."""
    with ThreadPoolExecutor(num_threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclasses.dataclass
class Example:
    """One row of a source: its square and label, or why it has none."""

    row: int
    image: UInt8[np.ndarray, "size size 3"] | None
    label: int | None = None
    name: str = ""
    reason: str = ""


def read_square(images: Images, row: int) -> Example:
    """A row of the source as a square; without an image where it cannot be read."""
    names = getattr(images.source, "names", None)
    name = names[row] if names else f"row {row}"
    try:
        example = images.source[row]
    except UnreadableImageError as error:
        return Example(row, None, name=name, reason=error.reason)
    try:
        image = images.crop(example["image"])
    except ValueError as error:  # a shape that the crop cannot take
        return Example(row, None, name=name, reason=str(error))
    label = example.get("label")
    return Example(row, image, None if label is None else int(label), name)


def _batches(
    read: Iterator[Example], rows: np.ndarray, batch_size: int
) -> Iterator[list[Example]]:
    for start in range(0, len(rows), batch_size):
        yield [next(read) for _ in rows[start : start + batch_size]]


class _Answers:
    """What becomes one file."""

    def __init__(self):
        self.columns: list[dict[str, np.ndarray]] = []
        self.skipped: dict[str, str] = {}

    def add(
        self,
        batch: list[Example],
        function: Callable[[Any, Any], Mapping[str, Any]],
        model: Any,
        place: Workplace,
    ) -> None:
        good = [example for example in batch if example.image is not None]
        self.skipped |= {one.name: one.reason for one in batch if one.image is None}
        if not good:
            return
        images = np.stack([one.image for one in good if one.image is not None])
        # Filled up with repeats, so that one size is compiled and devices share evenly.
        filled = images[np.arange(place.batch_size) % len(images)]
        # Without this, accelerators multiply float32 with a few bits of it.
        with jax.default_matmul_precision("highest"):
            answer = jax.device_get(apply(function, model, split(filled, place.mesh)))
        columns = {name: rows[: len(good)] for name, rows in answer.items()}
        columns["row"] = np.array([one.row for one in good])
        columns["digest"] = np.stack([_digest(image) for image in images])
        if good[0].label is not None:
            columns["label"] = np.array([one.label for one in good])
        self.columns.append(columns)

    def write(self, path: Path) -> None:
        names = self.columns[0] if self.columns else {}
        arrays = {
            name: np.concatenate([columns[name] for columns in self.columns])
            for name in names
        }
        arrays["skipped"] = np.array(json.dumps(self.skipped))
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


@eqx.filter_jit
def apply(function: Callable[[Any, Any], Any], model: Any, images: Any) -> Any:
    """`function(model, image)` of each image of a batch of bytes."""
    floats = images.astype(jnp.float32) / 255
    return jax.vmap(lambda image: function(model, image))(floats)


def _digest(image: np.ndarray) -> np.ndarray:
    content = f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
    return np.frombuffer(hashlib.sha256(content).digest()[:8], np.uint8)


def _is_whole(path: Path) -> bool:
    try:
        # Opened here, because `np.load` leaves a damaged file open.
        with path.open("rb") as file, np.load(file) as content:
            # Reading an array checks its sum.
            return "skipped" in {name for name in content if content[name].size}
    except NO_WHOLE_NPZ:
        return False


def _skipped(paths: Iterable[Path]) -> dict[str, str]:
    skipped = {}
    for path in paths:
        with np.load(path) as content:
            skipped |= json.loads(str(content["skipped"]))
    return skipped
