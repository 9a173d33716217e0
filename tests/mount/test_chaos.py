"""Daemons that die, hang and come back under clients at work.

A few seconds each; `make chaos S=600` runs each for so long, and prints what
was done and how much memory, threads and descriptors it took.
"""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "chaos"))

import chaos                                            # noqa: E402
from harness import REAL, test                          # noqa: E402

SECONDS = float(os.environ.get("KCMFS_CHAOS_S", "6"))
SEED = int(os.environ.get("KCMFS_CHAOS_SEED", "1"))


def under(t, troubles):
    daemon = t.own_daemon()
    seed = SEED if "KCMFS_CHAOS_S" not in os.environ else int(time.time())
    print("seed %d" % seed, file=sys.stderr)
    figures = chaos.run(t, daemon, SECONDS, seed, troubles)
    print("chaos on %s: %s" % (t.on, json.dumps(figures)), file=sys.stderr)


@test(*REAL)
def everything_goes_wrong(t):
    under(t, chaos.ALL)


@test(*REAL)
def nothing_is_lost(t):
    """The daemon hangs and is out of reach, but does not end: whatever it
    is, no cache may be gone."""
    under(t, chaos.MILD)
