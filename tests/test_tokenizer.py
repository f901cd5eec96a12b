import json
import os

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from safetensors.numpy import load_file, save_file

from vtp_eqx.config import (
    DecodeConfig,
    decoder_like,
    PretrainConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import statistics_hash
from vtp_eqx.models.tokenizer import Pretrainer
from vtp_eqx.runs.loop import run_training
from vtp_eqx.runs.run_dir import write_config
from vtp_eqx.tokenizer import (
    latents_hash,
    load,
    save,
    save_diffusers,
    save_published,
    Tokenizer,
    weights_hash,
)
from vtp_eqx.training.state import TrainState


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
        ({"format": "vtp_eqx tokenizer 3"}, "reads the format"),
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


RUN = PretrainConfig(tokenizer=CONFIG, distillation_weight=0.0)


def with_mean(tokenizer, mean):
    return eqx.tree_at(lambda t: t.latent_mean, tokenizer, jnp.full(5, mean))


@pytest.fixture
def trained(tokenizer):
    """The state of a run that counts its steps in `latent_mean`."""
    student = eqx.filter_eval_shape(Pretrainer, CONFIG, None, key=jr.key(0))
    student = eqx.tree_at(lambda s: s.tokenizer, student, with_mean(tokenizer, 0.0))
    return TrainState.start(student, None, {}, optax.sgd(0.1), key=jr.key(0))


def counting(state, _):
    where = lambda state: (state.step, state.student.tokenizer.latent_mean)
    return eqx.tree_at(where, state, replace_fn=lambda a: a + 1), {
        "total": jnp.ones(())
    }


def test_a_run_is_loaded_while_it_goes_on_and_after_its_end(
    trained, tokenizer, tmp_path
):
    loaded = []

    def progress(done, num_steps, metrics):
        if done > 1:  # the checkpoint before is whole, and this one may be
            loaded.append((done, load(tmp_path)))

    run_training(
        trained, counting, lambda first: iter([jnp.zeros(1)] * 3),
        num_steps=3, mesh=data_mesh(1), folder=tmp_path, save_every=1, log_every=1,
        progress=progress, config=RUN,
    )  # fmt: skip
    assert [done for done, _ in loaded] == [2, 3]
    for done, found in loaded:
        (step,) = {*found.latent_mean.tolist()}
        assert step in (done - 1, done)
        assert eqx.tree_equal(found, with_mean(tokenizer, step))
    assert load(tmp_path).latent_mean.tolist() == [3.0] * 5
    assert load(str(tmp_path)).config == CONFIG
    # In the end it is what the run saved, with statistics.
    save(tokenizer, tmp_path / "tokenizer")
    assert eqx.tree_equal(load(tmp_path), tokenizer)
    (tmp_path / "tokenizer" / "config.json").unlink()  # half saved
    assert load(tmp_path).latent_mean.tolist() == [3.0] * 5


def test_a_run_that_cannot_be_loaded_says_why(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="a version that wrote none"):
        load(tmp_path)
    write_config(tmp_path, RUN)
    with pytest.raises(FileNotFoundError, match="has none yet: wait until"):
        load(tmp_path)
    (tmp_path / "checkpoints" / "7").mkdir()
    with pytest.raises(ValueError, match="a damaged checkpoint of step 7"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"`folder` .* damaged or"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    write_config(tmp_path, DecodeConfig(decoder=TOWER))
    with pytest.raises(ValueError, match=r"^`where` .* trains something else"):
        load(tmp_path)


@pytest.mark.parametrize("write", [save, save_published, save_diffusers])
def test_the_config_of_a_run_is_not_replaced(write, tokenizer, tmp_path):
    written = '{"config": {"seed": 0}}'
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(ValueError, match=r"^`folder` .* that of a run.*/tokenizer\.$"):
        write(tokenizer, tmp_path)
    assert (tmp_path / "config.json").read_text() == written


def test_a_tokenizer_of_the_first_format_is_read(tokenizer, folder):
    path = folder / "config.json"
    description = json.loads(path.read_text())
    first = {
        "format": "vtp_eqx tokenizer 1",
        "latents_hash": statistics_hash(tokenizer),
    }
    path.write_text(json.dumps(description | first))
    assert eqx.tree_equal(load(folder), tokenizer)
    first["latents_hash"] = latents_hash(tokenizer)
    path.write_text(json.dumps(description | first))
    with pytest.raises(ValueError, match="of one save; got the `latents_hash`"):
        load(folder)


@pytest.mark.parametrize("is_published", [False, True])
def test_a_tokenizer_without_statistics_is_saved_and_still_has_none(
    is_published, tokenizer, tmp_path
):
    where = lambda tokenizer: (tokenizer.latent_mean, tokenizer.latent_std)
    unmeasured = eqx.tree_at(where, tokenizer, (jnp.zeros(5), jnp.ones(5)))
    (save_published if is_published else save)(unmeasured, tmp_path)
    loaded = load(tmp_path)
    assert eqx.tree_equal(loaded, unmeasured)
    assert not loaded.is_measured


@pytest.mark.parametrize("write", [save, save_published])
def test_rounded_weights_are_not_saved(write, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="got one of bfloat16"):
        write(tokenizer.at_precision("bfloat16"), tmp_path)
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
