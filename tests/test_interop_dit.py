"""The published LightningDiT, held to numbers that its own code computed.

Cases: hustvl/LightningDiT 2725fed, float32, tiny width, random weights.
"""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from vtp_eqx.config import SamplerConfig
from vtp_eqx.flow import flow_loss, heun, interpolate, sample, time_grid
from vtp_eqx.interop_dit import dit_from_published, dit_to_published
from vtp_eqx.models.generator import guided_velocity


GOLDEN = Path(__file__).parent / "golden"
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


def test_a_state_dict_survives_the_round_trip(case):
    tensors, config = dit_to_published(case.dit)
    assert tensors.keys() == case.tensors.keys()
    for name, tensor in tensors.items():
        tolerance = 1e-5 if name.startswith(("pos_embed", "feat_rope")) else 0
        np.testing.assert_allclose(tensor, case.tensors[name], atol=tolerance, rtol=0)
    assert config == {name: case.config[name] for name in config}
    again = dit_from_published(tensors, config)
    assert eqx.tree_equal(again, case.dit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("blocks.1.attn.proj.bias"),
            r"missing.*proj\.bias",
        ),
        (lambda tensors: tensors.update(extra=np.zeros(1)), r"unknown.*extra"),
        (
            lambda tensors: tensors.update({"pos_embed": np.zeros((1, 3, 64))}),
            r"shapes.*pos_embed \(1, 3, 64\)",
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


def test_an_incomplete_config_is_refused_by_name(case):
    config = {k: v for k, v in case.config.items() if k != "hidden_size"}
    with pytest.raises(ValueError, match="hidden_size"):
        dit_from_published(case.tensors, config)
