import dataclasses

import equinox as eqx
import jax
from jax import lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.config import DiTConfig, GenerateConfig
from vtp_eqx.mesh import DATA, data_mesh, REPLICATED, shard_batch
from vtp_eqx.models.arrays import leaf_path
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.tokenizer import Pretrainer, Teacher
from vtp_eqx.training.generate import generate_objective
from vtp_eqx.training.precision import ALWAYS_FLOAT32, cast_params
from vtp_eqx.training.pretrain import pretrain_objective, pretrain_step
from vtp_eqx.training.pretrain_views import CaptionedBatch
from vtp_eqx.training.terms.flow_matching import FlowPoints


def float_types(tree):
    arrays = eqx.filter(tree, eqx.is_inexact_array)
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {leaf_path(path): str(leaf.dtype) for path, leaf in leaves}


def equations(jaxpr):
    """All of them, those inside of functions and loops too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def operand_types(function, *args):
    """The float types that go into each kind of operation of `function`."""
    found = {}
    for equation in equations(jax.make_jaxpr(function)(*args).jaxpr):
        types = {str(operand.aval.dtype) for operand in equation.invars}
        found.setdefault(equation.primitive.name, set()).update(types)
    return found


@pytest.fixture(scope="module")
def pretrainer(tiny):
    return eqx.filter_jit(Pretrainer)(tiny.tokenizer, tiny.prototypes, key=jr.key(1))


@pytest.fixture(scope="module")
def generator():
    config = DiTConfig(
        width=8, depth=1, num_heads=2, latent_size=2, latent_width=3, num_classes=5
    )
    return eqx.filter_jit(DiT)(config, key=jr.key(2))


def test_float32_is_the_model_itself(pretrainer):
    assert cast_params(pretrainer, "float32") is pretrainer


def test_what_scales_logits_stays_float32(pretrainer):
    types = float_types(cast_params(pretrainer, "bfloat16"))
    exact = {path for path in types if path.split(".")[-1] in ALWAYS_FLOAT32}
    assert "tokenizer.logit_scale" in exact
    assert "prototypes.scale" in exact
    for path, found in types.items():
        assert found == ("float32" if path in exact else "bfloat16"), path


def test_gradients_come_back_in_float32(pretrainer):
    weight = pretrainer.tokenizer.bottleneck.weight
    loss = lambda weight: cast_params({"weight": weight}, "bfloat16")["weight"].sum()
    gradient = jax.grad(loss)(weight)
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient, 1)


@pytest.fixture(scope="module")
def operations(tiny, data, pretrainer):
    """What goes into what in bfloat16: as rows are seen, and as terms are made."""
    objective = pretrain_objective(tiny, num_shards=1)
    step, size = jnp.zeros((), jnp.int32), tiny.batch_size
    batch = CaptionedBatch(data["image"][:size], data["caption"][:size])
    views = jax.eval_shape(objective.make_views, batch, jr.key(0))
    student = cast_params(pretrainer, "bfloat16")
    teacher = Teacher.of(student)

    def see(views):
        views = jax.tree.map(lambda rows: rows[None], views)
        taught = objective.add_teacher_targets(teacher, views, step)
        views = jax.tree.map(lambda rows: rows[0], taught)
        return objective.forward(student, teacher, views, step, jr.key(0))

    alone = lambda function: jax.shard_map(
        lambda rows: lax.pmean(function(rows), DATA),
        mesh=data_mesh(1), in_specs=REPLICATED, out_specs=REPLICATED,
    )  # fmt: skip
    seen = jax.eval_shape(alone(see), views)
    terms = lambda seen: objective.loss(student, seen)
    return operand_types(alone(see), views), operand_types(alone(terms), seen), seen


def test_networks_multiply_in_bfloat16(operations):
    assert operations[0]["dot_general"] == {"bfloat16"}


def test_softmax_and_norms_are_float32(operations):
    for name in ("exp", "log", "rsqrt"):
        assert operations[0][name] == {"float32"}, name


def test_terms_are_float32(operations):
    _, terms, seen = operations
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(seen)} == {"float32"}
    assert terms["dot_general"] == {"float32"}  # cosines of embeddings
    assert "bfloat16" not in set().union(*terms.values())


def test_a_generator_multiplies_in_bfloat16(generator):
    objective = generate_objective(GenerateConfig(dit=generator.config))
    model = cast_params(generator, "bfloat16")
    latents = jnp.zeros((4, 2, 2, 3))
    views = FlowPoints(latents, latents, jnp.full(4, 0.5), jnp.zeros(4, jnp.int32))
    step = jnp.zeros((), jnp.int32)

    def see(views):
        rows = objective.add_teacher_targets(None, views, step)
        outputs = objective.forward(model, None, rows, step, jr.key(0))
        return objective.loss(model, outputs)

    found = operand_types(see, views)
    assert found["dot_general"] == {"bfloat16"}
    assert found["exp"] == {"float32"}
    terms, monitors = jax.eval_shape(see, views)
    for term in jax.tree.leaves((terms, monitors)):
        assert term.dtype == jnp.float32


@pytest.mark.slow
def test_bfloat16_learns_what_float32_does(started):
    config = dataclasses.replace(started.config, precision="bfloat16")
    batch = shard_batch(next(started.batches(0)), started.mesh)
    state = started.start()
    step = pretrain_step(config, state, started.mesh)
    state, metrics = step(state, batch)
    _, expected = started.step(started.start(), batch)
    for name, value in expected.items():
        # KoLeo is the log of a small distance; the norm is of a gradient through it.
        rtol = 0.1 if name in ("koleo", "gradient_norm") else 0.02
        np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=name)
    assert int(metrics["skipped"]) == 0
    for part in (state.student, state.teacher, state.weights, state.opt_state):
        assert set(float_types(part).values()) == {"float32"}
