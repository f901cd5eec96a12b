"""Whether an accelerator computes what a CPU does, for `benchmarks.accelerator`."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
import numpy as np

from benchmarks.works import random_batch, random_latents, small_config, SMALL_DIT
from vtp_eqx.config import GenerateConfig, SamplerConfig
from vtp_eqx.mesh import shard_batch
from vtp_eqx.models.dit import DiT
from vtp_eqx.models.generator import Generator
from vtp_eqx.nn.attention import fused_attention, mix_values
from vtp_eqx.training.generate import init_generator_training
from vtp_eqx.training.pretrain import init_pretraining


Rows = Iterator[dict[str, Any]]
Arrays = dict[str, np.ndarray]


def small_steps(mesh: Mesh) -> Rows:
    """Three joint steps in float32."""
    config = small_config()
    batch = random_batch(config)

    def run(mesh: Mesh) -> Arrays:
        state, step = init_pretraining(config, np.asarray(batch.image[:1]), mesh)
        state, metrics = _after_steps(state, step, batch, mesh)
        student = jax.tree.leaves(eqx.filter(state.student, eqx.is_inexact_array))
        return metrics | {"student": np.concatenate([np.ravel(a) for a in student])}

    yield from _compared("3 joint steps", run, mesh)


def small_generator(mesh: Mesh) -> Rows:
    """Three steps of a generator, and samples of one."""
    config = GenerateConfig(dit=SMALL_DIT, batch_size=16)
    batch = random_latents(SMALL_DIT, 16)

    def run(mesh: Mesh) -> Arrays:
        return _after_steps(*init_generator_training(config, mesh), batch, mesh)[1]

    def samples(mesh: Mesh) -> Arrays:
        dit = DiT(SMALL_DIT, key=jr.key(0))
        # A new transformer's velocity is zero: this one's is not.
        arrays, static = eqx.partition(dit, eqx.is_inexact_array)
        arrays = jax.tree.map(
            lambda a: a + 0.05 * jr.normal(jr.key(1), a.shape), arrays
        )
        generator = Generator(eqx.combine(arrays, static), "none")
        labels = jnp.arange(8)
        sampler = SamplerConfig(num_steps=20, guidance=2.0)
        drawn = generator.sample(labels, sampler, latents_hash="none", key=jr.key(2))
        return {"samples": np.asarray(drawn)}

    yield from _compared("3 DiT steps", run, mesh)
    yield from _compared("guided samples of a DiT", samples, mesh)


def fused_beside_plain(mesh: Mesh) -> Rows:
    """Both ways of attention in bfloat16, beside the plain one in float32."""
    if jax.default_backend() != "gpu":
        return
    for length, width in ((257, 64), (256, 72), (37, 60)):
        exact = tuple(jr.normal(jr.key(0), (4, 8, length, 6, width)))[:3]
        rounded = tuple(heads.astype(jnp.bfloat16) for heads in exact)
        exact = tuple(heads.astype(jnp.float32) for heads in rounded)
        weight = jr.normal(jr.key(1), exact[0].shape)

        def both(attend, heads, weight=weight):
            def loss(heads):
                mixed = jax.vmap(attend)(*heads).astype(jnp.float32)
                return jnp.sum(mixed * weight), mixed

            (_, mixed), gradient = jax.value_and_grad(loss, has_aux=True)(heads)
            return mixed, *gradient

        plain = lambda q, k, v: mix_values(q, k, v, None)
        with jax.default_matmul_precision("highest"):
            truth = jax.jit(lambda heads, plain=plain: both(plain, heads))(exact)
        for name, attend in (("fused", fused_attention), ("plain", plain)):
            found = jax.jit(lambda heads, attend=attend: both(attend, heads))(rounded)
            apart = max(map(_relative, found, truth))
            where = f"{length} tokens, head {width}"
            yield _row(f"{name} attention in bfloat16, {where}", apart)


CHECKS = (fused_beside_plain, small_generator, small_steps)


def _after_steps(state: Any, step: Any, batch: Any, mesh: Mesh) -> tuple[Any, Arrays]:
    """The state after three steps of one batch, and the metrics of each."""
    batch, found = shard_batch(jax.tree.map(np.asarray, batch), mesh), {}
    for number in range(3):
        state, metrics = step(state, batch)
        found |= {f"{name} {number}": np.asarray(metrics[name]) for name in metrics}
    return state, found


def _compared(name: str, run: Callable[[Mesh], Arrays], mesh: Mesh) -> Rows:
    """The largest relative difference from a CPU, by matrix products' precision."""
    cpu = jax.devices("cpu")[0]
    on_cpu = Mesh(np.array([cpu]), mesh.axis_names, axis_types=mesh.axis_types)
    with jax.default_device(cpu):
        expected = run(on_cpu)
    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            found = run(mesh)
        apart = {key: _relative(found[key], expected[key]) for key in expected}
        largest = max(apart, key=lambda key: apart[key])
        label = f"{name}, float32, products {precision} (largest: {largest})"
        yield _row(label, apart[largest])


def _relative(found: Any, expected: Any) -> float:
    found, expected = np.float64(found), np.float64(expected)
    size = np.linalg.norm(np.ravel(expected))
    return float(np.linalg.norm(np.ravel(found - expected)) / max(size, 1e-30))


def _row(check: str, difference: float) -> dict[str, Any]:
    return {"check": check, "difference": f"{difference:.1e}"}
