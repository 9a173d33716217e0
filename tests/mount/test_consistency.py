"""One consistent image per open, while KCM clients change the cache."""
import os
import re
import threading
import time

import ccfile
import clients
from harness import ALL, test
from made import TGT, image, made_cache, svc, usual_creds
from tree import paths_of
from util import Failed, check, eq
from writing import FORMS, Subject, append, opened


@test(*ALL)
def an_open_file_stays_whole(t):
    """A handle reads one image, whatever becomes of the cache meanwhile."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 1000
    creds = usual_creds(u, 40, start)
    name = made_cache(t, u, creds, offset=0)
    path = paths_of(t, m, u, name).forms["by-name"]
    fd = u.call(os.open, path, os.O_RDONLY)
    try:
        first = os.read(fd, 700)
        made_cache(t, u, usual_creds(u, 2, start + 500), offset=0, name=name)
        rest = b""
        while part := os.read(fd, 4096):
            rest += part
        cache = ccfile.parse(first + rest)
        eq(cache.bytes(), first + rest)
        servers = [str(c.server) for c in creds if not c.is_config()]
        eq(cache.servers()[:len(servers)], servers, "an entry moved")
        eq(u.call(os.fstat, fd).st_size, len(first + rest))
    finally:
        os.close(fd)
    eq(image(u, path).servers(), [TGT, "host/h0@EXAMPLE.COM",
                                  "host/h1@EXAMPLE.COM"])


@test(*ALL)
def offsets_stay_while_open(t):
    """New entries come at the end, one that goes leaves a removed-entry."""
    m, u = t.mount(), t.user()
    start = int(time.time()) - 1000
    creds = usual_creds(u, 3, start)
    name = made_cache(t, u, creds, offset=0)
    path = paths_of(t, m, u, name).forms["by-name"]
    fd = u.call(os.open, path, os.O_RDONLY)
    try:
        old = os.read(fd, 1 << 20)
        gone = creds[2]
        new = ccfile.ticket(u.principal, "aaa/new@EXAMPLE.COM", start - 50)
        made_cache(t, u, [c for c in creds if c is not gone] + [new],
                   offset=0, name=name)
        now = u.read(path)
        parsed = ccfile.parse(now)
        eq(parsed.creds[-1], new, "the new entry")
        eq(len(now), len(old) + len(new.bytes()))
        at = old.index(gone.bytes())
        eq(now[:at], old[:at])
        after = at + len(gone.bytes())
        eq(now[after:len(old)], old[after:])
        dead = ccfile.parse_cred(now[at:after])
        eq((dead.endtime, dead.authtime != 0), (0, True), "removed-entry")
        eq(u.klist("FILE:" + path)[1].count(str(gone.server)), 0)
    finally:
        os.close(fd)
    eq(image(u, path).creds,
       ccfile.canonical(ccfile.Cache(None, [
           c for c in creds if c is not gone] + [new])).creds)


def live(s):
    return [c for c in s.file().creds if c.endtime != 0]


@test(*ALL)
def as_before_what_was_written(t):
    """The daemon holds again what it held before a ticket was appended: the
    ticket is gone, though the daemon's answer is one that was known."""
    s = Subject(t, t.mount(), t.user())
    s.make(s.ticket())
    principal = s.wire.principal(s.name)
    fd = opened(s.u, s.path(), os.O_RDONLY)
    try:
        eq(len(ccfile.parse(os.read(fd, 1 << 20)).creds), 1)
        s.wire.init(s.name, principal)
        eq(live(s), [])
        append(s.u, s.path(), s.ticket().bytes())
        s.wire.init(s.name, principal)
        eq(live(s), [])
    finally:
        os.close(fd)
    s.holds(forms=FORMS)


@test(*ALL)
def a_failed_open_leaves_nothing(t):
    """A process was told that what it opens is stale, then found nothing:
    its later lookups are like anybody's."""
    s = Subject(t, t.mount(), t.user())
    s.make(s.ticket())
    s.u.read(s.path())
    s.wire.destroy(s.name)

    def body():
        try:
            os.open(s.path(), os.O_RDONLY)
            check(False, "a cache that is gone was opened")
        except FileNotFoundError:
            pass
        s.make(s.ticket())
        return len({os.stat(s.path(form)).st_ino for form in FORMS})
    eq(s.u.call(body), 1)


@test(*ALL)
def slow_iteration(t):
    """libkrb5's iterator, unlocked between entries, over a cache that a
    kinit replaces meanwhile."""
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno(*[svc(n) for n in range(6)])
    path = paths_of(t, m, u).forms["by-name"]
    p = clients.ccall_process(u, "iterate", "FILE:" + path, "step")
    try:
        eq(p.stdout.readline().split()[0], TGT)
        u.kinit()
        out, _ = p.communicate("\n" * 20, timeout=30)
    finally:
        p.kill()
        p.wait()
    eq(p.returncode, 0)
    eq(image(u, path).servers(), [TGT])
    for line in out.splitlines():
        check(re.match(r"(svc\d/host|krbtgt/|config )", line), "got %s", line)


@test(*ALL)
def never_torn(t):
    """Readers in a loop while KCM clients change the cache all the time."""
    m, u = t.mount(), t.user()
    u.kinit()
    path = paths_of(t, m, u).forms["by-name"]
    done = threading.Event()
    seen, trouble = set(), []

    def reader():
        while not done.is_set() and not trouble:
            try:
                data = u.read(path)
                cache = ccfile.parse(data)
                eq(cache.bytes(), data)
                eq(str(cache.principal), u.principal)
                seen.add(len(cache.tickets()))
            except FileNotFoundError:
                pass        # between INITIALIZE and principal, on sssd
            except Exception as e:
                trouble.append(e)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            u.kinit()
            u.kvno(svc(0), svc(1))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if trouble:
        raise Failed("a reader saw: %r" % trouble[0])
    check(seen - {0}, "the readers saw no ticket at all: %s", seen)
