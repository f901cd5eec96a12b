"""Values and gradients of the published losses, float32 (dinov2 b8931f7, open_clip
89fb801, LightningDiT 2725fed), on random logits, features and embeddings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vtp_eqx.losses.alignment import cosine_loss, similarity_loss
from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.losses.distillation import (
    center_targets,
    dino_loss,
    ibot_loss,
    koleo_loss,
    updated_center,
)
from vtp_eqx.losses.sinkhorn import sinkhorn


STUDENT, TEACHER = 0.1, 0.07  # temperatures, from the file's metadata
TOLERANCE = dict(rtol=2e-5, atol=2e-6)


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[1] / "golden" / "losses" / "io.safetensors"
    return {name: jnp.asarray(array) for name, array in load_file(path).items()}


def crops(rows, count):
    return rows.reshape(count, -1, rows.shape[-1])


def agree(ours, published):
    np.testing.assert_allclose(ours, published, **TOLERANCE)


def test_sinkhorn_targets_agree(golden):
    for name in ("dino", "ibot"):
        ours = sinkhorn(golden[f"{name}_teacher_logits"], temperature=TEACHER)
        agree(ours, golden[f"{name}_sinkhorn_targets"])


def test_centered_targets_agree(golden):
    logits = golden["dino_teacher_logits"]
    center = updated_center(jnp.zeros(logits.shape[-1]), logits, momentum=0.9)
    agree(center[None], golden["dino_center_after_one_update_m0.9"])
    agree(
        center_targets(logits, center, TEACHER), golden["dino_softmax_center_targets"]
    )


def test_dino_agrees(golden):
    targets = crops(golden["dino_sinkhorn_targets"], 2)

    def total(global_rows, local_rows):
        student = crops(global_rows, 2), crops(local_rows, 4)
        return 10 * dino_loss(*student, targets, temperature=STUDENT).mean()

    student = golden["dino_student_global"], golden["dino_student_local"]
    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*student)
    terms = ("dino_global_sum_of_means", "dino_local_sum_of_means")
    agree(value, sum(golden[term] for term in terms))
    agree(gradients[0], golden["dino_grad_student_global"])
    agree(gradients[1], golden["dino_grad_student_local"])


def test_ibot_agrees(golden):
    mask = np.asarray(golden["ibot_mask"])
    image = jnp.asarray(mask.nonzero()[0])
    weight = jnp.asarray(1 / mask.sum(1)[image], jnp.float32)
    targets = golden["ibot_sinkhorn_targets"]

    def total(student):
        rows = dict(weight=weight, image=image, num_images=len(mask))
        return ibot_loss(student, targets, **rows, temperature=STUDENT).mean()

    value, gradient = jax.jit(jax.value_and_grad(total))(golden["ibot_student_logits"])
    agree(value, golden["ibot_loss"])
    agree(gradient, golden["ibot_grad"])


def test_koleo_agrees(golden):
    total = lambda features: koleo_loss(features).mean()
    value, gradient = jax.jit(jax.value_and_grad(total))(golden["koleo_input"])
    agree(value, golden["koleo_loss"])
    agree(gradient, golden["koleo_grad"])


def test_clip_agrees(golden):
    def total(image, text, log_scale):
        return clip_loss(unit_norm(image), unit_norm(text), log_scale=log_scale).mean()

    inputs = [golden[name] for name in ("clip_image", "clip_text", "clip_log_scale")]
    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*inputs)
    agree(value, golden["clip_loss"])
    for gradient, name in zip(gradients, ("image", "text", "log_scale"), strict=True):
        agree(gradient, golden[f"clip_grad_{name}"])


def test_siglip_agrees(golden):
    image, text = golden["clip_image"], golden["clip_text"]

    def total(image, log_scale, bias):
        losses = siglip_loss(
            unit_norm(image), unit_norm(text), log_scale=log_scale, bias=bias
        )
        return losses.mean()

    inputs = image, golden["siglip_log_scale"], golden["siglip_bias"]
    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*inputs)
    agree(value, golden["siglip_loss"])
    for gradient, name in zip(gradients, ("image", "log_scale", "bias"), strict=True):
        agree(gradient, golden[f"siglip_grad_{name}"])


def test_alignment_agrees(golden):
    channels_last = lambda grid: jnp.moveaxis(grid, 1, -1)
    features = channels_last(golden["vf_feature"])

    def terms(latents):
        grids = channels_last(latents), features
        angle = cosine_loss(*grids, margin=0.5).mean()
        return angle, similarity_loss(*grids, margin=0.25).mean()

    angle, similarity = terms(golden["vf_latent"])
    agree(angle, golden["vf_cos_loss"])
    agree(similarity, golden["vf_distmat_loss"])
    gradient = jax.jit(jax.grad(lambda latents: sum(terms(latents))))(
        golden["vf_latent"]
    )
    agree(gradient, golden["vf_grad"])
