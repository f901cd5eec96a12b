"""The views of a batch that student and teacher see, and the masks."""

from collections.abc import Callable, Mapping
import enum
from typing import Any
import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, UInt8
import numpy as np

from vtp_eqx.config import PretrainConfig
from vtp_eqx.views.augment import contrast_view, distillation_views
from vtp_eqx.views.masking import block_mask, mask_counts, uniform_masks


class CaptionedBatch(eqx.Module):
    """A batch as the loader gives it; no `caption` where there is no contrast."""

    image: UInt8[Array | np.ndarray, "batch height width 3"]
    caption: Int[Array | np.ndarray, "batch words"] | None


class Needs(enum.Flag):
    """The views that a loss term needs."""

    PAIRS = enum.auto()  # the contrast crop of every image, and its caption
    SUBSET = enum.auto()  # the contrast crops of the images that are decoded
    CROPS = enum.auto()  # global and local crops, and masks


class PretrainViews(eqx.Module):
    """The views of a batch; images in [0, 1].

    `whole` serves contrast and reconstruction: the latter takes row `rebuilt[i]` of the
    i-th of `len(rebuilt)` equal strata of it. `masks` is `True` where the student
    does not see a patch of a global crop. `noise` is standard normal, for the latents
    that are decoded, and `hidden` is `True` where their encoder does not see a patch.
    `draws` are what terms drew, by name. What no term needs is `None`. All arrays may
    have an axis of microbatches in front (`vtp_eqx.training.microbatches`).
    """

    whole: Float[Array, "batch height width 3"] | None
    caption: Int[Array, "batch words"] | None
    rebuilt: Int[Array, " rebuilt"] | None
    noise: Float[Array, "rebuilt rows columns channels"] | None
    global_crops: Float[Array, "some 2 large large 3"] | None
    local_crops: Float[Array, "some crops small small 3"] | None
    masks: Bool[Array, "some 2 patches"] | None
    hidden: Bool[Array, "rebuilt patches"] | None = None
    draws: Mapping[str, Any] | None = None


def pretrain_views(
    config: PretrainConfig,
    needs: Needs,
    draws: Mapping[str, Callable[[PRNGKeyArray], Any]] | None = None,
) -> Callable[[CaptionedBatch, PRNGKeyArray], PretrainViews]:
    """The function from a batch and a key to the views that the terms need.

    The distillation and reconstruction batches are random subsets of the contrastive
    batch, one image out of each of its equal strata, so that they are the same ones on
    any number of devices. `draws` are what terms draw of a key, by their names.
    """
    tokenizer = config.tokenizer
    controls, draws = config.controls, draws or {}

    def make_views(batch: CaptionedBatch, key: PRNGKeyArray) -> PretrainViews:
        whole_key, subset_key, view_key, mask_key, noise_key = jr.split(key, 5)
        image = sources = jnp.asarray(batch.image)
        rebuilt_key, chosen_key = jr.split(subset_key)
        whole = caption = rebuilt = noise = hidden = views = masks = None
        if Needs.SUBSET in needs:
            size = config.reconstruction_batch
            rebuilt = _random_offsets(rebuilt_key, size, config.batch_size)
            if config.latent_noise > 0:
                grid = [tokenizer.image_size // tokenizer.patch_size] * 2
                noise = jr.normal(noise_key, (size, *grid, tokenizer.latent_width))
            if controls.masks_patches:
                num_patches = (tokenizer.image_size // tokenizer.patch_size) ** 2
                hidden = uniform_masks(
                    size, num_patches, controls.masked_ratio,
                    key=_key_of("masking", key),
                )  # fmt: skip
        if Needs.PAIRS in needs and batch.caption is not None:
            caption = jnp.asarray(batch.caption)
        elif rebuilt is not None:
            # Only reconstruction looks at the whole image: crop no others.
            image, rebuilt = select_rows(image, rebuilt), jnp.zeros_like(rebuilt)
        if needs & (Needs.PAIRS | Needs.SUBSET):
            whole = _vmap_with_keys(
                lambda one, key: contrast_view(
                    _to_float(one), config.views, tokenizer.image_size, key=key
                ),
                image, key=whole_key,
            )  # fmt: skip
        if Needs.CROPS in needs:
            chosen = _random_offsets(
                chosen_key, config.distillation_batch, config.batch_size
            )
            views = _vmap_with_keys(
                lambda image, key: distillation_views(
                    _to_float(image), config.views, key=key
                ),
                select_rows(sources, chosen),
                key=view_key,
            )
            masks = _random_masks(config, key=mask_key)
        return PretrainViews(
            whole=whole,
            caption=caption,
            rebuilt=rebuilt,
            noise=noise,
            global_crops=None if views is None else views.global_crops,
            local_crops=None if views is None else views.local_crops,
            masks=masks,
            hidden=hidden,
            draws={name: draw(_key_of(name, key)) for name, draw in draws.items()},
        )

    return make_views


def select_rows(
    rows: Num[Array, "batch *shape"], offsets: Int[Array, " chosen"]
) -> Num[Array, "chosen *shape"]:
    """Row `offsets[i]` of the i-th of `chosen` equal strata of `rows`."""
    strata = rows.reshape(len(offsets), -1, *rows.shape[1:])
    return jax.vmap(lambda stratum, offset: stratum[offset])(strata, offsets)


def masked_patch_counts(config: PretrainConfig) -> Int[np.ndarray, " slots"]:
    """How many patches each crop hides: (image 0: 0, 1; image 1: 0, 1; ...)."""
    views, patch = config.views, config.tokenizer.patch_size
    num_patches = (views.global_size // patch) ** 2
    return mask_counts(
        2 * config.distillation_batch, num_patches, views.mask_rate, views.mask_ratio
    )


def _random_masks(
    config: PretrainConfig, *, key: PRNGKeyArray
) -> Bool[Array, "some 2 patches"]:
    side = config.views.global_size // config.tokenizer.patch_size
    masks = _vmap_with_keys(
        lambda count, key: block_mask(count, (side, side), key=key),
        jnp.asarray(masked_patch_counts(config)), key=key,
    )  # fmt: skip
    return masks.reshape(-1, 2, side * side)


def _random_offsets(
    key: PRNGKeyArray, chosen: int, batch: int
) -> Int[Array, " {chosen}"]:
    return jr.randint(key, (chosen,), 0, batch // chosen)


def _key_of(name: str, key: PRNGKeyArray) -> PRNGKeyArray:
    """A key of its own for what draws, whatever else does."""
    return jr.fold_in(key, zlib.crc32(name.encode()))


def _vmap_with_keys(function: Callable, rows: Array, *, key: PRNGKeyArray):
    """`function(row, key)` on every row, each with a key of its own."""
    return jax.vmap(function)(rows, jr.split(key, len(rows)))


def _to_float(image: Num[Array, "height width 3"]) -> Float[Array, "height width 3"]:
    return image.astype(jnp.float32) / 255
