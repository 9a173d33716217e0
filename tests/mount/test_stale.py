"""A hunt for stale and torn reads (tests/clients/hunt.c): a cache is changed
thousands of times, through KCM: and through its file, while readers open it in
every way there is.  What was finished before an open began must be in what it
reads, and what it reads must be a state that the cache was in.

`make hunt` does it a hundred thousand times."""
import os

import clients
from harness import ALL, sanitizer, test
from made import made_cache
from mount import bind
from tree import paths_of
from util import Failed, check

CHANGES = os.environ.get("KCMFS_HUNT_CHANGES", "4000")
SECONDS = int(os.environ.get("KCMFS_HUNT_S", "20"))
LEAST = {"sssd": 50}            # where a change takes milliseconds


def hunt(t, u, name, ways, *options):
    """ways: [(way, path)]; the first path is written to."""
    options = list(options)
    if t.on == "sssd":
        options += ["-r", "-g"]
    result = u.run(clients.program(u, "hunt"), *options, "-n",
                   CHANGES, "-s", SECONDS, "KCM:" + name,
                   *("%s=%s" % w for w in ways),
                   code=None, timeout=SECONDS + 100)
    if result.code:
        raise Failed(str(result))
    lines = result.out.splitlines()
    least = 1 if sanitizer() else LEAST.get(t.on, 400)
    check(int(lines[0].split()[0]) >= least, "only %s", lines[0])
    for line in lines[1:]:
        check(int(line.split()[1]) > 0, "no reads: %s", line)


def hunted(t):
    u = t.user(principal=None)
    u.principal = "u@EXAMPLE.COM"
    m = t.mount()
    name = made_cache(t, u, [])
    return u, name, paths_of(t, m, u, name).forms


@test(*ALL)
def neither_stale_nor_torn(t):
    u, name, forms = hunted(t)
    path = forms["by-name"]
    hunt(t, u, name, [
        ("path", path), ("openat", path), ("proc", path), ("append", path),
        ("bind", bind(t, u, path)), ("collection", forms["collection"]),
        ("libkrb5", path)])


@test(*ALL)
def nor_where_files_are_replaced(t):
    """By rename, unlink and create, too: by paths, which lead to the new
    file; a descriptor or bind mount of the old one does not, as on disk."""
    u, name, forms = hunted(t)
    path = forms["by-name"]
    hunt(t, u, name, [
        ("path", path), ("openat", path), ("append", path),
        ("collection", forms["collection"]), ("libkrb5", path)], "-w")
