"""Every learning algorithm finds the known answers of the probe environments: each probe fails for one kind of mistake.

Checked once by mutation: a gamma off by 0.05 fails discount and truncation; truncation taken for termination, or bootstrapped from the
observation after the reset, fails truncation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import distributions, networks, training
from causal_jax.algorithms import algorithm_module
from causal_jax.envs import make
from causal_jax.envs.probes import ProbeMasked

SIZES: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 16, "num_steps": 8, "num_epochs": 4, "num_minibatches": 2, "hidden": (16,)},
    "template": {"num_envs": 16, "num_steps": 8, "hidden": (16,)},
}
UPDATES = {"ppo": 150, "template": 500}


class Learned:
    """One trained member: V(obs), the greedy action and the metrics of every update."""

    def __init__(self, algorithm: str, probe: str, num_updates: int = 0, hyper: dict[str, float] | None = None, **fields: Any):
        module = algorithm_module(algorithm)
        config = module.Config(**{**SIZES[algorithm], **fields})
        self.env, params = make(probe)
        self.algorithm = module.build(self.env, params, config)
        self.hyper = module.Hyper(**{"lr": 1e-2, "gamma": 0.9, **(hyper or {})})
        num_updates = num_updates or UPDATES[algorithm]

        def run(key: jax.Array, hyper: Any, task: Any) -> Any:
            return training.train(key, hyper, task, algorithm=self.algorithm, num_updates=num_updates)

        state, metrics = jax.jit(run)(jax.random.key(0), self.hyper, module.Task(params))
        self.metrics = {name: np.asarray(x) for name, x in metrics.items()}
        self.state = state
        network = state.policy.network if algorithm == "ppo" else state.network
        head = distributions.policy_head(self.env.action_space(params))
        shape = self.env.observation_space(params).shape
        apply = networks.actor_critic(shape, config.hidden, head.num_outputs, head.num_log_std).apply

        def read(obs: jax.Array) -> Any:
            return apply(network, obs)[2], self.algorithm.act(jax.random.key(0), state, obs, True)

        self.read = jax.jit(read)

    def answers(self) -> list[tuple[float, float, Any, Any]]:
        """(V, V*, greedy action, right action or None) for every observation of the solution."""
        rows = []
        for obs, value, action in self.env.solution(float(self.hyper.gamma)):
            v, greedy = self.read(jnp.asarray(obs))
            rows.append((float(v), value, greedy, action))
        return rows


@pytest.mark.parametrize("algorithm", ["ppo", "template"])
@pytest.mark.parametrize("probe", ["probe-value", "probe-credit", "probe-policy", "probe-discount", "probe-truncation"])
def test_discrete(algorithm: str, probe: str) -> None:
    """gamma = 0.9 throughout: V(first) = 0.9 for discount and credit; for truncation V = 9 and 10 (2.5 if it were a terminal)."""
    for v, value, greedy, action in Learned(algorithm, probe).answers():
        assert v == pytest.approx(value, rel=0.03, abs=0.03)
        assert action is None or int(greedy) == action


def test_the_authors_mode_takes_the_time_limit_for_a_terminal() -> None:
    (_, _, _, _), (v, _, _, _) = Learned("ppo", "probe-truncation", mode="authors", hyper={"gae_lambda": 0.0}).answers()
    assert v == pytest.approx(1 / (1 - 0.9 * 2 / 3), rel=0.05)  # 2.5, where the limit is bootstrapped 10


@pytest.mark.parametrize(("selection", "kept"), [("cee", ProbeMasked.kept_cee), ("npm", ProbeMasked.kept_npm), ("all", range(8))])
def test_masked(selection: str, kept: Any) -> None:
    learned = Learned("ppo", "probe-masked", selection=selection, n_values="oracle")
    for v, value, greedy, action in learned.answers():
        assert v == pytest.approx(value, abs=0.05)
        assert int(greedy) == action
    if selection != "all":
        assert set(learned.metrics["num_allowed"]) == {float(len(kept))}
        assert set(learned.metrics["all_masked"]) == {0.0}
    # the untrained policy is uniform over what is kept, and only marking actions can be right
    first = learned.metrics["episode_return"][0]
    assert first == pytest.approx(1 / len(kept), abs=3 * (len(kept) * 128) ** -0.5)


def test_factored() -> None:
    for v, value, greedy, action in Learned("ppo", "probe-factored").answers():
        assert v == pytest.approx(value, abs=0.1)
        assert tuple(greedy.tolist()) == action


def test_hybrid() -> None:
    """Actions are clipped, so a mean beyond a bound is not called back: z* = -0.75 may end at -1, for 0.4% of the reward of its branch."""
    learned = Learned("ppo", "probe-hybrid", num_updates=300, hyper={"lr": 3e-3})
    for v, value, (k, z), (right, target) in learned.answers():
        assert v == pytest.approx(value, abs=0.05)
        assert int(k) == right
        np.testing.assert_allclose(z, target, atol=0.3)
    assert learned.metrics["episode_return"][-20:].mean() > 0.99  # the right choices with z = 0: 0.93


@pytest.mark.parametrize("algorithm", ["ppo", "template"])
def test_box(algorithm: str) -> None:
    learned = Learned(algorithm, "probe-box", num_updates=300)
    for _, _, greedy, action in learned.answers():
        np.testing.assert_allclose(greedy, action, atol=0.15)
    assert learned.metrics["episode_return"][-20:].mean() > 0.85
