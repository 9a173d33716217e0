"""One user who takes what can be taken: the others go on working, what is
refused is refused with a clear error, and memory stays bounded."""
import dataclasses
import errno
import fcntl
import os
import resource
import signal
import subprocess
import threading

import ccfile
from harness import ALL, MEASURES, not_under, test
from util import DEADLINE, Failed, check, eq, wait_for

MIB = 1 << 20
CLEAR = (errno.EDQUOT, errno.EMFILE, errno.EAGAIN)


def memory(m, what="VmRSS"):
    """Of the daemon, resident, in bytes."""
    with open("/proc/%d/status" % m.process.pid) as f:
        for line in f:
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
    raise Failed("no " + what)


def abuser_and_victim(t):
    pair = t.user(), t.user()
    for u in pair:
        u.kinit()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return pair


def works(m, u):
    """All that a usual day of u needs."""
    eq(str(ccfile.parse(u.read(m / "default/cache")).principal), u.principal)
    eq(u.list(m / "by-principal"), [u.principal])
    path = m / ("by-name/%d.day" % u.uid)
    u.call(os.mkdir, path)
    u.write(path + "/cache", u.read(m / "default/cache"))
    u.write(path + "/scratch", b"x" * 1000)
    u.call(os.unlink, path + "/scratch")
    u.call(os.unlink, path + "/cache")
    u.call(os.rmdir, path)


def until_refused(most, function):
    """How many times it went well, and the errno that ended it (0: none)."""
    for i in range(most):
        try:
            function(i)
        except OSError as e:
            return i, e.errno
    return most, 0


@test("kcmd", "heimdal", "embedded")
@not_under("asan", MEASURES)
def ten_thousand_handles(t):
    m = t.mount()
    a, b = abuser_and_victim(t)
    works(m, b)
    before, fds = memory(m), []
    path = m / "default/cache"

    def body():
        return until_refused(10000, lambda i: fds.append(
            os.open(path, os.O_RDONLY if i % 2 else os.O_RDWR)))
    try:
        count, error = a.call(body)
        check(error == 0 or error in CLEAR, "open %d: %s", count,
              os.strerror(error))
        works(m, b)
        grown = memory(m) - before
        check(grown < 48 * MIB, "%d handles cost %d bytes", count, grown)
    finally:
        for fd in fds:
            os.close(fd)
    works(m, a)


@test("kcmd")
@not_under("tsan", MEASURES)
def handles_without_end(t):
    """In as many processes as it takes, and of what asks no daemon."""
    m = t.mount()
    a, b = abuser_and_victim(t)
    works(m, b)
    before, count = memory(m), 0
    script = ("import os, sys\nn = 0\n"
              "try:\n    while True:\n        os.open(sys.argv[1], "
              "os.O_RDONLY)\n        n += 1\n"
              "except OSError as e:\n    print(n, e.errno, "
              "flush=True)\nsys.stdin.read()")
    processes = []
    try:
        while count < 70000 and len(processes) < 1000:
            p = subprocess.Popen(
                ["/usr/bin/python3", "-c", script, m.path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=a.uid,
                group=a.gid, extra_groups=[])
            processes.append(p)
            n, error = map(int, p.stdout.readline().split())
            count += n
            if n == 0:
                break
        eq((count, errno.errorcode[error]), (65536, "EMFILE"), "handles")
        works(m, b)
        grown = memory(m) - before
        check(grown < 64 * MIB, "%d handles cost %d bytes", count, grown)
    finally:
        for p in processes:
            p.kill()
            p.communicate()
    works(m, a)


@test(*ALL)
@not_under("asan tsan", MEASURES)
def scratch_without_end(t):
    m = t.mount()
    a, b = abuser_and_victim(t)
    works(m, b)
    before = memory(m)
    top = m / ("by-name/%d" % a.uid)

    def body():
        def make(i):
            with open("%s/scratch%d" % (top, i), "wb", buffering=0) as f:
                f.write(b"x")
        many = until_refused(10000, make)

        def link(i):
            os.symlink("by-name/%d" % a.uid, m / ("link%d" % i))
        links = until_refused(10000, link)

        def grow(i):
            with open("%s/scratch%d" % (top, i % 10), "ab",
                      buffering=0) as f:
                f.write(b"y" * MIB)
        return many, links, until_refused(10000, grow)
    for what, (count, error) in zip(("files", "links", "MiB"), a.call(body)):
        eq(errno.errorcode.get(error), "EDQUOT", what)
        check(count < 10000, "%d %s", count, what)
    works(m, b)
    grown = memory(m) - before
    check(grown < 160 * MIB, "scratch files cost %d bytes", grown)


@test("kcmd")
@not_under("asan tsan", MEASURES)
def many_commits_of_a_large_file(t):
    """One file for tickets/, as large as may be, flushed through many
    handles while the daemon does not answer: the copies have a bound."""
    p = t.proxy()
    m = t.mount("-o", "timeout=5", socket=p.socket)
    a, b = abuser_and_victim(t)
    works(m, b)
    big = ccfile.Cache(ccfile.princ(a.principal), [dataclasses.replace(
        ccfile.ticket(a.principal, "big%d@EXAMPLE.COM" % i, 1700000000 + i),
        ticket=os.urandom(4 * MIB)) for i in range(3)]).bytes()
    a.read(m / "default/cache")
    path = m / "default/tickets/big"
    fds = [a.call(os.open, path, os.O_CREAT | os.O_WRONLY)
           for _ in range(40)]
    p.hold_uid(a.uid)
    answers = []

    def commit(fd):
        try:
            # FLUSH: the kernel sends one FSYNC of a file at a time
            os.close(os.dup(fd))
            answers.append(0)
        except OSError as e:
            answers.append(e.errno)
    threads = [threading.Thread(target=commit, args=(fd,)) for fd in fds]
    try:
        a.call(os.pwrite, fds[0], big, 0)
        for fd in fds[1:]:
            a.call(os.pwrite, fd, big[:1], 0)
        before = memory(m)
        with open("/proc/%d/clear_refs" % m.process.pid, "w") as f:
            f.write("5")                # the most from here on
        for each in threads:
            each.start()
        works(m, b)
        for each in threads:
            each.join()
        eq(set(answers), {errno.EAGAIN, errno.ETIMEDOUT}, "what is answered")
        grown = memory(m, "VmHWM") - before
        check(grown < 200 * MIB, "%d commits cost %d bytes", len(fds), grown)
    finally:
        p.release()
        a.call(os.unlink, path)         # or each close commits it again
        for fd in fds:
            os.close(fd)
    works(m, b)


@test("kcmd")
def ten_thousand_directories(t):
    m = t.mount()
    a, b = abuser_and_victim(t)
    before = memory(m)

    def body():
        return until_refused(10000, lambda i: os.mkdir(
            m / ("by-name/%d.d%d" % (a.uid, i))))
    count, error = a.call(body)
    check(error in CLEAR, "directory %d: %s", count, error)
    works(m, b)
    check(memory(m) - before < 32 * MIB, "%d directories cost %d bytes",
          count, memory(m) - before)
    works_still = a.read(m / "default/cache")
    check(works_still, "the abuser's own cache")


@test(*ALL)
def locks_held(t):
    """Of every kind, on all that both can open."""
    m = t.mount()
    a, b = abuser_and_victim(t)
    fds = []

    def body():
        for name in ("default/cache", "collection/primary"):
            fd = os.open(m / name, os.O_RDWR)
            fds.append(fd)
            fcntl.lockf(fd, fcntl.LOCK_EX)
            fcntl.flock(fd, fcntl.LOCK_EX)
        for name in (".", "by-name", "collection", "by-principal", ".kcmfs"):
            fd = os.open(m / name, os.O_RDONLY | os.O_DIRECTORY)
            fds.append(fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        a.call(body)
        works(m, b)
        eq(b.klist("FILE:%s/default/cache" % m)[0], b.principal)
        b.kvno("svc1/host.example.com", cc="FILE:%s/default/cache" % m)
    finally:
        for fd in fds:
            os.close(fd)


@test(*ALL)
def stopped_in_the_middle(t):
    """Readers and writers that got SIGSTOP hold nobody up."""
    m = t.mount()
    a, b = abuser_and_victim(t)
    script = ('exec 3<"$1"; dd bs=1 count=9 <&3 2>/dev/null; '
              'exec 4>>"$1"; echo; while :; do cat "$1" >/dev/null; done')
    stopped = [subprocess.Popen(
        ["sh", "-c", script, "sh", m / "default/cache"],
        stdout=subprocess.PIPE, user=a.uid, group=a.gid, extra_groups=[],
        start_new_session=True) for _ in range(20)]
    try:
        for p in stopped:
            check(p.stdout.read(10), "a reader did not begin")
            os.killpg(p.pid, signal.SIGSTOP)
        works(m, b)
        works(m, a)             # nor his own other processes
    finally:
        for p in stopped:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            p.stdout.close()
    works(m, a)


FLOOD = r"""
import os, sys
top, n = sys.argv[1], 0
while True:
    for name in ("%d", "by-name/x%d", "collection/tkt%d", "krb5cc_%d",
                 "by-principal/p%d@R", "default/tickets/t%d"):
        n += 1
        try:
            os.stat(os.path.join(top, name % n))
        except OSError:
            pass
    if n == 600:
        print("go", flush=True)
"""


@test("kcmd", "heimdal", "embedded")
def lookup_flood(t):
    """Names that do not exist cost the daemon nothing that stays."""
    m = t.mount()
    a, b = abuser_and_victim(t)
    works(m, b)
    before = memory(m)
    floods = [subprocess.Popen(
        ["/usr/bin/python3", "-c", FLOOD, m.path], stdout=subprocess.PIPE,
        user=a.uid, group=a.gid, extra_groups=[]) for _ in range(4)]
    try:
        for p in floods:
            check(p.stdout.readline() == b"go\n", "no flood")
        for _ in range(5):
            works(m, b)
        check(memory(m) - before < 48 * MIB, "lookups cost %d bytes",
              memory(m) - before)
    finally:
        for p in floods:
            p.kill()
            p.wait()
            p.stdout.close()


@test("kcmd")
def more_requests_than_threads(t):
    """A user whose daemon side hangs, with more requests than kcmfs has
    threads, gets EAGAIN; the others do not notice."""
    p = t.proxy()
    m = t.mount("-o", "timeout=30", socket=p.socket)
    a, b = abuser_and_victim(t)
    works(m, b)
    p.hold_uid(a.uid)
    answers, lock = [], threading.Lock()
    path = m / "default/cache"

    def ask():
        def body():
            try:
                os.close(os.open(path, os.O_RDONLY))
                return 0
            except OSError as e:
                return e.errno
        answer = a.call(body)
        with lock:
            answers.append(answer)
    threads = [threading.Thread(target=ask) for _ in range(1200)]
    try:
        for each in threads:
            each.start()
        wait_for("the first that is refused", lambda: answers, DEADLINE)
        works(m, b)
        eq(set(answers), {errno.EAGAIN}, "what is answered meanwhile")
    finally:
        p.release()
        for each in threads:
            each.join()
    eq(set(answers) - {0, errno.EAGAIN}, set(), "in the end")
    works(m, a)
