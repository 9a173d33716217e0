"""What the running daemons still may do, and what is in their memory."""
import glob
import os
import re

import ccfile
from harness import ALL, BUILD, REAL, SEARCHES, not_under, test
from made import usual_creds, made_cache
from util import DEADLINE, Failed, check, eq, raises, wait_for

SETGID, SETUID, SYS_ADMIN = 1 << 6, 1 << 7, 1 << 21
SECRET_SIZE = 16        # of a piece that is looked for


def status_of(pid):
    with open("/proc/%d/status" % pid) as f:
        return {k: v.split() for k, v in (s.split(":", 1) for s in f)}


def limits_of(pid):
    with open("/proc/%d/limits" % pid) as f:
        return {line[:25].strip(): line[25:].split()[:2] for line in f}


def children_of(pid):
    return [int(p) for path in glob.glob("/proc/%d/task/*/children" % pid)
            for p in open(path).read().split()]


def threads_of(pid):
    return [int(t) for t in os.listdir("/proc/%d/task" % pid)]


def is_inspectable():
    """A build for debuggers and sanitizers is not confined."""
    with open(os.path.join(BUILD, "flags")) as f:
        return "-DINSPECTABLE" in f.read()


def check_confined(pid, capabilities):
    for tid in threads_of(pid):
        s = status_of(tid)
        for name in ("CapEff", "CapPrm"):
            eq(int(s[name][0], 16), capabilities, "%s of %d" % (name, tid))
        for name in ("CapInh", "CapAmb", "CapBnd"):
            eq(int(s[name][0], 16), 0, "%s of %d" % (name, tid))
        eq(s["NoNewPrivs"], ["1"], "NoNewPrivs of %d" % tid)
        if not is_inspectable():
            eq(s["Seccomp"], ["2"], "Seccomp of %d" % tid)
    eq(limits_of(pid)["Max core file size"], ["0", "0"], "core size")
    if not is_inspectable():
        # /proc/PID belongs to root when a process is not dumpable
        eq(os.stat("/proc/%d/environ" % pid).st_uid, 0, "owner in /proc")
        check(int(status_of(pid)["VmLck"][0]) > 0, "no locked memory")


# ------------------------------------------------------------- privileges

@test(*ALL)
def the_daemon_of_root(t):
    m, u = t.mount(), t.user()
    u.kinit()
    eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)
    check_confined(m.process.pid, SETGID | SETUID)


@test("kcmd")
def the_daemon_of_a_user(t):
    u = t.user()
    u.kinit()
    m = t.mount(uid=u.uid)
    eq(u.klist("FILE:%s/default/cache" % m)[0], u.principal)
    pid = m.process.pid
    for tid in threads_of(pid):
        s = status_of(tid)
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            eq(int(s[name][0], 16), 0, name)
        eq(s["NoNewPrivs"], ["1"])
        if not is_inspectable():
            eq(s["Seccomp"], ["2"])
    if not is_inspectable():
        # not dumpable: another process of this user cannot read its memory
        raises(13, u.call, os.listdir, "/proc/%d/fd" % pid)
        raises(13, u.call, open, "/proc/%d/mem" % pid, "rb")


@test("kcmd")
def kcmd_itself(t):
    u = t.user()
    u.kinit()
    check_confined(t.daemon.process.pid, 0)


@test("none")
def the_process_that_unmounts(t):
    """It holds one capability, no secret and no descriptor but its own."""
    m = t.mount("--embedded", socket=False)
    (child,) = children_of(m.process.pid)
    if not is_inspectable():
        # it sets itself up beside the mount, and waits for its end then
        wait_for("its filter", lambda: status_of(child)["Seccomp"] == ["2"])
    s = status_of(child)
    for name in ("CapEff", "CapPrm"):
        eq(int(s[name][0], 16), SYS_ADMIN, name)
    for name in ("CapInh", "CapAmb", "CapBnd"):
        eq(int(s[name][0], 16), 0, name)
    eq(s["NoNewPrivs"], ["1"])
    if not is_inspectable():
        eq(s["Seccomp"], ["2"])
    eq(sorted(os.listdir("/proc/%d/fd" % child)), ["0", "1", "2", "3"])
    for fd in "012":
        eq(os.readlink("/proc/%d/fd/%s" % (child, fd)), "/dev/null")
    check(os.readlink("/proc/%d/fd/3" % child).startswith("socket:"), "fd 3")
    # of a user it holds none at all
    u = t.user(principal=None)
    m2 = t.mount("--embedded", socket=False, uid=u.uid)
    (child,) = children_of(m2.process.pid)
    s = status_of(child)
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        eq(int(s[name][0], 16), 0, name)


@test("kcmd")
def descriptors(t):
    """Nothing is held open but sockets, /dev/fuse and eventfds."""
    m, u = t.mount(), t.user()
    u.kinit()
    u.klist("FILE:%s/default/cache" % m)
    for pid in (m.process.pid, t.daemon.process.pid):
        for fd in os.listdir("/proc/%d/fd" % pid):
            target = os.readlink("/proc/%d/fd/%s" % (pid, fd))
            check(re.match(r"socket:|anon_inode:|/dev/fuse|/dev/null|.*log$",
                           target), "%d holds %s", pid, target)


# ----------------------------------------------------------------- memory

def memory_of(pid):
    """(address range, bytes) of each readable private mapping."""
    with open("/proc/%d/maps" % pid) as maps, \
            open("/proc/%d/mem" % pid, "rb", buffering=0) as mem:
        for line in maps:
            where, mode, *rest = line.split()
            if mode[0] != "r" or rest[-1] in ("[vvar]", "[vsyscall]"):
                continue
            begin, end = (int(x, 16) for x in where.split("-"))
            try:
                mem.seek(begin)
                left = end - begin
                data = b""
                while left > 0:
                    part = mem.read(left)
                    if not part:
                        break
                    data += part
                    left -= len(part)
            except (OSError, OverflowError, ValueError):
                continue
            yield line.strip(), data


def found_in(pid, pieces):
    return ["%s at +%x in %s" % (name, data.find(piece), where)
            for where, data in memory_of(pid)
            for name, piece in pieces.items() if piece in data]


def pieces_of(image):
    """Parts of each ticket and key of a cache, by name."""
    pieces = {}
    for cred in ccfile.parse(image).creds:
        if cred.is_config():
            continue
        server = str(cred.server)
        pieces["key of " + server] = cred.key[:SECRET_SIZE]
        for what, at in (("start", 0), ("middle", len(cred.ticket) // 2),
                         ("end", len(cred.ticket) - SECRET_SIZE)):
            pieces["%s of ticket %s" % (what, server)] = \
                cred.ticket[at:at + SECRET_SIZE]
    # the start of every ticket is its realm in ASN.1: no secret
    return {k: v for k, v in pieces.items() if not k.startswith("start")}


def gone(pid, pieces, what):
    try:
        wait_for(what, lambda: not found_in(pid, pieces), 3 * DEADLINE)
    except Failed:
        raise Failed("%s is still in memory:\n%s" % (
            what, "\n".join(found_in(pid, pieces)))) from None


def flags_of(pid):
    """{first line of each mapping in smaps: its VmFlags}"""
    flags, head = {}, None
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                head = line.strip()
            elif line.startswith("VmFlags:"):
                flags[head] = line.split()[1:]
    return flags


def check_guarded(pid, pieces):
    """Wherever there is a piece, the page is locked and in no core."""
    found = {}
    for where, data in memory_of(pid):
        for name, piece in pieces.items():
            if piece in data:
                found.setdefault(where, []).append(name)
    eq({n for names in found.values() for n in names}, set(pieces),
       "pieces in memory")
    # a heap that grew meanwhile has another end
    flags = {head.split("-")[0]: f for head, f in flags_of(pid).items()}
    for where, names in found.items():
        has = flags[where.split("-")[0]]
        for flag in ("lo", "dd"):
            check(flag in has, "%s: %r in %s, which has not %r but %s", pid,
                  names, where, flag, has)


@test(*ALL)
def live_tickets_are_locked_and_not_dumped(t):
    """While a cache is open that was read, written and listed."""
    if is_inspectable():
        return
    m, u = t.mount("-o", "idle=600"), t.user()
    path = m / "default/cache"
    u.kinit(cc="FILE:" + path)
    u.kvno("host/localhost", "svc1/host.example.com", cc="FILE:" + path)
    fd = u.call(os.open, path, os.O_RDONLY)
    try:
        image = u.call(os.pread, fd, 1 << 20, 0)
        u.write(m / ("by-name/%d/scratch" % u.uid), image)
        use_all_views(u, m)
        pieces = pieces_of(image)
        check(len(pieces) >= 9, "too few pieces: %s", list(pieces))
        check_guarded(m.process.pid, pieces)
    finally:
        os.close(fd)


@test("kcmd")
def kcmd_locks_and_does_not_dump(t):
    """What it holds and what it sends and receives."""
    if is_inspectable():
        return
    u = t.user()
    u.kinit()
    u.kvno("host/localhost", "svc1/host.example.com")
    u.klist()
    w = t.wire(u)
    name = next(iter(w.caches().values()))
    creds = [ccfile.parse_cred(raw) for raw in w.creds(name)]
    pieces = {}
    for c in creds:
        if not c.is_config():
            pieces["key of %s" % c.server] = c.key[:SECRET_SIZE]
            pieces["end of %s" % c.server] = c.ticket[-SECRET_SIZE:]
    check(len(pieces) >= 6, "too few pieces: %s", list(pieces))
    check_guarded(t.daemon.process.pid, pieces)


def use_all_views(u, m):
    u.klist("FILE:%s/default/cache" % m)
    u.klist("DIR:%s/collection" % m)
    for name in ("info", "info.json", "principal", "name"):
        u.text("%s/default/%s" % (m, name))
    for name in u.list(m / "default/tickets"):
        u.read("%s/default/tickets/%s" % (m, name))


@test(*REAL)
@not_under("asan tsan", SEARCHES)
def tickets_leave_the_memory(t):
    """Of a cache that was read, when nobody has used it for a while; its
    time stays, and so does what is read the next time."""
    m, u = t.mount("-o", "idle=1"), t.user()
    u.kinit()
    u.kvno("host/localhost", "svc1/host.example.com")
    pid, path = m.process.pid, m / "default/cache"
    fd = u.call(os.open, path, os.O_RDONLY)
    image = u.read(path)
    use_all_views(u, m)
    pieces = pieces_of(image)
    check(len(pieces) >= 6, "too few pieces: %s", list(pieces))
    check(found_in(pid, pieces), "the search finds nothing at all")
    before = u.stat(path)
    os.close(fd)
    gone(pid, pieces, "what was read")
    after = u.stat(path)
    eq((after.st_mtime_ns, after.st_size, after.st_ino),
       (before.st_mtime_ns, before.st_size, before.st_ino), "stat")
    check(u.read(path) == image, "another image after the pause")
    # while it is open it stays what it is
    gone(pid, pieces, "what was read again")
    u.kvno("svc2/host.example.com")
    check(u.stat(path).st_mtime_ns > before.st_mtime_ns,
          "a change while it slept does not show in the time")


@test(*REAL)
@not_under("asan tsan", SEARCHES)
def written_tickets_leave_the_memory(t):
    """Also the buffers in which the kernel handed them over."""
    m, u = t.mount("-o", "idle=1"), t.user()
    path = m / ("by-name/%d.written" % u.uid)
    u.call(os.mkdir, path)
    u.kinit(cc="FILE:%s/cache" % path)
    u.kvno("host/localhost", cc="FILE:%s/cache" % path)
    image = u.read(path + "/cache")
    u.write(path + "/cache", image)
    u.write(path + "/temporary", image)
    u.call(os.rename, path + "/temporary", path + "/cache")
    u.write(path + "/abandoned", image)
    u.call(os.unlink, path + "/abandoned")
    gone(m.process.pid, pieces_of(image), "what was written")
    check(len(u.read(path + "/cache")) > 0, "nothing left of the cache")


@test(*REAL)
@not_under("asan tsan", SEARCHES)
def destroyed_tickets_leave_the_memory(t):
    m, u = t.mount("-o", "idle=1"), t.user()
    u.kinit()
    image = u.read(m / "default/cache")
    u.run("kdestroy", "-q")
    raises(2, u.read, m / "default/cache")
    gone(m.process.pid, pieces_of(image), "what was destroyed")


@test("kcmd")
@not_under("asan tsan", SEARCHES)
def kcmd_wipes(t):
    u = t.user()
    u.kinit()
    w = t.wire(u)
    name = next(iter(w.caches().values()))
    creds = [ccfile.parse_cred(raw) for raw in w.creds(name)]
    pieces = {str(c.server): c.key[:SECRET_SIZE] for c in creds
              if not c.is_config()}
    check(found_in(t.daemon.process.pid, pieces), "the search finds nothing")
    u.run("kdestroy", "-q")
    gone(t.daemon.process.pid, pieces, "a destroyed cache")


@test("kcmd")
@not_under("asan tsan", SEARCHES)
def unchanged_after_sleep_for_many(t):
    """Many caches asleep: each comes back with its own time and content."""
    m, u = t.mount("-o", "idle=1"), t.user()
    names = ["%d:n%d" % (u.uid, i) for i in range(20)]
    for name in names:
        made_cache(t, u, usual_creds(u), name)
    paths = [m / ("by-name/%s/cache" % n.replace(":", ".")) for n in names]
    before = [(u.stat(p).st_mtime_ns, u.read(p)) for p in paths]
    keys = {"key": ccfile.parse(before[0][1]).creds[0].key}
    wait_for("sleep", lambda: not found_in(m.process.pid, keys),
             3 * DEADLINE)
    eq([(u.stat(p).st_mtime_ns, u.read(p)) for p in paths], before)
