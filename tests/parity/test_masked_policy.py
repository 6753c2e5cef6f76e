"""Log-probabilities of the masked policy against those recorded from the published program (golden README section 3).

tests/data/masked_log_probs.npz holds the first 24 of the matrices in masking.npz: transposed similarity, tau 0.8. Where everything is
dropped the recorded numbers are 0 for every action (tests/unit/test_ppo.py covers that); elsewhere a dropped action has probability 0.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from causal_jax.causal import effects
from causal_jax.distributions import categorical

DATA = Path(__file__).parents[1] / "data"
SELECTIONS = {"cee": "cee", "npm": "npm", "cee-woc": "woc"}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("n", [4, 7, 16, 18, 64])
def test_masked_log_probabilities(n: int, selection: str) -> None:
    with np.load(DATA / "masking.npz") as masking, np.load(DATA / "masked_log_probs.npz") as policy:
        matrices, logits, want = masking[f"n{n}_N"][:24], policy[f"n{n}_logits"], policy[f"n{n}_logp_{SELECTIONS[selection]}"]

    @jax.jit
    @jax.vmap
    def run(key, matrix, logits):
        kept = effects.select(selection, key, matrix, mode="authors", epsilon=0.5, tau=0.8, woc_threshold=0.03)
        return kept, categorical(logits, kept).logits

    kept, log_prob = map(np.asarray, run(jax.random.split(jax.random.key(0), len(matrices)), matrices, logits))
    some = kept.any(axis=1)
    np.testing.assert_array_equal(~some, (want == 0).all(axis=1))
    np.testing.assert_allclose(log_prob[some][kept[some]], want[some][kept[some]], atol=5e-6)
    assert (np.exp(log_prob[some][~kept[some]]) == 0).all()
    assert (np.exp(want[some][~kept[some]]) == 0).all()
