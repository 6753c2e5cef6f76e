"""Brax worlds that differ: each factor does what it says, factors of 1 are the published world, a population is one program."""

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import make
from causal_jax.envs.brax_worlds import BraxWorldParams

NAME = "inverted_pendulum"


def test_worlds_differ_by_their_factors_in_one_program() -> None:
    """The last of four worlds is the published one; gravity alone, mass alone and their groups move the pendulum otherwise."""
    env, params = make(f"brax-worlds:{NAME}", backend="spring", max_steps=7)
    plain, limit = make(f"brax:{NAME}", backend="spring", max_steps=7)
    gravity, mass = jnp.asarray([0.5, 1.0, 0.0, 1.0]), jnp.asarray([1.0, 2.0, 1.0, 1.0])
    many = BraxWorldParams(gravity, mass, jnp.ones(4), jnp.full(4, 7, jnp.int32))
    action, key_steps = jnp.asarray([0.3]), jax.random.key(1)

    def step(env: object, params: object) -> jax.Array:
        obs, state = env.reset_env(jax.random.key(0), params)
        return jax.lax.scan(lambda state, key: env.step_env(key, state, action, params)[1::-1], state, jax.random.split(key_steps, 6))[1][
            -1
        ]

    found = np.asarray(jax.jit(jax.vmap(lambda world: step(env, world)))(many))
    np.testing.assert_allclose(found[3], jax.jit(lambda: step(plain, limit))(), rtol=1e-5, atol=1e-6)
    speed = np.abs(found[:, 2:] - found[3, 2:]).max(axis=1)
    assert (speed[:3] > 1e-4).all()  # heavier, lighter, weightless: other speeds after six steps
    assert int(params.max_steps) == 7


def test_drawn_worlds_vary_in_what_was_asked_for() -> None:
    env, params = make("brax-worlds:ant", vary="friction", factors=(0.5, 2.0), jitter=0.1)
    worlds = env.draw_worlds(jax.random.key(0), params, 4)
    np.testing.assert_allclose(worlds.params.friction, [0.5, 0.5, 2.0, 2.0], atol=0.1)
    np.testing.assert_array_equal(worlds.params.gravity, 1.0)
    np.testing.assert_array_equal(worlds.value, worlds.params.friction)
    scaled = env.world(jax.tree.map(lambda x: x[3], worlds.params))
    np.testing.assert_allclose(scaled.sys.geom_friction, env.env.sys.geom_friction * worlds.value[3], rtol=1e-6)
