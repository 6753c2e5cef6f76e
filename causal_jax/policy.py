"""A trained policy as files that need nothing but jax: compiled-for-later acting functions beside a policy.json.

`export_policy` bakes one member's network, normaliser and mask model into two jax.export programs (greedy and sampled), lowered for cpu,
cuda and tpu with a symbolic batch size. `load_policy` reads them back: it imports neither algorithms nor environments, and no pickle is
involved (StableHLO in flatbuffers, which is jax's own format and needs the package of that name; JSON for the rest).
policy.json holds the sha256 of each program, so a damaged file is recognised before it is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from causal_jax.types import Action, Key, Obs, State, UserError

FORMAT, VERSION = "causal_jax policy", 1
PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAMS = ("greedy", "sampled")


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, so that jax.jit takes it
class Policy:
    """An exported acting function. `about` is policy.json: env, algorithm, config, obs, action, member, versions."""

    about: Mapping[str, Any]
    programs: Mapping[str, Callable[[jax.Array, jax.Array], Action]]

    def __call__(self, obs: Obs, key: Key | None = None, greedy: bool = True) -> Action:
        """Actions for one observation or a batch; jittable.

        Args: obs: [*shape] or [B, *shape], cast to the dtype the policy was trained on. key: consumed; needed unless greedy (a mask that
          is drawn at random uses it there too, key 0 by default). Returns: an action, or actions with a leading axis [B].
        Raises: UserError for an observation of another shape, and for a missing or batched key.
        """
        shape = tuple(self.about["obs"]["shape"])
        obs = jnp.asarray(obs, self.about["obs"]["dtype"])
        single = obs.shape == shape
        if not single and obs.shape[1:] != shape:
            raise UserError(f"obs = an array of shape {obs.shape}: must be {shape} or {('B', *shape)}".replace("'", ""))
        if key is None:
            if not greedy:
                raise UserError("key = None: a sampled action needs a key, jax.random.key(seed)")
            key = jax.random.key(0, impl="threefry2x32")
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or jax.random.key_data(key).shape != (2,):
            raise UserError(f"key = {key.dtype}{list(key.shape)}: must be one threefry key, jax.random.key(seed)")
        keys = key[None] if single else jax.random.split(key, obs.shape[0])
        action = self.programs["greedy" if greedy else "sampled"](jax.random.key_data(keys), obs[None] if single else obs)
        return jax.tree.map(lambda x: x[0], action) if single else action


def write_policy(
    act: Callable[[Key, State, Obs, bool], Action], state: State, obs: jax.ShapeDtypeStruct, path: Path | str, about: Mapping[str, Any]
) -> Path:
    """Export any algorithm's `act` with one member's `state` baked in; obs tells the shape and dtype of one observation.

    Writes path/{policy.json, greedy.jax, sampled.jax}; `about` (JSON) joins policy.json. Returns the folder.
    """
    place = Path(path)
    place.mkdir(parents=True, exist_ok=True)
    (batch,) = export.symbolic_shape("batch")
    struct: Any = jax.ShapeDtypeStruct
    shapes = struct((batch, 2), jnp.uint32), struct((batch, *obs.shape), obs.dtype)
    digests = {}
    for name in PROGRAMS:

        def one(data: jax.Array, obs: jax.Array, greedy: bool = name == "greedy") -> Action:
            return act(jax.random.wrap_key_data(data, impl="threefry2x32"), state, obs, greedy)

        program = bytes(export.export(jax.jit(jax.vmap(one)), platforms=PLATFORMS)(*shapes).serialize())
        digests[name] = hashlib.sha256(program).hexdigest()
        _replace(place / f"{name}.jax", program)
    facts = {
        "format": FORMAT, "version": VERSION, "jax": jax.__version__, **about, "platforms": PLATFORMS,
        "obs": {"shape": list(obs.shape), "dtype": np.dtype(obs.dtype).name}, "sha256": digests,
    }  # fmt: skip
    _replace(place / "policy.json", (json.dumps(facts, indent=1) + "\n").encode())
    return place


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(content)
    os.replace(partial, path)


def export_policy(run: Path | str, path: Path | str | None = None, member: int = 0, checkpoint: str = "last") -> Path:
    """Export the policy of one member of a run folder into the folder `path` (None: <run>/policy/member-<member>); returns it.

    Raises: UserError when the run, the checkpoint or the member does not exist.
    """
    from causal_jax import evaluation, runs, spaces  # the training code: not needed to load
    from causal_jax.settings import read_about

    folder = Path(run)
    loaded = runs.load_run(folder, evaluation.check_checkpoint(checkpoint))
    resolved = loaded.resolved
    state, task = evaluation.member_of(loaded, member)
    obs = jax.eval_shape(resolved.env.reset_env, jax.random.key(0), task.env_params)[0]
    read = read_about(folder)
    about = {
        **{name: read.get(name) for name in ("name", "algorithm", "env", "config", "versions", "git")},
        "env_options": list(resolved.settings.env_options),
        "member": member,
        "seed": resolved.seeds[member],
        "hyper": {name: float(x[member]) for name, x in vars(loaded.run.hyper).items()},
        "steps": int(loaded.run.t) * resolved.module.steps_per_update(resolved.config),
        "action": _plain_space(spaces.from_gymnax(resolved.env.action_space(task.env_params))),
    }
    return write_policy(resolved.algorithm.act, state, obs, path or folder / "policy" / f"member-{member}", about)


def _plain_space(space: Any) -> dict[str, Any]:
    fields = {f.name: getattr(space, f.name) for f in dataclasses.fields(space) if f.name != "dtype"}
    return {"kind": type(space).__name__, **{name: np.asarray(value).tolist() for name, value in fields.items()}}


def load_policy(path: Path | str) -> Policy:
    """Read an exported policy: a folder of `export_policy`. Needs jax only.

    Raises: UserError for a folder that holds no policy, another format or version, or a damaged program.
    """
    place = Path(path)
    try:
        about = json.loads((place / "policy.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"policy = {str(place)!r}: has no readable policy.json ({type(error).__name__})") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("version") != VERSION:
        raise UserError(f"policy = {str(place)!r}: its policy.json is not of format {FORMAT!r}, version {VERSION}")
    if missing := [name for name in ("obs", "sha256") if not isinstance(about.get(name), dict)]:
        raise UserError(f"policy = {str(place)!r}: its policy.json has no {missing[0]!r}; export the policy again")
    programs = {}
    for name in PROGRAMS:
        file = place / f"{name}.jax"
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(f"policy = {str(place)!r}: {file.name} cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest() != about["sha256"].get(name):
            raise UserError(f"policy = {str(place)!r}: {file.name} is damaged, or belongs to another export; export the policy again")
        try:
            programs[name] = jax.jit(export.deserialize(bytearray(data)).call)
        except ImportError as error:
            raise UserError(f"policy = {str(place)!r}: needs a package that is not installed ({error})") from None
        except Exception as error:  # jax promises to read its programs for half a year of releases, and raises many kinds later
            raise UserError(
                f"policy = {str(place)!r}: {file.name} is of jax {about.get('jax')}, which jax {jax.__version__} cannot read "
                f"({type(error).__name__}); export the policy again"
            ) from None
    return Policy(about, programs)
