"""Speed, measured as ratios: what is compared runs alternately (A B A B ...) in one process tree, and the ratio is the result.

    python -m experiments.benchmarks                    # all of them
    python -m experiments.benchmarks env members        # some, by name: env, ppo, members, compile, mask, fcdl, chemical, hybrid
    make bench

The results file (experiments/results/benchmarks.json, on a GPU benchmarks-<device>.json) is written after every benchmark: medians,
ranges, every value, machine, versions, load, command. stable-baselines3 gets its own virtual environment under the user's cache folder.
"""
