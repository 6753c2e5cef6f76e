"""Networks as pairs of pure functions: mlp, cnn, torso (the right one for an observation) and ensemble; batch normalisation.

The one file that imports flax.linen. `init(key)` gives a plain nested dict {"layers_0": {"kernel": [in, out], "bias": [out]}, ...}:
the fully connected layers are layers_0, layers_1, ... and the convolutions convs_0, ... (kernel [height, width, in, out]).
Initialisations: "orthogonal" is Stable-Baselines3's (gain sqrt(2), `final_scale` on the last layer, zero biases); "torch" is
PyTorch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernels and biases. The large image network is NatureCNN
(Mnih et al. 2015, Nature 518).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from causal_jax.types import Key, Network, Params, UserError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
}
NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # (filters, kernel, stride), VALID padding
SMALL = ((16, 3, 1), (32, 3, 1))  # SAME padding: works on a grid of any size
MIN_NATURE = 36  # pixels: the smallest side that leaves NatureCNN one output cell


def _initializers(init: str, scale: float, fan_in: int) -> tuple[Any, Any]:
    """(kernel, bias) initialisers of one layer; scale is the gain (orthogonal) or a factor on PyTorch's bound (torch)."""
    if init == "orthogonal":
        return nn.initializers.orthogonal(scale), nn.initializers.zeros
    bound = scale / math.sqrt(fan_in)

    def uniform(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform, uniform


def convolution(x: jax.Array, kernel: jax.Array, window_strides: Sequence[int], padding: str, **kwargs: Any) -> jax.Array:
    """x [B, H, W, C] * kernel [K, L, C, O] -> [B, H', W', O] as one product of matrices: lax.conv_general_dilated for what is used here.

    XLA's own convolution is 30 times slower on CPU inside a scan (measured: NatureCNN's gradient, batch 256, 8 s against 0.28), and PPO's
    minibatches are one. kwargs: what flax says beside, the defaults.
    """
    rows, columns, channels, features = kernel.shape
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (rows, columns), window_strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((n - size) // stride + 1 for n, size, stride in zip(x.shape[1:3], (rows, columns), window_strides, strict=True))
    down, right = window_strides
    shifted = [
        x[:, i : i + down * (height - 1) + 1 : down, j : j + right * (width - 1) + 1 : right] for i in range(rows) for j in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(rows * columns * channels, features)


class _Net(nn.Module):
    """Convolutions (may be none), then fully connected layers; the last is linear."""

    input_shape: tuple[int, ...]
    filters: tuple[tuple[int, int, int], ...]
    padding: str
    input_scale: float
    sizes: tuple[int, ...]
    activation: str
    initialization: str
    final_scale: float

    def setup(self) -> None:
        gain = math.sqrt(2.0) if self.initialization == "orthogonal" else 1.0
        convs, shape = [], self.input_shape
        for features, size, stride in self.filters:
            kernel, bias = _initializers(self.initialization, gain, size * size * shape[-1])
            options: dict[str, Any] = {"strides": stride, "padding": self.padding, "kernel_init": kernel, "bias_init": bias}
            if jax.default_backend() == "cpu":
                options["conv_general_dilated"] = convolution
            convs.append(nn.Conv(features, (size, size), **options))
            side = [(n - size) // stride + 1 if self.padding == "VALID" else -(-n // stride) for n in shape[:2]]
            shape = (*side, features)
        dense, fan_in = [], math.prod(shape)
        for i, size in enumerate(self.sizes):
            scale = self.final_scale if i == len(self.sizes) - 1 else gain
            kernel, bias = _initializers(self.initialization, scale, fan_in)
            dense.append(nn.Dense(size, kernel_init=kernel, bias_init=bias))
            fan_in = size
        self.convs, self.layers = convs, dense

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
        if self.filters:
            x = x * (1.0 / self.input_scale)
            for conv in self.convs:
                x = nn.relu(conv(x))
            x = x.reshape(*x.shape[:-3], -1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return jnp.asarray(self.layers[-1](x))


def _network(
    input_shape: Sequence[int],
    sizes: Sequence[int],
    activation: str,
    init: str,
    final_scale: float,
    filters: tuple[tuple[int, int, int], ...] = (),
    padding: str = "VALID",
    input_scale: float = 1.0,
) -> Network:
    """Check the names and wrap the module in two pure functions."""
    if activation not in ACTIVATIONS:
        raise UserError(f"activation = {activation!r}: must be one of {', '.join(ACTIVATIONS)}")
    if init not in ("orthogonal", "torch"):
        raise UserError(f"init = {init!r}: must be one of orthogonal, torch")
    shape = tuple(input_shape)
    module = _Net(shape, filters, padding, float(input_scale), tuple(sizes), activation, init, float(final_scale))

    def initialize(key: Key) -> Params:
        return module.init(key, jnp.zeros(shape))["params"]

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return jnp.asarray(module.apply({"params": params}, x))

    return Network(initialize, apply)


def mlp(
    in_size: int, hidden: Sequence[int], out_size: int, activation: str = "tanh", init: str = "orthogonal", final_scale: float = 1.0
) -> Network:
    """A fully connected network: init(key) -> params, apply(params, x [..., in_size]) -> [..., out_size].

    Args: hidden: sizes of the hidden layers, may be empty (then it is linear). activation: tanh, relu, gelu, silu or elu. init:
      "orthogonal" (SB3) or "torch" (PyTorch's default). final_scale: gain of the last layer (a factor on PyTorch's bound under "torch").
    Integer and boolean inputs are cast to float32. Raises UserError on an unknown name. Source: SB3 common/policies.py.
    """
    return _network((in_size,), (*hidden, out_size), activation, init, final_scale)


def cnn(
    obs_shape: tuple[int, int, int],
    hidden: Sequence[int] = (512,),
    out_size: int = 1,
    activation: str = "relu",
    init: str = "orthogonal",
    final_scale: float = 1.0,
    pixel_scale: float = 255.0,
) -> Network:
    """NatureCNN: apply(params, image [..., height, width, channels]) -> [..., out_size].

    32 filters 8x8 stride 4, 64 4x4 stride 2, 64 3x3 stride 1 (relu, no padding), flatten, the `hidden` layers, a linear output.
    The image is divided by `pixel_scale` (255 for uint8 pixels; 1 where it is already scaled). Raises UserError for a side under 36.
    Source: Mnih et al. 2015; SB3 common/torch_layers.py (NatureCNN).
    """
    if min(obs_shape[:2]) < MIN_NATURE:
        raise UserError(f"obs_shape = {tuple(obs_shape)}: must be at least {MIN_NATURE} pixels high and wide")
    return _network(obs_shape, (*hidden, out_size), activation, init, final_scale, NATURE, "VALID", pixel_scale)


def grid_cnn(
    obs_shape: tuple[int, int, int],
    hidden: Sequence[int] = (128,),
    out_size: int = 1,
    activation: str = "relu",
    init: str = "orthogonal",
    final_scale: float = 1.0,
    pixel_scale: float = 1.0,
) -> Network:
    """A network for small grids: two padded 3x3 convolutions (16 and 32 filters, relu), then as `cnn`. Any height and width.

    Cells are symbols as a rule, so nothing is divided unless `pixel_scale` says so. Source: MinAtar's network (Young & Tian 2019)
    with a second convolution.
    """
    return _network(obs_shape, (*hidden, out_size), activation, init, final_scale, SMALL, "SAME", pixel_scale)


def torso(obs_shape: Sequence[int], hidden: Sequence[int], out_size: int, **options: Any) -> Network:
    """The network for an observation of one shape: apply(params, obs [..., *obs_shape]) -> [..., out_size].

    Rank 0, 1 and 2 are flattened into an `mlp`; rank 3 is an image (height, width, channels): `cnn` from 36 pixels a side, else
    `grid_cnn`. options go to the one chosen. Raises UserError for a higher rank.
    """
    shape = tuple(int(n) for n in obs_shape)
    if len(shape) == 3:
        image = (shape[0], shape[1], shape[2])
        return (cnn if min(shape[:2]) >= MIN_NATURE else grid_cnn)(image, hidden, out_size, **options)
    if len(shape) > 3:
        raise UserError(f"obs_shape = {shape}: must have at most 3 dimensions (height, width, channels)")
    network, size = mlp(math.prod(shape), hidden, out_size, **options), math.prod(shape)

    def apply(params: Params, obs: jax.Array) -> jax.Array:
        obs = jnp.asarray(obs)
        return jnp.asarray(network.apply(params, obs.reshape(*obs.shape[: obs.ndim - len(shape)], size)))

    return Network(network.init, apply)


def layer_norm_mlp(in_size: int, hidden: Sequence[int], out_size: int) -> Network:
    """Linear, layer normalisation, tanh, then an `mlp` with elu: apply(params, x [in_size]) -> [out_size].

    hidden: at least one size. Source: acme's LayerNormMLP (Hoffman et al. 2020), the trunk of DecQN; epsilon 1e-5.
    """
    first, rest = mlp(in_size, (), hidden[0], init="torch"), mlp(hidden[0], hidden[1:], out_size, "elu", "torch")

    def init(key: Key) -> Params:
        key_first, key_rest = jax.random.split(key)
        norm = {"scale": jnp.ones((hidden[0],)), "bias": jnp.zeros((hidden[0],))}
        return {"first": first.init(key_first), "norm": norm, "rest": rest.init(key_rest)}

    def apply(params: Params, x: jax.Array) -> jax.Array:
        x = first.apply(params["first"], x)
        x = (x - jnp.mean(x)) * jax.lax.rsqrt(jnp.var(x) + 1e-5)
        return rest.apply(params["rest"], nn.tanh(params["norm"]["scale"] * x + params["norm"]["bias"]))

    return Network(init, apply)


def ensemble(network: Network, num: int) -> Network:
    """`num` members of one network, each with its own initial weights: params have a leading axis [num, ...].

    apply(params, x [..., in]) -> [num, ..., out]: every member sees the same input.
    """

    def init(key: Key) -> Params:
        return jax.vmap(network.init)(jax.random.split(key, num))

    return Network(init, jax.vmap(network.apply, in_axes=(0, None)))


def actor_critic(obs_shape: Sequence[int], hidden: Sequence[int], num_outputs: int, num_log_std: int, activation: str = "tanh") -> Network:
    """Policy and value of one observation: apply(params, obs) -> (outputs [num_outputs], log_std [num_log_std], value []).

    Vectors: two separate networks; images: one shared trunk with linear heads, whose last hidden size is the width of the features.
    The actor's last layer has gain 0.01, the critic's 1; log_std are free parameters, initially 0. Source: SB3 common/policies.py.
    """
    shared = len(tuple(obs_shape)) == 3
    if shared:
        trunk = torso(obs_shape, hidden[:-1], hidden[-1], activation="relu", final_scale=math.sqrt(2.0))
        actor, critic = mlp(hidden[-1], (), num_outputs, final_scale=0.01), mlp(hidden[-1], (), 1)
    else:
        trunk = None
        actor = torso(obs_shape, hidden, num_outputs, activation=activation, final_scale=0.01)
        critic = torso(obs_shape, hidden, 1, activation=activation)

    def init(key: Key) -> Params:
        key_trunk, key_actor, key_critic = jax.random.split(key, 3)
        params = {"actor": actor.init(key_actor), "critic": critic.init(key_critic)}
        params |= {"trunk": trunk.init(key_trunk)} if trunk is not None else {}
        return params | ({"log_std": jnp.zeros(num_log_std)} if num_log_std else {})

    def apply(params: Params, obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        features = obs if trunk is None else nn.relu(trunk.apply(params["trunk"], obs))
        return actor.apply(params["actor"], features), params.get("log_std", jnp.zeros(0)), critic.apply(params["critic"], features)[..., 0]

    return Network(init, apply)


def uniform(key: Key, shape: Sequence[int], bound: float) -> jax.Array:
    """U(-bound, bound) of a shape, float32. key: consumed."""
    return jax.random.uniform(key, tuple(shape), jnp.float32, -bound, bound)


class NormStats(NamedTuple):
    """Running mean and (unbiased) variance of batch normalisation, [D] each."""

    mean: jax.Array
    var: jax.Array


def norm_stats(size: int) -> NormStats:
    """Mean 0 and variance 1: nothing seen yet."""
    return NormStats(jnp.zeros(size), jnp.ones(size))


def batch_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array, stats: NormStats, train: bool) -> tuple[jax.Array, NormStats]:
    """Batch normalisation (Ioffe & Szegedy 2015) as PyTorch has it: (y [B, D], new statistics).

    train: with the mean and biased variance of the batch x [B, D], and the running statistics move by 0.1 to its mean and UNBIASED
    variance; else with the running statistics, which stay. gamma, beta: [D]. epsilon 1e-5. Source: torch.nn.BatchNorm1d.
    """
    mean, var = stats
    if train:
        num = x.shape[0]
        mean = jnp.mean(x, axis=0)
        var = jnp.mean(jnp.square(x - mean), axis=0)
        unbiased = var * (num / max(num - 1, 1))
        stats = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * jax.lax.stop_gradient(new), stats, NormStats(mean, unbiased))
    return (x - mean) * (jax.lax.rsqrt(var + 1e-5) * gamma) + beta, stats
