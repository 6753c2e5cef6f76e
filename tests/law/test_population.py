"""Laws 3 and 5: how a run is cut, stopped, resumed or vmapped does not change it, and members do not know of each other."""

import re
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import training
from causal_jax.checkpoint import Checkpoints


@pytest.mark.parametrize("lengths", [(2, 4), (3, 3), (1, 1, 1, 1, 1, 1)])
def test_chunks_of_any_length_give_the_same_run_bit_for_bit(law: ModuleType, case: Any, lengths: tuple[int, ...]) -> None:
    run, metrics = law.advance(case, case.start(), *lengths)
    law.assert_equal(run, law.reference(case.name)[0])
    law.assert_equal(metrics, law.reference(case.name)[1])
    assert int(run.t) == 6
    changed = [path for path, x in law.leaves(run.state).items() if not np.array_equal(x, law.leaves(case.run.state)[path])]
    assert changed  # it did train


def test_a_stop_and_a_resume_change_nothing(law: ModuleType, case: Any, tmp_path: Any) -> None:
    run, _ = law.advance(case, case.start(), 3)
    before = Checkpoints(tmp_path)
    before.save(run)
    before.close()
    law.advance(case, run, 3)  # what the process did after its last checkpoint is lost
    after = Checkpoints(tmp_path)
    restored = after.restore(case.start())
    after.close()
    assert int(restored.t) == 3
    law.assert_equal(law.advance(case, restored, 3)[0], law.reference(case.name)[0])


def test_a_population_equals_a_loop_over_its_members(law: ModuleType, case: Any) -> None:
    """Up to 1e-5: bit-exactness is promised for the same program only, and a member alone is another program."""
    run, metrics = law.reference(case.name)
    alone = jax.jit(lambda *member: training.train(*member, algorithm=case.algorithm, num_updates=law.NUM_UPDATES))
    for m in range(2):
        state, rows = alone(*case.member(m))
        if case.name in law.ROUNDING_DECIDES:
            for name in ("loss_pred", "loss_reg"):
                np.testing.assert_allclose(rows[name][0], metrics[name][0, m], rtol=1e-2)
            continue
        law.assert_close(state, law.take(run.state, m))
        law.assert_close(rows, {name: x[:, m] for name, x in metrics.items()})


def test_members_differ_and_do_not_depend_on_their_place(law: ModuleType, case: Any) -> None:
    flip = jnp.asarray([1, 0])
    axes = case.task_axes or [None] * len(case.task)  # what members share, and what each has of its own
    task = type(case.task)(*[x if axis is None else law.take(x, flip) for x, axis in zip(case.task, axes, strict=True)])
    fresh = case.run._replace(key=case.run.key[flip], state=law.take(case.run.state, flip), hyper=law.take(case.run.hyper, flip))
    run, _ = law.advance(case._replace(task=task), law.copy(fresh), law.NUM_UPDATES)
    straight = law.reference(case.name)[0]
    if case.name not in law.ROUNDING_DECIDES:
        law.assert_close(law.take(run.state, flip), straight.state)
    weights = [path for path, x in law.leaves(case.run.state).items() if re.search(r"kernel|(_|')w[ih]?\d?'\]", path) and x.any()]
    assert not [path for path, x in law.leaves(straight.state).items() if path in weights and np.array_equal(x[0], x[1])]
    first = [law.leaves(case.run.state)[path] for path in weights]
    assert max(np.abs(x[0] - x[1]).max() for x in first) > 0.1  # not only their step sizes: their first networks differ
