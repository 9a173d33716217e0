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

SECONDS = int(os.environ.get("KCMFS_HUNT_S", 60))


def changes(t):
    """What is done in some seconds; sssd takes milliseconds for each."""
    return int(os.environ.get("KCMFS_HUNT_CHANGES", 0)) or \
        (400 if t.on == "sssd" else 4000)


def least(t):
    """Fewer than a slow machine does in that time are no hunt."""
    if t.on == "sssd":
        return 50 if sanitizer() else 100
    return 100 if sanitizer() else 2000


def hunt(t, u, name, ways, *options):
    """ways: [(way, path)]; the first path is written to."""
    options = list(options)
    if t.on == "sssd":
        options += ["-r", "-g"]
    result = u.run(clients.program(u, "hunt"), *options, "-n",
                   changes(t), "-s", SECONDS, "KCM:" + name,
                   *("%s=%s" % w for w in ways),
                   code=None, timeout=SECONDS + 100)
    if result.code:
        raise Failed(str(result))
    lines = result.out.splitlines()
    check(int(lines[0].split()[0]) >= min(changes(t), least(t)), "only %s",
          lines[0])
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
