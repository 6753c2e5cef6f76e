import jax
import jax.numpy as jnp
import numpy as np
import optax

from causal_jax.optim import adam, linear, polyak

PARAMS = {"a": jnp.zeros(()), "b": jnp.zeros(())}
GRADS = {"a": jnp.float32(3.0), "b": jnp.float32(-4.0)}  # global norm 5


def test_clipping_is_by_the_global_norm() -> None:
    def first_moment(max_grad_norm: float | None) -> list[float]:
        optimizer = adam(0.1, max_grad_norm)
        state = optimizer.update(GRADS, optimizer.init(PARAMS))[1]
        mean = optax.tree_utils.tree_get(state, "mu")
        return [float(mean["a"]) * 10, float(mean["b"]) * 10]

    np.testing.assert_allclose(first_moment(1.0), [0.6, -0.8], rtol=1e-5)  # element by element it would be [1, -1]
    np.testing.assert_allclose(first_moment(10.0), [3.0, -4.0], rtol=1e-5)
    np.testing.assert_allclose(first_moment(None), [3.0, -4.0], rtol=1e-5)


def test_two_steps_of_adam() -> None:
    optimizer = adam(0.1, eps=1.0)
    state = optimizer.init(jnp.float32(0.0))
    first, state = optimizer.update(jnp.float32(1.0), state)
    second, _ = optimizer.update(jnp.float32(0.0), state)
    # mu = .1, nu = .001, corrected 1 and 1: -.1 * 1 / (1 + 1); then mu = .09 / .19, nu = .000999 / .001999
    np.testing.assert_allclose([first, second], [-0.05, -0.1 * (0.09 / 0.19) / (np.sqrt(0.000999 / 0.001999) + 1.0)], rtol=1e-4)


def test_members_sweep_the_rate_under_vmap() -> None:
    def step(lr: jax.Array, bound: jax.Array) -> jax.Array:
        optimizer = adam(lr, bound)
        return optimizer.update(GRADS, optimizer.init(PARAMS))[0]["a"]

    rates = jnp.array([0.1, 0.01])
    np.testing.assert_allclose(jax.jit(jax.vmap(step))(rates, jnp.array([1.0, 2.0])), [-0.1, -0.01], rtol=1e-4)


def test_linear() -> None:
    np.testing.assert_allclose([linear(4.0, 2.0, f) for f in (-1.0, 0.0, 0.25, 1.0, 3.0)], [4.0, 4.0, 3.5, 2.0, 2.0])
    np.testing.assert_allclose(jax.jit(linear)(0.1, 0.0, 0.5), 0.05, rtol=1e-6)


def test_polyak() -> None:
    target, online = {"w": jnp.array([0.0, 4.0])}, {"w": jnp.array([2.0, 8.0])}
    np.testing.assert_allclose(polyak(target, online, 0.25)["w"], [0.5, 5.0])
    np.testing.assert_array_equal(polyak(target, online, 1.0)["w"], online["w"])
    np.testing.assert_array_equal(polyak(target, online, 0.0)["w"], target["w"])
