"""Magnetic's physics as a MuJoCo MJX scene: a ball that slides on the table with drag, a box and an end effector held in their places.

The one file that imports mujoco; the environment imports it when its option `physics` is mjx. The pull of the box is applied in every
one of SUBSTEPS time steps, and fades where the ball would go into the box within one of them: with MuJoCo's own contact and its solver
every program takes three times as long to compile. The ball is light (it has its speed within 5 ms) and starts each step of the
environment at rest, so that no speed is part of the state.

256 environments in parallel: 163,000 to 200,000 environment steps a second with resets, on 0.7 to 0.95 of a busy CPU core. With ball and
box as free bodies on the table and all contacts 14,000 to 18,000 on 0.7, with places that are not the table's plane in the state.
"""

from __future__ import annotations

import contextlib
import functools
import io
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.envs.magnetic import DT, TABLE, TABLE_Z, TOUCH, MagneticParams

SUBSTEPS = 5
SCENE = f"""
<mujoco>
  <option timestep="{DT / SUBSTEPS}" integrator="implicitfast" gravity="0 0 0"><flag constraint="disable" contact="disable"/></option>
  <worldbody>
    <geom name="table" type="plane" size="{TABLE[0]} {TABLE[1]} 0.1" pos="0 0 {TABLE_Z}"/>
    <body name="ball" pos="0 0 {TABLE_Z}">
      <joint name="ball_x" type="slide" axis="1 0 0"/>
      <joint name="ball_y" type="slide" axis="0 1 0"/>
      <geom type="sphere" size="{TOUCH / 2}" mass="0.005"/>
    </body>
    <body name="box" mocap="true"><geom type="box" size="{TOUCH / 2} {TOUCH / 2} {TOUCH / 2}"/></body>
    <body name="eef" mocap="true"><geom type="sphere" size="0.02"/></body>
  </worldbody>
</mujoco>
"""


@functools.cache
def _modules() -> tuple[Any, Any]:
    """mujoco and mujoco.mjx, without what they print where warp is not installed: stdout is the user's."""
    with contextlib.redirect_stdout(io.StringIO()):
        import mujoco
        from mujoco import mjx

    return mujoco, mjx


@functools.cache
def _scene() -> tuple[Any, Any]:
    """MJX's model and data of the scene, made once."""
    mujoco, mjx = _modules()
    model = mujoco.MjModel.from_xml_string(SCENE)
    with jax.ensure_compile_time_eval():
        return mjx.put_model(model, impl="jax"), mjx.make_data(model, impl="jax")


def attracted(ball: jax.Array, box: jax.Array, eef: jax.Array, params: MagneticParams) -> jax.Array:
    """Where a red ball, xy [2] in metres, is a step later if the box at xy [2] is red too: [2]. eef: xyz [3]; it touches nothing."""
    _, mjx = _modules()
    model, data = _scene()
    model = model.replace(dof_damping=jnp.full(2, params.drag))
    data = data.replace(qpos=ball, qvel=jnp.zeros(2), mocap_pos=jnp.stack([jnp.append(box, TABLE_Z), eef]))

    def step(data: Any, _: None) -> tuple[Any, None]:
        offset = box - data.qpos
        distance = jnp.sqrt(jnp.maximum(jnp.sum(offset**2), 1e-12))
        up_to_the_box = params.drag * jnp.maximum(distance - TOUCH, 0.0) * SUBSTEPS / DT
        force = jnp.minimum(jnp.minimum(params.attraction / distance, params.max_force), up_to_the_box)
        return mjx.step(model, data.replace(qfrc_applied=force * offset / distance)), None

    return jax.lax.scan(step, data, None, length=SUBSTEPS)[0].qpos
