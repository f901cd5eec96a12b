"""Sampling to a folder: one compilation for any number of images.

Samples are computed in groups of `group_size` consecutive images, always the same ones
together, and each device takes a group at a time. So an image does not depend, to the
last bit, on the number of processes, devices or images, nor on where a run was killed.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, UInt8
import numpy as np

from vtp_eqx.config import require, SampleConfig, SamplerConfig
from vtp_eqx.data.counter_rng import CounterRNG
from vtp_eqx.evaluation.batches import byte_levels, in_batches
from vtp_eqx.evaluation.extract import no_report, Report
from vtp_eqx.evaluation.sample_record import SampleRecord, write_sample_record
from vtp_eqx.files import delete_unfinished
from vtp_eqx.mesh import (
    data_mesh,
    local_mesh,
    replicate,
    REPLICATED,
    shard_batch,
    SPLIT,
)
from vtp_eqx.models.dit import Conditions, DiT
from vtp_eqx.models.generator import check_labels, Generator, sample_latents
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs.captions import check_conditions, Prompts
from vtp_eqx.runs.multihost import all_equal, is_main_process, raise_on_all
from vtp_eqx.runs.run_dir import disk_errors, lock_folder
from vtp_eqx.runs.sample_files import (
    check_record_unchanged,
    image_path,
    labels_hash,
    missing_groups,
    write_image,
)
from vtp_eqx.training.precision import cast_params


WRITERS = 4  # ours: threads that compress images


def sample(
    config: SampleConfig,
    generator: Generator,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    guide: Generator | None = None,
    given: Int[np.ndarray, " count"] | None = None,
    prompts: Prompts | None = None,
    mesh: Mesh | None = None,
    report: Report = no_report,
) -> SampleRecord:
    """Writes samples as PNG to `folder`, with their `samples.json`.

    Called by all processes of a run, each of which draws a part of the samples on its
    own devices of `mesh` (all where `None`), into a folder that all of them see.

    - `guide`: the weaker generator, where `config.sampler.guide` is "generator".
    - `given`: the classes, where `config.labels` is "given".
    - `prompts`: what is drawn, for a generator of captions. They take the part of
      classes: `given` and the labels are their numbers, from 0.

    Draws what is missing: a run that was killed continues, and a larger `num_samples`
    adds to what is there. A `ValueError` where the tokenizer is not the generator's,
    where the folder has other samples, and where a sample is not finite; those before
    it are on disk. A full disk is a `DiskSpaceError`, and loses nothing either.
    """
    size, count = config.group_size, config.num_samples
    check_conditions(generator, prompts.texts if prompts else (), "the `generator`")
    num_classes = generator.dit.config.num_classes
    num_choices = num_classes if prompts is None else len(prompts.texts)
    labels = choose_labels(config, num_choices, given)
    named = labels[:count]
    record = SampleRecord.of(
        generator, tokenizer.at_precision(config.precision), config.sampler,
        num_samples=count, labels=config.labels, seed=config.seed, guide=guide,
        labels_hash=labels_hash(named), group_size=size,
        prompts=tuple(prompts.texts[label] for label in named) if prompts else (),
    )  # fmt: skip
    require(
        all_equal(json.dumps(dataclasses.asdict(record))),
        f"`config` ({config}), networks and classes must be the same in all processes: "
        "give each of them the same command.",
    )
    mesh = local_mesh(data_mesh() if mesh is None else mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk_errors(folder))
        with raise_on_all():
            if is_main_process():
                stack.enter_context(lock_folder(folder))
                check_record_unchanged(folder, record, named)
                delete_unfinished(folder, "*.png")
                write_sample_record(folder, record)
        with raise_on_all():
            own = range(jax.process_index(), len(labels) // size, jax.process_count())
            groups = [n for n in missing_groups(folder, count, size) if n in own]
            drawn = draw_images(
                config, generator, tokenizer, labels, guide=guide, prompts=prompts,
                groups=groups, mesh=mesh,
            )  # fmt: skip
            images_in = lambda groups: sum(min(size, count - n * size) for n in groups)
            total = images_in(own)
            done = total - images_in(groups)
            report("samples", done, total)
            with ThreadPoolExecutor(WRITERS) as pool:
                for indices, images in drawn:
                    # All are on disk before the next ones are waited for.
                    paths = [image_path(folder, int(index)) for index in indices]
                    rows = [n for n, path in enumerate(paths) if not path.exists()]
                    files = [paths[row] for row in rows]
                    list(pool.map(write_image, files, [images[row] for row in rows]))
                    done += len(indices)
                    report("samples", done, total)
        with raise_on_all():
            missing = missing_groups(folder, count, size)
            require(
                not missing,
                f"`folder` ({folder}) must be one that all processes see; got none of "
                f"{len(missing)} groups of samples: choose a shared disk.",
            )
    return record


def choose_labels(
    config: SampleConfig,
    num_classes: int,
    given: Int[np.ndarray, " count"] | None = None,
) -> Int[np.ndarray, " filled"]:
    """The class of each sample: a function of its index, and of the seed at random.

    Those that fill up the last group come last.
    """
    require(
        (given is not None) == (config.labels == "given"),
        f"`given` ({'none' if given is None else len(given)}) must be classes where, "
        f"and only where, `labels` ({config.labels!r}) is 'given': change either.",
    )
    num_groups = -(-config.num_samples // config.group_size)
    indices = np.arange(num_groups * config.group_size)
    if given is None:
        if config.labels == "balanced":
            return indices % num_classes
        return CounterRNG(config.seed, indices).integer("sample label", num_classes)
    require(len(given) > 0, "`given` (0 classes) must have one or more: name some.")
    check_labels(given, num_classes)
    return np.asarray(given)[indices % len(given)]


def draw_images(
    config: SampleConfig,
    generator: Generator,
    tokenizer: Tokenizer,
    labels: Int[np.ndarray, " filled"],
    *,
    guide: Generator | None = None,
    prompts: Prompts | None = None,
    groups: list[int] | None = None,
    mesh: Mesh,
) -> Iterator[
    tuple[Int[np.ndarray, " some"], UInt8[np.ndarray, "some height width 3"]]
]:
    """Indices and images, as bytes, of `groups` (all by default) in their order.

    `labels` are those of `choose_labels`, of classes or of `prompts`. While one lot is
    used, the next is computed.
    """
    size, num = config.group_size, config.num_samples
    groups = [*range(-(-num // size))] if groups is None else groups
    networks = replicate(
        Networks(
            cast_params(generator.dit, config.precision),
            None if guide is None else cast_params(guide.dit, config.precision),
            tokenizer.at_precision(config.precision),
        ),
        mesh,
    )
    num_devices, waiting = mesh.devices.size, None
    kind = "class" if prompts is None else "prompt"
    for start in range(0, len(groups), num_devices):
        lot = groups[start : start + num_devices]
        # Filled up with repeats; and the last group with images that nobody asked for,
        # because those that were are computed in the same company always.
        filled = [lot[device % len(lot)] for device in range(num_devices)]
        indices = np.concatenate([np.arange(g * size, (g + 1) * size) for g in filled])
        conditions = labels[indices].astype(np.int32)
        if prompts is not None:
            # One after another, so that none depends on the others to the last bit.
            read, ids = Tokenizer.text_features, prompts.ids[conditions]
            conditions = in_batches(read, tokenizer, ids, batch_size=1)
        batch = shard_batch((indices.astype(np.int32), conditions), mesh)
        answer = _draw(networks, batch, jr.key(config.seed), config.sampler, mesh)
        keep = (np.arange(len(indices)) < len(lot) * size) & (indices < num)
        if waiting is not None:
            yield _finished(*waiting, labels, kind)
        waiting = (indices, keep, answer)
    if waiting is not None:
        yield _finished(*waiting, labels, kind)


class Networks(eqx.Module):
    """The networks that make images: generator, weaker guide, decoder."""

    dit: DiT
    guide: DiT | None
    tokenizer: Tokenizer


@eqx.filter_jit
def _draw(
    networks: Networks,
    batch: tuple[Int[Array, " rows"], Conditions],
    key: Array,
    sampler: SamplerConfig,
    mesh: Mesh,
) -> tuple[UInt8[Array, "rows height width 3"], Bool[Array, " rows"]]:
    """Images of indices and conditions, and whether each is finite."""
    arrays, static = eqx.partition(networks, eqx.is_array)

    def local(arrays, key, batch):
        own, (indices, conditions) = eqx.combine(arrays, static), batch
        config, tokenizer = own.dit.config, own.tokenizer
        shape = (config.latent_size, config.latent_size, config.latent_width)
        noise = jax.vmap(
            lambda index: jr.normal(jr.fold_in(key, index), shape, jnp.float32)
        )(indices)
        latents = sample_latents(own.dit, conditions, noise, sampler, own.guide)
        raw = tokenizer.denormalize_latents(latents)
        images = jax.vmap(tokenizer.decode)(raw)
        finite = lambda x: jnp.all(jnp.isfinite(x), axis=(1, 2, 3))
        is_finite = finite(latents) & finite(images)
        return byte_levels(images).astype(jnp.uint8), is_finite

    # Nothing is differentiated or reduced, and dopri5's loop fails the check.
    return jax.shard_map(
        local, mesh=mesh, in_specs=(REPLICATED, REPLICATED, SPLIT), out_specs=SPLIT,
        check_vma=False,
    )(arrays, key, batch)  # fmt: skip


def _finished(
    indices: np.ndarray,
    keep: np.ndarray,
    answer: tuple,
    labels: np.ndarray,
    kind: str,
) -> tuple[np.ndarray, np.ndarray]:
    images, is_finite = jax.device_get(answer)
    bad = indices[keep & ~is_finite]
    require(
        len(bad) == 0,
        f"`generator` ({len(bad)} samples with NaN or infinite values, such as number "
        f"{bad[:1].tolist()} of {kind} {labels[bad[:1]].tolist()}) must give "
        "finite latents: look at its training's log, lower the guidance, or raise the "
        "`num_steps` that dopri5 may take.",
    )
    return indices[keep], images[keep]
