import json
import os

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vtp_eqx.config import (
    decoder_like,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.tokenizer import (
    latents_hash,
    load,
    save,
    save_published,
    Tokenizer,
    weights_hash,
)


TOWER = TransformerConfig(width=16, depth=2, num_heads=2)
CONFIG = TokenizerConfig(
    encoder=TOWER,
    decoder=decoder_like(TOWER),
    text=TextConfig(context=4, vocabulary=9, width=8, depth=1, num_heads=2),
    image_size=32,
    latent_width=5,
    logit_bias=-10.0,
    rope="bfloat16",
)


@pytest.fixture(scope="module")
def tokenizer():
    born = eqx.filter_jit(Tokenizer)(CONFIG, key=jr.key(0))
    statistics = (jnp.arange(5, dtype=jnp.float32) / 3, jnp.full(5, 1 / 7))
    return eqx.tree_at(lambda t: (t.latent_mean, t.latent_std), born, statistics)


@pytest.fixture
def folder(tokenizer, tmp_path):
    save(tokenizer, tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_what_is_saved_is_loaded_to_the_last_bit(tokenizer, folder):
    loaded = load(folder)
    assert eqx.tree_equal(loaded, tokenizer)
    assert loaded.config == CONFIG
    assert weights_hash(loaded) == weights_hash(tokenizer)
    assert latents_hash(loaded) == latents_hash(tokenizer)


def test_a_folder_is_named_by_text_or_path(tokenizer, folder):
    assert eqx.tree_equal(load(str(folder)), tokenizer)


def test_a_run_is_loaded_by_its_own_folder(tokenizer, folder):
    (folder.parent / "config.json").write_text('{"tokenizer": {}}')
    assert eqx.tree_equal(load(folder.parent), tokenizer)


def test_a_loaded_tokenizer_encodes_the_same(tokenizer, folder):
    image = np.asarray(jr.uniform(jr.key(1), (32, 32, 3)))
    expected = tokenizer.encode(image)
    np.testing.assert_array_equal(load(folder).encode(image), expected)


def test_saving_again_replaces_and_leaves_nothing_behind(tokenizer, folder):
    other = eqx.tree_at(lambda t: t.latent_mean, tokenizer, jnp.ones(5))
    save(other, folder)
    assert eqx.tree_equal(load(folder), other)
    assert sorted(os.listdir(folder)) == ["config.json", "tokenizer.safetensors"]


def test_a_save_that_fails_leaves_what_was_there(tokenizer, folder, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    other = eqx.tree_at(lambda t: t.latent_mean, tokenizer, jnp.ones(5))
    with pytest.raises(OSError, match="no space left"):
        save(other, folder)
    assert eqx.tree_equal(load(folder), tokenizer)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"got no {name} in"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"is whole; |begins with the length"):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {**t, "extra": t["logit_scale"]}, r"got \[extra\] too many"),
        (lambda t: {k: v for k, v in t.items() if k != "latent_std"},
         r"\[latent_std\] missing"),
        (lambda t: {**t, "latent_std": t["latent_std"][:3]},
         r"latent_std \(3,\) for \(5,\)"),
        (lambda t: {**t, "bottleneck.weight": 2 * t["bottleneck.weight"]},
         "of one save; got the `weights_hash`"),
        (lambda t: {**t, "latent_std": 2 * t["latent_std"]},
         "of one save; got the `latents_hash`"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(folder, spoil, message):
    path = folder / "tokenizer.safetensors"
    save_file(spoil(load_file(path)), path)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, r"got \['unknown'\]: .* the version that wrote them"),
        ({"patch_size": "large"}, "values of the types of a `TokenizerConfig`"),
        ({"patch_size": 0}, "values of the types of a `TokenizerConfig`"),
        ({"encoder": None}, "values of the types of a `TokenizerConfig`"),
    ],
)
def test_a_config_of_another_version_is_refused(folder, change, message):
    path = folder / "config.json"
    description = json.loads(path.read_text())
    description["config"] |= change
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "vtp_eqx tokenizer 2"}, "reads the format"),
        ({"config": None}, "values of the types of a `TokenizerConfig`"),
        ({"origin": 3}, "values of the types of a `TokenizerConfig`"),
        ({"weights_hash": ...}, r"\['weights_hash'\] are missing"),
    ],
)
def test_a_description_of_something_else_is_refused(folder, change, message):
    path = folder / "config.json"
    description = json.loads(path.read_text()) | change
    kept = {name: value for name, value in description.items() if value is not ...}
    path.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize("write", [save, save_published])
def test_the_config_of_a_run_is_not_replaced(write, tokenizer, tmp_path):
    written = '{"config": {"seed": 0}}'
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(ValueError, match=r"^`folder` .* that of a run.*/tokenizer\.$"):
        write(tokenizer, tmp_path)
    assert (tmp_path / "config.json").read_text() == written


def test_rounded_weights_are_not_saved(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="got one of bfloat16"):
        save(tokenizer.at_precision("bfloat16"), tmp_path)
    assert not os.listdir(tmp_path)


def test_the_published_format_is_written_and_read(tokenizer, tmp_path):
    save_published(tokenizer, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    weights = tmp_path / "model.safetensors"
    assert eqx.tree_equal(load(tmp_path), tokenizer)
    assert eqx.tree_equal(load(weights), tokenizer)
    tensors, shards = load_file(weights), {}
    for i, name in enumerate(sorted(tensors)):
        shards.setdefault(f"model-{i % 2}.safetensors", {})[name] = tensors[name]
    where = {name: file for file, part in shards.items() for name in part}
    for file, part in shards.items():
        save_file(part, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    weights.unlink()
    assert eqx.tree_equal(load(tmp_path), tokenizer)
    assert eqx.tree_equal(load(index), tokenizer)


def test_a_published_origin_survives_our_format(tokenizer, tmp_path):
    save_published(tokenizer, tmp_path / "published")
    path = tmp_path / "published" / "config.json"
    settings = json.loads(path.read_text()) | {"architectures": ["VTPModel"]}
    path.write_text(json.dumps(settings))
    save(load(tmp_path / "published"), tmp_path / "ours")
    save_published(load(tmp_path / "ours"), tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == settings


def test_a_wrong_path_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no config\.json in"):
        load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"got no config\.json in"):
        load(str(tmp_path))


def test_the_two_formats_are_not_mixed_up(tokenizer, folder, tmp_path):
    save_published(tokenizer, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "tokenizer.safetensors")
    with pytest.raises(FileNotFoundError, match=r"got no model\.safetensors in"):
        load(tmp_path)
