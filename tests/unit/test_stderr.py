"""The filter of a distributed run's stderr: everything passes, until a process is lost; then ours and one line."""

import subprocess
import sys

import pytest

from causal_jax import stderr

FATAL = """E1121 12:36:21.640557   11328 coordination_service_agent.cc:281] Polled an error from coordination service
F1121 12:36:21.640562   11328 client.h:80] Terminating process because the JAX distributed service detected fatal errors.
:UNKNOWN:Error received from peer  {grpc_message:"Socket closed", grpc_status:14}
*** Check failure stack trace: ***
"""


@pytest.mark.parametrize(
    ("written", "passed"),
    [
        ("one\ntwo\n", "one\ntwo\n"),
        (
            "[Gloo] Rank 0. Expected number of connected peer ranks is : 1\ncausal-jax: steps = 0\n",
            "causal-jax: steps = 0\n",
        ),
        ("Traceback\n  line\nKeyError: 3\n", "Traceback\n  line\nKeyError: 3\n"),
        ("before\n" + FATAL, "before\n" + stderr.LOST + "\n"),
        ("ERROR:absl:[process=0] UNKNOWN: Gloo AllGather failed: Connection closed\nTraceback\n  line\n", stderr.LOST + "\n"),
        (stderr.LOST + "\n" + FATAL, stderr.LOST + "\n"),
        (
            FATAL + "causal-jax: results.jsonl: No space left on device\n",
            "causal-jax: results.jsonl: No space left on device\n" + stderr.LOST + "\n",
        ),
        ("\xff no text\n", "\xff no text\n"),
        ("", ""),
    ],
)
def test_what_passes(written: str, passed: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-S", stderr.__file__], input=written, capture_output=True, text=True, check=True)
    assert done.stderr == passed
    assert not done.stdout
