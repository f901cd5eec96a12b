"""Numbers of MiniMax-AI/VTP 5ce1eb6 on random weights, float32, one CPU thread."""

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

from vtp_eqx.interop import tokenizer_from_published, tokenizer_to_published
from vtp_eqx.models.arrays import named_arrays
from vtp_eqx.models.tokenizer import Tokenizer


GOLDEN = Path(__file__).parent.parent / "golden"
RELEASED, VARIANT = "vtp_released_layout_rope_fp32", "vtp_variant_rope_fp32"
PERIODS = ("trunk.rope_embed.periods", "pixel_decoder.rope_embed.periods")
TOLERANCE = 1e-4
# One unit in the last place of bfloat16 at 1: a rotation whose operands differ in
# the last bit of float32 may round the other way.
BFLOAT16_TOLERANCE = 2.0**-7


def read(case):
    config = json.loads((GOLDEN / case / "config.json").read_text())
    return load_file(GOLDEN / case / "model.safetensors"), config


def in_bfloat16(tensors):
    """The same weights with the rotary periods of the released checkpoints."""
    kind = ml_dtypes.bfloat16
    return {**tensors, **{name: tensors[name].astype(kind) for name in PERIODS}}


@eqx.filter_jit
def everything(tokenizer, image, hidden, text):
    """What the golden files hold, from images in the published layout."""
    pixels = jnp.moveaxis(image, 1, -1)
    features = tokenizer.encoder.batch(pixels)
    masked = tokenizer.encoder.batch(pixels, hidden=hidden)
    layers = jax.vmap(lambda one: tokenizer.encoder.intermediate(one, 2))(pixels)
    images = tokenizer.denormalize(pixels)
    latents = jax.vmap(tokenizer.encode)(images)
    decoded = tokenizer.normalize(jax.vmap(tokenizer.decode)(latents))
    clip_image = jax.vmap(tokenizer.embed_image)(images)
    clip_text = jax.vmap(tokenizer.embed_text)(text)
    logits = jnp.exp(tokenizer.logit_scale) * clip_image @ clip_text.T
    return {
        "cls_token": features.cls,
        "patch_tokens": features.patches,
        "masked_cls": masked.cls,
        "masked_patch": masked.patches,
        **{f"intermediate{i}_cls": layer.cls for i, layer in enumerate(layers)},
        **{f"intermediate{i}_patch": layer.patches for i, layer in enumerate(layers)},
        "latents": jnp.moveaxis(latents, -1, 1),
        "decoded": jnp.moveaxis(decoded, -1, 1),
        "clip_image": clip_image,
        "clip_text": clip_text,
        "logits_per_image": logits
        if tokenizer.logit_bias is None
        else logits + tokenizer.logit_bias,
    }


def compare(tokenizer, case, size, tolerance):
    golden = load_file(GOLDEN / case / "io.safetensors")
    found = everything(
        tokenizer,
        *(jnp.asarray(golden[f"{name}_{size}"]) for name in ("image", "mask")),
        jnp.asarray(golden["text"].astype(np.int32)),
    )
    compared = 0
    for name, value in found.items():
        expected = golden.get(f"{name}_{size}", golden.get(name))
        if expected is not None:
            np.testing.assert_allclose(value, expected, atol=tolerance, err_msg=name)
            compared += 1
    assert compared >= 12  # logits were computed for one size only
    return found, golden


@pytest.mark.parametrize(
    ("case", "size"),
    [(RELEASED, "64x64"), (RELEASED, "48x96"), (VARIANT, "64x64")],
)
def test_agrees_with_the_published_model(case, size):
    compare(tokenizer_from_published(*read(case)), case, size, TOLERANCE)


def test_agrees_with_the_published_bfloat16_positions():
    tensors, config = read(RELEASED)
    tokenizer = tokenizer_from_published(in_bfloat16(tensors), config)
    assert tokenizer.config.rope == "bfloat16"
    case = "vtp_released_layout_rope_bf16"
    found, golden = compare(tokenizer, case, "64x64", BFLOAT16_TOLERANCE)
    # And not by the width of the tolerance: float32 positions are much further off.
    exact = load_file(GOLDEN / RELEASED / "io.safetensors")
    for name in ("cls_token", "patch_tokens", "latents", "decoded"):
        expected = golden[f"{name}_64x64"]
        off = np.abs(found[name] - expected).mean()
        assert off < 0.2 * np.abs(exact[f"{name}_64x64"] - expected).mean(), name


@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("case", [RELEASED, VARIANT])
def test_a_published_checkpoint_comes_back_as_it_was(case, kind):
    tensors, config = read(case)
    tensors = {**tensors, **{name: tensors[name].astype(kind) for name in PERIODS}}
    hub = {"architectures": ["VTPModel"], "dtype": "float32", "vision_depth": 3}
    config = {**config, **hub}
    del config["text_pad_id"]  # left out, it means the same
    back, described = tokenizer_to_published(tokenizer_from_published(tensors, config))
    assert described == config
    assert back.keys() == tensors.keys()
    for name in tensors:
        assert back[name].dtype == tensors[name].dtype
        assert back[name].tobytes() == tensors[name].tobytes(), name


def test_constants_of_another_library_come_back_to_the_last_bit():
    tensors, config = read(RELEASED)
    odd = {name: np.nextafter(tensors[name], np.float32(0)) for name in PERIODS}
    tokenizer = tokenizer_from_published({**tensors, **odd}, config)
    back, _ = tokenizer_to_published(tokenizer)
    for name in PERIODS:
        np.testing.assert_array_equal(back[name], odd[name])


def test_a_tokenizer_that_changed_is_described_as_it_is():
    tensors, config = read(RELEASED)
    tokenizer = tokenizer_from_published(tensors, {**config, "dtype": "float32"})
    other = dataclasses.replace(tokenizer.config, logit_scale=1.0)
    tokenizer = eqx.tree_at(lambda t: t.latent_mean, tokenizer, jnp.ones(16))
    tokenizer = eqx.tree_at(
        lambda t: t.logit_scale, tokenizer, jnp.ones(()), is_leaf=lambda x: x is None
    )
    object.__setattr__(tokenizer, "config", other)
    _, described = tokenizer_to_published(tokenizer)
    assert described["init_logit_scale"] == 1.0
    assert described["dtype"] == "float32"
    assert described["latent_mean"] == [1.0] * 16


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_exactly(kind):
    tensors, config = read(VARIANT)
    halves = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    tokenizer = tokenizer_from_published(halves, config)
    back, _ = tokenizer_to_published(tokenizer)
    for name in halves.keys() - {*PERIODS}:
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], halves[name].astype(np.float32))
    expected = "float32" if kind == np.float16 else "bfloat16"
    assert tokenizer.config.rope == expected


@pytest.mark.parametrize("changes", [{}, {"text": None}])
def test_a_tokenizer_survives_the_round_trip(changes, getkey):
    config = tokenizer_from_published(*read(VARIANT)).config
    config = dataclasses.replace(config, **changes)
    skeleton = eqx.filter_eval_shape(Tokenizer, config, key=getkey())
    draw = np.random.default_rng(0)
    measured = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), skeleton
    )
    if config.text is None:  # the layout has no place for it then
        bias = jnp.float32(config.logit_bias)
        scale = jnp.float32(config.logit_scale)
        measured = eqx.tree_at(
            lambda t: (t.logit_scale, t.logit_bias), measured, (scale, bias)
        )
    tensors, described = tokenizer_to_published(measured)
    described = json.loads(json.dumps(described))
    assert eqx.tree_equal(tokenizer_from_published(tensors, described), measured)


@pytest.mark.parametrize(
    ("kind", "hidden"),
    [("swiglu", 176), ("swiglu32", 192), ("swiglu64", 192), ("swiglu128", 256)],
)
def test_a_published_swiglu_of_any_multiple_is_read_and_written(kind, hidden):
    tensors, config = read(VARIANT)
    tensors = {name: t for name, t in tensors.items() if ".mlp.fc" not in name}
    draw = np.random.default_rng(0)
    for tower, setting in (("trunk", "vision"), ("pixel_decoder", "decoder")):
        config[f"{setting}_ffn_layer"] = kind
        for block in range(config[f"{setting}_depth"]):
            for name, wide, narrow in (
                ("w1", hidden, 64), ("w2", hidden, 64), ("w3", 64, hidden),
            ):  # fmt: skip
                path = f"{tower}.blocks.{block}.mlp.{name}"
                values = draw.normal(size=(wide, narrow + 1)).astype(np.float32)
                tensors[f"{path}.weight"] = values[:, 1:].copy()
                tensors[f"{path}.bias"] = values[:, 0].copy()
    tokenizer = tokenizer_from_published(tensors, config)
    assert tokenizer.config.decoder.feed_forward == kind
    back, described = tokenizer_to_published(tokenizer)
    assert described == config
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize("case", [RELEASED, VARIANT])
def test_every_array_has_a_published_name(case):
    tokenizer = tokenizer_from_published(*read(case))
    marked = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), tokenizer)
    tensors, _ = tokenizer_to_published(marked)
    written = sum(
        tensor.size for name, tensor in tensors.items() if name not in PERIODS
    )
    assert all(np.isnan(t).all() for name, t in tensors.items() if name not in PERIODS)
    held = sum(a.size for a in named_arrays(tokenizer).values())
    assert written == held - 2 * tokenizer.config.latent_width


def test_bfloat16_periods_saved_as_float32_are_recognized():
    tensors, config = read(RELEASED)
    recast = {name: t.astype(np.float32) for name, t in in_bfloat16(tensors).items()}
    assert tokenizer_from_published(recast, config).config.rope == "bfloat16"
    assert tokenizer_from_published(tensors, config).config.rope == "float32"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {**t, "dino_head.w": t["logit_scale"]}, r"\[dino_head.w\] too many"),
        (lambda t: {k: v for k, v in t.items() if k != "trunk.norm.weight"},
         r"\[trunk.norm.weight\] missing"),
        (lambda t: {k: v for k, v in t.items() if k not in PERIODS},
         "rope_embed.periods.* missing"),
        (lambda t: {**t, "visual_proj.weight": t["visual_proj.weight"].T},
         r"visual_proj.weight \(64, 48\) for \(48, 64\)"),
        (lambda t: {**t, "trunk.norm.weight": t["trunk.norm.weight"].astype(int)},
         "are float32, float16 or bfloat16; got int64 for `trunk.norm.weight`"),
        (lambda t: {**t, PERIODS[0]: 2 * t[PERIODS[0]]}, "holds powers of 100"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(spoil, message):
    tensors, config = read(RELEASED)
    with pytest.raises(ValueError, match=message):
        tokenizer_from_published(spoil(tensors), config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_depth": 900_000}, "got .* tensors for 900000 blocks"),
        ({"latent_mean": [0.0] * 3}, "`latent_mean` is one finite number for each"),
        ({"latent_std": [float("nan")] * 16}, "`latent_std` is one finite number"),
        ({"latent_std": "ones"}, "got ones"),
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_named(changes, message):
    tensors, config = read(RELEASED)
    with pytest.raises(ValueError, match=message):
        tokenizer_from_published(tensors, {**config, **changes})
