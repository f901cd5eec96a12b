"""What a tokenizer learns: contrast, self-distillation and reconstruction at once."""

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vtp_eqx.config import PretrainConfig, require
from vtp_eqx.data.masking import shard_capacity
from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.losses.latents import channel_variance, smoothness_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.models.encoder import Features
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.nn.norms import unit_norm
from vtp_eqx.training.distill import distillation
from vtp_eqx.training.pixels import pixel_loss
from vtp_eqx.training.pretrain_views import (
    hidden_counts,
    pick,
    pretrain_views,
    PretrainViews,
)
from vtp_eqx.training.step import Objective


def pretrain_objective(config: PretrainConfig, *, num_shards: int) -> Objective:
    """Contrast + self-distillation + reconstruction (VTP section 3; RECIPE 5.7).

    Terms whose weight is 0 are left out, and so is their computation. The distillation
    and reconstruction batches are random subsets of the contrastive batch, one image
    out of each equal stretch of it, so that they are the same ones on any number of
    devices. Monitors are the parts of the terms and signs of collapse.
    """
    contrasts = config.contrast_weight > 0
    distills = config.distillation_weight > 0
    rebuilds = config.reconstruction_weight > 0
    if distills:
        _require_shares("distillation_batch", config.distillation_batch, num_shards)
    if rebuilds:
        _require_shares("reconstruction_batch", config.reconstruction_batch, num_shards)
    capacity = 0
    if distills:
        capacity = shard_capacity(hidden_counts(config), num_shards)

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
            found["distillation"], monitors = distillation(
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

    return Objective(pretrain_views(config), terms)


def clamped(student: Pretrainer) -> Pretrainer:
    """`student` with its logit multiplier between 1 and 100 (OpenCLIP)."""
    scale = student.tokenizer.logit_scale
    return eqx.tree_at(
        lambda student: student.tokenizer.logit_scale,
        student,
        jnp.clip(scale, 0, jnp.log(100.0).astype(scale.dtype)),
    )


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
