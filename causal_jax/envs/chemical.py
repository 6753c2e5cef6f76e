"""Chemical: N objects whose colours cause each other, along a graph that depends on the first colour (FCDL, arXiv 2406.03234).

An action `a` sets object `a // C` to colour `a % C`. Object v's mechanism is a small network of the colours of the lower objects,
softmax, then a draw. While object 0 (the root) has colour 0 only a local graph is in force: `full_fork` (the root is every object's
one parent) or `full_chain` (the object before); `none` has no such context. One step: the colour is set; the root's colour after that
selects the parents; then, in order, every object with a parent that changed in this step is redrawn from the new colours.

Tasks (`level` in params, so that one program plays all of them): 0 is training: the target is the start after ten random interventions,
every object counts. n > 0 is the test with n noisy objects: the root starts at colour 0, objects 1..n do not count and are seen
times a normal draw times 100, the target differs from the start in the last objects only.

Drift (`chemical-*-drift`, ours): nothing stays by itself. Every object but the root and the one just set is redrawn each step, all at
once, from the colours before, so the graph in force is exactly the graph from one time to the next; actions on odd objects do nothing
and only odd objects count, so a target is reached through its parents or not at all, and a planner that supposes the rest to stand
still does no better than waiting. The target is what the mechanisms most likely make of random parents in the context of a root colour,
0 in the tests. In that context the fork's only lever is the root, which starts at another colour; the chain's are the even objects,
and the root starts at 0. The last layers of the mechanisms are scaled by DRIFT_GAIN, so that parents tell more about their children.
Returns at n = 2, 4, 6 (5 seeds): fork waiting 8.7, 7.4, 7.3, holding the root at 0 17.9, 17.6, 17.7, one step of lookahead with the true
mechanisms 19.6, 20.3, 19.8; chain 11.7, 11.3, 11.4 (waiting and holding), lookahead 20.2, 21.0, 22.3.

From the authors' program (iwhwang/Fine-Grained-Causal-RL, chemical_env.py; numbers: tests/data/chemical.npz). Departures: the ten
interventions that make a training target are one sweep with the same distribution (an object's last word is what counts); float draws
by inverse CDF; the time limit is a truncation; `none` has test tasks, those of the fork, as a control.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment, Factors
from causal_jax.fields import option
from causal_jax.spaces import Box, Discrete
from causal_jax.types import Action, Key, UserError

HIDDEN = 40  # width of a mechanism
GAIN, BIAS = 3.0, 0.2  # its weights are orthogonal times GAIN, its biases uniform in +-BIAS
NUM_TARGET_ACTIONS = 10
DRIFT_GAIN = 4.0
RULES = ("full_fork", "full_chain", "none")


@struct.dataclass
class ChemicalState:
    """`colours` int32 [N], `target` int32 [N], `match` bool [N] (the objects that count), `step` int32 []: steps taken."""

    colours: jax.Array
    target: jax.Array
    match: jax.Array
    step: jax.Array


@struct.dataclass
class ChemicalParams:
    """One world and task, all arrays. Mechanism of object v: softmax(relu(x @ mlp_w1[v] + mlp_b1[v]) @ mlp_w2[v] + mlp_b2[v])."""

    mlp_w1: jax.Array  # [N, N*C, 40]; row u*C + c reads "object u has colour c"
    mlp_b1: jax.Array  # [N, 40]
    mlp_w2: jax.Array  # [N, 40, C]
    mlp_b2: jax.Array  # [N, C]
    level: jax.Array  # [] int32: 0 the training task, n > 0 the test task with n noisy objects
    noise_scale: jax.Array  # [] what the noisy objects' normal draws are multiplied by
    max_steps: jax.Array  # [] int32


class Seen(NamedTuple):
    """An observation taken apart: `features` [N, C] (one-hot colours, noise included), `target` int32 [N], `match` bool [N]."""

    features: jax.Array
    target: jax.Array
    match: jax.Array


def graphs(rule: str, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """(global, local) parents, bool [N, N], row = child: the strictly lower triangle, and what is in force while the root has colour 0."""
    everywhere = np.tril(np.ones((num_objects, num_objects), bool), -1)
    local = everywhere.copy()
    if rule == "full_fork":
        local[:, 1:] = False
    elif rule == "full_chain":
        local = np.eye(num_objects, k=-1, dtype=bool)
    return everywhere, local


def draw_mechanisms(key: Key, num_objects: int, num_colours: int, gain: float = 1.0) -> dict[str, jax.Array]:
    """Fresh mechanisms {"mlp_w1", "mlp_b1", "mlp_w2", "mlp_b2"}, shapes as in ChemicalParams; `gain` scales the last layer.

    Orthogonal weights (gain 3) and biases uniform in +-0.2, one network per object (that of object 0 is never used). The key is consumed.
    """
    keys = jax.random.split(key, 4)
    first, second = _shapes(num_objects, num_colours)
    draws = [jax.random.normal(keys[0], first), jax.random.normal(keys[1], second)]
    draws += [jax.random.uniform(keys[2], (first[0], first[2])), jax.random.uniform(keys[3], (second[0], second[2]))]
    return _mechanisms(jnp, draws, gain)


def _shapes(num_objects: int, num_colours: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The shapes of the two layers of weights."""
    return (num_objects, num_objects * num_colours, HIDDEN), (num_objects, HIDDEN, num_colours)


def _mechanisms(xp: Any, draws: list[Any], gain: float) -> dict[str, Any]:
    """Mechanisms made of standard normal and of uniform [0, 1) draws, with module `xp` (numpy or jax.numpy)."""

    def orthogonal(x: Any) -> Any:
        wide = x.shape[1] < x.shape[2]
        q, r = xp.linalg.qr(xp.swapaxes(x, 1, 2) if wide else x)
        q = GAIN * q * xp.sign(xp.diagonal(r, axis1=1, axis2=2))[:, None]
        return xp.swapaxes(q, 1, 2) if wide else q

    normal1, normal2, uniform1, uniform2 = draws
    return {
        "mlp_w1": orthogonal(normal1),
        "mlp_b1": BIAS * (2 * uniform1 - 1),
        "mlp_w2": gain * orthogonal(normal2),
        "mlp_b2": gain * BIAS * (2 * uniform2 - 1),
    }


def mechanism_probs(params: ChemicalParams, colours: jax.Array, parents: jax.Array) -> jax.Array:
    """Every object's mechanism, given colours and parents: float32 [N, C], row v = P(colour of v | its parents' colours); row 0 is 0.

    Args: colours: int [N], in a step those after it (under drift those before it, the action's included). parents: [N, N], row = child.
    """
    num_objects, num_colours = params.mlp_b2.shape
    one_hot = jax.nn.one_hot(colours, num_colours)
    x = (jnp.asarray(parents, jnp.float32)[:, :, None] * one_hot).reshape(num_objects, num_objects * num_colours)
    hidden = jax.nn.relu(jnp.einsum("vi,vih->vh", x, params.mlp_w1) + params.mlp_b1)
    probs = jax.nn.softmax(jnp.einsum("vh,vhc->vc", hidden, params.mlp_w2) + params.mlp_b2)
    return probs.at[0].set(0.0)


def _whole(uniforms: jax.Array, num: int) -> jax.Array:
    """int32 [...]: uniform in [0, num), from uniform numbers in [0, 1)."""
    return jnp.minimum((uniforms * num).astype(jnp.int32), num - 1)


def noisy_encoding(colours: jax.Array, normals: jax.Array, level: Any, noise_scale: Any = 100.0) -> jax.Array:
    """One-hot colours, float32 [N, C]; those of objects 1..level times `normals` times `noise_scale`.

    Args: colours: int [N]. normals: [N, C], standard normal draws; only those of the noisy objects' colours matter.
      level: int [], how many objects are noisy.
    """
    one_hot = jax.nn.one_hot(colours, normals.shape[-1])
    index = jnp.arange(colours.shape[0])[:, None]
    return jnp.where((index >= 1) & (index <= level), one_hot * normals * noise_scale, one_hot)


def _draw(uniform: jax.Array, logits: jax.Array) -> jax.Array:
    """int32 []: a colour drawn from `logits` [C], by inverse CDF of `uniform` [] in [0, 1)."""
    weights = jnp.exp(logits - jnp.max(logits))
    edges = [weights[0]]
    for c in range(1, logits.shape[0]):
        edges.append(edges[-1] + weights[c])
    threshold = uniform * edges[-1]
    return sum(((threshold >= edge).astype(jnp.int32) for edge in edges[:-1]), start=jnp.zeros((), jnp.int32))


def _redraw(
    uniforms: jax.Array, params: ChemicalParams, colours: jax.Array, redrawn: jax.Array, local: jax.Array, rule: str, at_once: bool = False
) -> jax.Array:
    """The colours [N] after the objects `redrawn` [N] are drawn in order, each from the colours that its parents then have.

    With `at_once` from the colours that they had before. A network's first layer reads one row of weights per parent, so rows are added
    instead of multiplied with one-hot colours: three times faster. `local` []: the local graph is in force, and the row of an object
    that is then no parent is a row of zeros.
    """
    num_objects, num_colours = params.mlp_b2.shape
    _, in_local = graphs(rule, num_objects)
    rows = jnp.pad(params.mlp_w1, ((0, 0), (0, 1), (0, 0)))
    before, now = list(colours), list(colours)
    for v in range(1, num_objects):
        hidden = params.mlp_b1[v]
        for u in range(v):
            row = u * num_colours + (before if at_once else now)[u]
            row = row if in_local[v, u] else jnp.where(local, num_objects * num_colours, row)
            hidden = hidden + rows[v].at[row].get(mode="promise_in_bounds")
        drawn = _draw(uniforms[v], jax.nn.relu(hidden) @ params.mlp_w2[v] + params.mlp_b2[v])
        now[v] = jnp.where(redrawn[v], drawn, now[v])
    return jnp.stack(now)


@dataclasses.dataclass(frozen=True)
class Chemical(Environment):
    """The environment. The observation is float32 [2 N C + N]: the (noisy) one-hot colours, the one-hot target, what counts."""

    rule: str = option("full_fork", choices=RULES)
    """The local graph."""
    drift: bool = False
    """Everything that is not set is redrawn each step, and targets are reached through their parents only."""
    num_objects: int = option(10, low=3, high=20)
    """N, nodes of the graph."""
    num_colours: int = option(5, low=2, high=20)
    """C, colours of each; there are N*C actions."""
    level: int = option(0, low=0)
    """0: the training task; n > 0: the test task with n noisy objects, at most N-2 (published: 2, 4, 6)."""
    noise_scale: float = option(100.0, low=0.0)
    """Standard deviation of the noise."""
    max_steps: int = option(25, low=1)
    """Length of an episode; none ends earlier."""
    seed: int = option(0, low=0, high=2**32 - 1)
    """The seed of the mechanisms in `default_params`; `draw_params` draws others."""

    costly_reset = True

    @property
    def default_params(self) -> ChemicalParams:
        """The mechanisms of `seed`, and the task."""
        least = 3 if self.drift and self.num_objects % 2 else 2  # something must count: under drift an odd object
        if self.level > self.num_objects - least:
            raise UserError(f"level = {self.level}: must be 0 <= level <= num_objects - {least} = {self.num_objects - least}")
        random = np.random.default_rng(self.seed)  # not `draw_params`: compiling that takes seconds
        shapes = _shapes(self.num_objects, self.num_colours)
        draws = [random.standard_normal(shape) for shape in shapes] + [random.random((shape[0], shape[2])) for shape in shapes]
        return self._params(_mechanisms(np, draws, self._gain))

    def draw_params(self, key: Key) -> ChemicalParams:
        """Params with fresh mechanisms. The key is consumed."""
        return self._params(draw_mechanisms(key, self.num_objects, self.num_colours, self._gain))

    @property
    def _gain(self) -> float:
        return DRIFT_GAIN if self.drift else 1.0

    def _params(self, mechanisms: dict[str, Any]) -> ChemicalParams:
        return ChemicalParams(
            **{name: jnp.asarray(x, jnp.float32) for name, x in mechanisms.items()},
            level=jnp.asarray(self.level, jnp.int32),
            noise_scale=jnp.asarray(self.noise_scale, jnp.float32),
            max_steps=jnp.asarray(self.max_steps, jnp.int32),
        )

    def action_space(self, params: ChemicalParams) -> Discrete:
        """N*C actions."""
        return Discrete(self.num_objects * self.num_colours)

    def observation_space(self, params: ChemicalParams) -> Box:
        """Unbounded: noise has no bound."""
        return Box(-jnp.inf, jnp.inf, ((2 * self.num_colours + 1) * self.num_objects,))

    def read(self, obs: jax.Array) -> Seen:
        """An observation [2 N C + N] taken apart; batched observations by vmap."""
        size = self.num_objects * self.num_colours
        features, target = obs[: 2 * size].reshape(2, self.num_objects, self.num_colours)
        return Seen(features, jnp.argmax(target, -1).astype(jnp.int32), obs[2 * size :] > 0.5)

    @property
    def settable(self) -> np.ndarray:
        """bool [N]: the objects that actions can set; under drift the even ones."""
        return (np.arange(self.num_objects) % 2 == 0) | (not self.drift)

    def parents_in_force(self, root: jax.Array) -> jax.Array:
        """bool [N, N], row = child: the parents while the root has colour `root` int []."""
        everywhere, local = graphs(self.rule, self.num_objects)
        return jnp.where(root == 0, local, everywhere)

    @property
    def factors(self) -> Factors:
        """N one-hot variables of C choices, one action; see `Factors` for this and the methods below."""
        return Factors(self.num_objects, self.num_colours, 1, self.num_objects * self.num_colours, discrete=True)

    @property
    def global_graph(self) -> np.ndarray:
        """bool [N, N + 1]: every object depends on all before it, on itself and on the action."""
        return np.tri(self.num_objects, self.num_objects + 1, dtype=bool) | (np.arange(self.num_objects + 1) == self.num_objects)

    def features(self, obs: jax.Array) -> jax.Array:
        """The colours as seen, [N, C]."""
        return self.read(obs).features

    def local_graph(self, features: jax.Array, action: jax.Array) -> jax.Array:
        """bool [N, N + 1]: the parents in force once `action` has set its colour, self edges and the action. Reads the root only."""
        root = jnp.where(action // self.num_colours == 0, action % self.num_colours, jnp.argmax(features[0]))
        seen = self.parents_in_force(root) | jnp.eye(self.num_objects, dtype=bool)
        return jnp.concatenate([seen, jnp.ones((self.num_objects, 1), bool)], axis=1)

    def imagined_reward(self, obs: jax.Array, values: jax.Array) -> jax.Array:
        """Share of what counts that has its target colour in `values` [N, C] (one-hot), []."""
        seen = self.read(obs)
        hits = jnp.take_along_axis(values, seen.target[:, None], axis=-1)[:, 0]
        return jnp.sum(hits * seen.match) / jnp.maximum(jnp.sum(seen.match), 1)

    def disturb(self, key: Key, values: jax.Array, params: ChemicalParams) -> jax.Array:
        """One-hot colours [N, C] with the noise of `params.level`. The key is consumed."""
        # of a noisy one-hot only the hot entry is not 0: one draw per object is as good as one per entry
        normals = jnp.broadcast_to(jax.random.normal(key, (self.num_objects, 1)), values.shape)
        return noisy_encoding(jnp.argmax(values, -1), normals, params.level, params.noise_scale)

    def in_tests(self, values: jax.Array) -> jax.Array:
        """bool []: the root has colour 0."""
        return jnp.argmax(values[0]) == 0

    def counted(self, params: ChemicalParams) -> jax.Array:
        """bool [N]: the objects that count."""
        return self._match(params.level)

    def tests(self, params: ChemicalParams) -> dict[str, ChemicalParams]:
        """The tests with 2, 4 and 6 noisy objects, as far as there are enough."""
        levels = [n for n in (2, 4, 6) if n <= self.num_objects - 2]
        return {f"n{n}": params.replace(level=jnp.full_like(params.level, n)) for n in levels}  # type: ignore[attr-defined]

    def _observe(self, key: Key, state: ChemicalState, params: ChemicalParams) -> jax.Array:
        features = self.disturb(key, jax.nn.one_hot(state.colours, self.num_colours), params)
        target = jax.nn.one_hot(state.target, self.num_colours)
        return jnp.concatenate([features.ravel(), target.ravel(), state.match.astype(jnp.float32)])

    def reset_env(self, key: Key, params: ChemicalParams) -> tuple[jax.Array, ChemicalState]:
        """A start and a target of the task `params.level`: (obs, state). The key is consumed."""
        key_task, key_noise = jax.random.split(key)
        start = self._drift_start(key_task, params) if self.drift else self._start(key_task, params)
        state = ChemicalState(*start, step=jnp.zeros((), jnp.int32))
        return self._observe(key_noise, state, params), state

    def _match(self, level: jax.Array) -> jax.Array:
        """bool [N]: what counts; in the tests the root and what is not noisy, under drift odd objects only."""
        index = jnp.arange(self.num_objects)
        return (index > level) & (index % 2 == 1) if self.drift else (index == 0) | (index > level)

    def _start(self, key: Key, params: ChemicalParams) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(colours, target, match) at reset, without drift."""
        num_objects, num_colours = self.num_objects, self.num_colours
        index, test = jnp.arange(num_objects), params.level > 0
        uniforms = jax.random.uniform(key, (2 * num_objects + NUM_TARGET_ACTIONS,))
        uniform = _whole(uniforms[:num_objects], num_colours)
        local = uniform[0] == 0
        train = _redraw(uniforms[:num_objects], params, uniform, index > 0, local, self.rule)
        # ten interventions in one sweep: what an object is in the end is decided by the last of them that sets or redraws it
        chosen = uniforms[2 * num_objects :] * (num_objects - 1)
        nodes = jnp.minimum(chosen.astype(jnp.int32), num_objects - 2)
        last, colours = jnp.zeros((num_objects,), jnp.int32), jnp.zeros((num_objects,))
        for node, colour in zip(nodes + 1, chosen - nodes, strict=True):
            changes = self._changes(node, local)
            last, colours = jnp.where(changes, node, last), jnp.where(changes, colour, colours)
        is_set = (last == index) & (index > 0)
        changed = jnp.where(is_set, _whole(colours, num_colours), train)
        train_target = _redraw(uniforms[num_objects:-NUM_TARGET_ACTIONS], params, changed, (last > 0) & ~is_set, local, self.rule)
        test_start = uniform.at[0].set(0)
        keep = (params.level + num_objects - 2) // 2 if self.rule == "full_chain" else params.level
        test_target = jnp.where(index <= keep, test_start, (test_start + 1) % num_colours)
        return jnp.where(test, test_start, train), jnp.where(test, test_target, train_target), self._match(params.level)

    def _drift_start(self, key: Key, params: ChemicalParams) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(colours, target, match) at reset, under drift."""
        num_objects, num_colours = self.num_objects, self.num_colours
        index, test = jnp.arange(num_objects), params.level > 0
        uniforms = jax.random.uniform(key, (2, num_objects))
        uniform, made = _whole(uniforms, num_colours)
        train = _redraw(uniforms[0], params, uniform, index > 0, uniform[0] == 0, self.rule)
        away = 0 if self.rule == "full_chain" else 1 + _whole(uniforms[0, 0], num_colours - 1)
        colours = jnp.where(test, uniform.at[0].set(away), train)
        made = made.at[0].set(jnp.where(test, 0, made[0]))
        likely = jnp.argmax(mechanism_probs(params, made, self.parents_in_force(made[0])), -1).astype(jnp.int32)
        # the levers' own targets would tell how to reach the others: they show the start instead
        return colours, jnp.where(index % 2 == 1, likely, colours), self._match(params.level)

    def _changes(self, node: jax.Array, local: jax.Array) -> jax.Array:
        """bool [N]: the objects that setting `node` [] sets or redraws: all its descendants in the graph in force."""
        index = jnp.arange(self.num_objects)
        alone = local & (node > 0) if self.rule == "full_fork" else False
        return (index == node) | ((index > node) & ~jnp.asarray(alone))

    def step_env(
        self, key: Key, state: ChemicalState, action: Action, params: ChemicalParams
    ) -> tuple[jax.Array, ChemicalState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [] = share of what counts that has its target colour, terminated [] False, info).

        info: "success" bool []: all that counts matches. "parents" bool [N, N], row = child: the graph in force in this step.
        "resampled" bool [N]: the objects drawn from their mechanisms. The action is an int [] in [0, N*C). The key is consumed.
        """
        key_draws, key_noise = jax.random.split(key)
        node, index = action // self.num_colours, jnp.arange(self.num_objects)
        is_set = (index == node) & self.settable
        before = jnp.where(is_set, action % self.num_colours, state.colours)
        uniforms = jax.random.uniform(key_draws, (self.num_objects,))
        local = before[0] == 0
        resampled = (index > 0 if self.drift else self._changes(node, local)) & ~is_set
        colours = _redraw(uniforms, params, before, resampled, local, self.rule, at_once=self.drift)
        state = ChemicalState(colours=colours, target=state.target, match=state.match, step=state.step + 1)
        matched, count = jnp.sum(state.match & (colours == state.target)), jnp.sum(state.match)
        info = {"success": matched == count, "parents": self.parents_in_force(before[0]), "resampled": resampled}
        reward = matched / jnp.maximum(count, 1)
        return self._observe(key_noise, state, params), state, reward.astype(jnp.float32), jnp.zeros((), bool), info

    def is_truncated(self, state: ChemicalState, params: ChemicalParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.step >= params.max_steps

    def render(self, state: ChemicalState, params: ChemicalParams, size: int = 240) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `chemical_picture.draw`. Not jittable."""
        from causal_jax.envs import chemical_picture

        colours, target, match = np.asarray(state.colours), np.asarray(state.target), np.asarray(state.match)
        everywhere, local = graphs(self.rule, self.num_objects)
        return chemical_picture.draw(colours, target, match, everywhere, everywhere if colours[0] else local, size, self.num_colours)
