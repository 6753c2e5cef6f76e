#!/bin/bash
# One run on 2 nodes of 8 GPUs: sbatch experiments/cluster/slurm.sh cee --env maze-n8 --members 64
# One process a GPU, as jax expects under SLURM, whose variables tell it the rest. All nodes must see the run folder.
# A node that fails requeues the job and --resume continues the run; after any other end, submit it again.
#SBATCH --job-name=causal-jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
srun --kill-on-bad-exit=1 .venv/bin/causal-jax train "$@" --distributed --resume
