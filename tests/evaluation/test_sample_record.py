"""What `samples.json` says, and what of it is refused."""

import dataclasses
import json

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from PIL import Image
import pytest

from vtp_eqx.config import DiTConfig, SamplerConfig
from vtp_eqx.data.folders import FolderSource
from vtp_eqx.evaluation.sample_record import (
    read_sample_record,
    SampleRecord,
    write_sample_record,
)
from vtp_eqx.evaluation.samples import _made_by
from vtp_eqx.models.arrays import latents_hash, weights_hash
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator, generator_hash


SAMPLER = SamplerConfig(num_steps=20, guided_channels=3)
RECORD = SampleRecord(
    num_samples=24,
    sampler=SAMPLER,
    labels="balanced",
    seed=3,
    precision="float32",
    tokenizer_hash="aa",
    latents_hash="bb",
    generator_hash="cc",
    generator_latents_hash="bb",
)


@pytest.fixture
def path(tmp_path):
    write_sample_record(tmp_path, RECORD)
    return tmp_path / "samples.json"


def test_a_record_is_read_as_it_was_written(path):
    assert read_sample_record(path.parent) == RECORD
    # Beside an archive of samples, too.
    assert read_sample_record(str(path.parent / "samples.npz")) == RECORD


def test_prompts_are_in_the_record_and_name_themselves_on_the_card(path):
    assert "prompts" not in json.loads(path.read_text())  # as before there were any
    hashes = set()
    for prompts in (("a star", "a circle"), ("a star", "a square")):
        record = dataclasses.replace(RECORD, num_samples=2, prompts=prompts)
        write_sample_record(path.parent, record)
        assert read_sample_record(path.parent) == record
        hashes.add(_made_by(record)["labels_hash"])
    assert len(hashes) == 2


def test_samples_without_a_record_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^`data` \(.*--origin"):
        read_sample_record(tmp_path)


def changed(**changes):
    def change(fields):
        kept = {**fields, **changes}
        return json.dumps({k: v for k, v in kept.items() if v is not ...}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: json.dumps(fields).encode()[:-9], r"json` \(.* whole JSON: co"),
        (lambda _: b"", r"json` \(.* must be whole JSON"),
        (lambda _: b"\xff\xfe", r"json` \(.* must be whole JSON"),
        (lambda _: b"[" * 100_000, r"json` \(.* must be whole JSON"),
        (lambda _: b"[1, 2]", r"\(format None\) must have the format"),
        (changed(format="vtp_eqx samples 2"), r"\(format 'vtp_eqx samples 2'\) must"),
        (changed(seed=...), r"\(without \['seed'\]\) must have the fields"),
        (changed(note="x"), r"\(with also \['note'\]\) must have the fields"),
        (changed(num_samples="24"), r"^`num_samples` \('24' in .*\) must be .* int"),
        (changed(num_samples=0), r"^`num_samples` \(0\) must be positive"),
        (changed(seed=0.5), r"^`seed` \(0.5 in .*\) must be of the type int"),
        (changed(labels="none"), r"^`labels` \('none'\) must be one of"),
        (changed(labels="mine"), r"^`labels` \('mine' in .*\) must be of the type"),
        (changed(precision="fp8"), r"^`precision` \('fp8' in .* Literal\['float32'"),
        (changed(latents_hash="other"), r"^`generator_latents_hash` \(bb\) must be"),
        (changed(latents_hash="", generator_latents_hash=""), r"^`latents_hash` \(''"),
        (changed(tokenizer_hash=None), r"^`tokenizer_hash` \(None in .*\) must be"),
        (changed(guide_hash="dd"), r"^`guide_hash` \('dd'\) must name a generator"),
        (changed(sampler=3), r"^`sampler` \(3 in .*\) must be .* SamplerConfig"),
        (changed(sampler={"num_steps": 2}), r"\(without \['guidance', .* Sampler"),
    ],
)  # fmt: skip
def test_a_record_that_is_damaged_or_wrong_is_one_sentence(change, message, path):
    path.write_bytes(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=message) as raised:
        read_sample_record(path.parent)
    assert len(str(raised.value).splitlines()) == 1


def test_a_record_is_no_image_of_the_folder(path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path.parent / "0.png")
    source = FolderSource(path.parent)
    assert (len(source), [*source.ignored]) == (1, ["samples.json"])


def test_a_record_is_of_the_generator_and_tokenizer_that_sample(tokenizer):
    measured = eqx.tree_at(lambda t: t.latent_std, tokenizer, jnp.full(8, 2.0))
    config = DiTConfig(width=16, depth=1, num_heads=2, latent_width=8, latent_size=4)
    dit = eqx.filter_jit(lambda key: DiT(config, key=key))(jr.key(0))
    generator = Generator(dit, latents_hash(measured))
    given = dict(num_samples=24, labels="balanced", seed=3)
    for decoder in (measured, measured.at_precision("bfloat16")):
        record = SampleRecord.of(generator, decoder, SAMPLER, **given)
        assert record.precision == decoder.precision
        assert record.tokenizer_hash == weights_hash(decoder)
        assert record.latents_hash == generator.latents_hash
        assert record.generator_hash == generator_hash(generator)
    with pytest.raises(ValueError, match="must have measured latent statistics"):
        SampleRecord.of(generator, tokenizer, SAMPLER, **given)
    with pytest.raises(ValueError, match=r"^`generator_latents_hash` \(\) must be"):
        SampleRecord.of(Generator(dit, ""), measured, SAMPLER, **given)
