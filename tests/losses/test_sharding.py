"""The number of devices changes neither a loss nor its gradient.

Each objective makes its inputs from one weight matrix, so that the gradient compared is
the one a training step takes: `pmean` inside the differentiated function, default
`check_vma`, no collective on gradients.
"""

import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.losses.contrastive import clip_loss, siglip_loss
from vtp_eqx.losses.cosines import unit_norm
from vtp_eqx.losses.distillation import (
    center_targets,
    dino_loss,
    ibot_loss,
    koleo_loss,
    updated_center,
)
from vtp_eqx.losses.latents import (
    kl_loss,
    local_correlation_loss,
    smoothness_loss,
)
from vtp_eqx.losses.reconstruction import l1_loss
from vtp_eqx.losses.sinkhorn import sinkhorn
from vtp_eqx.mesh import DATA, data_mesh, REPLICATED, SPLIT


BATCH, PATCHES, PROTOTYPES = 16, 4, 5


def contrast(weight, batch, axis):
    image, text = unit_norm(batch["image"] @ weight), unit_norm(batch["text"] @ weight)
    return clip_loss(image, text, log_scale=weight[0, 0] + 2, axis_name=axis)


def contrast_in_blocks(weight, batch, axis):
    image, text = unit_norm(batch["image"] @ weight), unit_norm(batch["text"] @ weight)
    scale = weight[0, 0] + 2
    return clip_loss(image, text, log_scale=scale, axis_name=axis, block=1)


def pairwise(weight, batch, axis):
    image, text = unit_norm(batch["image"] @ weight), unit_norm(batch["text"] @ weight)
    scalars = dict(log_scale=weight[0, 0] + 2, bias=weight[1, 0] - 3)
    return siglip_loss(image, text, **scalars, axis_name=axis)


def distillation(weight, batch, axis):
    teacher = jnp.concatenate([batch["image"], batch["text"]])
    targets = sinkhorn(teacher, temperature=0.5, axis_name=axis)
    student = jnp.stack([batch["image"] @ weight, batch["text"] @ weight])
    targets = targets.reshape(2, -1, PROTOTYPES)
    return dino_loss(student, student[:1] ** 2, targets, temperature=0.5)


def centering(weight, batch, axis):
    center = updated_center(jnp.zeros(PROTOTYPES), batch["image"], axis_name=axis)
    targets = center_targets(jnp.stack([batch["image"], batch["text"]]), center, 0.5)
    student = jnp.stack([batch["image"] @ weight, batch["text"] @ weight])
    return dino_loss(student, student[:0], targets, temperature=0.5)


def masked_patches(weight, batch, axis):
    # Two images in three have no masked patch: on 8 devices some shards have padding
    # alone, and shards differ in how many rows count.
    hidden = batch["hidden"].reshape(-1)
    num_images = len(batch["hidden"])
    rows = batch["patches"].reshape(-1, PROTOTYPES)
    masked = jnp.maximum(batch["hidden"].sum(1), 1)
    image = jnp.repeat(jnp.arange(num_images), PATCHES)
    kept = dict(weight=hidden / masked[image], axis_name=axis)
    targets = sinkhorn(rows, temperature=0.5, **kept)
    return ibot_loss(rows @ weight, targets, image=image, num_images=num_images, **kept)


def spread(weight, batch, axis):
    return koleo_loss(batch["image"] @ weight, axis_name=axis)


def spread_in_groups(weight, batch, axis):
    return koleo_loss(batch["image"] @ weight, group=4, axis_name=axis)


def pixels(weight, batch, axis):
    image = (batch["image"] @ weight).reshape(-1, 1, 1, PROTOTYPES)
    return l1_loss(image, batch["text"].reshape(-1, 1, 1, PROTOTYPES))


def smooth(weight, batch, axis):
    return smoothness_loss(
        (batch["patches"] @ weight)[:, None, :, :].repeat(2, 1), axis_name=axis
    )


def posterior(weight, batch, axis):
    mean = (batch["patches"] @ weight)[:, None]
    return kl_loss(mean, -(mean**2))


def neighbors(weight, batch, axis):
    grid = (batch["patches"] @ weight).reshape(-1, 2, 2, PROTOTYPES)
    return local_correlation_loss(grid, threshold=0.75)


OBJECTIVES = [
    posterior,
    neighbors,
    contrast,
    contrast_in_blocks,
    pairwise,
    distillation,
    centering,
    masked_patches,
    spread,
    spread_in_groups,
    pixels,
    smooth,
]


def make_inputs():
    keys = iter(jr.split(jr.key(0), 4))
    batch = {
        "image": jr.normal(next(keys), (BATCH, PROTOTYPES)),
        "text": jr.normal(next(keys), (BATCH, PROTOTYPES)),
        "patches": jr.normal(next(keys), (BATCH, PATCHES, PROTOTYPES)),
        "hidden": (jnp.arange(BATCH)[:, None] % 6 // 2 == 0)
        & (jnp.arange(PATCHES) <= jnp.arange(BATCH)[:, None] % 4),
    }
    return jr.normal(next(keys), (PROTOTYPES, PROTOTYPES)), batch


def values_and_gradients(weight, batch, axis):
    def loss(weight, objective):
        mean = objective(weight, batch, axis).mean()
        return mean if axis is None else lax.pmean(mean, axis)

    step = jax.value_and_grad(loss)
    return {objective.__name__: step(weight, objective) for objective in OBJECTIVES}


@pytest.fixture(scope="module")
def alone():
    return jax.jit(lambda *inputs: values_and_gradients(*inputs, None))(*make_inputs())


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_devices_change_neither_value_nor_gradient(num_devices, alone):
    sharded = jax.shard_map(
        lambda *inputs: values_and_gradients(*inputs, DATA),
        mesh=data_mesh(num_devices),
        in_specs=(REPLICATED, SPLIT),
        out_specs=REPLICATED,
    )
    shared = jax.jit(sharded)(*make_inputs())
    for name, expected in alone.items():
        assert np.abs(expected[1]).max() > 1e-3
        for ours, theirs in zip(shared[name], expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6, err_msg=name)
