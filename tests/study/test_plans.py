"""What the studies of data and decoder plan to run."""

import dataclasses
from pathlib import Path

import pytest

from experiments import scale_data, scale_decoder, scale_latents
from vtp_eqx.study.recipe import LAPTOP, run
from vtp_eqx.study.run_spec import RunPaths, spec_hash
from vtp_eqx.training.flops import run_flops


SEEDS = [0, 1, 2]
PATHS = RunPaths(Path("runs"))


def known_hashes():
    return {spec_hash(spec) for spec in scale_latents.plan("laptop", SEEDS)}


def test_shares_of_the_data_differ_in_what_the_tokenizer_sees_alone():
    specs = scale_data.plan("laptop", SEEDS)
    assert {(spec.method, spec.setting, spec.seed) for spec in specs} == {
        (method, setting, seed)
        for method in ("AE", "VTP")
        for setting in ("744", "3000", "12000")
        for seed in SEEDS
    }
    assert len({spec_hash(spec) for spec in specs}) == len(specs)
    assert len({PATHS.tokenizer(spec) for spec in specs}) == len(specs)
    assert len({PATHS.data(spec) for spec in specs}) == 1  # rendered once
    for spec in specs:
        images = {"744": 744, "3000": 3000, "12000": None}[spec.setting]
        assert spec.tokenizer_images == images
        plain = run(LAPTOP, spec.method, spec.setting, spec.seed)
        assert dataclasses.replace(spec, tokenizer_images=None) == plain


def test_decoders_differ_beside_one_encoder_and_generator():
    specs = scale_decoder.plan("laptop", SEEDS)
    assert len(specs) == 18
    for part in ("data", "generate", "sampler", "budgets"):
        assert len({str(getattr(s, part)) for s in specs if s.seed == 0}) == 1
    assert len({spec.pretrain.tokenizer.encoder for spec in specs}) == 1
    for spec in specs:
        decoder = spec.pretrain.tokenizer.decoder
        assert spec.decode.decoder == decoder  # of the stage after too
        assert spec.setting == f"{decoder.width}x{decoder.depth}"
    flops = [run_flops(spec.pretrain) for spec in specs if spec.method == "AE"]
    assert flops == sorted(flops)
    assert flops[-1] > 2 * flops[0]


@pytest.mark.parametrize(("study", "setting"), [
    (scale_data, "12000"), (scale_decoder, "96x2"),
])  # fmt: skip
def test_the_unchanged_recipe_is_that_of_other_studies(study, setting):
    specs = study.plan("laptop", SEEDS)
    found = [spec for spec in specs if spec_hash(spec) in known_hashes()]
    assert {spec.setting for spec in found} == {setting}
    assert len(found) == 6  # AE and VTP, three seeds each


@pytest.mark.parametrize("images", [0, 25, 12_000, 12_024])
def test_tokenizers_see_whole_sets_of_classes_and_not_all(images):
    with pytest.raises(ValueError, match=r"^`tokenizer_images` .* multiple of 24"):
        run(LAPTOP, "AE", "x", 0, tokenizer_images=images)
