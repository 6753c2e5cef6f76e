"""What a process of a distributed run says when another one dies, in one line.

jax's runtime then ends the process from C++, at once, with pages of log on stderr: no Python is left to speak. So stderr goes through
this small process, which outlives the other. It passes every line on, except that from the runtime's first word about a lost process it
keeps back all that is not ours, and ends with LOST. Only the standard library: `python -P -S stderr.py` starts in 20 ms.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

LOST = "causal-jax: another process of this run is gone; start all of them again with --resume"
# the runtime; a thread of orbax that logs a collective that failed; ourselves
_DYING = re.compile(
    r"[WEF]\d{4} .*(coordination_service|JAX distributed service|preemption_sync)"
    r"|ERROR:absl:.*(Gloo|NCCL|UNAVAILABLE|Connection (closed|reset))|causal-jax: another process"
)
_CHATTER = "connected peer ranks is"  # of gloo, on stdout


def through_filter() -> None:
    """Send this process's stderr, and what C++ writes on stdout, through a filter of its own. It ends when the process does."""
    reader, writer = os.pipe()
    subprocess.Popen([sys.executable, "-P", "-S", __file__], stdin=reader, start_new_session=True)
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)


def _filter() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    lost = False
    with open(0, errors="replace", closefd=False) as lines:  # line by line, as they come
        for line in lines:
            lost = lost or bool(_DYING.match(line))
            if _CHATTER in line or (lost and (line.startswith(LOST) or not line.startswith("causal-jax: "))):
                continue
            sys.stderr.write(line)
            sys.stderr.flush()
    if lost:
        print(LOST, file=sys.stderr)


if __name__ == "__main__":
    _filter()
