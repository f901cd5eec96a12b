import dataclasses
import json
from pathlib import Path

import pytest

from experiments import compare_finetuning, scale_compute
from experiments.scale_encoder import plan
from vtp_eqx.config import as_json, from_dict
from vtp_eqx.study.command import in_order, run_cost
from vtp_eqx.study.methods import Method
from vtp_eqx.study.recipe import RECIPES, run
from vtp_eqx.study.run_spec import RunPaths, RunSpec, spec_hash
from vtp_eqx.training.adapter import AdapterConfig


@pytest.fixture(scope="module")
def specs():
    return plan("laptop", [0, 1])


def test_a_run_survives_its_file(specs):
    methods = ("AE rotated", "distilled", "VA-VAE", "RecTok", "RAE", "FAE")
    others = [run(RECIPES["laptop"], method, "64 channels", 3) for method in methods]
    for spec in specs + others:
        assert from_dict(RunSpec, json.loads(as_json(spec))) == spec


def test_no_two_runs_share_a_name(specs):
    assert len({spec_hash(spec) for spec in specs}) == len(specs)


def test_what_a_run_is_called_is_not_what_it_is(specs):
    renamed = dataclasses.replace(specs[0], method="other", setting="large")
    assert spec_hash(renamed) == spec_hash(specs[0])


def test_a_frozen_network_may_be_wider_than_the_latents_that_learn_from_it():
    recipe, adapter = RECIPES["laptop"], AdapterConfig(kind="linear")
    how = Method(alignment=1.0, narrower=2, adapter=adapter)
    spec = run(recipe, "aligned", "x", 0, objectives=how)
    frozen, paths = spec.vision_run, RunPaths(Path("runs"))
    widths = [of.tokenizer.latent_width for of in (spec, frozen)]
    assert widths == [recipe.latent_width // 2, recipe.latent_width]
    plain = run(recipe, "CLIP+SSL", "x", 0)
    assert paths.tokenizer(frozen) == paths.tokenizer(plain)


def moved_folders(spec, other):
    paths = RunPaths(Path("runs"))
    return {
        stage
        for stage in ("data", "tokenizer", "decoder", "generator", "result")
        if getattr(paths, stage)(spec) != getattr(paths, stage)(other)
    }


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ("data", {"data", "tokenizer", "decoder", "generator", "result"}),
        ("pretrain", {"tokenizer", "decoder", "generator", "result"}),
        ("decode", {"decoder", "result"}),
        ("generate", {"generator", "result"}),
        ("sampler", {"result"}),
    ],
)
def test_runs_share_what_they_have_in_common_and_no_more(changed, moved):
    spec = scale_compute.plan("laptop", [0])[0]
    part = getattr(spec, changed)
    name = {"data": "num_train", "sampler": "guidance", "generate": "seed"}.get(
        changed, "num_steps"
    )
    another = dataclasses.replace(part, **{name: getattr(part, name) + 24})
    other = dataclasses.replace(spec, **{changed: another})
    assert moved_folders(spec, other) == moved


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (dict(method="AE"), dict(method="AE rotated")),
        (dict(method="AE"), dict(method="AE", labels="color")),
        (dict(method="AE"), dict(method="AE", budgets=(1000, 2000, 6000))),
    ],
)
def test_a_basis_labels_and_budgets_are_of_the_generator(one, another):
    recipe = RECIPES["laptop"]
    spec, other = (run(recipe, setting="x", seed=1, **kind) for kind in (one, another))
    assert moved_folders(spec, other) == {"generator", "result"}


def test_what_latents_are_aligned_with_is_part_of_their_tokenizer():
    spec = run(RECIPES["laptop"], "distilled", "x", 1)
    vision = dataclasses.replace(spec.vision, num_steps=spec.vision.num_steps + 24)
    other = dataclasses.replace(spec, vision=vision)
    assert moved_folders(spec, other) == {"tokenizer", "decoder", "generator", "result"}
    with pytest.raises(ValueError, match=r"^`vision` must be there .* is above 0"):
        dataclasses.replace(spec, vision=None)


def test_the_images_that_tokenizers_see_are_part_of_them_and_not_of_the_data():
    recipe = RECIPES["laptop"]
    for method in ("AE", "distilled"):
        spec = run(recipe, method, "x", 1)
        other = dataclasses.replace(spec, tokenizer_images=744)
        moved = {"tokenizer", "decoder", "generator", "result"}
        assert moved_folders(spec, other) == moved
        assert from_dict(RunSpec, json.loads(as_json(other))) == other


def test_frozen_encoders_are_one_whatever_adapts_them():
    recipe, paths = RECIPES["laptop"], RunPaths(Path("runs"))
    plain, rae, fae = (
        run(recipe, method, "x", 1) for method in ("CLIP+SSL", "RAE", "FAE")
    )
    own = {"decoder", "generator", "result"}
    assert moved_folders(plain, rae) == moved_folders(rae, fae) == own
    adapted = [paths.adapted(spec) for spec in (plain, rae, fae)]
    assert len({*adapted}) == 3
    assert adapted[0] == paths.tokenizer(plain)
    assert (rae.tokenizer.latent_width, fae.tokenizer.latent_width) == (96, 64)
    with pytest.raises(ValueError, match=r"^`decode` must be there .*kind='identity'"):
        dataclasses.replace(rae, decode=None)


def test_methods_differ_in_their_objectives_alone(specs):
    joint, alone = (
        next(spec for spec in specs if spec.method == method)
        for method in ("VTP", "AE")
    )
    assert joint.data == alone.data
    assert joint.generate == alone.generate
    assert joint.sampler == alone.sampler
    same = dataclasses.replace(
        joint.pretrain,
        tokenizer=dataclasses.replace(joint.pretrain.tokenizer, text=None),
        prototypes=None,
        contrast_weight=0.0,
        distillation_weight=0.0,
        reconstruction_weight=alone.pretrain.reconstruction_weight,
    )
    assert same == alone.pretrain


def test_seeds_follow_one_another_each_with_its_cheapest_run_first(specs):
    ordered = in_order([*specs, *specs])  # what is asked for twice runs once
    assert len(ordered) == len(specs)
    seeds = [spec.seed for spec in ordered]
    assert seeds == sorted(seeds)
    for seed in set(seeds):
        cost = [run_cost(spec) for spec in ordered if spec.seed == seed]
        assert cost[0] == min(cost)
        assert cost[1:] == sorted(cost[1:], reverse=True)


def test_every_training_of_a_run_costs():
    stage_one, tuned = compare_finetuning.plan("smoke", [0])
    joint = dataclasses.replace(stage_one, decode=None)
    assert run_cost(joint) < run_cost(stage_one) < run_cost(tuned)


def test_runs_that_share_a_tokenizer_wait_for_it():
    recipe = RECIPES["laptop"]
    methods = ("VTP rotated", "AE rotated", "VTP", "AE")
    ordered = in_order([run(recipe, method, "x", 0) for method in methods])
    paths = RunPaths(Path("runs"))
    folders = [paths.tokenizer(spec) for spec in ordered]
    assert len(set(folders[:2])) == 2
    assert set(folders[2:]) == set(folders[:2])


def test_a_generator_for_other_latents_is_refused(specs):
    wide = dataclasses.replace(specs[0].generate.dit, latent_width=7)
    generate = dataclasses.replace(specs[0].generate, dit=wide)
    with pytest.raises(ValueError, match="does not fit the tokenizer"):
        dataclasses.replace(specs[0], generate=generate)


@pytest.mark.parametrize("budgets", [(), (1, 2), (2000, 1000)])
def test_budgets_rise_and_end_with_the_training(specs, budgets):
    with pytest.raises(ValueError, match=r"^`budgets` .* must rise and end"):
        dataclasses.replace(specs[0], budgets=budgets)
