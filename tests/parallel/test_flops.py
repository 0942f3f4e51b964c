"""FLOPs counted in a traced function, against counts by hand."""

import jax
import jax.numpy as jnp

from champ_jax.parallel import flops


def trace(function, *shapes):
    return jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes))


def test_products_forward_backward_and_again():
    def loss(w, x):
        layer = jax.checkpoint(lambda w, x: jnp.tanh(x @ w))
        return jnp.sum(layer(w, layer(w, x)) ** 2)

    counted = flops.count(trace(jax.grad(loss, (0, 1)), (64, 64), (256, 64)), 128)
    once = 2 * 256 * 64 * 64
    assert counted.model == 6 * once  # two layers, each forward and two gradients
    assert counted.hardware == 8 * once  # both forward passes again
    # 64 pads to 128 in both dimensions that meet the unit where they rest in it.
    assert counted.padded > counted.hardware and 0.25 <= counted.ceiling <= 0.5


def test_convolutions_and_their_gradients():
    def loss(kernel, x):
        return jnp.sum(jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2)

    counted = flops.count(trace(jax.grad(loss, (0, 1)), (3, 3, 32, 64), (4, 16, 16, 32)), 128)
    assert counted.model == 3 * 2 * 4 * 8 * 8 * 9 * 32 * 64


def test_loops_count_as_often_as_they_turn_and_dead_code_does_not():
    def function(x):
        dead = x[0] @ x[1]
        return jax.lax.map(lambda a: a @ a, x), dead[:0]

    assert flops.count(trace(lambda x: function(x)[0], (5, 64, 64)), 128).hardware == 5 * 2 * 64**3
    assert flops.count(trace(lambda x: function(x)[0], (5, 64, 64)), 128).loops == 4 * 3 * 4 * 64 * 64


def test_padding_follows_the_unit():
    product = trace(lambda q, k: q @ k, (4096, 40), (40, 4096))
    assert flops.count(product, 128).padded / flops.count(product, 128).hardware == 128 / 40
    assert flops.count(product, 256).padded / flops.count(product, 256).hardware == 256 / 40


def test_what_the_forward_pass_leaves():
    def step(w, x):
        return jax.grad(lambda w: jnp.sum(jnp.sin(jnp.sin(x @ w))))(w)

    # cos of either sine's input; x is an argument, and what follows from w alone is no activation.
    assert flops.kept(trace(step, (8, 16), (32, 8)), 1) == 2 * 4 * 32 * 16


def test_of_a_choice_by_platform_the_accelerator_counts():
    def step(w, x):
        both = {"cpu": lambda x: jnp.sin(jnp.sin(jnp.sin(x))) @ w @ w, "default": lambda x: jnp.sin(x)}
        return jax.grad(lambda w: jnp.sum(jax.jit(lambda y: jax.lax.platform_dependent(y, **both))(x @ w)))(w)

    plain = trace(lambda w, x: jax.grad(lambda w: jnp.sum(jnp.sin(x @ w)))(w), (16, 16), (32, 16))
    chosen = trace(step, (16, 16), (32, 16))
    assert flops.kept(chosen, 1) == flops.kept(plain, 1) == 4 * 32 * 16
    assert flops.count(chosen, 128) == flops.count(plain, 128)


def test_what_the_forward_pass_leaves_in_each_slice_of_a_batch():
    def step(w, x):
        add = lambda total, part: (total + jax.grad(lambda w: jnp.sum(jnp.sin(jnp.sin(part @ w))))(w), None)  # noqa: E731
        return jax.lax.scan(add, jnp.zeros_like(w), x)[0]

    assert flops.kept(trace(step, (8, 16), (4, 32, 8)), 1) == 2 * 4 * 32 * 16
