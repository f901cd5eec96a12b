"""From captions to samples of prompts: each stage on its own, and what is refused."""

import dataclasses
from pathlib import Path
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.sample import main
from vtp_eqx.config import (
    decoder_like,
    DiTConfig,
    GenerateConfig,
    LatentsConfig,
    OptimizerConfig,
    SampleConfig,
    SamplerConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from vtp_eqx.data.latents import LatentIndex
from vtp_eqx.data.sources import ArraySource
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.evaluation.sample_record import read_sample_record
from vtp_eqx.mesh import data_mesh
from vtp_eqx.models.arrays import latents_hash, text_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, load_generator, save_generator
from vtp_eqx.models.tokenizer import Tokenizer
from vtp_eqx.runs import generator_setup
from vtp_eqx.runs.captions import (
    encode_prompts,
    find_words,
    open_captions,
    save_words,
)
from vtp_eqx.runs.extract_latents import extract_latents, open_latents
from vtp_eqx.runs.generator_setup import GeneratorOptions, open_generator_training
from vtp_eqx.runs.sample import sample
from vtp_eqx.runs.sample_options import SampleOptions
from vtp_eqx.runs.train_generator import train_on_batches
from vtp_eqx.tokenizer import load, save


TEXT = TextConfig(context=8, vocabulary=300, width=8, depth=1, num_heads=2)
CONFIG = GenerateConfig(
    dit=DiTConfig(width=8, depth=1, num_heads=2, condition="text"),
    optimizer=OptimizerConfig(
        learning_rate=1e-2, warmup_steps=1, weight_decay=0.0, schedule="constant"
    ),
    batch_size=8,
    num_steps=4,
)
CAPTIONS = [("a red star", "a blue circle", "")[row % 3] for row in range(12)]
SAMPLES = SampleConfig(sampler=SamplerConfig(num_steps=2, guidance=2.0), group_size=2)


@pytest.fixture(scope="module")
def source():
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)
    return ArraySource({"image": images, "caption": np.array(CAPTIONS)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tokenizer with a text tower, and its vocabulary beside it."""
    folder = tmp_path_factory.mktemp("run")
    tower = TransformerConfig(width=16, depth=1, num_heads=2)
    config = TokenizerConfig(
        encoder=tower, decoder=decoder_like(tower), text=TEXT, image_size=16,
        patch_size=8, latent_width=4,
    )  # fmt: skip
    save(eqx.filter_jit(Tokenizer)(config, key=jr.key(0)), folder / "tokenizer")
    save_words(train_tokenizer(CAPTIONS, TEXT.vocabulary), folder)
    return folder


@pytest.fixture(scope="module")
def latents(run, source):
    """Latents with captions, and the measured tokenizer beside them."""
    folder, tokenizer = run / "latents", load(run)
    words, encode = open_captions(tokenizer, run, source)
    measured, _ = extract_latents(
        LatentsConfig(captions=True, views="original", shard_images=8), tokenizer,
        source, folder, encode=encode, mesh=data_mesh(1), num_threads=2,
    )  # fmt: skip
    save(measured, folder / "tokenizer")
    save_words(words, folder)
    return folder


@pytest.fixture(scope="module")
def generator(latents):
    """The folder of a generator that is not trained, but moves."""
    folder, tokenizer = latents / "generator", load(latents / "tokenizer")
    with open_generator_training(options(latents, folder), load) as setup:
        shapes = skeleton(setup.config.dit)
    rng = np.random.default_rng(0)
    dit = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), shapes
    )
    bound = Generator(dit, latents_hash(tokenizer), text_hash(tokenizer))
    save_generator(bound, folder / "generator.safetensors")
    save(tokenizer, folder / "tokenizer")
    save_words(setup.words, folder)
    return folder


def skeleton(config):
    return eqx.filter_eval_shape(lambda: DiT(config, key=jr.key(0)))


def options(latents, out, **changes):
    return GeneratorOptions(
        config=CONFIG, latents=str(latents), out=str(out), devices=1, **changes
    )


def test_captions_lie_beside_latents_as_ids(latents, run):
    cache = open_latents(latents)
    words = find_words(TEXT, run)
    assert cache.captions.shape == (12, 8)
    assert words.decode(cache.captions[:2]) == ["a red star", "a blue circle"]
    assert not cache.captions[2].any()  # an image without one
    assert cache.text_hash == text_hash(load(run))


@pytest.mark.slow
def test_a_run_is_resumed_bit_for_bit(latents, tmp_path):
    out = tmp_path / "run"

    def train():
        with open_generator_training(options(latents, out), load) as setup:
            assert setup.config.dit.text_context == TEXT.context
            assert setup.config.dit.text_width == TEXT.width
            return train_on_batches(
                setup.config, setup.batches, folder=out, mesh=setup.mesh,
                save_every=2, holds_folder=True,
            )  # fmt: skip

    first = train()
    shutil.rmtree(out / "checkpoints" / "4")
    assert eqx.tree_equal(first, train())


def test_batches_of_images_have_captions_too(
    run, latents, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(generator_setup, "open_sources", lambda *_: source)
    of_images = GeneratorOptions(
        config=CONFIG, data=("images",), tokenizer=str(latents / "tokenizer"),
        out=str(tmp_path), devices=1, workers=2,
    )  # fmt: skip
    with open_generator_training(of_images, load) as setup:
        stream = setup.batches(0)
        batch = next(stream)
        stream.close()
    assert batch.latents.shape == (8, 2, 2, 4)
    # Those without a caption were replaced by others.
    assert set(batch.condition.length.tolist()) <= {5, 6, 7, 8}
    assert batch.condition.tokens.shape == (8, 8, 8)


def drawn(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_prompts_become_images_with_their_names(generator, tmp_path):
    asked = SampleOptions(
        generator=generator, out=tmp_path / "out", prompt=("a red star", "a circle"),
        images_per_prompt=2, devices=1, config=SAMPLES,
    )  # fmt: skip
    main(asked)
    record = read_sample_record(tmp_path / "out")
    assert record.prompts == ("a red star", "a circle") * 2
    images = drawn(tmp_path / "out")
    assert len(set(images.values())) == 4
    assert (tmp_path / "out-grid.png").exists()
    # A file, more images and more devices change none of them.
    (tmp_path / "prompts.txt").write_text("a red star\na circle\n")
    more = dataclasses.replace(
        asked, out=tmp_path / "more", prompt=(), images_per_prompt=3, devices=2,
        prompts_file=tmp_path / "prompts.txt",
    )  # fmt: skip
    main(more)
    assert drawn(tmp_path / "more").items() >= images.items()
    # Nor is a folder continued with another prompt.
    with pytest.raises(ValueError, match=r"^`prompts` must be what"):
        main(dataclasses.replace(asked, prompt=("a red star", "a blue star")))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ((), r"^`prompt` \(\) must say what is drawn"),
        (("",), r"^`prompt` \(''\) must have a word"),
        ((" <|pad|> ",), r"^`prompt` \(.*\) must have a word"),
        (
            ("a long way from home " * 9,),
            r"^`prompt` \(.*\) must fit into the 8 tokens",
        ),
    ],
)
def test_a_prompt_that_cannot_be_read_is_a_sentence(
    prompts, message, generator, tmp_path
):
    asked = SampleOptions(generator=generator, out=tmp_path / "out", prompt=prompts)
    with pytest.raises(ValueError, match=message):
        main(asked)
    assert not (tmp_path / "out").exists()


def test_a_generator_of_classes_takes_no_prompt(generator, tmp_path):
    tokenizer = load(generator / "tokenizer")
    classes = dataclasses.replace(
        load_generator(generator).dit.config, condition="label", num_classes=2
    )
    dit = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), skeleton(classes))
    path = tmp_path / "generator.safetensors"
    save_generator(Generator(dit, latents_hash(tokenizer)), path)
    asked = SampleOptions(
        generator=path, tokenizer=str(generator / "tokenizer"), prompt=("a star",)
    )
    with pytest.raises(ValueError, match=r"^`prompt` \(.*\) needs a generator of capt"):
        main(asked)
    prompts = encode_prompts(["a star"], TEXT, find_words(TEXT, generator))
    config = dataclasses.replace(SAMPLES, num_samples=2, labels="given")
    with pytest.raises(ValueError, match=r"^`prompt` \(.*\) needs a generator of capt"):
        sample(
            config, load_generator(path), tokenizer, tmp_path / "out",
            given=np.arange(1), prompts=prompts,
        )  # fmt: skip


def test_prompts_and_classes_are_not_mixed():
    of = dict(generator=Path("x"), prompt=("a star",))
    for more, message in (
        (dict(classes=(1,)), r"^`prompt` \(.*\) and `classes` \(\(1,\)\) cannot both"),
        (dict(images_per_prompt=0), r"^`images_per_prompt` \(0\) must be positive"),
        (dict(config=SampleConfig(num_samples=3)), r"^`num_samples` \(3\) is of class"),
    ):
        with pytest.raises(ValueError, match=message):
            SampleOptions(**of, **more)


def test_latents_without_captions_are_refused(latents, tmp_path):
    folder = tmp_path / "latents"
    shutil.copytree(latents, folder)
    index = LatentIndex.read(folder)
    dataclasses.replace(index, text_hash="").write(folder)
    with (
        pytest.raises(ValueError, match=r"^`latents` \(without captions\) must have"),
        open_generator_training(options(folder, tmp_path / "run"), load),
    ):
        pass
    dataclasses.replace(index, text_hash="other").write(folder)
    with (
        pytest.raises(
            ValueError, match=r"text tower .*\) must be the one that the capt"
        ),
        open_generator_training(options(folder, tmp_path / "run"), load),
    ):
        pass


def test_a_tower_a_vocabulary_and_captions_must_be_there(tokenizer, run, tmp_path):
    bare = ArraySource({"image": np.zeros((3, 16, 16, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"^`tokenizer` \(x, without a text tower\)"):
        open_captions(tokenizer, "x", bare)
    with pytest.raises(FileNotFoundError, match=r"vocabulary of its text tower beside"):
        find_words(TEXT, tmp_path / "a" / "b")
    with pytest.raises(ValueError, match=r"^`data` \(3 examples without a caption"):
        open_captions(load(run), run, bare)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(unconditional=True), r"^`unconditional` \(True\) leaves nothing to ask"),
        (dict(reference="x"), r"^`reference` \(x\) measures samples of classes"),
    ],
)
def test_options_that_contradict_captions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        options("latents", "out", **changes)


def test_the_layout_of_others_has_no_captions():
    with pytest.raises(
        ValueError, match=r"^`captions` \(True\) need the `layout` 'npy'"
    ):
        LatentsConfig(captions=True, layout="lightningdit")
