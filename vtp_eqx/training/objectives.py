"""What is learned: the joint objective of a tokenizer, and the flow of a generator."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, Shaped, UInt8
import numpy as np

from vtp_eqx.config import (
    GenerateConfig,
    PretrainConfig,
    ReconstructionConfig,
    require,
)
from vtp_eqx.data.augment import contrast_view, distillation_views
from vtp_eqx.data.masking import block_mask, mask_counts, masked_rows, shard_capacity
from vtp_eqx.flow import flow_loss, interpolate, time_samples
from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.losses.distillation import dino_loss, ibot_loss, koleo_loss, sinkhorn
from vtp_eqx.losses.latents import channel_variance, smoothness_loss
from vtp_eqx.losses.reconstruction import gradient_l1_loss, l1_loss, pooled_l1_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.models.dit import DiT, drop_labels
from vtp_eqx.models.encoder import Features
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.nn.norms import unit_norm
from vtp_eqx.training.optimizer import ramp
from vtp_eqx.training.step import Objective


class Captioned(eqx.Module):
    """A batch as the loader gives it; no `caption` where there is no contrast."""

    image: UInt8[Array | np.ndarray, "batch height width 3"]
    caption: Int[Array | np.ndarray, "batch words"] | None


class PretrainViews(eqx.Module):
    """What student and teacher look at; images in [0, 1].

    `whole` serves contrast and reconstruction: the latter takes row `rebuilt[i]` of the
    i-th of `len(rebuilt)` equal stretches of it. `hidden` is `True` where the student
    does not see a patch of a global crop. `noise` is standard normal, for the latents
    that are decoded. What no term needs is `None`.
    """

    whole: Float[Array, "batch height width 3"] | None
    caption: Int[Array, "batch words"] | None
    rebuilt: Int[Array, " rebuilt"] | None
    noise: Float[Array, "rebuilt rows columns channels"] | None
    global_crops: Float[Array, "some 2 large large 3"] | None
    local_crops: Float[Array, "some crops small small 3"] | None
    hidden: Bool[Array, "some 2 patches"] | None


def pretrain_objective(config: PretrainConfig, *, num_shards: int) -> Objective:
    """Contrast + self-distillation + reconstruction (VTP section 3; RECIPE 5.7).

    Terms whose weight is 0 are left out, and so is their computation. The distillation
    and reconstruction batches are random subsets of the contrastive batch, one image
    out of each equal stretch of it, so that they are the same ones on any number of
    devices. Monitors are the parts of the terms and signs of collapse.
    """
    tokenizer = config.tokenizer
    contrasts = config.contrast_weight > 0
    distills = config.distillation_weight > 0
    rebuilds = config.reconstruction_weight > 0
    if distills:
        _require_shares("distillation_batch", config.distillation_batch, num_shards)
    if rebuilds:
        _require_shares("reconstruction_batch", config.reconstruction_batch, num_shards)
    counts = _hidden_counts(config) if distills else np.zeros(0, int)
    capacity = shard_capacity(counts, num_shards) if distills else 0

    def prepare(batch: Captioned, key: PRNGKeyArray) -> PretrainViews:
        whole_key, subset_key, view_key, mask_key, noise_key = jr.split(key, 5)
        image = sources = jnp.asarray(batch.image)
        rebuilt_key, chosen_key = jr.split(subset_key)
        whole = caption = rebuilt = noise = views = hidden = None
        if rebuilds:
            size = config.reconstruction_batch
            rebuilt = _choose(rebuilt_key, size, config.batch_size)
            if config.latent_noise > 0:
                grid = [tokenizer.image_size // tokenizer.patch_size] * 2
                noise = jr.normal(noise_key, (size, *grid, tokenizer.latent_width))
        if contrasts and batch.caption is not None:
            caption = jnp.asarray(batch.caption)
        elif rebuilt is not None:
            # Only reconstruction looks at the whole image: crop no others.
            image, rebuilt = pick(image, rebuilt), jnp.zeros_like(rebuilt)
        if contrasts or rebuilds:
            whole = _each(
                lambda one, key: contrast_view(
                    _unit(one), config.views, tokenizer.image_size, key=key
                ),
                image, key=whole_key,
            )  # fmt: skip
        if distills:
            chosen = _choose(chosen_key, config.distillation_batch, config.batch_size)
            views = _each(
                lambda one, key: distillation_views(_unit(one), config.views, key=key),
                pick(sources, chosen), key=view_key,
            )  # fmt: skip
            hidden = _hidden(counts, config, key=mask_key)
        return PretrainViews(
            whole=whole,
            caption=caption,
            rebuilt=rebuilt,
            noise=noise,
            global_crops=None if views is None else views.global_crops,
            local_crops=None if views is None else views.local_crops,
            hidden=hidden,
        )

    def terms(
        student: Pretrainer,
        teacher: Teacher | None,
        views: PretrainViews,
        step: Int[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        contrast_key, distill_key, rebuild_key = jr.split(key, 3)
        found, monitors, seen = {}, {}, None
        pixels = None
        if views.whole is not None:
            pixels = student.tokenizer.normalize(views.whole)
        if contrasts:
            assert pixels is not None
            seen = student.tokenizer.encoder.batch(
                pixels, drop_rate=config.contrast_drop, key=contrast_key
            )
            found["contrast"] = _contrast(student.tokenizer, seen, views, config)
        if distills:
            assert teacher is not None
            found["distillation"], monitors = _distillation(
                student, teacher, views, step / config.num_steps, config, capacity,
                key=distill_key,
            )  # fmt: skip
        if rebuilds:
            assert pixels is not None
            assert views.rebuilt is not None
            targets = pick(pixels, views.rebuilt)
            if (
                seen is not None
                and config.contrast_drop == config.reconstruction_drop == 0
            ):
                # The same images through the same network: no second pass is needed.
                patches = pick(seen.patches, views.rebuilt)
            else:
                patches = student.tokenizer.encoder.batch(
                    targets, drop_rate=config.reconstruction_drop, key=rebuild_key
                ).patches
            latents = _latents(student.tokenizer, patches, targets)
            if config.smoothness_weight > 0:
                found["smoothness"] = smoothness_loss(latents, axis_name=DATA)
            if views.noise is not None:
                spread = jnp.sqrt(channel_variance(latents, axis_name=DATA))
                # Without a gradient, or latents would learn to spread less.
                latents += config.latent_noise * lax.stop_gradient(spread) * views.noise
            found["reconstruction"] = pixel_loss(
                student.tokenizer.decoder.batch(latents), targets, config.reconstruction
            )
        return found, monitors

    return Objective(prepare, terms)


def clamped(student: Pretrainer) -> Pretrainer:
    """`student` with its logit multiplier between 1 and 100 (OpenCLIP)."""
    scale = student.tokenizer.logit_scale
    return eqx.tree_at(
        lambda student: student.tokenizer.logit_scale,
        student,
        jnp.clip(scale, 0, jnp.log(100.0).astype(scale.dtype)),
    )


def pick(
    rows: Num[Array, "batch *shape"], offsets: Int[Array, " chosen"]
) -> Num[Array, "chosen *shape"]:
    """Row `offsets[i]` of the i-th of `chosen` equal stretches of `rows`."""
    stretches = rows.reshape(len(offsets), -1, *rows.shape[1:])
    return jax.vmap(lambda stretch, offset: stretch[offset])(stretches, offsets)


class Latents(eqx.Module):
    """A batch for the generator: normalized latents and their classes."""

    latents: Float[Array | np.ndarray, "batch height width channels"]
    label: Int[Array | np.ndarray, " batch"]


class FlowViews(eqx.Module):
    """Points on the paths from noise to latents, and the velocities there."""

    point: Float[Array, "batch height width channels"]
    velocity: Float[Array, "batch height width channels"]
    t: Float[Array, " batch"]
    label: Int[Array, " batch"]


def generate_objective(config: GenerateConfig) -> Objective:
    """Flow matching in latent space (LightningDiT; RECIPE 8.2)."""

    def prepare(batch: Latents, key: PRNGKeyArray) -> FlowViews:
        noise_key, time_key, drop_key = jr.split(key, 3)
        noise = jr.normal(noise_key, batch.latents.shape, jnp.float32)
        t = time_samples(
            len(batch.label), mean=config.time_mean, std=config.time_std, key=time_key
        )
        point, velocity = interpolate(noise, jnp.asarray(batch.latents), t)
        label = drop_labels(jnp.asarray(batch.label), config.dit, key=drop_key)
        return FlowViews(point=point, velocity=velocity, t=t, label=label)

    def terms(
        student: DiT, teacher: Any, views: FlowViews, step: Array, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        predicted = student.batch(views.point, views.t, views.label)
        loss = flow_loss(predicted, views.velocity, cosine_weight=config.cosine_weight)
        return {"flow": loss.total}, {"square": loss.square, "cosine": loss.cosine}

    return Objective(prepare, terms)


def _contrast(
    tokenizer: Tokenizer, seen: Features, views: PretrainViews, config: PretrainConfig
) -> Float[Array, " batch"]:
    assert tokenizer.text is not None
    assert tokenizer.projection is not None
    assert views.caption is not None
    image = unit_norm(tokenizer.projection(tokenizer.contrast_features(seen)))
    text = unit_norm(jax.vmap(tokenizer.text.embed)(views.caption))
    if config.contrast == "clip":
        scale = tokenizer.logit_scale
        return clip_loss(image, text, log_scale=scale, axis_name=DATA)
    assert tokenizer.logit_bias is not None
    return siglip_loss(
        image, text, log_scale=tokenizer.logit_scale, bias=tokenizer.logit_bias,
        axis_name=DATA,
    )  # fmt: skip


def _distillation(
    student: Pretrainer,
    teacher: Teacher,
    views: PretrainViews,
    progress: Float[Array, ""],
    config: PretrainConfig,
    capacity: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Float[Array, " some"], dict[str, Array]]:
    """DINO + iBOT + KoLeo of each image (RECIPE 5.3 to 5.5), and their monitors."""
    assert views.global_crops is not None
    assert views.local_crops is not None
    assert views.hidden is not None
    assert student.prototypes is not None
    recipe, tokenizer = config.distillation, student.tokenizer
    global_key, local_key = jr.split(key)
    num_images = len(views.global_crops)
    crops = _crop_major(tokenizer.normalize(views.global_crops))
    hidden = _crop_major(views.hidden)
    rows, weight = masked_rows(hidden, capacity)
    image_of_row = rows // hidden.shape[1]

    start, end = recipe.teacher_temperature
    temperature = ramp(start, end, progress / recipe.teacher_warmup)
    taught = teacher.head_features(teacher.encoder.batch(crops))
    balance = lambda logits, weight=None: sinkhorn(
        logits, temperature=temperature, iterations=recipe.sinkhorn_iterations,
        weight=weight, axis_name=DATA,
    )  # fmt: skip
    targets = balance(teacher.prototypes(taught.cls))
    patch_targets = balance(
        teacher.prototypes(_flat(taught.patches)[rows]),
        (weight > 0).astype(jnp.float32),
    )

    def learn(crops, key, hidden=None):
        features = tokenizer.encoder.batch(
            crops, hidden=hidden, drop_rate=config.distillation_drop, key=key
        )
        return tokenizer.head_features(features)

    learned = learn(crops, global_key, hidden)
    narrow = learn(_crop_major(tokenizer.normalize(views.local_crops)), local_key)
    by_crop = lambda rows: rows.reshape(-1, num_images, rows.shape[-1])
    dino = dino_loss(
        by_crop(student.prototypes(learned.cls)),
        by_crop(student.prototypes(narrow.cls)),
        by_crop(targets),
        temperature=recipe.student_temperature,
    )
    masked = ibot_loss(
        student.prototypes(_flat(learned.patches)[rows]), patch_targets,
        weight=weight, image=image_of_row, num_images=2 * num_images,
        temperature=recipe.student_temperature, axis_name=DATA,
    ).reshape(2, num_images).mean(axis=0)  # fmt: skip
    first, second = jnp.split(learned.cls, 2)
    koleo = koleo_loss(first, axis_name=DATA) + koleo_loss(second, axis_name=DATA)
    total = dino + recipe.masked_weight * masked + recipe.koleo_weight * koleo
    entropy = -jnp.sum(targets * jnp.log(targets + 1e-9), axis=-1)
    return total, {
        "dino": dino, "masked": masked, "koleo": koleo, "teacher_entropy": entropy
    }  # fmt: skip


def pixel_loss(
    rebuilt: Float[Array, "batch height width 3"],
    targets: Float[Array, "batch height width 3"],
    config: ReconstructionConfig,
) -> Float[Array, " batch"]:
    """The weighted pixel terms of each image; both are in normalized pixel space."""
    weights: list[tuple[float, Callable[[Array, Array], Array]]] = [
        (config.l1_weight, l1_loss),
        (config.pooled_weight, pooled_l1_loss),
        (config.gradient_weight, gradient_l1_loss),
    ]
    used = [weight * loss(rebuilt, targets) for weight, loss in weights if weight > 0]
    return sum(used, jnp.zeros(len(targets), jnp.float32))


def _latents(
    tokenizer: Tokenizer,
    patches: Float[Array, "batch patches features"],
    targets: Float[Array, "batch height width 3"],
) -> Float[Array, "batch rows columns channels"]:
    size = tokenizer.config.patch_size
    rows, columns = targets.shape[1] // size, targets.shape[2] // size
    return tokenizer.bottleneck(patches).reshape(len(patches), rows, columns, -1)


def _require_shares(name: str, size: int, num_shards: int) -> None:
    require(
        size % num_shards == 0,
        f"`{name}` must divide evenly over the devices; got {size} images on "
        f"{num_shards} devices: change it, or use fewer devices.",
    )


def _hidden_counts(config: PretrainConfig) -> Int[np.ndarray, " slots"]:
    """How many patches each crop hides: (image 0: 0, 1; image 1: 0, 1; ...)."""
    views, patch = config.views, config.tokenizer.patch_size
    num_patches = (views.global_size // patch) ** 2
    return mask_counts(
        2 * config.distillation_batch, num_patches, views.mask_rate, views.mask_ratio
    )


def _hidden(
    counts: Int[np.ndarray, " slots"], config: PretrainConfig, *, key: PRNGKeyArray
) -> Bool[Array, "some 2 patches"]:
    side = config.views.global_size // config.tokenizer.patch_size
    masks = _each(
        lambda count, key: block_mask(count, (side, side), key=key),
        jnp.asarray(counts), key=key,
    )  # fmt: skip
    return masks.reshape(-1, 2, side * side)


def _choose(key: PRNGKeyArray, chosen: int, batch: int) -> Int[Array, " {chosen}"]:
    return jr.randint(key, (chosen,), 0, batch // chosen)


def _each(function: Callable, rows: Array, *, key: PRNGKeyArray):
    """`function(row, key)` on every row, each with a key of its own."""
    return jax.vmap(function)(rows, jr.split(key, len(rows)))


def _unit(image: Num[Array, "height width 3"]) -> Float[Array, "height width 3"]:
    return image.astype(jnp.float32) / 255


def _crop_major(
    crops: Shaped[Array, "images crops *shape"],
) -> Shaped[Array, "rows *shape"]:
    """[crop 0 of all images, crop 1 of all images, ...]."""
    return jnp.swapaxes(crops, 0, 1).reshape(-1, *crops.shape[2:])


def _flat(patches: Float[Array, "images patches width"]) -> Float[Array, "rows width"]:
    return patches.reshape(-1, patches.shape[-1])
