"""What the studies of data, decoder and weights plan to run, and what they say."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import (
    compare_convergence,
    compare_finetuning,
    scale_data,
    scale_decoder,
    scale_encoder,
    scale_latents,
    weigh_losses,
)
from tests.study.conftest import differing_fields
from vtp_eqx.study.recipe import LAPTOP, run
from vtp_eqx.study.run_spec import RunPaths, spec_hash
from vtp_eqx.study.table import means_table
from vtp_eqx.training.flops import run_flops


SEEDS = [0, 1, 2]
PATHS = RunPaths(Path("runs"))


def known_hashes():
    return {spec_hash(spec) for spec in scale_latents.plan("laptop", SEEDS)}


@pytest.mark.parametrize(
    "study", [scale_latents, scale_encoder, compare_convergence, compare_finetuning]
)
def test_committed_results_are_found_by_their_hashes(study):
    name = study.__name__.rpartition(".")[2]
    path = Path(study.__file__).parents[1] / "docs" / "results" / name / "runs.json"
    committed = {record["hash"] for record in json.loads(path.read_text())}
    options = dict(controls=True) if study is scale_latents else {}
    planned = study.plan("laptop", SEEDS, **options)
    assert committed <= {spec_hash(spec) for spec in planned}


def test_guided_samples_are_of_the_same_generators():
    plain = compare_convergence.plan("laptop", SEEDS)
    guided = compare_convergence.plan("laptop", SEEDS, guidance=2.0)
    for one, other in zip(plain, guided, strict=True):
        assert other.sampler == dataclasses.replace(one.sampler, guidance=2.0)
        assert dataclasses.replace(other, sampler=one.sampler) == one
        assert PATHS.generator(other) == PATHS.generator(one)
        assert PATHS.result(other) != PATHS.result(one)


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


def test_last_stages_of_a_decoder_share_tokenizer_and_generator():
    specs = compare_finetuning.plan("laptop", SEEDS)
    assert len({spec_hash(spec) for spec in specs}) == len(specs) == 2 * 4 * 3
    for part in (PATHS.tokenizer, PATHS.decoder, PATHS.generator):
        assert len({part(spec) for spec in specs}) == 6  # two methods, three seeds
    assert len({PATHS.last_tokenizer(spec) for spec in specs}) == len(specs)
    first, control, patch, noise = [s.finetune for s in specs if s.seed == 1][:4]
    assert first is None
    assert differing_fields(control, patch) == {"adversarial"}
    assert differing_fields(control.adversarial, patch.adversarial) == {"decoder_start"}
    assert control.adversarial.decoder_start == control.num_steps  # never learned from
    assert differing_fields(patch, noise) == {"latent_noise", "noise_law"}
    assert patch.seed == 1
    plain = run(LAPTOP, "VTP", compare_finetuning.STAGE_ONE, 0)
    assert spec_hash(specs[0]) == spec_hash(plain)  # that of other studies


def test_a_decoder_is_trained_on_after_it_was_trained():
    spec = next(
        spec for spec in compare_finetuning.plan("laptop", [0]) if spec.finetune
    )
    with pytest.raises(ValueError, match="`decode` must be there where its decoder"):
        dataclasses.replace(spec, decode=None)


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


def test_generators_that_know_less_are_on_no_curve_of_channels(row):
    rows = []
    for spec in scale_latents.plan("laptop", [0]):
        width = spec.tokenizer.latent_width
        distance = 99.0 if spec.labels != "class" else 4.0 + (spec.method == "AE")
        rows.append(row(spec, distance + width / 8, PSNR=20.0 + width / 8))
    trend, *others = scale_latents.summary(rows)
    start = "At equal PSNR, FD-scenes of VTP is lower than that of AE by"
    [frontier] = [sentence for sentence in others if sentence.startswith(start)]
    for method in ("AE", "VTP"):
        assert f"{method}: FD-scenes +10.0, PSNR +10.0 dB from 8 to 88" in trend
    assert frontier.count("+1.0") == frontier.count(" dB, ") == 5


def weights_of(spec):
    return tuple(
        getattr(spec.pretrain, f"{name}_weight")
        for name in ("contrast", "distillation", "reconstruction")
    )


def test_each_weight_is_varied_alone_and_equal_weights_are_run_once():
    specs = weigh_losses.plan("laptop", [0])
    *fixed, learned = specs
    place = {"contrast": 0, "SSL": 1, "pixels": 2}
    for spec in fixed:
        expected = [1.0, 1.0, 1.0]
        expected[place[spec.method]] = float(spec.setting)
        assert weights_of(spec) == tuple(expected)
        assert spec.pretrain.weighting == "fixed"
    assert {(s.method, s.setting) for s in fixed} == {
        (name, weight) for name in place for weight in ("0.1", "0.3", "1", "3")
    }
    assert len({spec_hash(spec) for spec in specs}) == 3 * 3 + 1 + 1
    assert learned.pretrain.weighting == "learned"
    assert weights_of(learned) == (1, 1, 1)
    equal = next(spec for spec in fixed if spec.setting == "1")
    plain = run(LAPTOP, "VTP", "1", 0)
    assert PATHS.generator(equal) == PATHS.generator(plain)  # trained by others
    assert spec_hash(equal) != spec_hash(plain)  # which measured no gradients


@pytest.mark.parametrize("scale", ["laptop", "workstation", "smoke"])
def test_gradients_are_measured_in_every_run_of_weights(scale):
    specs = weigh_losses.plan(scale, [0, 1])
    assert {spec.gradient_batches for spec in specs} == {8}


def test_gradients_of_what_is_not_trained_are_refused():
    for method, batches in (("AE", -1), ("random encoder", 1)):
        with pytest.raises(ValueError, match=r"^`gradient_batches` \(-?1\) must be 0"):
            run(LAPTOP, method, "x", 0, gradient_batches=batches)


def test_learned_weights_are_compared_with_equal_ones_seed_by_seed(row):
    numbers = {"learned": (7.0, 28.0, 0.2), "pixels": (5.0, 26.0, 0.3)}
    rows = []
    for spec in weigh_losses.plan("laptop", [0, 1]):
        distance, psnr, right = numbers.get(spec.method, (9.0, 20.0, 0.1))
        values = {"PSNR": psnr + spec.seed, "class accuracy": right}
        weights = {f"weight {name}": 2.0 for name in weigh_losses.VARIED.values()}
        rows.append(row(spec, distance + spec.seed, **values, **weights))
    sentences = weigh_losses.summary(rows)
    assert sentences[-1] == (
        "Learned weights at the end: contrast 2.00, SSL 2.00, pixels 2.00."
    )
    assert sentences[0] == (
        "Learned weights minus equal ones: FD-scenes +2.0, PSNR +2.0 dB, "
        "class right -10.0 points."
    )
    assert "pixels: FD-scenes +0.0, PSNR +0.0 dB from 0.1 to 3" in sentences[1]
    fixed = [one for one in rows if one.spec.method != "learned"]
    assert not any("Learned" in sentence for sentence in weigh_losses.summary(fixed))


def test_the_table_of_weights_has_the_cosines_of_each_pair(row):
    names = {
        "gradient cosine contrast, distillation": 0.25,
        "gradient cosine contrast, reconstruction": -0.5,
        "gradient cosine distillation, reconstruction": 0.0,
    }
    rows = [row(weigh_losses.plan("laptop", [0])[0], 3.0, **names)]
    head, _, line = means_table(rows, weigh_losses.CELLS).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[-3:] == ["+0.25", "-0.50", "+0.00"]
    assert (
        "| cosine contrast, SSL | cosine contrast, pixels | cosine SSL, pixels |"
        in (head)
    )
