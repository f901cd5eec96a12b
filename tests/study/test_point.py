import dataclasses
import json
from pathlib import Path

import pytest

from experiments import scale_compute
from experiments.scale_encoder import plan
from vtp_eqx.config import as_json, from_dict
from vtp_eqx.study.command import in_order
from vtp_eqx.study.point import Places, Point, point_hash
from vtp_eqx.training.flops import run_flops


@pytest.fixture(scope="module")
def points():
    return plan("laptop", [0, 1])


def test_a_point_survives_its_file(points):
    for point in points:
        assert from_dict(Point, json.loads(as_json(point))) == point


def test_no_two_points_share_a_name(points):
    assert len({point_hash(point) for point in points}) == len(points)


def test_runs_of_last_month_are_found_today():
    # A hash that has changed is a study that has to be run again: see `later`.
    [point] = [one for one in scale_compute.plan("laptop", [0])
               if (one.method, one.size) == ("AE", "700 steps")]  # fmt: skip
    assert point_hash(point) == "4bf311880f23"
    places = Places(Path("runs"))
    assert [
        str(place(point))
        for place in (places.data, places.tokenizer, places.decoder, places.generator)
    ] == [
        "runs/data/5ba17d902fe0",
        "runs/tokenizers/1a58bb76014a",
        "runs/decoders/945f481a59f1",
        "runs/generators/806cd0bc8862",
    ]


def test_what_a_point_is_called_is_not_what_it_is(points):
    renamed = dataclasses.replace(points[0], method="other", size="large")
    assert point_hash(renamed) == point_hash(points[0])


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ("data", {"data", "tokenizer", "decoder", "generator", "point"}),
        ("pretrain", {"tokenizer", "decoder", "generator", "point"}),
        ("decode", {"decoder", "point"}),
        ("generate", {"generator", "point"}),
        ("sampler", {"point"}),
    ],
)
def test_points_share_what_they_have_in_common_and_no_more(changed, moved):
    point = scale_compute.plan("laptop", [0])[0]
    part = getattr(point, changed)
    name = {"data": "num_train", "sampler": "guidance"}.get(changed, "num_steps")
    another = dataclasses.replace(part, **{name: getattr(part, name) + 24})
    other = dataclasses.replace(point, **{changed: another})
    places = Places(Path("runs"))
    apart = {
        stage
        for stage in ("data", "tokenizer", "decoder", "generator", "point")
        if getattr(places, stage)(point) != getattr(places, stage)(other)
    }
    assert apart == moved


def test_methods_differ_in_their_objectives_alone(points):
    joint, alone = (
        next(point for point in points if point.method == method)
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
    )
    assert same == alone.pretrain


def test_seeds_follow_one_another_each_with_its_cheapest_point_first(points):
    ordered = in_order([*points, *points])  # what is asked for twice runs once
    assert len(ordered) == len(points)
    seeds = [point.seed for point in ordered]
    assert seeds == sorted(seeds)
    for seed in set(seeds):
        cost = [run_flops(point.pretrain) for point in ordered if point.seed == seed]
        assert cost[0] == min(cost)
        assert cost[1:] == sorted(cost[1:], reverse=True)


def test_a_generator_for_other_latents_is_refused(points):
    wide = dataclasses.replace(points[0].generate.dit, latent_width=7)
    generate = dataclasses.replace(points[0].generate, dit=wide)
    with pytest.raises(ValueError, match="fits its tokenizer's latents"):
        dataclasses.replace(points[0], generate=generate)
