"""Random sequences of operations by FILE and by KCM, two users, against a
mount and a plain model (tests/lib/model.py), compared after every step.

    tests/run -k test_random                     a fixed set of seeds
    KCMFS_RANDOM=2000 tests/run -k test_random -d kcmd
                                                 so many sequences, new seeds
    KCMFS_RANDOM=1:12345 tests/run ...           from this seed on

A sequence that fails is shrunk: the shortest list of (operation, seed, user)
that still fails is printed, and can be replayed by test_random.replay with
KCMFS_SEQUENCE set to it.
"""
import json
import os
import random
import time

from harness import ALL, test
from model import OPERATIONS, State
from util import Failed

FIXED = range(1, 9)
STEPS = 40
# some are wanted more often
WEIGHTS = {"op_append": 4, "op_tombstone": 3, "op_rename": 3, "op_open": 3,
           "op_write_open": 6, "op_kcm_store": 4, "op_create": 4,
           "op_read_open": 3, "op_remove_seen": 6, "op_begin": 2}


def generate(seed):
    r = random.Random(seed)
    pool = [op for op in OPERATIONS for _ in range(WEIGHTS.get(op, 1))]
    return [(r.choice(pool), r.randrange(1 << 30), int(r.random() < 0.2))
            for _ in range(STEPS)]


class Bench:
    """A mount and two users, on which sequences run one after the other."""

    def __init__(self, t):
        # what a loaded machine makes of a deadline is not the question
        self.t, self.m = t, t.mount("-o", "timeout=60")
        self.users = [t.user(None), t.user(None)]

    def run(self, sequence):
        """None, or (steps done, the failure)."""
        states = [State(self.t, self.m, u) for u in self.users]
        try:
            for n, (operation, seed, who) in enumerate(sequence):
                try:
                    state = states[who]
                    names = getattr(state, operation)(random.Random(seed))
                    state.compare(set(names))
                except (OSError, Failed, ValueError, AssertionError) as e:
                    return n + 1, e
            for state in states:
                try:
                    state.compare(list(state.caches))
                except (OSError, Failed, ValueError) as e:
                    return len(sequence), e
            return None
        finally:
            for state in states:
                state.end()

    def shrink(self, sequence, failure):
        steps, error = failure
        sequence = sequence[:steps]
        size = max(1, len(sequence) // 2)
        until = time.monotonic() + 30
        while size and time.monotonic() < until:
            at = 0
            while at < len(sequence):
                shorter = sequence[:at] + sequence[at + size:]
                failed = self.run(shorter) if shorter else None
                if failed:
                    sequence, error = shorter[:failed[0]], failed[1]
                else:
                    at += size
            size //= 2
        return sequence, error

    def try_seed(self, seed):
        sequence = generate(seed)
        failure = self.run(sequence)
        if failure:
            shortest, error = self.shrink(sequence, failure)
            raise Failed(
                "seed %d: %s: %s (at first, step %d: %s)\n"
                "KCMFS_SEQUENCE='%s'" % (
                    seed, type(error).__name__, error, *failure,
                    json.dumps(shortest))) from error


@test(*ALL)
def sequences(t):
    bench = Bench(t)
    wanted = os.environ.get("KCMFS_RANDOM")
    seeds = FIXED if t.on != "sssd" else FIXED[:5]      # where it is slow
    if wanted:
        count, _, first = wanted.partition(":")
        first = int(first or time.time())
        seeds = range(first, first + int(count))
    for seed in seeds:
        bench.try_seed(seed)


@test(*ALL)
def replay(t):
    text = os.environ.get("KCMFS_SEQUENCE")
    if not text:
        return
    failure = Bench(t).run(json.loads(text))
    if failure:
        raise Failed("step %d: %s" % failure) from failure[1]
