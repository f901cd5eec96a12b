"""Features of many images, from arrays or a source, with or without a cache.

With a cache, features are kept in files of about a thousand images: an extraction that
was killed continues after the last whole file and ends with the same numbers, and one
that was finished is read back. An image that cannot be read is left out and named.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import equinox as eqx
from jax.sharding import Mesh
from jaxtyping import Int, Shaped
import numpy as np

from vtp_eqx.config import require
from vtp_eqx.data.labels import NO_LABEL
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.frechet import Moments
from vtp_eqx.evaluation.images import Example, Images, read_blocks, read_square
from vtp_eqx.evaluation.labels import check_classes, require_labels
from vtp_eqx.file_kinds import open_npz, UnreadableNpzError
from vtp_eqx.files import write_npz, write_text
from vtp_eqx.mesh import data_mesh, replicate
from vtp_eqx.models.arrays import arrays_hash, named_arrays
from vtp_eqx.models.tokenizer import Tokenizer


Report = Callable[[str, int, int], None]
# Columns beside those of the function; `skipped` is no column, but names with reasons.
COLUMNS = frozenset({"row", "digest", "label", "skipped"})
FILE_IMAGES = 1024  # ours: images a file, about; what a kill may cost
Function = Callable[[Any, Any], Mapping[str, Any]]  # of a model and one image


def no_report(stage: str, done: int, total: int) -> None:
    """A progress callback that reports nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Batch size, threads and devices of an extraction; they change rounding only.

    `mesh` is as for `in_batches`.
    """

    batch_size: int = 64
    num_threads: int = 8
    mesh: Mesh | None = dataclasses.field(default_factory=data_mesh)
    report: Report = no_report

    def __post_init__(self):
        devices = 1 if self.mesh is None else self.mesh.devices.size
        require(
            self.batch_size > 0 and self.batch_size % devices == 0,
            f"A batch is split evenly over {devices} devices; got `batch_size` "
            f"{self.batch_size}: make it a multiple.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig(BatchConfig):
    """`BatchConfig` with the folder of a cache."""

    folder: Path


IN_MEMORY = BatchConfig(mesh=None)  # of images and models on one device


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Features of each image, in the order of the source: in files, or in `arrays`."""

    files: tuple[Path, ...] = ()
    arrays: Mapping[str, np.ndarray] | None = None

    @functools.cached_property
    def skipped(self) -> dict[str, str]:
        """The names of images that were left out, with reasons."""
        skipped = {}
        for content in self.contents():
            skipped |= json.loads(str(content["skipped"]))
        return skipped

    def contents(self) -> Iterator[Mapping[str, np.ndarray]]:
        """All columns of some images, a file at a time."""
        if self.arrays is not None:
            yield self.arrays
        for path in self.files:
            with np.load(path) as content:
                yield content

    def column(self, name: str) -> Shaped[np.ndarray, "count ..."]:
        """One value for each image that was read."""
        return np.concatenate(list(self.parts(name)))

    def has(self, name: str) -> bool:
        """Whether images have a value of that name."""
        return any(name in content for content in self.contents())

    def features(self) -> dict[str, Shaped[np.ndarray, "count ..."]]:
        """What the function gave for each image that was read, by name."""
        names = {name for content in self.contents() for name in content}
        return {name: self.column(name) for name in sorted(names - COLUMNS)}

    def parts(self, name: str) -> Iterator[Shaped[np.ndarray, "some ..."]]:
        """The values of a column, a file at a time."""
        for content in self.contents():
            if [*content] == ["skipped"]:  # none of its images could be read
                continue
            require(
                name in content,
                f"Features have what was asked for; got no `{name}` but "
                f"{sorted(content)}: use images with it, such as class folders "
                "for labels.",
            )
            yield content[name]

    def labels(self, images: Images) -> Int[np.ndarray, " count"]:
        """The class of each image that was read; a `ValueError` where one has none.

        `images` are those that the features are of.
        """
        labels = self.labels_or_none()
        require_labels(images, self.column("row"), labels)
        return labels

    def labels_or_none(self) -> Int[np.ndarray, " count"]:
        """The class of each image that was read, `NO_LABEL` where it has none."""
        parts = [np.zeros(0, np.int64)]
        for content in self.contents():
            if "row" in content:
                none = np.full(len(content["row"]), NO_LABEL)
                parts.append(content.get("label", none))
        return np.concatenate(parts)

    def moments(self, name: str) -> Moments:
        """Moments over all images, with one file in memory at a time.

        Sums are float64 and parts merge around their own means, so that the order of
        files and images changes no more than the last digits (about 1e-13).
        """
        return functools.reduce(Moments.__add__, map(Moments.of, self.parts(name)))

    @property
    def count(self) -> int:
        """How many images were read."""
        return sum(len(part) for part in self.parts("row"))

    @property
    def images_hash(self) -> str:
        """Sixteen hexadecimal digits that name the pixels that were evaluated."""
        return hashlib.sha256(self.column("digest").tobytes()).hexdigest()[:16]


def extract_features(
    function: Function,
    model: Any,
    images: Images,
    place: BatchConfig = IN_MEMORY,
    *,
    stage: str = "features",
) -> FeatureTable:
    """`function(model, image)`, arrays by name, of every image that can be read.

    `function` is one defined in a module (what it compiles is kept by it) and takes
    floats in [0, 1]. Where `place` has a folder, features are kept there; other arrays
    in `model`, other images or another batch size have a cache of their own. `stage`
    is what the progress is called.
    """
    rows = images.rows
    blocks: dict[Path | None, np.ndarray] = {None: rows}
    if isinstance(place, ExtractConfig):
        folder = _cache_folder(function, model, images, place)
        size = place.batch_size * max(1, FILE_IMAGES // place.batch_size)
        blocks = {
            folder / f"rows-{start:08d}.npz": rows[start : start + size]
            for start in range(0, len(rows), size)
        }
    finished = {path for path in blocks if path is not None and _is_complete(path)}
    if place.mesh is not None and len(finished) < len(blocks):
        model = replicate(model, place.mesh)
    arrays: dict[str, np.ndarray] = {}
    for path, batches in read_blocks(
        functools.partial(read_square, images), blocks,
        batch_size=place.batch_size, num_threads=place.num_threads,
        finished=finished, report=functools.partial(place.report, stage),
    ):  # fmt: skip
        parts = [_features(function, model, batch, place) for batch in batches]
        arrays = _merge(parts)
        if path is not None:
            write_npz(path, **arrays)
    files = tuple(path for path in blocks if path is not None)
    seen = FeatureTable(files, None if files else arrays)
    require(
        len(seen.skipped) < len(rows),
        f"Features need images that can be read; got none of {len(rows)}, such as "
        f"{list(seen.skipped.items())[:3]}: check the path and the size.",
    )
    require(
        images.num_samples in (None, seen.count),
        f"As many images are evaluated as were asked for; got {seen.count} of "
        f"{images.num_samples}, and {len(seen.skipped)} that could not be read, such "
        f"as {list(seen.skipped.items())[:3]}: repair them, or ask for {seen.count}.",
    )
    return seen


def train_and_test_features(
    function: Function,
    tokenizer: Tokenizer,
    train: Images,
    test: Images,
    place: ExtractConfig,
) -> tuple[FeatureTable, FeatureTable]:
    """Features of two sets with the same classes."""
    check_classes(train, test)
    return (
        extract_features(function, tokenizer, train, place, stage="training features"),
        extract_features(function, tokenizer, test, place, stage="test features"),
    )


def _cache_folder(
    function: Function, model: Any, images: Images, place: ExtractConfig
) -> Path:
    """The folder of this extraction, with the description that names it."""
    description = {
        "function": f"{function.__module__}.{function.__qualname__}",
        "model": arrays_hash(named_arrays(eqx.filter(model, eqx.is_array))),
        "images": images.description,
        "batch_size": place.batch_size,
    }
    text = json.dumps(description, indent=1, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = place.folder / f"features-{digest}"
    write_text(folder / "description.json", text)
    return folder


def _features(
    function: Function, model: Any, batch: Sequence[Example], place: BatchConfig
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Columns over the images of a batch, and what could not be read of it."""
    skipped = {one.name: one.reason for one in batch if one.image is None}
    good = [example for example in batch if example.image is not None]
    if not good:
        return {}, skipped
    images = np.stack([one.image for one in good if one.image is not None])
    columns = in_batches(
        function, model, images, batch_size=place.batch_size, mesh=place.mesh
    )
    return {
        **columns,
        "row": np.array([one.row for one in good]),
        "digest": np.stack([_digest(image) for image in images]),
        "label": np.array([one.label for one in good]),
    }, skipped


def _merge(
    parts: Sequence[tuple[dict[str, np.ndarray], dict[str, str]]],
) -> dict[str, np.ndarray]:
    """The columns of all batches, and the names that were skipped as JSON."""
    full = [columns for columns, _ in parts if columns]
    arrays = {
        name: np.concatenate([columns[name] for columns in full])
        for name in (full[0] if full else {})
    }
    if "label" in arrays and (arrays["label"] == NO_LABEL).all():
        del arrays["label"]
    skipped = {name: why for _, names in parts for name, why in names.items()}
    return {**arrays, "skipped": np.array(json.dumps(skipped))}


def _digest(image: np.ndarray) -> np.ndarray:
    content = f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
    return np.frombuffer(hashlib.sha256(content).digest()[:8], np.uint8)


def _is_complete(path: Path) -> bool:
    try:
        with open_npz(path) as content:
            # Reading an array checks its sum.
            return "skipped" in {name for name in content if content[name].size}
    except UnreadableNpzError:
        return False
