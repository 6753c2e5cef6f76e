"""World models: sizes of the published networks, their first outputs, imagined returns and the loss against a plain computation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import world_models as wm
from causal_jax.episodes import Window

KEY = jax.random.key(0)
PLATFORM = wm.Spec(9, 3, 1, "masking", reward="unit")
CATCH = wm.Spec(6, 2, 1, "sequential", bounded=False, two_rewards=True)


def count(tree: object) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("spec", "unused", "counts"),
    [
        (PLATFORM, 0, (23_606, 14_342, 15_500)),
        (PLATFORM._replace(shared=True), 0, (8374, 5254, 5644)),  # 10 -> 64 -> 64 -> 2 * 27, the network of the authors' Platform curve
        (wm.Spec(17, 3, 2, "sequential"), 5504, (13_346, 11_266, 11_396)),  # the authors count two layers that no output depends on
        (wm.Spec(4, 16, 1), 0, (6088, 5698, 5828)),
        (wm.Spec(4, 256, 1), 0, (21_448, 21_058, 21_188)),
        (wm.Spec(4, 1024, 1), 0, (70_600, 70_210, 70_340)),
    ],
)
def test_parameter_counts_of_the_authors_networks(spec: wm.Spec, unused: int, counts: tuple[int, ...]) -> None:
    params = jax.eval_shape(lambda: wm.init(KEY, spec))
    assert tuple(count(params[name]) + unused for name in ("dynamics", "reward", "going")) == counts
    assert "last_reward" not in params
    assert count(jax.eval_shape(lambda: wm.init(KEY, spec._replace(two_rewards=True)))["last_reward"]) + unused == counts[1]


@pytest.mark.parametrize("structure", wm.STRUCTURES)
def test_untrained_means_are_zero_and_deviations_one(structure: str) -> None:
    params = wm.init_head(KEY, PLATFORM._replace(structure=structure), 9)
    mean, log_std = wm.apply_head(
        params, PLATFORM._replace(structure=structure), jnp.ones((5, 9)), jnp.arange(5) % 3, jnp.ones((5, 1)), True
    )
    assert float(jnp.abs(mean).max()) < 0.05
    assert float(jnp.abs(log_std).max()) < 0.05
    assert float(jnp.abs(params["first"]["kernel"]).max()) == pytest.approx(64**-0.5, rel=0.02)
    assert float(jnp.abs(params["second"]["kernel"]).max()) == pytest.approx((192 if structure == "masking" else 64) ** -0.5, rel=0.02)
    assert np.unique(params["first"]["bias"]) == np.float32(0.1)


def layers(params: dict[str, dict[str, np.ndarray]], name: str, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])


@pytest.mark.parametrize(("structure", "code"), [(s, "one-hot") for s in wm.STRUCTURES] + [("parallel", "bits"), ("sequential", "bits")])
def test_structures_read_what_they_should(structure: str, code: str) -> None:
    """Against one sample in plain numpy; a looked-up action gives what a multiplied one does."""
    for num in (3, 80):
        spec = wm.Spec(4, num, 2, structure, width=8, code=code)
        params = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape) * 0.3, wm.init_head(KEY, spec, 5))
        obs, z, k = np.asarray([0.1, -0.2, 0.3, 0.4]), np.asarray([0.5, -0.6]), num - 1
        shown = np.eye(num)[k] if code == "one-hot" else np.asarray([k >> i & 1 for i in range(spec.code_size)])
        read = {"parallel": [obs, shown, z], "masking": [obs, z], "sequential": [obs, shown]}[structure]
        h = np.maximum(layers(params, "first", np.concatenate(read)), 0.0)
        h = np.concatenate([h, z]) if structure == "sequential" else h
        h = np.maximum(layers(params, "second", h), 0.0)
        expected = [layers(params, name, h) for name in ("mean", "log_std")]
        expected = [x.reshape(num, 5)[k] for x in expected] if structure == "masking" else expected
        mean, log_std = wm.apply_head(params, spec, jnp.asarray(obs)[None], jnp.asarray([k]), jnp.asarray(z)[None], True)
        np.testing.assert_allclose(mean[0], expected[0], rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(log_std[0], np.clip(expected[1], -20, 2), rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(
            wm.apply_head(params, spec, jnp.asarray(obs)[None], jnp.asarray([k]), jnp.asarray(z)[None], False)[0], mean
        )


def model(reward: float, last: float, logit: float) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """A model of CATCH whose outputs are constants: states 0, rewards, and logits (0, logit), nearly without noise."""
    params = jax.tree.map(jnp.zeros_like, wm.init(KEY, CATCH))
    for name, bias in (("reward", [reward]), ("last_reward", [last]), ("going", [0.0, logit]), ("dynamics", [0.0] * 6)):
        params[name]["mean"]["bias"] = jnp.asarray(bias)
        params[name]["log_std"]["bias"] = jnp.full(len(bias), -30.0)
    return params


@pytest.mark.parametrize("noise", [None, wm.draw_noise(KEY, CATCH, 2, 3)])
def test_imagined_returns(noise: jax.Array | None) -> None:
    plans = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3, 1))
    going = wm.returns(model(2.0, 7.0, 1.0), CATCH, noise, jnp.zeros(6), plans, jnp.asarray(0.5))
    ends = wm.returns(model(2.0, 7.0, -1.0), CATCH, noise, jnp.zeros(6), plans, jnp.asarray(0.5))
    np.testing.assert_allclose(going, 2.0 * 1.75, rtol=1e-5)
    np.testing.assert_allclose(ends, 7.0, rtol=1e-5)  # the first step ends it, with the reward of those that end
    assert not np.any(wm.returns(model(np.nan, 0.0, 1.0), CATCH, noise, jnp.zeros(6), plans, jnp.asarray(0.5)))


@pytest.mark.parametrize(("logit", "expected"), [(1.0, 2.0 * 1.75 + 0.125 * 8.0), (-1.0, 7.0)])
def test_a_terminal_value_counts_where_the_plan_has_not_ended(logit: float, expected: float) -> None:
    plans = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3, 1))
    found = wm.returns(model(2.0, 7.0, logit), CATCH, None, jnp.zeros(6), plans, jnp.asarray(0.5), lambda obs: jnp.full(len(obs), 8.0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("structure", wm.STRUCTURES)
@pytest.mark.parametrize(("state_only", "blind"), [("none", ""), ("ends", "e"), ("outcomes", "er")])
def test_outcomes_of_the_state_alone(structure: str, state_only: str, blind: str) -> None:
    """The action moves a prediction or does not: of the next state always, of ends (e) and rewards (r) as told; so with draws."""
    spec = wm.Spec(4, 80, 2, structure, width=8, two_rewards=True, state_only=state_only)
    params = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), wm.init(KEY, spec))
    obs, actions = jnp.ones((2, 4)), (jnp.asarray([3, 70]), jnp.asarray([[0.5, -0.5], [-0.1, 0.9]]))
    for noise in (None, jnp.ones((2, 8))):
        states = wm.next_state(params, spec, obs, *actions, None if noise is None else noise[:, :4])
        found = wm.outcome(params, spec, obs, *actions, None if noise is None else noise[:, 4:])
        same = [bool((x[0] == x[1]).all()) for x in (states, found.logits, found.reward, found.last_reward)]
        assert same == [False, "e" in blind, "r" in blind, "r" in blind]


def test_a_residual_model_predicts_the_change() -> None:
    plain = CATCH._replace(residual=False)
    params, obs, action = wm.init(KEY, plain), jnp.full((2, 6), 7.0), (jnp.asarray([0, 1]), jnp.ones((2, 1)))
    for noise in (None, jnp.ones((2, 6))):
        change = wm.next_state(params, plain, obs, *action, noise)
        np.testing.assert_allclose(wm.next_state(params, plain._replace(residual=True), obs, *action, noise), 7.0 + change, rtol=1e-6)


def test_draws_differ_and_means_do_not() -> None:
    params, plans = wm.init(KEY, PLATFORM), (jnp.zeros((50, 4), jnp.int32), jnp.zeros((50, 4, 1)))
    draws = wm.draw_noise(KEY, PLATFORM, 50, 4)
    spread = [float(jnp.std(wm.returns(params, PLATFORM, noise, jnp.zeros(9), plans, jnp.asarray(0.99)))) for noise in (draws, None)]
    assert spread[0] > 0.1
    assert spread[1] < 1e-5


def test_the_loss_is_the_formula() -> None:
    """Two windows of two steps; the first ends with its first step."""
    going = jnp.asarray([[False, False], [True, False]])
    window = Window(
        jnp.zeros((2, 6)), jnp.zeros((2, 2), jnp.int32), jnp.zeros((2, 2, 1)), jnp.asarray([[20.0, 0.0], [-1.0, 19.0]]),
        jnp.ones((2, 2, 6)), going, jnp.asarray([[True, False], [True, True]]),
    )  # fmt: skip
    logits = jnp.asarray([[[0.3, 0.1], [0.2, 0.9]], [[-0.4, 0.2], [1.0, 0.5]]])
    reward, last = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([[18.0, 6.0], [7.0, 16.0]])
    steps = wm.Prediction(jnp.full((2, 2, 6), 0.5), reward, last, logits)
    log = jax.nn.log_softmax(logits)
    ce = -np.asarray([[log[0, 0, 0], log[0, 1, 0]], [log[1, 0, 1], log[1, 1, 0]]])
    expected = {
        "state": np.mean([0.25, 0.25 + 0.5 * 0.25]),
        "reward": np.mean([4.0, 16.0 + 0.5 * 9.0]),
        "going": np.mean([ce[0, 0], ce[1, 0] + 0.5 * ce[1, 1]]),
    }
    found = wm.losses(CATCH, steps, window, jnp.asarray(0.5))
    for name, x in expected.items():
        assert float(found[name]) == pytest.approx(x, rel=1e-5)
    authors = wm.losses(CATCH, steps, window, jnp.asarray(0.5), "authors")
    assert float(authors["going"]) == pytest.approx(ce[:, 0].mean() + 0.5 * 0.5 * ce[:, 1].mean(), rel=1e-5)
    assert float(authors["state"]) == float(found["state"])
    perfect = wm.losses(
        CATCH, steps._replace(next_obs=window.next_obs, reward=window.reward, last_reward=window.reward), window, jnp.asarray(0.5)
    )
    assert float(perfect["state"]) == float(perfect["reward"]) == 0.0


def test_authors_learn_from_a_step_behind_a_cut_and_the_definition_does_not() -> None:
    window = Window(jnp.zeros((1, 6)), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1, 6)),
                    jnp.zeros((1, 1), bool), jnp.zeros((1, 1), bool))  # fmt: skip
    steps = wm.Prediction(jnp.ones((1, 1, 6)), jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1, 2)))
    assert [float(x) for x in wm.losses(CATCH, steps, window, jnp.asarray(0.5)).values()] == [0.0, 0.0, 0.0]
    authors = wm.losses(CATCH, steps, window, jnp.asarray(0.5), "authors")
    assert [float(authors[name]) for name in ("state", "reward", "going")] == pytest.approx([1.0, 1.0, np.log(2.0)], rel=1e-6)


def test_rewards_and_ends_teach_the_dynamics_too() -> None:
    window = Window(jnp.ones((4, 6)), jnp.zeros((4, 2), jnp.int32), jnp.zeros((4, 2, 1)), jnp.ones((4, 2)), jnp.ones((4, 2, 6)),
                    jnp.ones((4, 2), bool), jnp.ones((4, 2), bool))  # fmt: skip
    params = wm.init(KEY, CATCH)

    def term(params: object, name: str) -> jax.Array:
        return wm.losses(CATCH, wm.unroll(params, CATCH, wm.draw_noise(KEY, CATCH, 4, 2), window), window, jnp.asarray(0.5))[name]

    for name in ("reward", "going"):
        grads = jax.jit(jax.grad(term), static_argnums=1)(params, name)
        assert float(jnp.abs(grads["dynamics"]["second"]["kernel"]).max()) > 0.0


@pytest.mark.parametrize(("block", "moved"), [(5, 0), (0, 3), (5, 4), (64, 64)])
@pytest.mark.parametrize("structure", wm.STRUCTURES)
def test_leaving_out_steps_behind_the_end_changes_no_loss_and_no_gradient(structure: str, block: int, moved: int) -> None:
    """Windows that end after 1 to 4 of 4 steps, some by a cut; steps that do not count are predicted as zeros."""
    spec = wm.Spec(6, 3, 1, structure, 8, reward="linear", two_rewards=True)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), wm.init(KEY, spec))
    length = jnp.arange(8)[:, None] % 4 + 1
    inside = jnp.arange(4) < length
    going = inside & ((jnp.arange(4) < length - 1) | (jnp.arange(8)[:, None] < 4))
    numbers = jax.random.uniform(jax.random.key(1), (8, 4, 6))
    window = Window(numbers[:, 0], jnp.arange(32).reshape(8, 4) % 3, numbers[..., :1], numbers[..., 1], numbers, going, inside)
    counted, noise = wm.counted(window), wm.draw_noise(KEY, spec, 8, 4)
    assert counted.tolist() == inside.tolist()

    def total(params: Any, block: int, moved: int) -> jax.Array:
        steps = wm.unroll(params, spec, noise, window, counted, block, moved)
        return sum(wm.losses(spec, steps, window, jnp.asarray(0.9)).values(), jnp.zeros(()))

    (value, grads), (whole, want) = (
        jax.jit(jax.value_and_grad(total), static_argnums=(1, 2))(params, *blocks) for blocks in ((block, moved), (0, 0))
    )
    assert float(value) == pytest.approx(float(whole), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, want)
    steps, ends = wm.unroll(params, spec, noise, window, counted, block, moved), np.asarray(inside)
    assert np.asarray(steps.reward)[ends].all()
    assert np.asarray(steps.next_obs)[ends].all()
    assert bool(np.asarray(steps.reward)[~ends].any()) == (block == 0)
    assert bool(np.asarray(steps.next_obs)[~ends].any()) == (moved == 0)


@pytest.mark.parametrize("block", [4, 16, 37, 64])
@pytest.mark.parametrize("members", [0, 2])
def test_leaving_out_plans_that_have_ended_changes_no_number(block: int, members: int) -> None:
    """The same returns by blocks as all at once, for plans that end at different steps, under vmap too; 37 plans fill no block of 16."""
    spec = wm.Spec(3, 3, 1, "masking", 8, reward="linear", two_rewards=True)
    keys = jax.random.split(jax.random.key(0), max(members, 1))
    params = jax.vmap(lambda key: wm.init(key, spec))(keys)
    key_k, key_z = jax.random.split(jax.random.key(1))
    plans = jax.random.randint(key_k, (37, 5), 0, 3), jax.random.uniform(key_z, (37, 5, 1), minval=-1.0)

    def value(obs: jax.Array) -> jax.Array:
        return 10.0 + obs[:, 0]

    def returns(params: Any, key: jax.Array, block: int) -> jax.Array:
        noise = wm.draw_noise(key, spec, *plans[0].shape)
        return wm.returns(params, spec, noise, jnp.ones(3), plans, jnp.float32(0.9), value, block)

    if members:
        whole, blocks = (jax.vmap(lambda p, key, b=b: returns(p, key, b))(params, keys) for b in (0, block))
    else:
        one = jax.tree.map(lambda x: x[0], params)
        whole, blocks = (returns(one, keys[0], b) for b in (0, block))
    worth_the_value = whole > 5.0  # those that are alive at the end: 10 * 0.9**5
    assert 0 < jnp.sum(worth_the_value) < whole.size
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-5)
