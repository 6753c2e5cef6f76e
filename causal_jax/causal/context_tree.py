"""A decision tree over a one-hot state and action whose leaf is the context: a quantiser of FCDL's embedding that does not read it.

Not in FCDL (arXiv 2406.03234): an alternative to its nearest code, `Spec.contexts="tree"`. Every inner node asks whether one input is above
one half, which of a one-hot state and action is "does variable i have colour c" or "is it action a". The tree is that of CART (Breiman et
al. 1984), grown for the embedding: a node asks what lowers the squared error of the embedding around its mean most, a leaf's code is the
mean. All of it follows from running counts and sums of every node and every input (decay 0.99, as the codebook), so it is refitted with
every training step; a question is replaced only by one that is better by a tenth, for below it much must be learned anew.
The encoder is trained as with the codebook, straight through the code. What no node asks cannot change the context, whatever the noise.
Nodes are numbered as a heap, left child (no) 2j + 1, right child (yes) 2j + 2; leaf k is the path of k's binary digits.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causal_jax.types import Key

DECAY, MARGIN, LEAST = 0.99, 1.1, 1e-6


class Tree(NamedTuple):
    """codes: [K, D], the mean embedding of every leaf, 0 where nothing came. asked: int [J], the input that a node asks. counts [J, F + 1],

    sums [J, F + 1, D]: of the embeddings that came by and said yes to each input, running; the last column counts all that came by.
    """

    codes: Float[Array, "K D"]
    asked: Int[Array, "J"]
    counts: Float[Array, "J F1"]
    sums: Float[Array, "J F1 D"]


def init(key: Key, num_inputs: int, num_leaves: int, dim: int) -> Tree:
    """Nodes that ask something random and have seen nothing. num_leaves: K = J + 1, a power of two, at least 2. key: consumed."""
    nodes = num_leaves - 1
    asked = jax.random.randint(key, (nodes,), 0, num_inputs)
    return Tree(jnp.zeros((num_leaves, dim)), asked, jnp.zeros((nodes, num_inputs + 1)), jnp.zeros((nodes, num_inputs + 1, dim)))


def descend(tree: Tree, x: Float[Array, "B F"]) -> tuple[Float[Array, "B J"], Float[Array, "B K"]]:
    """Which nodes (0.0 or 1.0) and which leaf (one-hot) the inputs come by."""
    yes = (x[:, tree.asked] > 0.5).astype(x.dtype)
    here, levels, first = jnp.ones((x.shape[0], 1)), [], 0
    while first < yes.shape[1]:
        at = yes[:, first : 2 * first + 1]
        levels.append(here)
        here = jnp.stack([here * (1.0 - at), here * at], axis=-1).reshape(x.shape[0], -1)
        first = 2 * first + 1
    return jnp.concatenate(levels, axis=1), here


def _sides(tree: Tree) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Count and mean of the embeddings that say yes, and of those that say no: [J, F], [J, F, D], [J, F], [J, F, D]."""
    yes, all_ = tree.counts[:, :-1], tree.counts[:, -1:]
    no, sums_yes = all_ - yes, tree.sums[:, :-1]
    sums_no = tree.sums[:, -1:] - sums_yes
    return yes, sums_yes / jnp.maximum(yes, LEAST)[..., None], no, sums_no / jnp.maximum(no, LEAST)[..., None]


def gains(tree: Tree) -> Float[Array, "J F"]:
    """What a question lowers the summed squared error by: n_yes n_no / n |mean_yes - mean_no|^2."""
    yes, mean_yes, no, mean_no = _sides(tree)
    gain = yes * no / jnp.maximum(yes + no, LEAST) * jnp.sum(jnp.square(mean_yes - mean_no), axis=-1)
    return jnp.where((yes > LEAST) & (no > LEAST), gain, 0.0)


def with_codes(tree: Tree) -> Tree:
    """The tree with the codes that follow from its counts and sums."""
    above = jnp.arange(tree.asked.shape[0] // 2, tree.asked.shape[0])  # the nodes above the leaves
    yes, mean_yes, no, mean_no = (x[above, tree.asked[above]] for x in _sides(tree))
    count, mean = jnp.stack([no, yes], axis=1).ravel(), jnp.stack([mean_no, mean_yes], axis=1).reshape(tree.codes.shape)
    return tree._replace(codes=jnp.where(count[:, None] > LEAST, mean, 0.0))


def update(tree: Tree, x: Float[Array, "B F"], h: Float[Array, "B D"]) -> Tree:
    """Count a batch of inputs and their embeddings, and ask anew where that is clearly better. No gradient passes."""
    x, h = jax.lax.stop_gradient((x, h))
    said = jnp.concatenate([(x > 0.5).astype(h.dtype), jnp.ones((x.shape[0], 1))], axis=1)
    here, _ = descend(tree, x)
    exact = jax.lax.Precision.HIGHEST
    counts = DECAY * tree.counts + (1.0 - DECAY) * jnp.einsum("bj,bf->jf", here, said, precision=exact)
    sums = DECAY * tree.sums + (1.0 - DECAY) * jnp.einsum("bjd,bf->jfd", here[..., None] * h[:, None], said, precision=exact)
    grown = tree._replace(counts=counts, sums=sums)
    gain = gains(grown)
    now = jnp.take_along_axis(gain, tree.asked[:, None], axis=1)[:, 0]
    return with_codes(grown._replace(asked=jnp.where(jnp.max(gain, axis=1) > MARGIN * now, jnp.argmax(gain, axis=1), tree.asked)))
