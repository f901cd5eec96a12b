import dataclasses

import pytest

from experiments import (
    compare_objectives,
    paired_seeds,
    scale_compute,
    scale_encoder,
)
from vtp_eqx.study.point import point_hash
from vtp_eqx.study.recipe import METHODS, pretraining, RECIPES
from vtp_eqx.training.flops import run_flops
from vtp_eqx.training.optimizer import learning_rate


SEEDS = [0, 1, 2]


def test_methods_differ_in_what_they_are_called_for_alone():
    plain = pretraining(RECIPES["laptop"], METHODS["AE"], 0)
    changed = {
        "AE smooth": {"smoothness_weight"},
        "AE latent noise": {"latent_noise"},
        "AE half the channels": {"tokenizer"},
        "principal components": {"num_steps"},
        "random encoder": {"num_steps", "pca_start"},
        "SSL+AE": {"distillation_weight", "prototypes"},
        "CLIP+AE": {"contrast_weight", "tokenizer"},
    }
    for name, fields in changed.items():
        other = pretraining(RECIPES["laptop"], METHODS[name], 0)
        differ = {
            field.name
            for field in dataclasses.fields(plain)
            if getattr(plain, field.name) != getattr(other, field.name)
        }
        assert differ == fields, name


def test_the_main_budget_has_all_seeds_and_the_others_one_less():
    points = scale_compute.plan("laptop", SEEDS)
    counts = {}
    for point in points:
        counts.setdefault(point.pretrain.num_steps, set()).add(point.seed)
    main = RECIPES["laptop"].tokenizer_steps
    assert counts.pop(main) == {0, 1, 2}
    assert all(seeds == {0, 1} for seeds in counts.values())
    assert max(counts) / min(counts) >= 8


@pytest.mark.parametrize("scale", ["smoke", "laptop", "workstation"])
@pytest.mark.parametrize(
    "study", [scale_encoder, scale_compute, compare_objectives, paired_seeds]
)
def test_every_training_is_longer_than_its_warmup(study, scale):
    for point in study.plan(scale, [0]):
        for run in (point.pretrain, point.decode, point.generate):
            if run is not None:
                learning_rate(run.optimizer, run.num_steps)


def test_generators_have_the_seeds_of_their_tokenizers():
    for point in scale_compute.plan("laptop", SEEDS):
        assert point.generate.seed == point.pretrain.seed == point.decode.seed


@pytest.mark.parametrize("scale", ["laptop", "workstation"])
def test_methods_of_one_size_are_different_runs(scale):
    points = compare_objectives.plan(scale, [0])
    for size in ("equal samples", "equal compute"):
        some = [point for point in points if point.size == size]
        assert len({point_hash(point) for point in some}) == len(some)


@pytest.mark.parametrize("scale", ["laptop", "workstation"])
def test_equal_compute_is_equal_to_a_step(scale):
    points = compare_objectives.plan(scale, [0])
    equal = [point for point in points if point.size == "equal compute"]
    costs = {point.method: run_flops(point.pretrain) for point in equal}
    for method, cost in costs.items():
        assert cost == pytest.approx(costs["VTP"], rel=1e-3), method


def test_the_studies_share_the_runs_of_the_main_budget():
    along = {point_hash(point) for point in scale_compute.plan("laptop", SEEDS)}
    beside = {point_hash(point) for point in compare_objectives.plan("laptop", SEEDS)}
    # AE, VTP and VTP full, three seeds each; nothing with the quick study.
    assert len(along & beside) == 9
    assert not along & {
        point_hash(point) for point in scale_encoder.plan("laptop", [0])
    }


def test_pairs_differ_from_the_other_studies_in_scenes_and_steps_alone():
    others = {
        point_hash(other): other.method
        for other in compare_objectives.plan("laptop", SEEDS)
    }
    for point in paired_seeds.plan("laptop", SEEDS):
        assert point.data != RECIPES["laptop"].data
        shorter = dataclasses.replace(
            point,
            data=RECIPES["laptop"].data,
            generate=dataclasses.replace(
                point.generate, num_steps=point.generate.num_steps // 4
            ),
        )
        is_narrow = point.size == "half the channels"
        name = f"{point.method} half the channels" if is_narrow else point.method
        new = None if name == "VTP half the channels" else name
        assert others.get(point_hash(shorter)) == new


def test_pairs_have_half_the_channels_and_some_equal_compute():
    points = paired_seeds.plan("laptop", range(8))
    counts = {}
    for point in points:
        counts.setdefault((point.method, point.size), []).append(point.seed)
    every, fewer = [*range(8)], [*range(3)]
    assert counts == {
        ("AE", "equal samples"): every,
        ("VTP", "equal samples"): every,
        ("AE half the channels", "equal samples"): every,
        ("AE", "half the channels"): every,
        ("VTP", "half the channels"): every,
        ("AE", "equal compute"): fewer,
        ("VTP", "equal compute"): fewer,
    }
    # The control is there twice, and VTP's compute is what is equal.
    assert len({point_hash(point) for point in points}) == len(points) - 8 - 3
