import dataclasses
import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    bisect_recipe,
    compare_convergence,
    compare_finetuning,
    compare_objectives,
    compare_rivals,
    scale_compute,
    scale_data,
    scale_decoder,
    scale_encoder,
    scale_latents,
    weigh_losses,
)
from tests.study.conftest import differing_fields
from vtp_eqx.mesh import data_mesh, shard_batch
from vtp_eqx.scenes.render import render
from vtp_eqx.study.methods import CONTROLS, METHODS
from vtp_eqx.study.recipe import LAPTOP, pretrain_config, run
from vtp_eqx.study.run_spec import RunPaths, spec_hash, vision_flops
from vtp_eqx.training import optimizer
from vtp_eqx.training.flops import run_flops
from vtp_eqx.training.optimizer import learning_rate
from vtp_eqx.training.pretrain import initial_state, pretrain_step
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.state import shard_state


SEEDS = [0, 1, 2]
NUM_STEPS = 200  # the first ones, in which a start is wrecked if it is
STUDIES = [
    scale_encoder,
    scale_compute,
    scale_data,
    scale_decoder,
    compare_objectives,
    compare_convergence,
    compare_finetuning,
    compare_rivals,
    scale_latents,
    bisect_recipe,
    weigh_losses,
]


def test_methods_differ_in_what_they_are_called_for_alone():
    plain = pretrain_config(LAPTOP, METHODS["AE"], 0)
    changed = {
        "AE smooth": {"smoothness_weight"},
        "AE noise 0.2": {"latent_noise"},
        "AE rotated": set(),
        "PCA": {"num_steps", "pca_start", "optimizer"},
        "AE from PCA": {"pca_start", "optimizer"},
        "random encoder": {"num_steps"},
        "SSL+AE": {"distillation_weight", "prototypes"},
        "CLIP+AE": {"contrast_weight", "tokenizer"},
        "distilled": {"alignment_weight", "alignment"},
        "VA-VAE": {"alignment_weight", "alignment", "controls"},
        "RecTok": {"flow_distillation", "latent_noise", "controls"},
        "AE + Repulsor": set(),
        "AE guarded": {"tokenizer"},
        "AE noise DeTok": {"tokenizer", "latent_noise", "controls"},
        "AE KL 1e-6": {"controls"},
        "AE half": {"tokenizer"},
        "CLIP+AE shuffled": {"contrast_weight", "tokenizer", "controls"},
        "distilled relations": {"alignment_weight", "alignment"},
    }
    for name, fields in changed.items():
        other = pretrain_config(LAPTOP, METHODS[name], 0)
        assert differing_fields(plain, other) == fields
    joint = pretrain_config(LAPTOP, METHODS["VTP"], 0)
    along_flow = pretrain_config(LAPTOP, METHODS["VTP + flow"], 0)
    assert differing_fields(joint, along_flow) == changed["RecTok"]
    repelled, plain = (run(LAPTOP, how, "x", 0) for how in ("VTP + Repulsor", "VTP"))
    assert differing_fields(repelled, plain) == {"method", "generate"}
    assert differing_fields(repelled.generate, plain.generate) == {"repulsion"}
    for name, own in (("RAE", {"generate"}), ("FAE", set()), ("DINO-Tok", set())):
        frozen, semantic = (run(LAPTOP, how, "x", 0) for how in (name, "CLIP+SSL"))
        common = {"method", "adapter", "decode"}
        assert differing_fields(frozen, semantic) == common | own
        noise = {"latent_noise", "noise_law"}
        assert differing_fields(frozen.decode, semantic.decode) == noise
    rotated = run(LAPTOP, "AE rotated", "x", 0)
    assert differing_fields(rotated, run(LAPTOP, "AE", "x", 0)) == {
        "method",
        "rotation",
    }
    scaled = run(LAPTOP, "AE one factor", "x", 0)
    assert differing_fields(scaled, run(LAPTOP, "AE", "x", 0)) == {
        "method",
        "one_scaling_factor",
    }


def test_controls_are_runs_of_their_own_and_narrower_ones_are_known():
    plan = functools.partial(scale_latents.plan, "laptop", [0])
    known = {spec_hash(spec): spec for spec in plan()}
    controls = [spec for spec in plan(controls=True) if spec.method in CONTROLS]
    assert {spec.method for spec in controls} == {*CONTROLS}
    found = {
        (spec.method, spec.setting): known[spec_hash(spec)].setting
        for spec in controls
        if spec_hash(spec) in known
    }
    assert found == {("AE half", "64"): "32", ("AE quarter", "64"): "16"}
    shuffled = run(LAPTOP, "VTP shuffled", "x", 3).pretrain
    assert shuffled.controls.caption_shuffle == 0  # the same order for every seed


def test_the_hashes_of_finished_runs_stay():
    for method, name in (("AE", "1b54603279c5"), ("VTP", "647ae4ad0e8c")):
        assert spec_hash(run(LAPTOP, method, "64", 0)) == name
    specs = {spec.method: spec for spec in compare_convergence.plan("laptop", [0])}
    assert spec_hash(specs["distilled"]) == "a55b9151c69d"


def test_self_distillation_has_enough_rows_for_its_prototypes():
    config = pretrain_config(LAPTOP, METHODS["VTP"], 0)
    assert config.distillation_batch >= 32
    assert config.prototypes.num_prototypes <= 4 * 2 * config.distillation_batch


def test_captions_name_colors_and_sides_so_views_keep_them():
    views = pretrain_config(LAPTOP, METHODS["VTP"], 0).views
    assert (views.hue, views.gray_rate, views.flip_rate) == (0, 0, 0)
    assert views.contrast_scale == (1, 1)  # pixels and captions are of whole images


def test_the_main_budget_has_all_seeds_and_the_others_one_less():
    counts = {}
    for spec in scale_compute.plan("laptop", SEEDS):
        counts.setdefault(spec.pretrain.num_steps, set()).add(spec.seed)
    assert counts.pop(LAPTOP.tokenizer_steps) == {0, 1, 2}
    assert all(seeds == {0, 1} for seeds in counts.values())
    assert max(counts) / min(counts) >= 8


@pytest.mark.parametrize("scale", ["smoke", "laptop", "workstation"])
@pytest.mark.parametrize("study", STUDIES)
def test_every_training_is_longer_than_its_warmup(study, scale):
    for spec in study.plan(scale, [0]):
        for config in (spec.pretrain, spec.decode, spec.generate):
            if config is not None:
                learning_rate(config.optimizer, config.num_steps)


def test_generators_have_the_seeds_of_their_tokenizers():
    for spec in scale_compute.plan("laptop", SEEDS):
        assert spec.generate.seed == spec.pretrain.seed == spec.decode.seed


@pytest.mark.parametrize("scale", ["laptop", "workstation"])
def test_equal_compute_is_equal_to_a_step(scale):
    specs = compare_objectives.plan(scale, [0])
    equal = [spec for spec in specs if spec.setting == "equal compute"]
    costs = {spec.method: run_flops(spec.pretrain) for spec in equal}
    for method, cost in costs.items():
        assert cost == pytest.approx(costs["VTP"], rel=1e-3), method


def test_the_studies_share_the_runs_of_the_main_budget():
    along = {spec_hash(spec) for spec in scale_compute.plan("laptop", SEEDS)}
    beside = {spec_hash(spec) for spec in compare_objectives.plan("laptop", SEEDS)}
    assert len(along & beside) == 9  # AE, VTP and VTP full, three seeds each


def test_a_band_is_drawn_of_committed_runs_with_this_recipe():
    committed = {
        (row.spec.method, row.spec.setting) for row in scale_encoder.committed("laptop")
    }
    planned = scale_encoder.plan("laptop", SEEDS)
    assert committed == {(spec.method, spec.setting) for spec in planned}
    assert scale_encoder.committed("smoke") == []


def test_latents_of_64_pixels_are_the_papers_twelfth():
    specs = scale_latents.plan("laptop", [0], image_size=64)
    spec = next(spec for spec in specs if spec.setting == "64")
    tokenizer = spec.pretrain.tokenizer
    assert (tokenizer.image_size, tokenizer.patch_size) == (64, 16)
    assert 12 * tokenizer.latent_width == 3 * tokenizer.patch_size**2
    assert spec.pretrain.views.global_size == 64
    assert {spec.labels for spec in specs} == {"class", "color", "none"}


def test_ten_minutes_of_an_accelerator_ask_the_question_first():
    specs = scale_latents.plan("accelerator", [0, 1], image_size=64)
    assert [(spec.method, spec.setting) for spec in specs[:2]] == [
        ("AE", "64"), ("VTP", "64"),
    ]  # fmt: skip
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs)
    for spec in specs:
        assert spec.pretrain.precision == spec.generate.precision == "bfloat16"
        assert spec.decode.precision == "bfloat16"
        assert (spec.data.size, spec.generate.dit.latent_size) == (64, 8)


def test_each_bisection_undoes_one_choice():
    specs = bisect_recipe.plan("laptop", [0])
    base = next(spec for spec in specs if spec.method == "VTP")
    changed = {
        spec.setting: differing_fields(spec, base)
        | differing_fields(spec.pretrain, base.pretrain)
        for spec in specs
        if spec.method == "VTP"
    }
    names = {"setting", "pretrain"}
    assert changed == {
        bisect_recipe.BASE: set(),
        "start: PCA": names | {"pca_start", "optimizer"},
        **{f"pixels: {w}": names | {"reconstruction_weight"} for w in (0.3, 0.1, 0.03)},
        "easy scenes": {"setting", "data"},
        "few images for SSL": names | {"distillation_batch"},
        "16 channels": names | {"generate", "tokenizer"},
    }


def test_convergence_is_of_three_methods_and_one_frozen_network_a_seed():
    specs = compare_convergence.plan("laptop", SEEDS)
    assert {(spec.method, spec.seed) for spec in specs} == {
        (method, seed) for method in ("AE", "VTP", "distilled") for seed in SEEDS
    }
    assert {spec.budgets for spec in specs} == {(250, 500, 1000, 2000, 4000, 6000)}
    paths = RunPaths(Path("runs"))
    known = {paths.tokenizer(spec) for spec in scale_latents.plan("laptop", SEEDS)}
    for spec in specs:
        if spec.method != "distilled":
            assert spec.vision is None
            assert paths.tokenizer(spec) in known  # that study's are found
            continue
        frozen = spec.vision
        assert (frozen.seed, frozen.num_steps) == (spec.seed, spec.pretrain.num_steps)
        assert frozen.tokenizer.encoder == spec.pretrain.tokenizer.encoder
        assert {*frozen.term_weights} == {"contrast", "distillation"}
        assert vision_flops(spec) > run_flops(frozen)
        plain = run(LAPTOP, "CLIP+SSL", "x", spec.seed)
        assert paths.tokenizer(spec.vision_run) == paths.tokenizer(plain)


def test_rivals_share_one_frozen_encoder_a_seed():
    paths = RunPaths(Path("runs"))
    specs = compare_rivals.plan("laptop", SEEDS)
    frozen = {
        (spec.seed, paths.tokenizer(spec.vision_run or spec))
        for spec in specs
        if spec.vision is not None or spec.adapter is not None
    }
    assert len(frozen) == len(SEEDS)
    # Rivals differ in their tokenizer and in what it needs, and in nothing else.
    plain = run(LAPTOP, "AE", "equal samples", 0)
    for spec in specs[:: len(SEEDS)]:
        own = {"method", "pretrain", "vision", "adapter", "decode", "generate"}
        assert differing_fields(spec, plain) <= own
        decode = {"latent_noise", "noise_law"} if spec.adapter else set()
        assert differing_fields(spec.decode, plain.decode) == decode
        own = {"dit"} if spec.method.startswith("RAE") else set()
        own |= {"repulsion"} if spec.method.endswith("Repulsor") else set()
        assert differing_fields(spec.generate, plain.generate) == own
    assert {spec.method for spec in compare_rivals.plan("smoke", [0])} <= {*METHODS}


@pytest.fixture(scope="module")
def scenes():
    return render(LAPTOP.data, LAPTOP.data.train_indices[:2048])


@pytest.fixture(scope="module")
def compiled():
    """The step of a config, which takes the learning rates as its last argument.

    Methods that differ in their start and learning rates alone share one.
    """

    @functools.cache
    def compile_step(config, mesh):
        state = shard_state(initial_state(config, None), mesh, config.sharding)

        def step(arrays, batch, rates):
            with pytest.MonkeyPatch.context() as patch:
                given = lambda config, num_steps: lambda step: rates[step]
                patch.setattr(optimizer, "learning_rate", given)
                return pretrain_step(config, state, mesh).compiled(arrays, batch)

        arrays = eqx.filter(state, eqx.is_array)
        batch, rates = batch_of(config, mesh), jnp.zeros(NUM_STEPS)
        # So many steps are worth faster code than tests are compiled to.
        return (
            jax.jit(step, donate_argnums=0)
            .lower(arrays, batch, rates)
            .compile(compiler_options={"xla_backend_optimization_level": 1})
        )

    def without_rates(config, mesh):
        plain = dataclasses.replace(config.optimizer, learning_rate=1.0, warmup_steps=0)
        return compile_step(
            dataclasses.replace(config, optimizer=plain, pca_start=False), mesh
        )

    return without_rates


def batch_of(config, mesh, images=None):
    """A batch of images, by default black, with captions of nothing."""
    if images is None:
        size = config.tokenizer.image_size
        images = np.zeros((config.batch_size, size, size, 3), np.uint8)
    text = config.tokenizer.text
    ids = None if text is None else np.ones((len(images), text.context), np.int32)
    return shard_batch(CaptionedBatch(images, ids), mesh)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["AE", "AE from PCA", "VTP", "VTP from PCA"])
def test_the_first_steps_do_not_wreck_the_start(method, scenes, compiled):
    """Pixel loss of the first 200 steps stays below 1.3 times its start."""
    # What is computed twice to save memory is the same.
    encoder = dataclasses.replace(LAPTOP.encoder, remat="none")
    config = pretrain_config(
        dataclasses.replace(LAPTOP, encoder=encoder), METHODS[method], 0
    )
    mesh = data_mesh(1)
    step = compiled(config, mesh)
    state = shard_state(initial_state(config, scenes.image), mesh, config.sharding)
    arrays = eqx.filter(state, eqx.is_array)
    rate = learning_rate(config.optimizer, config.num_steps)
    rates = jax.vmap(rate)(jnp.arange(NUM_STEPS))
    losses, rng = [], np.random.default_rng(0)
    for _ in range(NUM_STEPS):
        rows = rng.integers(0, len(scenes.image), config.batch_size)
        batch = batch_of(config, mesh, scenes.image[rows])
        arrays, metrics = step(arrays, batch, rates)
        losses.append(metrics["reconstruction"])
    losses = np.array(jax.device_get(losses))
    assert losses[0] > 0
    assert losses.max() <= 1.3 * losses[0]
