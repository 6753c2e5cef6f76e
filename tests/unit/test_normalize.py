import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import normalize


def test_batches_of_any_sizes_merge_to_the_mean_and_variance_of_all() -> None:
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(3.0, 2.0, (60, 2)).astype(np.float32), "b": rng.integers(0, 256, (60,), np.uint8)}
    stats, update = normalize.init({"a": data["a"][0], "b": data["b"][0]}), jax.jit(normalize.update)
    for start, end in ((0, 1), (1, 8), (8, 60)):
        stats = update(stats, jax.tree.map(lambda x, s=start, e=end: x[s:e], data))
    assert stats.num_samples == 60
    for name, x in data.items():
        np.testing.assert_allclose(stats.mean[name], x.astype(float).mean(0), rtol=1e-5)
        np.testing.assert_allclose(stats.var[name], x.astype(float).var(0), rtol=1e-5)


def test_leading_axes_are_all_samples_and_an_empty_batch_changes_nothing() -> None:
    stats = normalize.update(normalize.init(jnp.zeros(())), jnp.array([[1.0, 2.0], [3.0, 6.0]]))
    np.testing.assert_allclose([stats.num_samples, stats.mean, stats.var], [4.0, 3.0, 3.5])
    np.testing.assert_allclose(normalize.update(stats, jnp.zeros((0,))), [4.0, 3.0, 3.5])


def test_a_large_offset_keeps_the_variance() -> None:
    stats = normalize.init(jnp.zeros(()))
    for _ in range(3):
        stats = normalize.update(stats, jnp.array([9999.0, 10001.0]))
    np.testing.assert_allclose([stats.mean, stats.var], [10000.0, 1.0])  # sums of squares in float32 would give 0 or 8


def test_the_count_neither_stalls_nor_wraps() -> None:
    full = normalize.Stats(jnp.int32(2**24), jnp.float32(0.0), jnp.float32(1.0))
    assert normalize.update(full, jnp.zeros(1)).num_samples == 2**24 + 1  # a float32 count would stay
    full = full._replace(num_samples=jnp.int32(2**31 - 1))
    assert normalize.update(full, jnp.zeros(5)).num_samples == 2**31 - 1


def test_apply() -> None:
    stats = normalize.init(jnp.zeros(2))
    np.testing.assert_allclose(normalize.apply(stats, jnp.array([3.0, -30.0])), [3.0, -10.0])
    stats = normalize.update(stats, jnp.array([[0.0, 5.0], [4.0, 5.0]]))  # mean (2, 5), std (2, 0)
    np.testing.assert_allclose(normalize.apply(stats, jnp.array([[6.0, 5.0], [-30.0, 6.0]]), clip=3.0), [[2.0, 0.0], [-3.0, 3.0]])


def test_vmap_equals_loop() -> None:
    batch = jax.random.normal(jax.random.key(0), (3, 4, 2))
    together = jax.vmap(normalize.update)(jax.vmap(normalize.init)(batch[:, 0]), batch)
    for i in range(3):
        alone = normalize.update(normalize.init(batch[i, 0]), batch[i])
        np.testing.assert_allclose(together.mean[i], alone.mean, atol=1e-6)
        np.testing.assert_allclose(together.var[i], alone.var, rtol=1e-5)
