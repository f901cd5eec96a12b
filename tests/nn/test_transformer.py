import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vtp_eqx.nn.rope import axial_table
from vtp_eqx.nn.transformer import Block, Transformer


BATCH, LENGTH, WIDTH, HEADS = 8, 5, 16, 2
TABLE = axial_table(2, 2, WIDTH // HEADS, prefix=1)


@pytest.fixture(scope="module")
def stack():
    make = eqx.filter_jit(lambda key: Transformer(WIDTH, 2, HEADS, key=key))
    # Branches that matter: as they start they add next to nothing.
    wider = lambda leaf: 5 * leaf if leaf.ndim == 3 else leaf
    return jax.tree.map(wider, make(jr.key(0)))


@pytest.fixture(scope="module")
def tokens():
    return jr.normal(jr.key(1), (BATCH, LENGTH, WIDTH))


@pytest.fixture(scope="module")
def one_by_one(stack, tokens):
    return jax.jit(jax.vmap(lambda one: stack(one, rotate=TABLE)))(tokens)


def test_a_batch_is_its_examples(stack, tokens, one_by_one):
    together = jax.jit(lambda tokens: stack.batch(tokens, rotate=TABLE))(tokens)
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5, atol=1e-5)
    assert jnp.abs(together - tokens).max() > 0.1


def test_a_rate_without_a_key_drops_nothing(stack, tokens, one_by_one):
    kept = stack.batch(tokens, rotate=TABLE, drop_rate=0.5, key=None)
    np.testing.assert_allclose(kept, one_by_one, rtol=1e-5, atol=1e-5)


def test_a_float32_sum_loses_less_of_what_narrow_blocks_add(tokens):
    make = lambda residual: eqx.filter_jit(
        lambda key: Transformer(WIDTH, 24, HEADS, residual=residual, key=key)
    )(jr.key(3))
    exact, plain, wide = make("as computed"), make("as computed"), make("float32")
    through = jax.jit(lambda stack: jax.vmap(lambda one: stack(one, rotate=TABLE))(
        tokens.astype(stack.blocks.attention.to_out.weight.dtype)
    ))  # fmt: skip
    expected = through(exact)
    np.testing.assert_array_equal(through(wide), expected)  # in float32 it is the same
    narrow = lambda stack: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), stack)
    error = lambda stack: jnp.abs(through(narrow(stack)) - expected).mean()
    assert through(narrow(wide)).dtype == jnp.float32
    assert error(wide) < 0.7 * error(plain)


def test_a_trace_ends_where_the_call_does(stack, tokens, one_by_one):
    trace = stack.trace(tokens[0], rotate=TABLE)
    assert trace.shape == (2, LENGTH, WIDTH)
    np.testing.assert_allclose(trace[-1], one_by_one[0], rtol=1e-5, atol=1e-5)
    first = jax.tree.map(lambda leaf: leaf[0], stack.blocks)
    np.testing.assert_allclose(
        trace[0], first(tokens[0], rotate=TABLE), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_what_is_kept_for_the_backward_pass_changes_nothing(remat, stack, tokens):
    def value_and_gradient(stack):
        arrays, static = eqx.partition(stack, eqx.is_array)
        loss = lambda arrays: (
            eqx.combine(arrays, static)(tokens[0], rotate=TABLE) ** 2
        ).sum()
        return jax.jit(jax.value_and_grad(loss))(arrays)

    plain = value_and_gradient(stack)
    again = value_and_gradient(with_blocks(stack.blocks, depth=2, remat=remat))
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def kept_numbers(stack, tokens):
    """How many numbers a layer keeps for the backward pass, and of which shapes."""
    arrays, static = eqx.partition(stack, eqx.is_array)
    loss = lambda arrays: jnp.sum(eqx.combine(arrays, static)(tokens, rotate=TABLE))
    jaxpr = jax.make_jaxpr(jax.grad(loss))(arrays)
    forward = next(eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
    kept = forward.outvars[forward.params["num_carry"] :]
    shapes = [variable.aval.shape[1:] for variable in kept]
    return sum(np.prod(shape) for shape in shapes), shapes


@pytest.mark.parametrize(("feed_forward", "hidden"), [("swiglu", 2 * 48), ("mlp", 64)])
def test_no_step_between_two_products_is_kept(feed_forward, hidden, tokens):
    make = lambda key: Transformer(WIDTH, 3, HEADS, feed_forward=feed_forward, key=key)
    number, shapes = kept_numbers(eqx.filter_jit(make)(jr.key(0)), tokens[0])
    # Two inputs of branches, both normalized, queries, keys, values, and their mix.
    ends = LENGTH * (8 * WIDTH + hidden)
    assert ends <= number <= ends + 4 * WIDTH
    assert (HEADS, LENGTH, LENGTH) not in shapes  # logits


@pytest.mark.parametrize(("rate", "kept"), [(0.1, 7), (0.25, 6), (0.5, 4), (0.99, 1)])
def test_a_branch_runs_on_exactly_so_many_rows(rate, kept, stack, tokens):
    single = one_layer(stack, branch="attention")
    found = single.batch(tokens, rotate=TABLE, drop_rate=rate, key=jr.key(2))
    touched = np.asarray(found != tokens).any(axis=(1, 2))
    assert touched.sum() == kept
    # Those that ran are scaled up by what did not.
    whole = single.batch(tokens, rotate=TABLE)
    expected = tokens + BATCH / kept * (whole - tokens)
    np.testing.assert_allclose(found[touched], expected[touched], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("branch", ["attention", "feed_forward"])
def test_dropping_keeps_the_expectation(branch, stack, tokens):
    single = one_layer(stack, branch=branch)
    drop = lambda key: single.batch(tokens, rotate=TABLE, drop_rate=0.25, key=key)
    runs = np.asarray(jax.jit(jax.vmap(drop))(jr.split(jr.key(3), 2000)))
    added = np.asarray(single.batch(tokens, rotate=TABLE) - tokens)
    # A row runs 3 times of 4, at 4/3: a relative deviation of 3 ** -0.5 each time.
    error = np.abs((runs - np.asarray(tokens)).mean(axis=0) - added)
    assert (error <= 5 * np.abs(added) * (3 * 2000) ** -0.5 + 1e-4).all()


def test_branches_and_layers_drop_different_rows(stack, tokens):
    drop = jax.jit(
        lambda key: stack.batch(tokens, rotate=TABLE, drop_rate=0.5, key=key)
    )
    # The same rows in all four branches would leave half of the batch untouched.
    untouched = [
        int((np.asarray(drop(jr.key(seed)) == tokens).all(axis=(1, 2))).sum())
        for seed in range(20)
    ]
    assert max(untouched) <= 3
    assert not jnp.array_equal(drop(jr.key(0)), drop(jr.key(1)))


def one_layer(stack, *, branch):
    """The first layer, with one branch that adds nothing."""
    other = {"attention": "feed_forward", "feed_forward": "attention"}[branch]
    blocks = jax.tree.map(lambda leaf: leaf[:1], stack.blocks)
    out = {"attention": "to_out", "feed_forward": "out"}[other]
    where = lambda blocks: getattr(getattr(blocks, other), out)
    silent = jax.tree.map(jnp.zeros_like, where(blocks))
    blocks = eqx.tree_at(where, blocks, silent)
    return with_blocks(blocks, depth=1)


def with_blocks(blocks, *, depth, remat="none"):
    make = lambda: Transformer(WIDTH, depth, HEADS, remat=remat, key=jr.key(0))
    skeleton = eqx.filter_eval_shape(make)
    return eqx.tree_at(lambda stack: stack.blocks, skeleton, blocks)


def test_layer_scales_start_as_given_and_scale_both_branches(tokens):
    block = Block(WIDTH, HEADS, key=jr.key(0))
    scaled = Block(WIDTH, HEADS, layer_scale=0.1, key=jr.key(0))
    one = tokens[0]
    np.testing.assert_allclose(
        scaled.attend(one), 0.1 * block.attend(one), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(
        scaled.feed(one), 0.1 * block.feed(one), rtol=1e-4, atol=1e-7
    )


def test_layers_start_differently(stack):
    first, second = stack.blocks.attention.to_qkv.weight
    assert not jnp.array_equal(first, second)


def test_clip_start_suits_the_width_and_shrinks_branches_with_depth():
    width, depth = 64, 8
    make = lambda init: Transformer(width, depth, 2, init=init, key=jr.key(0)).blocks
    published, clip = make("vtp"), make("clip")
    deviation = lambda layer: float(layer.weight.std())
    for block in (published.attention.to_qkv, published.feed_forward.out):
        assert deviation(block) == pytest.approx(0.02, rel=0.05)
    expected = [
        (clip.attention.to_qkv, width**-0.5),
        (clip.attention.to_out, (2 * width * depth) ** -0.5),
        (clip.feed_forward.gate, (2 * width) ** -0.5),
        (clip.feed_forward.up, (2 * width) ** -0.5),
        (clip.feed_forward.out, (2 * width * depth) ** -0.5),
    ]
    for layer, std in expected:
        assert deviation(layer) == pytest.approx(std, rel=0.05)
