import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import networks
from causal_jax.types import Network, Params, UserError

KEY = jax.random.key(0)


def filled(network: Network) -> Params:
    """Random weights from numpy: cheaper than compiling the initialisers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0.0, 0.1, s.shape), s.dtype), jax.eval_shape(network.init, KEY))


def test_mlp_computes_what_its_weights_say() -> None:
    network = networks.mlp(2, [2], 1, "relu")
    params = {
        "layers_0": {"kernel": jnp.array([[1.0, -1.0], [2.0, 0.0]]), "bias": jnp.array([0.0, 0.5])},
        "layers_1": {"kernel": jnp.array([[1.0], [10.0]]), "bias": jnp.array([3.0])},
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(network.init(KEY), params)
    # hidden = relu([1 + 2*2, -1 + .5]) = [5, 0] -> 5 + 3; relu([-1 + 0, 1 + .5]) = [0, 1.5] -> 15 + 3
    np.testing.assert_allclose(network.apply(params, jnp.array([[1.0, 2.0], [-1.0, 0.0]])), [[8.0], [18.0]])
    np.testing.assert_allclose(network.apply(params, jnp.array([1, 2], jnp.int32)), [8.0])
    np.testing.assert_allclose(network.apply(params, jnp.array([True, False])), [4.0])


@pytest.mark.parametrize(("activation", "value"), [("tanh", 0.7615942), ("relu", 1.0), ("gelu", 0.8411920), ("silu", 0.7310586)])
def test_activations(activation: str, value: float) -> None:
    network = networks.mlp(1, [1], 1, activation)
    layer = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    np.testing.assert_allclose(network.apply({"layers_0": layer, "layers_1": layer}, jnp.ones(1)), [value], rtol=1e-5)


def test_orthogonal() -> None:
    params = networks.mlp(3, [8], 2, final_scale=0.01).init(KEY)
    hidden, last = params["layers_0"]["kernel"], params["layers_1"]["kernel"]
    np.testing.assert_allclose(hidden @ hidden.T, 2.0 * np.eye(3), atol=1e-5)  # gain sqrt(2)
    np.testing.assert_allclose(last.T @ last, 1e-4 * np.eye(2), atol=1e-9)
    assert not params["layers_0"]["bias"].any()
    assert not params["layers_1"]["bias"].any()


def test_torch() -> None:
    params = jax.jit(networks.mlp(4, [400], 300, init="torch").init)(KEY)
    for layer, bound in (("layers_0", 0.5), ("layers_1", 0.05)):  # 1 / sqrt(4), 1 / sqrt(400)
        for leaf in params[layer].values():
            assert bound * 0.95 < jnp.max(jnp.abs(leaf)) <= bound
            np.testing.assert_allclose(jnp.std(leaf), bound / np.sqrt(3.0), rtol=0.15)
    assert jnp.any(params["layers_0"]["bias"] != params["layers_0"]["kernel"][0])
    params = jax.jit(networks.grid_cnn((4, 4, 2), (), 1, init="torch").init)(KEY)
    assert 0.2 < jnp.max(jnp.abs(params["convs_0"]["kernel"])) <= 1.0 / np.sqrt(18.0)


def test_cnn_is_nature_cnn() -> None:
    network = networks.cnn((84, 84, 4), (512,), 6)
    params = jax.eval_shape(network.init, KEY)
    shapes = {name: tuple(layer["kernel"].shape) for name, layer in params.items()}
    assert shapes == {
        "convs_0": (8, 8, 4, 32), "convs_1": (4, 4, 32, 64), "convs_2": (3, 3, 64, 64), "layers_0": (3136, 512), "layers_1": (512, 6),
    }  # fmt: skip
    assert jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((2, 3, 84, 84, 4), jnp.uint8)).shape == (2, 3, 6)


def test_pixels_are_divided_by_255_and_symbols_are_not() -> None:
    pixels = networks.cnn((36, 36, 1), (8,), 2)
    image = jax.random.randint(KEY, (36, 36, 1), 0, 256, jnp.uint8)
    params = filled(pixels)
    unscaled = networks.cnn((36, 36, 1), (8,), 2, pixel_scale=1.0)
    np.testing.assert_allclose(jax.jit(pixels.apply)(params, image), jax.jit(unscaled.apply)(params, image / 255.0), rtol=1e-4, atol=1e-6)
    grid = networks.grid_cnn((5, 7, 2), (8,), 2)
    params = filled(grid)
    cells = jax.random.randint(KEY, (3, 5, 7, 2), 0, 4, jnp.uint8)
    apply = jax.jit(grid.apply)
    np.testing.assert_allclose(apply(params, cells), apply(params, cells.astype(jnp.float32)), rtol=1e-6)
    np.testing.assert_allclose(apply(params, cells[0]), apply(params, cells)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "first"),
    [((), (1, 8)), ((5,), (5, 8)), ((3, 4), (12, 8)), ((10, 10, 2), (3200, 8)), ((36, 44, 3), (128, 8))],
)
def test_torso_chooses_by_shape(shape: tuple[int, ...], first: tuple[int, int]) -> None:
    network = networks.torso(shape, (8,), 3, activation="relu")
    params = jax.eval_shape(network.init, KEY)
    assert params["layers_0"]["kernel"].shape == first
    assert ("convs_0" in params) == (len(shape) == 3)
    assert jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((2, *shape), jnp.int32)).shape == (2, 3)
    assert jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct(shape, jnp.float32)).shape == (3,)


def test_ensemble() -> None:
    single = networks.mlp(3, [4], 2, init="torch")
    network = networks.ensemble(single, 5)
    x = jnp.arange(6.0).reshape(2, 3)
    params = jax.jit(network.init)(KEY)
    out = jax.jit(network.apply)(params, x)
    init, apply = jax.jit(single.init), jax.jit(single.apply)
    assert out.shape == (5, 2, 2)
    for i, key in enumerate(jax.random.split(KEY, 5)):
        chex.assert_trees_all_close(jax.tree.map(lambda p, i=i: p[i], params), init(key), atol=1e-6)
        np.testing.assert_allclose(out[i], apply(init(key), x), rtol=1e-4, atol=1e-6)
    assert len(np.unique(np.asarray(out[:, 0, 0]))) == 5


def test_no_key_is_used_twice() -> None:
    with jax.debug_key_reuse(True):
        networks.mlp(3, [4], 2, init="torch").init(jax.random.key(1))
        networks.mlp(3, [4], 2).init(jax.random.key(1))


def test_errors() -> None:
    with pytest.raises(UserError, match=r"^activation = 'sin': must be one of tanh, relu, gelu, silu, elu$"):
        networks.mlp(1, [1], 1, "sin")
    with pytest.raises(UserError, match=r"^init = 'he': must be one of orthogonal, torch$"):
        networks.mlp(1, [1], 1, init="he")
    with pytest.raises(UserError, match=r"^obs_shape = \(35, 84, 4\): must be at least 36 pixels high and wide$"):
        networks.cnn((35, 84, 4))
    with pytest.raises(UserError, match=r"^obs_shape = \(2, 3, 4, 5\): must have at most 3 dimensions"):
        networks.torso((2, 3, 4, 5), (1,), 1)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, "SAME"), (4, 2, "SAME"), (3, 2, "VALID"), (1, 1, "VALID")])
def test_convolution_by_a_product_of_matrices_is_the_convolution(size: int, stride: int, padding: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(2, 7, 6, 3))), jnp.asarray(rng.normal(size=(size, size, 3, 4)))
    expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(networks.convolution(x, kernel, (stride, stride), padding), expected, rtol=1e-4, atol=1e-5)
