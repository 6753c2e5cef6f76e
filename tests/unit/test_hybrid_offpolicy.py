"""P-DQN, PADDPG and HHQN: inverting gradients, targets, bounded actions, the loop's random steps and rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import hybrid_embedding as embedding
from causal_jax import off_policy, spaces
from causal_jax.algorithms import hyar, hybrid_offpolicy
from causal_jax.envs import make
from causal_jax.off_policy import Choice, Row
from causal_jax.types import UserError

SPACE = spaces.Hybrid((1, 0, 2), (0.0, -1.0, -1.0), (10.0, 1.0, 3.0))
SMALL = {"hidden": (8,), "capacity": 30, "batch_size": 4, "random_steps": 10, "num_steps": 3}


def test_inverting_gradients() -> None:
    """g (1 - x) / 2 upwards, g (x + 1) / 2 downwards: fades at the bound, turns round beyond it."""
    gradient = jnp.asarray([2.0, 2.0, 2.0, -2.0, -2.0, -2.0, 4.0])
    x = jnp.asarray([0.0, 1.0, 1.5, 0.0, -1.0, -1.5, -0.5])
    np.testing.assert_allclose(off_policy.inverted(gradient, x), [1.0, 0.0, -0.5, -1.0, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(off_policy.inverted(jnp.asarray([3.0, -3.0]), jnp.asarray([2.0, 2.0]), 0.0, 3.0), [1.0, -2.0])


def test_the_actors_loss_has_the_inverted_gradient() -> None:
    x = jnp.asarray([0.5, -0.5])
    value = lambda x: 2.0 * x[0] - 3.0 * x[1]  # noqa: E731
    np.testing.assert_allclose(jax.grad(lambda x: off_policy.ascend_inverted(value, x))(x), [-0.5, 0.75])


def test_the_target_bootstraps_unless_terminated() -> None:
    target = off_policy.td_target(jnp.asarray([1.0, 1.0]), jnp.asarray([False, True]), jnp.asarray([10.0, 10.0]), 0.9)
    np.testing.assert_allclose(target, [10.0, 1.0])


def test_what_the_environment_gets() -> None:
    """Clipped, scaled to the bounds of the chosen parameters, zero where there are none."""
    for k, z, expected in ((0, (0.0, 9.0), (5.0, 0.0)), (1, (0.3, 0.3), (0.0, 0.0)), (2, (-2.0, 0.5), (-1.0, 2.0))):
        _, played = off_policy.play(SPACE, Choice(jnp.asarray(k), jnp.asarray(z), None))
        np.testing.assert_allclose(played, expected)


def test_targets_follow_at_their_own_rates() -> None:
    learner = off_policy.Learner({"critic": jnp.ones(1), "actor": jnp.ones(1)}, {"critic": jnp.zeros(1), "actor": jnp.zeros(1)}, {}, None)
    target = off_policy.follow(learner, off_policy.Hyper(tau=0.25, actor_tau=0.5)).target
    assert (float(target["critic"][0]), float(target["actor"][0])) == (0.25, 0.5)


@pytest.mark.parametrize("name", hybrid_offpolicy.METHODS)
def test_a_method_acts_within_its_space(name: str) -> None:
    """Random and greedy choices are in the box [-1, 1], and are stored as they are played."""
    unit = spaces.Hybrid(SPACE.sizes)
    method = getattr(hybrid_offpolicy, name)(SPACE, 4, hybrid_offpolicy.Config(method=name, **SMALL))
    learner = method.init(jax.random.key(0), hybrid_offpolicy.Hyper())
    obs = jnp.asarray([0.1, -0.2, 30.0, 4.0])
    random = jax.vmap(lambda key: method.random(key, learner, obs))(jax.random.split(jax.random.key(1), 300))
    np.testing.assert_allclose(np.bincount(np.asarray(random.k), minlength=3) / 300, 1 / 3, atol=0.1)
    for choice in (jax.tree.map(lambda x: x[0], random), method.act(learner, obs)):
        assert bool(unit.contains((choice.k, choice.z)))
        stored = choice.stored["z"] if name == "hhqn" else unit.take(choice.k, choice.stored["x"][-unit.num_all :])
        np.testing.assert_array_equal(stored, choice.z)
    always = method.explore(jax.random.key(2), learner, obs, jnp.ones(()))
    never = method.explore(jax.random.key(2), learner, obs, jnp.zeros(()))
    np.testing.assert_array_equal(never.z, method.act(learner, obs).z)
    assert not np.array_equal(always.z, never.z) or int(always.k) != int(never.k)


def test_pdqn_regresses_on_the_best_action_of_the_target_actor() -> None:
    """One step on a terminated row moves Q of the played action towards the reward."""
    config = hybrid_offpolicy.Config(**SMALL)
    method, hyper = hybrid_offpolicy.pdqn(SPACE, 2, config), hybrid_offpolicy.Hyper(lr=0.01, gamma=0.5)
    learner = method.init(jax.random.key(0), hyper)
    rows = Row(jnp.ones((2, 2)), {"k": jnp.asarray([0, 2]), "x": jnp.zeros((2, 3))}, jnp.asarray([5.0, 5.0]), jnp.zeros((2, 2)),
               jnp.asarray([True, True]))  # fmt: skip
    losses = []
    for _ in range(30):
        learner, metrics = method.critic(jax.random.key(1), learner, rows, hyper)
        losses.append(float(metrics["critic_loss"]))
        assert float(metrics["target"]) == 5.0
    assert losses[-1] < 0.5 * losses[0]


def by_hand(params: dict, **kernels: list) -> dict:
    """The same linear networks, all zero but for the named kernels: [(input, output, weight), ...], or such a list for every critic."""
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), params)
    for name, entries in kernels.items():
        kernel = params[name]["layers_0"]["kernel"]
        for row in entries:
            kernel[tuple(row[:-1])] = row[-1]
    return params


def goes_on(stored: dict) -> Row:
    """One row of reward 1 that goes on from (0, 0) to (1, 2)."""
    return Row(jnp.zeros((1, 2)), stored, jnp.ones(1), jnp.asarray([[1.0, 2.0]]), jnp.asarray([False]))


@pytest.mark.parametrize(
    ("name", "stored", "kernels", "expected"),
    [  # x = (0.1, 0.2, 0.4) in (1, 2); Q = (s_0, 10 x_2, s_1) = (1, 4, 2)
        (
            "pdqn",
            {"k": jnp.asarray([0]), "x": jnp.zeros((1, 3))},
            {"actor": [(0, 0, 0.1), (1, 1, 0.1), (1, 2, 0.2)], "critic": [(0, 0, 1.0), (4, 1, 10.0), (1, 2, 1.0)]},
            {"target": 1 + 0.5 * 4.0, "critic_loss": 9.0},
        ),
        (  # activations (0.5, 0, 0) and the same x; Q = s_0 + 2 a_0 + 10 x_2 = 6
            "paddpg",
            {"x": jnp.zeros((1, 6))},
            {"actor": [(0, 0, 0.5), (0, 3, 0.1), (1, 4, 0.1), (1, 5, 0.2)], "critic": [(0, 0, 1.0), (2, 0, 2.0), (7, 0, 10.0)]},
            {"target": 1 + 0.5 * 6.0, "critic_loss": 16.0},
        ),
        (  # values of k (1, 2, 4); told k = 2, z = (0.1, 0.3); Q(s, k, z) = s_0 + 2 [k = 2] + 10 z_0 + 10 z_1 = 7
            "hhqn",
            {"k": jnp.asarray([0]), "z": jnp.zeros((1, 2))},
            {
                "high": [(0, 0, 1.0), (1, 1, 1.0), (1, 2, 2.0)],
                "actor": [(0, 0, 0.1), (4, 1, 0.3)],
                "critic": [(0, 0, 1.0), (4, 0, 2.0), (5, 0, 10.0), (6, 0, 10.0)],
            },
            {"target": 1 + 0.5 * 7.0, "critic_loss": 20.25, "high_loss": 9.0},
        ),
    ],
)
def test_a_step_that_goes_on_is_bootstrapped(name, stored, kernels, expected) -> None:
    """From the target networks, set by hand and linear, at the next observation; the networks that learn say 0 to everything."""
    method, hyper = getattr(hybrid_offpolicy, name)(SPACE, 2, hybrid_offpolicy.Config(hidden=())), hybrid_offpolicy.Hyper(gamma=0.5)
    learner = method.init(jax.random.key(0), hyper)
    learner = learner._replace(online=by_hand(learner.online), target=by_hand(learner.target, **kernels))
    _, metrics = method.critic(jax.random.key(1), learner, goes_on(stored), hyper)
    assert {key: pytest.approx(float(x), rel=1e-5) for key, x in metrics.items()} == expected


@pytest.mark.parametrize("learner", hyar.LEARNERS)
def test_a_step_that_goes_on_is_bootstrapped_by_hyar(learner: str) -> None:
    """u_0 = tanh(0.25 s_1), by TD3 with its noise; Q = 10 u_0, and TD3's other critic says 5 s_1, which is more."""
    config, hyper, key = hyar.Config(hidden=(), learner=learner), hyar.Hyper(gamma=0.5), jax.random.key(1)
    method = hyar.method_of(embedding.Spec(2, spaces.Hybrid(SPACE.sizes), 2, 2, 4), config)
    start = method.init(jax.random.key(0), hyper)
    critic = [(0, 2, 0, 10.0)] + [(1, 1, 0, 5.0)] * (learner == "td3")
    start = start._replace(online=by_hand(start.online), target=by_hand(start.target, actor=[(1, 0, 0.25)], critic=critic))
    stored = {"k": jnp.asarray([0]), "z": jnp.zeros((1, 2)), "latent": jnp.zeros((1, 4))}
    _, metrics = method.critic(key, start, goes_on(stored), hyper)
    u = jnp.asarray([[np.tanh(0.5), 0.0, 0.0, 0.0]])
    smoothed = hyar.smoothed(jax.random.split(key)[1], u) if learner == "td3" else u
    assert float(metrics["target"]) == pytest.approx(1 + 0.5 * 10 * float(smoothed[0, 0]), rel=1e-5)
    assert (float(smoothed[0, 0]) != float(u[0, 0])) == (learner == "td3")


def test_the_loop_counts_rounds_and_random_steps() -> None:
    env, params = make("probe-hybrid")
    algorithm = hybrid_offpolicy.build(env, params, hybrid_offpolicy.Config(method="hhqn", **SMALL))
    hyper, task = hybrid_offpolicy.Hyper(explore_steps=6.0, explore_end=0.1), hybrid_offpolicy.Task(params)
    state = algorithm.init(jax.random.key(0), hyper, task)
    assert (int(state.buffer.size), int(state.t), float(state.exploration)) == (10, 0, 1.0)
    state, metrics = jax.jit(algorithm.step)(jax.random.key(1), state, hyper, task)
    assert (int(state.buffer.size), int(state.t)) == (13, 3)
    assert float(state.exploration) == pytest.approx(0.55)
    assert float(metrics["num_episodes"]) == 3  # every episode of the probe has one step


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (hybrid_offpolicy, {"random_steps": 40, "capacity": 30}, "random_steps = 40: must be at most capacity = 30"),
        (hybrid_offpolicy, {"method": "dqn"}, "method = 'dqn': must be one of pdqn, paddpg, hhqn"),
        (hyar, {"num_steps": 3}, "num_steps = 3: must be a multiple of 2, the critics' updates per update of the actor"),
    ],
)
def test_bad_fields_are_told(module, fields, message) -> None:
    env, params = make("probe-hybrid")
    with pytest.raises(UserError) as error:
        module.build(env, params, module.Config(**fields))
    assert str(error.value) == message


def test_other_action_spaces_are_refused() -> None:
    env, params = make("probe-policy")
    with pytest.raises(UserError, match="env = ProbePolicy: pdqn needs hybrid actions"):
        hybrid_offpolicy.build(env, params)
