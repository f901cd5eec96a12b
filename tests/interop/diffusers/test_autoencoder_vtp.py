"""The PyTorch file computes what this library does, where torch is installed.

`golden/` has what it computed with torch 2.13 in float32, for where it is not.
"""

import ast
import importlib.util
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.interop.diffusers.variants import CONFIGS, random_tokenizer
from vtp_eqx.interop.diffusers import autoencoder_outputs
from vtp_eqx.interop.diffusers.checkpoint import MODULE
from vtp_eqx.tokenizer import load, save_diffusers


GOLDEN = Path(__file__).parents[2] / "golden" / "diffusers"
# A rotation in bfloat16 whose operands differ in the last bit of float32 may round the
# other way, once in a while: the most, and the mean, that this may make.
TOLERANCES = {"float32": (1e-4, 1e-4), "bfloat16": (2.0**-5, 3e-4)}
MAX_LINES = 60  # of code


def check_close(rope, found, expected):
    for name, value in expected.items():
        apart = np.abs(np.asarray(found[name]) - np.asarray(value))
        most, mean = TOLERANCES[rope]
        assert apart.max() < most, name
        assert apart.mean() < mean, name


@eqx.filter_jit
def encode_and_decode(tokenizer, images):
    """What `autoencoder_outputs` has, of given images."""
    latents = jax.vmap(tokenizer.encode)((jnp.moveaxis(images, 1, -1) + 1) / 2)
    decoded = 2 * jax.vmap(tokenizer.decode)(latents) - 1
    outputs = {"latents": latents, "decoded": decoded}
    return {name: jnp.moveaxis(array, -1, 1) for name, array in outputs.items()}


@pytest.mark.parametrize("name", ["mixed", "wide"])
def test_it_computed_what_we_do(name):
    golden = load_file(GOLDEN / name / "io.safetensors")
    tokenizer = load(GOLDEN / name)
    found = encode_and_decode(tokenizer, golden.pop("images"))
    check_close(tokenizer.config.rope, found, golden)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def read_module(folder):
    """The class in a folder, as a user of PyTorch imports it."""
    spec = importlib.util.spec_from_file_location("copied", folder / MODULE.name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AutoencoderVTP


def in_torch(torch, model, images):
    with torch.no_grad():
        latents = model.encode(torch.tensor(np.asarray(images)))
        decoded = model.decode(latents)
    return {"latents": latents.numpy(), "decoded": decoded.numpy()}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_computes_what_we_do(name, torch, tmp_path):
    tokenizer = random_tokenizer(name)
    save_diffusers(tokenizer, tmp_path)
    inputs, outputs = autoencoder_outputs(tokenizer)
    model = read_module(tmp_path).from_pretrained(tmp_path)
    found = in_torch(torch, model, inputs["images"])
    check_close(tokenizer.config.rope, found, outputs)
    assert model.config["latents_mean"] == tokenizer.latent_mean.tolist()


def test_many_positions_are_rounded_as_ours(torch, tmp_path):
    # 301 in a row, which is no number of bfloat16.
    tokenizer, size = random_tokenizer("wide"), CONFIGS["wide"].patch_size
    save_diffusers(tokenizer, tmp_path)
    model = read_module(tmp_path).from_pretrained(tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 3, 301 * size, size))
    images = images.astype(np.float32)
    expected = encode_and_decode(tokenizer, images)
    check_close("bfloat16", in_torch(torch, model, images), expected)


def test_its_weights_can_be_trained_and_rounded(torch, tmp_path):
    save_diffusers(random_tokenizer("mixed"), tmp_path)
    model = read_module(tmp_path).from_pretrained(tmp_path)
    images = torch.rand(1, 3, 8, 12)
    model.decode(model.encode(images)).square().mean().backward()
    gradients = [weight.grad for weight in model.parameters()]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    exact = in_torch(torch, model, images)
    model.to(torch.bfloat16)
    with torch.no_grad():
        latents = model.encode(images.bfloat16())
    assert latents.dtype == torch.bfloat16
    np.testing.assert_allclose(latents.float(), exact["latents"], atol=0.05)


def test_it_is_one_short_file_that_needs_two_packages():
    tree = ast.parse(MODULE.read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {(node.module or ".").split(".")[0]}
    assert imported == {"json", "pathlib", "safetensors", "torch"}
    docstring = ast.get_docstring(tree, clean=False)
    assert docstring is not None
    code = MODULE.read_text().replace(f'"""{docstring}"""', "").splitlines()
    code = [line for line in code if line.strip() and not line.startswith("#")]
    assert len(code) <= MAX_LINES
