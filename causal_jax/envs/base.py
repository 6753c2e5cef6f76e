"""What our environments share: gymnax 1.0's `reset` and `step`, written over an environment's own four functions.

A subclass is a frozen dataclass of static options that defines `default_params, reset_env, step_env, is_truncated, action_space,
observation_space`; floats that may vary between the worlds of a population live in its params. No gymnax import is needed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.types import Action, Key, Obs


class Environment:
    """gymnax 1.0's contract; see `types.Env`. Subclasses are hashable and hold no arrays."""

    @property
    def default_params(self) -> Any:
        """The params pytree of the environment as published."""
        raise NotImplementedError

    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]:
        """A start state: (obs, state). The key is consumed."""
        raise NotImplementedError

    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step without auto-reset: (obs, state, reward [], terminated [] bool, info). The key is consumed."""
        raise NotImplementedError

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """bool []: the time limit is reached in this state (after the step)."""
        raise NotImplementedError

    def reset(self, key: Key, params: Any = None) -> tuple[Obs, Any]:
        """A start state: (obs, state). The key is consumed."""
        return self.reset_env(key, self.default_params if params is None else params)

    def step(
        self, key: Key, state: Any, action: Action, params: Any = None
    ) -> tuple[Obs, Any, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """One step with auto-reset: (obs, state, reward, terminated, truncated, info).

        info["final_observation"] is the observation before the reset (== obs while the episode goes on). The key is consumed.
        """
        params = self.default_params if params is None else params
        key_step, key_reset = jax.random.split(key)
        final_obs, state, reward, terminated, info = self.step_env(key_step, state, action, params)
        truncated = self.is_truncated(state, params)
        done = jnp.logical_or(terminated, truncated)
        reset_obs, reset_state = self.reset_env(key_reset, params)
        obs, state = jax.tree.map(lambda a, b: jnp.where(done, a, b), (reset_obs, reset_state), (final_obs, state))
        info = {**info, "terminated": terminated, "truncated": truncated, "final_observation": final_obs}
        return obs, state, reward, terminated, truncated, info
