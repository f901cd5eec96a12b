"""What a tokenizer learns: contrast, self-distillation and reconstruction at once."""

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vtp_eqx.config import PretrainConfig, require
from vtp_eqx.frozen.lpips import Perceptual
from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.losses.latents import channel_variance, smoothness_loss
from vtp_eqx.mesh import DATA
from vtp_eqx.models.encoder import Features
from vtp_eqx.models.tokenizer import Pretrainer, Teacher, Tokenizer
from vtp_eqx.nn.norms import unit_norm
from vtp_eqx.training.objective import Objective
from vtp_eqx.training.pixels import pixel_loss, require_perceptual_weights
from vtp_eqx.training.precision import cast_params
from vtp_eqx.training.pretrain_views import (
    masked_patch_counts,
    pretrain_views,
    PretrainViews,
    select_rows,
)
from vtp_eqx.training.self_distillation import (
    add_teacher_targets,
    self_distillation_loss,
    student_outputs,
)
from vtp_eqx.views.masking import shard_capacity


def pretrain_objective(
    config: PretrainConfig, *, num_shards: int, perceptual: Perceptual | None = None
) -> Objective:
    """Contrast + self-distillation + reconstruction (VTP section 3; RECIPE 5.7).

    Terms whose weight is 0 are left out, and so is their computation. The distillation
    and reconstruction batches are random subsets of the contrastive batch, one image
    out of each of its equal strata, so that they are the same ones on any number of
    devices. Monitors are the parts of the terms and signs of collapse.

    Every term is that of the whole batch, however many devices share it and in however
    many microbatches (`config.accumulate`) each splits its rows. `perceptual`, which
    learns nothing, is needed where LPIPS has a weight.
    """
    contrasts = config.contrast_weight > 0
    distills = config.distillation_weight > 0
    rebuilds = config.reconstruction_weight > 0
    if rebuilds:
        require_perceptual_weights(config.reconstruction, perceptual)
    num_microbatches = num_shards * config.accumulate
    for is_used, name in (
        (contrasts, "batch_size"),
        (distills, "distillation_batch"),
        (rebuilds, "reconstruction_batch"),
    ):
        if is_used:
            _require_divisible(
                name, getattr(config, name), num_shards, config.accumulate
            )
    capacity = 0
    if distills:
        capacity = shard_capacity(masked_patch_counts(config), num_microbatches)
        require(
            capacity > 0,
            "Self-distillation needs hidden patches; got none in any crop: raise "
            "`mask_rate` or `mask_ratio` of `views`, or `distillation_batch`.",
        )

    def teacher_targets(
        teacher: Teacher | None, views: PretrainViews, step: Int[Array, ""]
    ) -> PretrainViews:
        if not distills:
            return views
        assert teacher is not None
        return add_teacher_targets(teacher, views, step, config, capacity)

    def forward(
        student: Pretrainer,
        teacher: Teacher | None,
        views: PretrainViews,
        step: Int[Array, ""],
        key: PRNGKeyArray,
    ) -> dict[str, Array]:
        contrast_key, distill_key, rebuild_key = jr.split(key, 3)
        tokenizer, outputs = student.tokenizer, {}
        pixels = features = None
        if views.whole is not None:
            pixels = tokenizer.normalize(views.whole)
        if contrasts:
            assert pixels is not None
            features = tokenizer.encoder.batch(
                pixels, drop_rate=config.contrast_drop, key=contrast_key
            )
            outputs |= _embeddings(tokenizer, features, views)
        if distills:
            assert teacher is not None
            outputs |= student_outputs(
                student, teacher, views, step, config, capacity, key=distill_key
            )
        if rebuilds:
            assert pixels is not None
            assert views.rebuilt is not None
            targets = select_rows(pixels, views.rebuilt)
            if (
                features is not None
                and config.contrast_drop == config.reconstruction_drop == 0
            ):
                # The same images through the same network: no second pass is needed.
                patches = select_rows(features.patches, views.rebuilt)
            else:
                patches = tokenizer.encoder.batch(
                    targets, drop_rate=config.reconstruction_drop, key=rebuild_key
                ).patches
            latents = _latents(tokenizer, patches, targets)
            # Both look at the whole batch: their configs are refused with microbatches.
            if config.smoothness_weight > 0:
                outputs["smoothness"] = smoothness_loss(latents, axis_name=DATA)
            if views.noise is not None:
                spread = jnp.sqrt(channel_variance(latents, axis_name=DATA))
                # Without a gradient, or latents would learn to spread less.
                latents += config.latent_noise * lax.stop_gradient(spread) * views.noise
            outputs["reconstruction"] = pixel_loss(
                tokenizer.decoder.batch(latents), targets, config.reconstruction,
                cast_params(perceptual, config.precision), tokenizer.denormalize,
            )  # fmt: skip
        return outputs

    def loss(
        student: Pretrainer, outputs: dict[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        alone = ("smoothness", "reconstruction")
        found = {name: outputs[name] for name in alone if name in outputs}
        monitors = {}
        if contrasts:
            found["contrast"] = _contrast(student.tokenizer, outputs, config)
        if distills:
            found["distillation"], monitors = self_distillation_loss(outputs, config)
        return found, monitors

    return Objective(pretrain_views(config), forward, loss, teacher_targets)


def clamp_logit_scale(student: Pretrainer) -> Pretrainer:
    """`student` with its logit multiplier between 1 and 100 (OpenCLIP)."""
    scale = student.tokenizer.logit_scale
    return eqx.tree_at(
        lambda student: student.tokenizer.logit_scale,
        student,
        jnp.clip(scale, 0, jnp.log(100.0).astype(scale.dtype)),
    )


def _embeddings(
    tokenizer: Tokenizer, outputs: Features, views: PretrainViews
) -> dict[str, Array]:
    assert tokenizer.text is not None
    assert tokenizer.projection is not None
    assert views.caption is not None
    image = tokenizer.projection(tokenizer.contrast_features(outputs))
    text = jax.vmap(tokenizer.text.embed)(views.caption)
    # Of float32 length: a logit is 100 times a cosine.
    unit = lambda rows: unit_norm(rows.astype(jnp.float32))
    return {"image": unit(image), "text": unit(text)}


def _contrast(
    tokenizer: Tokenizer, outputs: dict[str, Array], config: PretrainConfig
) -> Float[Array, " batch"]:
    image, text = outputs["image"], outputs["text"]
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
    latents = tokenizer.bottleneck(patches).astype(jnp.float32)
    return latents.reshape(len(patches), rows, columns, -1)


def _require_divisible(name: str, size: int, num_shards: int, accumulate: int) -> None:
    require(
        size % (num_shards * accumulate) == 0,
        f"`{name}` must divide evenly over devices and microbatches; got {size} images"
        f" on {num_shards} devices in {accumulate} microbatches each: change it, use "
        "fewer devices or lower `accumulate`.",
    )
