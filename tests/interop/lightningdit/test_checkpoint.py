"""The published LightningDiT, held to numbers that its own code computed.

Cases: hustvl/LightningDiT 2725fed, float32, tiny width, random weights.
"""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from vtp_eqx.config import SamplerConfig
from vtp_eqx.flow import flow_loss, heun, interpolate, sample, time_grid
from vtp_eqx.interop.lightningdit import dit_from_published, dit_to_published
from vtp_eqx.models.generator import guided_velocity, sample_latents


GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


class Case:
    def __init__(self, name):
        folder = GOLDEN / f"lightningdit_{name}"
        self.config = json.loads((folder / "config.json").read_text())
        self.tensors = load_file(folder / "model.safetensors")
        self.dit = dit_from_published(self.tensors, self.config)
        self.numbers = {
            key: jnp.asarray(
                np.moveaxis(value, 1, -1) if value.ndim == 4 else value,
                jnp.int32 if key == "y" else jnp.float32,
            )
            for key, value in load_file(folder / "io.safetensors").items()
        }
        self.sampler = SamplerConfig(
            num_steps=self.config["num_steps"] - 1,
            time_shift=self.config["timestep_shift"],
            guidance=self.config["cfg_scale"],
        )


@pytest.fixture(scope="module", params=["plain", "vtp_flags"])
def case(request):
    return Case(request.param)


def test_velocity_agrees(case):
    numbers = case.numbers
    velocity = eqx.filter_jit(case.dit.batch)(numbers["x"], numbers["t"], numbers["y"])
    np.testing.assert_allclose(velocity, numbers["velocity"], **TOLERANCE)


def test_path_and_loss_agree(case):
    numbers = case.numbers
    point, target = interpolate(
        numbers["path_noise"], numbers["path_data"], numbers["t"]
    )
    np.testing.assert_allclose(point, numbers["path_xt"], **TOLERANCE)
    np.testing.assert_allclose(target, numbers["path_velocity_target"], **TOLERANCE)
    velocity = eqx.filter_jit(case.dit.batch)(point, numbers["t"], numbers["y"])
    loss = flow_loss(velocity, target)
    np.testing.assert_allclose(loss.square, numbers["flow_mse_per_sample"], **TOLERANCE)
    np.testing.assert_allclose(loss.cosine, numbers["flow_cos_per_sample"], **TOLERANCE)
    np.testing.assert_allclose(loss.total, loss.square + loss.cosine, rtol=1e-6)


def test_time_grid_agrees(case):
    grid = time_grid(case.sampler.num_steps, case.sampler.time_shift)
    np.testing.assert_allclose(grid, case.numbers["time_grid"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("nocfg", {"guidance": 1.0}),
        ("cfg_interval_false", {"guided_channels": 3}),
        ("cfg_interval_true", {"guided_channels": 3, "guidance_start": "interval"}),
        ("cfg_all_channels", {}),
    ],
)
def test_euler_samples_agree(case, name, changes):
    if changes.get("guidance_start") == "interval":
        changes = changes | {"guidance_start": case.config["cfg_interval_start"]}
    sampler = dataclasses.replace(case.sampler, **changes)
    velocity = guided_velocity(case.dit, case.numbers["y"], sampler)
    times = time_grid(sampler.num_steps, sampler.time_shift)
    latents = sample(velocity, case.numbers["noise"], times)
    expected = case.numbers[f"sample_euler_{name}"]
    np.testing.assert_allclose(latents, expected, **TOLERANCE)


def test_many_heun_steps_reach_what_the_adaptive_solver_reached(case):
    sampler = SamplerConfig()
    velocity = guided_velocity(case.dit, case.numbers["y"], sampler)
    latents = sample(velocity, case.numbers["noise"], time_grid(200), heun)
    expected = case.numbers["sample_dopri5_nocfg"]
    np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-3)


def test_dopri5_samples_agree(case):
    sampler = SamplerConfig(
        solver="dopri5", time_shift=0, num_steps=4096, tolerance=1e-7,
        tolerance_abs=1e-7,
    )  # fmt: skip
    latents = sample_latents(
        case.dit, case.numbers["y"], case.numbers["noise"], sampler
    )
    np.testing.assert_allclose(
        latents, case.numbers["sample_dopri5_nocfg"], **TOLERANCE
    )


def test_a_published_checkpoint_comes_back_as_it_was(case):
    tensors, config = dit_to_published(case.dit)
    assert config == case.config
    assert tensors.keys() == case.tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        assert tensor.tobytes() == case.tensors[name].tobytes(), name


def test_a_model_survives_the_round_trip(case):
    born = jax.tree.map(lambda leaf: leaf, case.dit)  # a copy
    object.__setattr__(born, "origin", "")
    tensors, config = dit_to_published(born)
    assert config == {name: case.config[name] for name in config}
    assert eqx.tree_equal(dit_from_published(tensors, config), born)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_exactly(case, kind):
    halves = {name: tensor.astype(kind) for name, tensor in case.tensors.items()}
    tensors, _ = dit_to_published(dit_from_published(halves, case.config))
    for name in halves:
        if not name.startswith(("pos_embed", "feat_rope")):
            expected = halves[name].astype(np.float32)
            np.testing.assert_array_equal(tensors[name], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("blocks.1.attn.proj.bias"),
            r"proj\.bias\] missing",
        ),
        (lambda tensors: tensors.update(extra=np.zeros(1)), r"\[extra\] too many"),
        (
            lambda tensors: tensors.update({"pos_embed": np.zeros((1, 3, 64))}),
            r"shapes.*pos_embed \(1, 3, 64\)",
        ),
        (
            lambda tensors: tensors.update(
                {"x_embedder.proj.bias": np.zeros(64, np.int32)}
            ),
            r"got int32 for `x_embedder\.proj\.bias`",
        ),
        (
            lambda tensors: tensors.update(pos_embed=tensors["pos_embed"] + 1),
            r"fixed formula.*pos_embed",
        ),
    ],
)
def test_a_wrong_state_dict_is_refused_by_name(case, change, message):
    tensors = dict(case.tensors)
    change(tensors)
    with pytest.raises(ValueError, match=message):
        dit_from_published(tensors, case.config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 900_000}, "got .* tensors for 900000 blocks"),
        ({"input_size": 900_000}, r"pos_embed \(1, \d+, 64\) for"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(case, changes, message):
    with pytest.raises(ValueError, match=message):
        dit_from_published(case.tensors, {**case.config, **changes})
