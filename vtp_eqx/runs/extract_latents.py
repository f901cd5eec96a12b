"""Extraction: encodes a data set once and stores its latents on disk.

Every image is encoded by itself, so that no bit of the latents depends on batch size,
devices or processes; a shard appears whole or not at all, so that a job which was
killed is continued by calling it again.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jaxtyping import Float32, Int, UInt8
import numpy as np

from vtp_eqx.config import LatentsConfig, require
from vtp_eqx.data.crops import CenterCrop, RandomCrop
from vtp_eqx.data.labels import label_of
from vtp_eqx.data.latent_shards import open_npy_latents
from vtp_eqx.data.latents import (
    LatentCache,
    LatentIndex,
    ShardRecord,
    write_npy_shard,
)
from vtp_eqx.data.loader import Source
from vtp_eqx.data.prefetch import Encode
from vtp_eqx.evaluation.batches import in_batches
from vtp_eqx.evaluation.images import Images, read_blocks
from vtp_eqx.evaluation.latent_statistics import DEVICE_IMAGES, LatentSums
from vtp_eqx.evaluation.prompts import check_class_names
from vtp_eqx.files import delete_unfinished
from vtp_eqx.interop.lightningdit.latents import (
    open_published_latents,
    STATISTICS_FILE,
    write_published_shard,
    write_published_statistics,
)
from vtp_eqx.mesh import data_mesh, local_mesh, replicate
from vtp_eqx.models.arrays import encoder_hash, latents_hash, text_hash
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.multihost import all_equal, is_main_process, raise_on_all
from vtp_eqx.runs.run_dir import check_disk_space, disk_errors, lock_folder


# What an index says of the finished latents, and not of what they are made from; and
# the times of the images' files, which have a sentence of their own.
_NOT_SETTINGS = (
    "latents_hash", "num_images", "num_skipped", "rms_error", "mean", "std", "shards",
    "changed",
)  # fmt: skip


def open_latents(folder: Path) -> LatentCache:
    """The latents in a folder: of this library, or of LightningDiT's extractor.

    A `ValueError` names what is missing, cut short or of another format.
    """
    index = LatentIndex.read(folder)
    if index is not None and index.layout == "npy":
        return open_npy_latents(folder, index)
    return open_published_latents(folder, index)


def extract_latents(
    config: LatentsConfig,
    tokenizer: Tokenizer,
    source: Source,
    folder: Path,
    *,
    mesh: Mesh | None = None,
    class_names: Sequence[str] = (),
    encode: Encode | None = None,
    num_threads: int = 8,
    device_images: int = DEVICE_IMAGES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tokenizer, LatentIndex]:
    """The latents of `source` in `folder`; the tokenizer with their exact statistics.

    Called by all processes of a run, each of which encodes a part of the shards on its
    own devices of `mesh` (all where `None`), `device_images` at once on each. Images
    are cropped by `CenterCrop` to the size of the tokenizer; those that cannot be read
    are left out and counted. The same call again continues one that was killed.

    Statistics are those of the first view, the image itself: the same as
    `evaluation.latent_statistics.measure_latents` has. What is stored is raw, so that
    a call with another `one_scaling_factor` changes them alone, within seconds; a
    generator that learned with the former ones refuses the folder then.

    - `class_names`: by default those of the source.
    - `encode`: captions to ids of the tokenizer's text tower, for `config.captions`.
    - `progress` is told how many images of this process are done, and of how many.

    A `ValueError` where the folder has latents of another tokenizer, other images or
    settings, where a latent is not finite and where a label is none of the classes; a
    `DiskSpaceError` where the disk is full, after which the same call continues.
    """
    require(
        (encode is not None) == config.captions,
        f"`encode` ({'none' if encode is None else 'one'}) must be given where, and "
        f"only where, `captions` ({config.captions}) are kept: change either.",
    )
    mesh = data_mesh() if mesh is None else mesh
    crop = CenterCrop(tokenizer.config.image_size)
    limit = None if config.limit is None else min(config.limit, len(source))
    images = Images(source=source, crop=crop, limit=limit)
    folders = getattr(source, "class_names", ())
    if len(class_names) == len(folders):  # or labels tell, below
        check_class_names(class_names, np.zeros(0, np.int64), folders)
    names = tuple(class_names or folders)
    index = _index_of(config, tokenizer, images, names)
    job = _Job(config, tokenizer, images, folder, names, encode)
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk_errors(folder))
        require(
            # Copies on other hosts have other times.
            all_equal(json.dumps(dataclasses.asdict(index) | {"changed": ""})),
            f"`source` ({index.source}) and `tokenizer` ({index.encoder_hash}) must be "
            "the same in all processes: copy the same data to all hosts.",
        )
        with raise_on_all():
            if is_main_process():
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock_folder(folder))
                _check_unchanged(folder, index)
                delete_unfinished(folder, "*.npy", "*.safetensors")
                check_disk_space(folder, job.bytes_needed())
                index.write(folder)
        with raise_on_all():
            job.run(local_mesh(mesh), num_threads, device_images, progress)
        with raise_on_all():
            tokenizer, index = job.finished(index)
            if is_main_process():
                if config.layout == "lightningdit":
                    write_published_statistics(
                        folder / STATISTICS_FILE,
                        np.array(index.mean, np.float32),
                        np.array(index.std, np.float32),
                    )
                index.write(folder)
    return tokenizer, index


def _index_of(
    config: LatentsConfig, tokenizer: Tokenizer, images: Images, names: tuple[str, ...]
) -> LatentIndex:
    """The fields of an index that are known before anything is encoded."""
    random = {"seed": config.seed, "scale": list(config.augmented_scale)}
    return LatentIndex(
        encoder_hash=encoder_hash(tokenizer),
        source=images.description["source"],
        crop=images.description["crop"],
        changed=images.description["changed"],
        views=config.view_names,
        view_settings=random if config.views == "augmented" else {},
        dtype=config.dtype,
        layout=config.layout,
        shard_images=config.shard_images,
        limit=images.limit,
        text_hash=text_hash(tokenizer) if config.captions else "",
        class_names=names,
    )


def _check_unchanged(folder: Path, index: LatentIndex) -> None:
    """A `ValueError` where the folder was begun with something else."""
    begun = LatentIndex.read(folder)
    if begun is None:
        return
    ours, theirs = vars(index), vars(begun)
    changed = [
        f"`{name}` ({ours[name]!s:.60}, was {theirs[name]!s:.60})"
        for name in ours
        if name not in _NOT_SETTINGS and ours[name] != theirs[name]
    ]
    require(
        not changed,
        f"{', '.join(changed)} may not differ from what the latents in {folder} were "
        "begun with: restore the old values, or choose another folder.",
    )
    require(
        begun.changed in ("", index.changed),
        f"`source` ({index.source}) must have the files that the latents in {folder} "
        "were begun with; some were written again since: choose another folder.",
    )


class _Example(NamedTuple):
    """An image that could be read: its place in the source, and what it shows."""

    row: int
    label: int  # -1 where it has none
    caption: str  # "" where it has none


@dataclasses.dataclass(frozen=True)
class _Job:
    """The shards of an extraction."""

    config: LatentsConfig
    tokenizer: Tokenizer
    images: Images
    folder: Path
    class_names: tuple[str, ...]
    encode_captions: Encode | None

    def shards(self) -> list[Int[np.ndarray, " rows"]]:
        """The rows of the source of every shard."""
        rows, size = self.images.rows, self.config.shard_images
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def record_path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.json"

    def is_whole(self, number: int) -> bool:
        """Whether a shard is there."""
        return ShardRecord.read(self.record_path(number)) is not None

    def bytes_needed(self) -> int:
        """On disk, for the shards that are missing."""
        shape = self.tokenizer.config
        numbers = (shape.image_size // shape.patch_size) ** 2 * shape.latent_width
        views = len(self.config.view_names)
        image = views * numbers * np.dtype(self.config.dtype).itemsize
        return image * sum(
            len(rows)
            for number, rows in enumerate(self.shards())
            if not self.is_whole(number)
        )

    def run(
        self,
        mesh: Mesh,
        num_threads: int,
        device_images: int,
        progress: Callable[[int, int], None],
    ) -> None:
        """Writes the missing ones of this process's shards."""
        index, count = jax.process_index(), jax.process_count()
        own = dict([*enumerate(self.shards())][index::count])
        batch_size = device_images * mesh.devices.size
        together = max(1, batch_size // len(self.config.view_names))
        tokenizer = replicate(self.tokenizer, mesh)
        for number, batches in read_blocks(
            self.read, own, batch_size=together, num_threads=num_threads,
            finished={*filter(self.is_whole, own)}, report=progress,
        ):  # fmt: skip
            latents, examples = [], []
            for batch in batches:
                good = [found for found in batch if found is not None]
                views = [views for _, views in good]
                latents += self.encode(tokenizer, views, batch_size, mesh)
                examples += [example for example, _ in good]
            self.write(number, len(own[number]), latents, examples)

    def read(
        self, row: int
    ) -> tuple[_Example, UInt8[np.ndarray, "views size size 3"]] | None:
        """An image and its views, or nothing where it cannot be read."""
        crop, config = self.images.crop, self.config
        try:
            example = self.images.source[row]
            square = crop(example["image"])
        except ValueError:  # unreadable, or of a shape that the crop cannot take
            return None
        views = [square]
        if config.views == "flip":
            views.append(square[:, ::-1])
        elif config.views == "augmented":
            cut = RandomCrop(crop.size, scale=config.augmented_scale)
            views += [
                cut(example["image"], np.random.default_rng([config.seed, row, view]))
                for view in range(config.num_augmented)
            ]
        caption = str(example.get("caption", ""))
        return _Example(row, label_of(example), caption), np.stack(views)

    def encode(
        self, tokenizer: Tokenizer, images: list[Any], batch_size: int, mesh: Mesh
    ) -> list[Float32[np.ndarray, "views height width channels"]]:
        """The raw latents of all views of some images."""
        if not images:
            return []
        latents = in_batches(
            Tokenizer.encode, tokenizer, np.concatenate(images),
            batch_size=batch_size, mesh=mesh, one_at_a_time=True,
        )  # fmt: skip
        return [*latents.reshape(len(images), -1, *latents.shape[1:])]

    def write(
        self,
        number: int,
        num_rows: int,
        latents: list[Any],
        examples: list[_Example],
    ) -> None:
        """A shard, and last its record."""
        record = ShardRecord(count=0)
        if latents:
            rows = [example.row for example in examples]
            array = np.stack(latents)
            classes = np.array([example.label for example in examples])
            num_classes = len(self.class_names)
            outside = classes[(classes < 0) | (classes >= num_classes)]
            require(
                not (num_classes and len(outside)),
                f"Labels must be 0 to {num_classes - 1}, of the {num_classes} classes; "
                f"got {outside[:1]}: name all classes, or correct the labels.",
            )
            require(
                bool(np.isfinite(array).all()),
                f"Latents must be finite; got NaN or infinity in shard {number}, rows "
                f"{rows[0]} to {rows[-1]}: look at the images and the tokenizer.",
            )
            if self.config.layout == "npy":
                captions = None
                if self.encode_captions is not None:
                    texts = [example.caption for example in examples]
                    there = np.array([bool(text) for text in texts])
                    captions = self.encode_captions(texts) * there[:, None]
                record = write_npy_shard(
                    self.folder, number, array, np.array(rows), classes,
                    self.config.dtype, captions,
                )  # fmt: skip
            else:
                record = write_published_shard(
                    self.folder, number, array, classes, self.config.dtype
                )
            sums = LatentSums.of(array[:, 0]).as_json()
            record = dataclasses.replace(record, sums=sums)
        skipped = num_rows - len(examples)
        dataclasses.replace(record, num_skipped=skipped).write(self.record_path(number))

    def finished(self, index: LatentIndex) -> tuple[Tokenizer, LatentIndex]:
        """The tokenizer with the statistics of all shards, and their index."""
        found = [
            ShardRecord.read(self.record_path(number))
            for number in range(len(self.shards()))
        ]
        records = [record for record in found if record is not None]
        require(
            len(records) == len(found),
            f"`folder` ({self.folder}) must be one that all processes see; got "
            f"{len(records)} of {len(found)} shards: choose a shared disk.",
        )
        read = [LatentSums.from_json(record.sums) for record in records if record.sums]
        num_skipped = sum(record.num_skipped for record in records)
        sums = sum(read, LatentSums(num_skipped=num_skipped))
        mean, std = sums.statistics()
        tokenizer = self.tokenizer.with_statistics(mean, std)
        if self.config.one_scaling_factor:
            tokenizer = tokenizer.with_one_scaling_factor()
        errors = np.sum([r.squared_error for r in records if r.count], axis=0)
        variances = std.astype(np.float64) ** 2 * sums.num_latents * len(index.views)
        index = dataclasses.replace(
            index,
            latents_hash=latents_hash(tokenizer),
            num_images=sums.num_images,
            num_skipped=num_skipped,
            rms_error=float(np.sqrt(np.mean(errors / np.maximum(variances, 1e-30)))),
            mean=tuple(tokenizer.latent_mean.tolist()),
            std=tuple(tokenizer.latent_std.tolist()),
            shards=tuple(
                dataclasses.replace(record, sums="")
                for record in records
                if record.count
            ),
        )
        return tokenizer, index
