"""Chemical: the invariants of the published environment (E1-E9 of its fact sheet), drift, scripted policies, the picture, mistakes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make
from causal_jax.envs.chemical import RULES, ChemicalState, graphs, mechanism_probs, noisy_encoding
from causal_jax.envs.chemical_policies import lookahead, policies
from causal_jax.types import UserError

N, C = 10, 5
NAMES = {rule: f"chemical-{rule.replace('_', '-')}" for rule in RULES}


@partial(jax.jit, static_argnums=0)
def steps(env, params, keys, colours, actions):
    """One step from each of `colours` [B, N] with `actions` [B]: (next colours [B, N], info)."""

    def one(key, colours, action):
        state = ChemicalState(colours=colours, target=colours, match=jnp.ones(colours.shape, bool), step=jnp.zeros((), jnp.int32))
        _, state, _, _, info = env.step_env(key, state, action, params)
        return state.colours, info

    return jax.device_get(jax.vmap(one)(keys, colours, actions))


def some(env, root=None, num=256, seed=0):
    """(keys, colours, actions, set object, its colour) of `num` random steps; root: the root's colour before."""
    key_colours, key_actions, key = jax.random.split(jax.random.key(seed), 3)
    colours = jax.random.randint(key_colours, (num, env.num_objects), 0, env.num_colours)
    colours = colours if root is None else colours.at[:, 0].set(root)
    actions = jax.random.randint(key_actions, (num,), 0, env.num_objects * env.num_colours)
    return jax.random.split(key, num), colours, actions, np.asarray(actions) // env.num_colours, np.asarray(actions) % env.num_colours


def test_e1_graphs():
    everywhere, fork = graphs("full_fork", N)
    _, chain = graphs("full_chain", N)
    np.testing.assert_array_equal(everywhere, np.tril(np.ones((N, N)), -1))
    assert everywhere.sum() == 45
    assert (np.argwhere(fork) == [[v, 0] for v in range(1, N)]).all()
    assert (np.argwhere(chain) == [[v, v - 1] for v in range(1, N)]).all()
    np.testing.assert_array_equal(*graphs("none", N))


@pytest.mark.parametrize("rule", RULES)
def test_e2_e3_what_a_step_may_change(rule):
    env, params = make(NAMES[rule])
    keys, colours, actions, node, colour = some(env, num=512)
    after, info = steps(env, params, keys, colours, actions)
    root = after[:, 0]
    index = np.arange(N)
    np.testing.assert_array_equal(after[np.arange(512), node], colour)
    kept = (index != node[:, None]) & ~info["resampled"]
    np.testing.assert_array_equal(after[kept], np.asarray(colours)[kept])
    expected = index > node[:, None]
    if rule == "full_fork":  # the root at 0 has all the children: setting another object changes that object alone
        expected &= ~((root == 0) & (node > 0))[:, None]
    np.testing.assert_array_equal(info["resampled"], expected)
    everywhere, local = graphs(rule, N)
    np.testing.assert_array_equal(info["parents"], np.where((root == 0)[:, None, None], local, everywhere))
    assert (np.asarray(colours)[:, 0] != root).any()  # the graph is that of the root after the action


def test_e4_away_from_0_later_objects_do_not_depend_on_what_they_were():
    env, params = make(NAMES["full_fork"])
    keys, colours, actions, node, _ = some(env, root=2)
    other = jnp.where(np.arange(N) > node[:, None], (colours + 1) % C, colours)
    same, _ = steps(env, params, keys, colours, actions)
    np.testing.assert_array_equal(steps(env, params, keys, other, actions)[0], same)


def test_e5_the_chain_forgets_all_but_the_object_before():
    env, params = make(NAMES["full_chain"])
    parents = env.parents_in_force(jnp.asarray(0))
    colours = jax.random.randint(jax.random.key(0), (N,), 0, C).at[0].set(0)
    probs = mechanism_probs(params, colours, parents)
    for u in range(1, N):
        moved = mechanism_probs(params, colours.at[u].set((colours[u] + 1) % C), parents)
        assert np.flatnonzero(np.abs(moved - probs).max(1) > 1e-6).tolist() == ([u + 1] if u + 1 < N else [])
    np.testing.assert_allclose(probs[1:].sum(1), 1.0, rtol=1e-5)
    assert not probs[0].any()


@partial(jax.jit, static_argnums=0)
def play(env, params, level, which, keys):
    """Episodes [rows, episodes], one row per level and policy: `which` counts through POLICIES."""

    def one(key, level, which):
        world = params.replace(level=level)
        acts = {**policies(env), **({"lookahead": lookahead(env, world)} if env.drift else {})}
        return rollout.evaluate(key, env, world, lambda key, obs: jax.lax.switch(which, [*acts.values()], key, obs), 25)

    return jax.vmap(lambda level, which: jax.vmap(one, (0, None, None))(keys, level, which))(level, which)


@pytest.fixture(scope="module")
def fork_episodes():
    """{policy: 200 episodes at each of the levels 2, 4, 6} on the fork, in one program."""
    env, params = make(NAMES["full_fork"], seed=3)
    names = [*policies(env)]
    wanted = ["random", "idle", "persistence_lowest", "persistence_random"]
    levels, which = np.tile([2, 4, 6], 4), np.repeat([names.index(name) for name in wanted], 3)
    episodes = jax.device_get(play(env, params, levels, which, jax.random.split(jax.random.key(3), 200)))
    return {name: jax.tree.map(lambda x, i=i: x[3 * i : 3 * i + 3], episodes) for i, name in enumerate(wanted)}


def test_e6_persistence_and_idle_have_exact_returns_on_the_fork(fork_episodes):
    for name in ("persistence_lowest", "persistence_random"):
        np.testing.assert_allclose(fork_episodes[name].total, np.tile([[22.375], [23 + 1 / 3], [24.25]], 200), rtol=1e-6)
        assert fork_episodes[name].success.all()
    np.testing.assert_allclose(fork_episodes["idle"].total, np.tile([[25 / 8], [25 / 6], [25 / 4]], 200), rtol=1e-6)
    assert not fork_episodes["idle"].success.any()
    assert (fork_episodes["idle"].length == 25).all()


@pytest.mark.parametrize("rule", ["full_fork", "full_chain"])
def test_e7_starts_and_targets(rule):
    env, params = make(NAMES[rule])
    start = jax.jit(jax.vmap(lambda key, level: env.reset(key, params.replace(level=level))[1], (0, None)))
    keys = jax.random.split(jax.random.key(0), 512)
    train = start(keys, 0)
    np.testing.assert_array_equal(train.target[:, 0], train.colours[:, 0])
    np.testing.assert_allclose(np.bincount(train.colours[:, 0], minlength=C), 512 / C, atol=45)
    assert train.match.all()
    assert (train.target != train.colours).any()
    keep = {"full_fork": {2: 2, 4: 4, 6: 6}, "full_chain": {2: 5, 4: 6, 6: 7}}[rule]
    for level, last in keep.items():
        test = start(keys, level)
        assert not test.colours[:, 0].any()
        np.testing.assert_array_equal((test.target - test.colours) % C, np.broadcast_to(np.arange(N) > last, (512, N)))
        np.testing.assert_array_equal(test.match[0], [v == 0 or v > level for v in range(N)])


@pytest.mark.parametrize("rule", RULES)
def test_training_target_is_distributed_as_after_ten_interventions(rule):
    """Our one sweep against ten steps of the environment, from the same starts: the joint distribution of start and target agrees."""
    env, params = make(NAMES[rule], num_objects=4, num_colours=2, seed=1)
    keys = jax.random.split(jax.random.key(0), 6000)

    @jax.jit
    @jax.vmap
    def both(key):
        key_reset, key_nodes, key_colours, key_steps = jax.random.split(key, 4)
        state = env.reset(key_reset, params)[1]
        nodes, colours = jax.random.randint(key_nodes, (10,), 1, 4), jax.random.randint(key_colours, (10,), 0, 2)

        def one(state, inputs):
            key, action = inputs
            return env.step_env(key, state, action, params)[1], None

        stepped = jax.lax.scan(one, state, (jax.random.split(key_steps, 10), 2 * nodes + colours))[0]
        place = 2 ** jnp.arange(8)
        return tuple(jnp.sum(jnp.concatenate([state.colours, target]) * place) for target in (state.target, stepped.colours))

    ours, theirs = (np.bincount(x, minlength=256) for x in both(keys))
    pooled = (ours + theirs) / 2
    chi2 = ((ours - theirs) ** 2 / (2 * np.maximum(pooled, 1))).sum()
    freedom = (pooled > 0).sum() - 1
    assert freedom > 60
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_draws_follow_the_mechanisms():
    env, params = make(NAMES["full_fork"], num_objects=4, num_colours=3)
    num = 4000
    keys = jax.random.split(jax.random.key(5), num)
    for action in (0, 1):  # the root to 0: fork; to 1: everything below
        after, info = steps(env, params, keys, jnp.ones((num, 4), jnp.int32), jnp.full((num,), action))
        probs = np.asarray(jax.vmap(mechanism_probs, (None, 0, 0))(params, after, info["parents"]))
        drawn = np.eye(3)[after]
        gap = (drawn - probs)[:, 1:]  # zero mean, given everything before
        assert (np.abs(gap.mean(0)) < 5 * gap.std(0) / np.sqrt(num)).all()
        assert np.abs(drawn[:, 1:].mean(0) - 1 / 3).max() > 0.05


def test_e8_random_returns_and_how_often_the_root_is_0(fork_episodes):
    np.testing.assert_allclose(fork_episodes["random"].total.mean(1), [5.13, 5.45, 6.1], atol=0.5)
    env, params = make(NAMES["full_fork"])  # the root is what the last action on it made it, or 0 as at the start
    keys, colours, actions, node, colour = some(env, num=512)
    after, _ = steps(env, params, keys, colours, actions)
    np.testing.assert_array_equal(after[:, 0], np.where(node == 0, colour, colours[:, 0]))
    assert np.mean([1 / C + (1 - 1 / C) * (1 - 1 / N) ** t for t in range(1, 26)]) == pytest.approx(0.467, abs=5e-4)


def test_e8_random_returns_on_the_chain():
    env, params = make(NAMES["full_chain"], seed=3)
    which = np.full(3, [*policies(env)].index("random"))
    played = play(env, params, np.asarray([2, 4, 6]), which, jax.random.split(jax.random.key(3), 200))
    np.testing.assert_allclose(played.total.mean(1), [6.14, 6.25, 6.7], atol=0.5)


def test_e9_valid_starts_of_three_steps():
    env, params = make(NAMES["full_fork"], num_objects=4)
    act = lambda key, obs: (env.action_space(params).sample(key), {})  # noqa: E731
    cursor = rollout.start(jax.random.key(0), env, params)
    _, transitions, episodes = jax.jit(lambda cursor: rollout.unroll(jax.random.key(1), env, params, act, cursor, 75))(cursor)
    done = np.asarray(episodes["done"])
    assert np.flatnonzero(done).tolist() == [24, 49, 74]
    assert not transitions.terminated.any()
    crosses = [done[t : t + 2].any() for t in range(50)]
    assert np.sum(~np.asarray(crosses)) == 2 * 23
    same = np.asarray(transitions.next_obs[:-1] == transitions.obs[1:]).all(1)
    np.testing.assert_array_equal(same, ~done[:-1])


def test_a_start_that_is_computed_only_when_needed_is_the_same_start():
    env, params = make(NAMES["full_fork"], num_objects=3, num_colours=3, max_steps=3)
    keys = jax.random.split(jax.random.key(0), (2, 3))
    _, state = jax.vmap(jax.vmap(lambda key: env.reset(key, params)))(keys)
    state = state.replace(step=jnp.asarray([[2, 0, 1], [0, 1, 1]]))  # one of six is about to end
    actions = jnp.full((2, 3), 7)

    def by_hand(key, state, action):
        key_step, key_reset = jax.random.split(key)
        obs, state, *rest = env.step_env(key_step, state, action, params)
        return jax.tree.map(partial(jnp.where, env.is_truncated(state, params)), env.reset_env(key_reset, params), (obs, state)), rest[0]

    expected = jax.jit(jax.vmap(jax.vmap(by_hand)))(keys, state, actions)
    step = lambda *args: env.step(*args, params)[:3]  # noqa: E731
    obs, next_state, reward = jax.jit(jax.vmap(jax.vmap(step)))(keys, state, actions)
    assert next_state.step.tolist() == [[0, 1, 2], [1, 2, 2]]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), ((obs, next_state), reward), expected)
    one = jax.jit(step)(*jax.tree.map(lambda x: x[0, 0], (keys, state, actions)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), one, jax.tree.map(lambda x: x[0, 0], (obs, next_state, reward)))
    text = jax.jit(jax.vmap(step)).lower(*jax.tree.map(lambda x: x[0], (keys, state, actions))).as_text()
    assert "stablehlo.case" in text  # a real condition, no select over both sides


def test_observation_shows_noise_on_the_noisy_objects_only():
    env, params = make(NAMES["full_fork"], level=3, num_objects=6)
    obs, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 200), params)
    seen = jax.vmap(env.read)(obs)
    one_hot = np.eye(C)[state.colours]
    clean = [0, 4, 5]
    np.testing.assert_array_equal(seen.features[:, clean], one_hot[:, clean])
    assert not np.asarray(seen.features)[one_hot == 0].any()  # cold entries stay 0
    noise = np.asarray(seen.features)[:, 1:4][one_hot[:, 1:4] == 1]
    assert noise.std() == pytest.approx(100, rel=0.1)
    assert abs(noise.mean()) < 15
    np.testing.assert_array_equal(seen.target, state.target)
    np.testing.assert_array_equal(seen.match, state.match)
    first, last = jax.tree.map(lambda x: x[0], state), 5 * C + state.colours[0, 5]
    again = env.read(jax.jit(env.step_env)(jax.random.key(1), first, last, params)[0])
    assert (np.asarray(again.features) != seen.features[0]).any(1).tolist() == [0 < v < 4 for v in range(6)]  # drawn anew each step
    np.testing.assert_array_equal(noisy_encoding(state.colours[0], jnp.ones((6, C)), 0), one_hot[0])


def test_mechanisms_are_orthogonal_and_differ():
    env, params = make(NAMES["none"], seed=4)
    drawn = jax.jit(env.draw_params)(jax.random.key(0))
    for p in (params, drawn):
        np.testing.assert_allclose(jnp.einsum("vio,vip->vop", p.mlp_w1, p.mlp_w1), np.broadcast_to(9 * np.eye(40), (N, 40, 40)), atol=1e-4)
        np.testing.assert_allclose(jnp.einsum("vio,vip->vop", p.mlp_w2, p.mlp_w2), np.broadcast_to(9 * np.eye(5), (N, 5, 5)), atol=1e-4)
        assert 0.15 < float(jnp.abs(p.mlp_b1).max()) <= 0.2
        assert float(jnp.abs(p.mlp_w1[0] - p.mlp_w1[1]).max()) > 0.5
    assert float(jnp.abs(params.mlp_w1 - make(NAMES["none"], seed=5)[1].mlp_w1).max()) > 0.5
    few = make(NAMES["none"], num_objects=3, num_colours=2)[1].mlp_w1  # fewer inputs than hidden units: the rows are orthogonal
    np.testing.assert_allclose(few[1] @ few[1].T, 9 * np.eye(6), atol=1e-4)


# --- drift


@pytest.mark.parametrize("rule", ["full_fork", "full_chain"])
def test_drift_redraws_everything_from_its_parents_before(rule):
    env, params = make(NAMES[rule] + "-drift", num_objects=5, num_colours=3)
    num = 3000
    colours = jnp.asarray([0, 2, 1, 0, 2])
    for action in (2 * 3 + 2, 1 * 3 + 0):  # object 2 can be set, object 1 cannot
        keys = jax.random.split(jax.random.key(action), num)
        after, info = steps(env, params, keys, jnp.tile(colours, (num, 1)), jnp.full((num,), action))
        settable = action // 3 == 2
        before = colours.at[2].set(2) if settable else colours
        assert info["resampled"][0].tolist() == [False, True, not settable, True, True]
        assert not after[:, 0].any()
        assert not settable or (after[:, 2] == 2).all()
        np.testing.assert_array_equal(info["parents"][0], graphs(rule, 5)[1])
        probs = np.asarray(mechanism_probs(params, before, info["parents"][0]))
        found = np.eye(3)[after].mean(0)[info["resampled"][0]]
        expected = probs[info["resampled"][0]]
        assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / num) + 1e-3).all()


@pytest.mark.parametrize(("rule", "gap"), [("full_fork", 4.0), ("full_chain", 1.5)])
def test_drift_rewards_who_knows_the_causes_and_not_persistence(rule, gap):
    env, params = make(NAMES[rule] + "-drift", num_objects=6, seed=1)
    names = [*policies(env), "lookahead"]
    which = [names.index(name) for name in ("idle", "persistence_lowest", "root0", "lookahead")]
    played = play(env, params, jnp.full(4, 2), jnp.asarray(which), jax.random.split(jax.random.key(0), 128))
    idle, persistence, root0, causal = np.asarray(played.total)
    np.testing.assert_array_equal(persistence, idle)  # what counts cannot be set: all it does is wait
    assert causal.mean() > idle.mean() + gap
    assert root0.mean() > idle.mean() + gap if rule == "full_fork" else (root0 == idle).all()  # the chain starts there


def test_drift_starts_where_the_lever_is_needed():
    for rule in ("full_fork", "full_chain"):
        env, params = make(NAMES[rule] + "-drift", level=4)
        state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 300), params)[1]
        assert set(np.unique(state.colours[:, 0])) == ({0} if rule == "full_chain" else {1, 2, 3, 4})
        assert np.flatnonzero(state.match[0]).tolist() == [5, 7, 9]
        even = np.arange(N) % 2 == 0
        np.testing.assert_array_equal(state.target[:, even], state.colours[:, even])
        made = jnp.asarray([0, *range(C), *range(C - 1)])  # some parents' colours
        likely = mechanism_probs(params, made, env.parents_in_force(jnp.asarray(0))).argmax(-1)
        assert all(likely[v] in state.target[:, v] for v in (1, 3, 5, 7, 9))
        num_targets = [len(np.unique(state.target[:, v])) for v in (1, 3, 5, 7, 9)]
        assert num_targets == [1] * 5 if rule == "full_fork" else num_targets[0] == 1 < max(num_targets)  # the root is 0


# --- pictures and mistakes


def test_picture_lights_the_edges_in_force():
    env, params = make(NAMES["full_fork"])
    state = env.reset(jax.random.key(0), params)[1].replace(colours=jnp.zeros(N, jnp.int32), target=jnp.ones(N, jnp.int32))
    local, everywhere = env.render(state, params), env.render(state.replace(colours=state.colours.at[0].set(1)), params)
    assert (local.shape, local.dtype) == ((240, 240, 3), np.uint8)
    lit = [(image == (70, 74, 82)).all(-1).sum() for image in (local, everywhere)]
    assert 0 < lit[0] < lit[1] / 2
    top = round(240 * (0.5 - 0.38))
    assert local[top, 120].tolist() == [214, 69, 65]
    assert everywhere[top, 120].tolist() == [38, 110, 196]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("chemical-full-frk", {}, "env = 'chemical-full-frk': unknown, did you mean chemical-full-fork"),
        ("chemical-full-fork", {"level": 9}, "level = 9: must be 0 <= level <= num_objects - 2 = 8"),
        ("chemical-full-fork-drift", {"num_objects": 9, "level": 7}, "level = 7: must be 0 <= level <= num_objects - 3 = 6"),
        ("chemical-full-fork", {"num_objects": 2}, "chemical-full-fork: num_objects = 2: must be 3 <= x <= 20"),
        ("chemical-none", {"rule": "full_fork"}, "chemical-none: rule = 'full_fork': unknown option, chemical-none has num_objects"),
    ],
)
def test_one_line_per_mistake(name, options, told):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert str(error.value).startswith(told)
