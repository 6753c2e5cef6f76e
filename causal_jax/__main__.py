"""python -m causal_jax: the command line."""

from causal_jax.cli import main

main()
