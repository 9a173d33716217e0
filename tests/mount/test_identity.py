"""Who the KCM daemon sees, and what each caller is shown of others."""
import ctypes
import errno
import os
import shutil
import stat
import subprocess
import threading
import time

import ccfile
from counting import ASYNCHRONOUS, Meter
from harness import ALL, REAL, test
from made import image
from tree import paths_of
from util import DEADLINE, check, eq, raises, run, thread_setids

LIBC = ctypes.CDLL(None, use_errno=True)


def principal_of(data):
    return str(ccfile.parse(data).principal)


def pair_with_tickets(t):
    pair = t.user(), t.user()
    for u in pair:
        u.kinit()
    return pair


# -------------------------------------------------- the identity of a call

@test(*REAL)
def uid_and_gid_of_every_operation(t):
    """Whatever a user does, the daemon sees this uid with this gid."""
    p = t.proxy()
    m = t.mount(socket=p.socket)
    users = t.user(), t.user()
    for u in users:
        u.gid = u.uid + 5000
        u.kinit()
    p.reset()
    for u in users:
        data = u.read(m / "default/cache")
        directory = m / ("by-name/%d.other" % u.uid)
        u.call(os.mkdir, directory)
        u.write(directory + "/cache", data)
        u.write(directory + "/temporary", data)
        u.call(os.rename, directory + "/temporary", directory + "/cache")
        u.list(directory + "/tickets")
        u.text(directory + "/info")
        u.list(m / "collection")
        u.run("ln", "-sfn", directory, m / "default")
        u.text(m / ".kcmfs/status")
        u.call(os.statvfs, m.path)
        u.call(os.unlink, directory + "/cache")
        u.call(os.rmdir, directory)
    eq(p.peers, {(u.uid, u.gid) for u in users}, "(uid, gid) at the daemon")


@test(*REAL)
def descriptor_of_another_user(t):
    """What is read, written and closed through it is done as the opener."""
    p = t.proxy()
    m = t.mount(socket=p.socket)
    a, b = pair_with_tickets(t)
    a.read(m / "default/cache")
    added = ccfile.ticket(a.principal, "host/added@EXAMPLE.COM",
                          int(time.time())).bytes()
    p.reset()
    fd = a.call(os.open, m / "default/cache", os.O_RDWR | os.O_APPEND)
    try:
        b.call(os.write, fd, added[:10])
        b.call(os.write, fd, added[10:])
        b.call(os.fsync, fd)
        eq(principal_of(b.call(os.pread, fd, 1 << 16, 0)), a.principal)
        b.call(os.fstat, fd)
    finally:
        b.call(os.close, fd)
    check(p.log, "nothing reached the daemon")
    eq({uid for uid, _, _ in p.log}, {a.uid}, "uids at the daemon")
    check("host/added@EXAMPLE.COM" in a.klist()[1], "not stored")
    eq(b.klist()[1], ["krbtgt/EXAMPLE.COM@EXAMPLE.COM"], "the other's cache")


@test(*REAL)
def closing_needs_nobody(t):
    """RELEASE and FORGET come from the kernel, as root: they ask nothing."""
    p = t.proxy()
    m = t.mount(socket=p.socket)
    a, _ = pair_with_tickets(t)
    fd = a.call(os.open, m / "default/cache", os.O_RDONLY)
    p.reset()
    os.close(fd)
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("2\n")          # dentries and inodes: FORGET
    eq(principal_of(a.read(m / "default/cache")), a.principal)
    eq({uid for uid, _, _ in p.log}, {a.uid}, "uids at the daemon")


@test(*ALL)
def thread_that_changes_its_uid(t):
    """As rpc.gssd does it: one thread of root at a time is a user."""
    m = t.mount()
    pair = pair_with_tickets(t)
    seen, trouble = [], []

    def thread(u):
        try:
            for _ in range(5):
                thread_setids(u.uid, u.gid, False)
                with open(m / "default/cache", "rb") as f:
                    seen.append((u.principal, principal_of(f.read())))
                thread_setids(0, 0, False)
                if os.path.exists(m / "default/cache"):
                    with open(m / "default/cache", "rb") as f:
                        seen.append(("root", principal_of(f.read())))
        except Exception as e:
            trouble.append(e)
    threads = [threading.Thread(target=thread, args=(u,)) for u in pair]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    eq(trouble, [])
    eq({s for s in seen if s[0] != s[1]}, set(), "another one's tickets")
    eq(len(seen), 10)


@test(*ALL)
def fsuid_alone(t):
    """A file server's thread with a user's fsuid has that user's files."""
    m = t.mount()
    u, _ = pair_with_tickets(t)
    result = {}

    def thread():
        try:
            # raw system calls change this thread alone
            LIBC.syscall(123, u.gid)            # setfsgid
            LIBC.syscall(122, u.uid)            # setfsuid
            with open(m / "default/cache", "rb") as f:
                result["got"] = principal_of(f.read())
        except Exception as e:
            result["error"] = e
    if os.uname().machine != "x86_64":
        return
    each = threading.Thread(target=thread)
    each.start()
    each.join()
    eq(result, {"got": u.principal})


@test(*ALL)
def setuid_program(t):
    """It has the files of whom it belongs to, not of who started it."""
    m = t.mount()
    a, b = pair_with_tickets(t)
    program = os.path.join(t.dir, "cat")
    shutil.copy("/bin/cat", program)
    os.chown(program, b.uid, b.gid)
    os.chmod(program, 0o6755)
    r = a.run(program, m / "default/principal")
    eq(r.out, b.principal + "\n")
    # and cannot reach the starter's, whose uuid it may have been told
    path = paths_of(t, m, a).cache
    check(a.run(program, path, code=None).code != 0, "it reads %s", path)
    # /proc/PID/root and fds of a process of another user lead nowhere
    fd = a.call(os.open, m / "default/cache", os.O_RDONLY)
    try:
        raises(13, b.call, open, "/proc/%d/fd/%d" % (os.getpid(), fd), "rb")
    finally:
        os.close(fd)


def in_user_namespace(process_uid, uid_map, *command):
    """Runs command in a new user namespace with these maps ("0 1000 1")."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            if process_uid is not None:
                os.setresgid(process_uid, process_uid, process_uid)
                os.setresuid(process_uid, process_uid, process_uid)
            if LIBC.unshare(0x10000000):
                os._exit(101)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            inside = int(uid_map.split()[0])
            os.setresgid(inside, inside, inside)
            os.setresuid(inside, inside, inside)
            out = os.open("/dev/null", os.O_WRONLY)
            os.dup2(out, 2)
            os.execvp(command[0], command)
        finally:
            os._exit(102)
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open("/proc/%d/%s" % (pid, name), "w") as f:
            f.write(uid_map)
    os.write(go[1], b"x")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for fd in ready + go:
        os.close(fd)
    return status


@test(*ALL)
def user_namespaces(t):
    """Inside, one is who one is on the host, whatever the name there."""
    m = t.mount()
    a, b = pair_with_tickets(t)
    out = os.path.join(t.dir, "out")

    def reads(process, uid_map, path):
        open(out, "w").close()
        os.chmod(out, 0o666)
        code = in_user_namespace(
            process, uid_map, "sh", "-c", 'cat "$1" >"$2"', "sh", path, out)
        with open(out) as f:
            return code, f.read()

    path = m / "default/principal"
    eq(reads(a.uid, "0 %d 1" % a.uid, path), (0, a.principal + "\n"))
    eq(reads(a.uid, "%d %d 1" % (a.uid, a.uid), path),
       (0, a.principal + "\n"))
    # Root of a namespace that root made, mapped to a user of the host
    eq(reads(None, "0 %d 1" % b.uid, path), (0, b.principal + "\n"))
    # who calls himself by another's number is who he is
    eq(reads(a.uid, "%d %d 1" % (b.uid, a.uid), path),
       (0, a.principal + "\n"))
    # root there is nobody's root here
    code, text = reads(a.uid, "0 %d 1" % a.uid, paths_of(t, m, b).cache)
    check(code != 0 and not text, "root of a namespace reads others' caches")


# ------------------------------------------------ nothing of others to see

def tell(user, path):
    """All that a user learns of a path: errnos and attributes."""
    def body():
        told = []
        for act in (os.lstat, os.listdir, os.readlink, os.statvfs,
                    lambda p: os.open(p, os.O_RDONLY),
                    lambda p: os.open(p, os.O_WRONLY),
                    lambda p: os.open(p, os.O_PATH),
                    lambda p: os.access(p, os.F_OK),
                    lambda p: os.listxattr(p),
                    lambda p: os.chmod(p, 0o600),
                    lambda p: os.utime(p),
                    os.unlink, os.rmdir,
                    lambda p: os.rename(p, p + "x"),
                    lambda p: os.truncate(p, 0)):
            try:
                result = act(path)
                told.append(type(result).__name__)
            except OSError as e:
                told.append(e.errno)
        return told
    return user.call(body)


def existing_and_missing(t, m, a):
    """Paths of a's, and such as nobody has."""
    theirs = paths_of(t, m, a)
    digits = "0123456789abcdef"
    other = "".join(digits[15 - digits.index(c)] if c in digits else c
                    for c in theirs.uuid)
    nobody = str(a.uid + 100000)
    return [(theirs.dir, m / other),
             (theirs.cache, m / (other + "/cache")),
             (theirs / "principal", m / (other + "/principal")),
             (m / ("krb5cc_%d" % a.uid), m / ("krb5cc_" + nobody)),
             (theirs.by_name, theirs.by_name.replace(str(a.uid), nobody)),
             (theirs.forms["collection"],
              theirs.forms["collection"].replace(str(a.uid), nobody)),
             (m / ("by-principal/" + a.principal),
              m / "by-principal/nobody@EXAMPLE.COM")]


@test(*ALL)
def existence_of_others_caches(t):
    """A path of another's cache answers as one that nobody has."""
    m = t.mount()
    a, b = t.user(), t.user(principal=None)
    a.kinit()
    for who in (b, t.root()):
        for existing, missing in existing_and_missing(t, m, a):
            eq(tell(who, existing), tell(who, missing),
               "uid %d told of %s and of %s" % (who.uid, existing, missing))
    eq(principal_of(a.read(m / "default/cache")), a.principal,
       "it is still there")


def attempt(user, act, path):
    def body():
        try:
            act(path)
            return 0
        except OSError as e:
            return e.errno
    return user.call(body)


@test(*ALL)
def existence_costs_nothing_else(t):
    """Nor does it show in what an attempt costs: the daemon is asked the
    same, as often, whether somebody has such a cache or not, and the mount is
    asked the same.  (Of a name by which somebody reached it in this moment,
    as by-name/NAME here, the kernel asks twice: it finds that what it remembers
    is not for this one.  No file system can keep it from that.)"""
    proxy = t.proxy() if t.on != "embedded" else None
    m = t.mount("-d", socket=proxy.socket if proxy else None)
    meter = Meter(m, proxy)
    a, b = t.user(), t.user()
    a.kinit()
    b.kinit()
    acts = (os.lstat, lambda p: os.close(os.open(p, os.O_RDONLY)),
            os.listdir, os.statvfs)

    def costs(who, path):
        """[(errno, FUSE requests, KCM requests, connections)], by act: with
        nothing that is fresh, and then with what the first has left."""
        time.sleep(1.2)         # META_MS, TIMEOUT_FILE, FRESH_MS
        a.read(m / "default/cache")
        found = []
        for act in acts:
            meter.start()
            error = attempt(who, act, path)
            cost = meter.stop()
            found.append((error, sorted(set(cost.requests) - ASYNCHRONOUS),
                          sorted(cost.calls.items()), cost.connections))
        return found

    def least(one, other):
        def key(c):
            return sum(n for _, n in c[2]) + c[3]
        return [min(pair, key=key) for pair in zip(one, other)]
    pairs = existing_and_missing(t, m, a)
    for who, some in ((b, pairs), (t.root(), pairs[1:2] + pairs[4:5])):
        attempt(who, os.listdir, m.path)        # what daemon it is
        for existing, missing in some:
            there, not_there = costs(who, existing), costs(who, missing)
            for _ in range(5):
                if there == not_there:
                    break
                # on a busy machine what was fresh is not any more
                there = least(there, costs(who, existing))
                not_there = least(not_there, costs(who, missing))
            eq(there, not_there, "uid %d: %s and %s" % (
                who.uid, existing, missing))
            eq({e for e, *_ in there}, {errno.ENOENT}, "errors")


@test(*ALL)
def what_others_do_does_not_show(t):
    """nlink, sizes, times of the fixed directories and statfs stay the same
    for one user whatever another one does."""
    m = t.mount()
    a, b = t.user(), t.user(principal=None)

    def look():
        def body():
            told = []
            for name in (".", "by-name", "by-principal", "collection",
                         ".kcmfs"):
                st = os.stat(m / name)
                told.append((name, st.st_nlink, st.st_size, st.st_mtime_ns,
                             st.st_ctime_ns, st.st_ino, st.st_blocks,
                             sorted(os.listdir(m / name))))
            told.append(tuple(os.statvfs(m.path)))
            with open(m / ".kcmfs/status") as f:
                told.append([s for s in f if ":" in s
                             and not s.startswith(("daemon:",
                                                   "cache limit:"))])
            return told
        return b.call(body)
    look()                      # what daemon it is shows after a while
    check(not b.exists(m / "default/cache"), "a cache of nobody's")
    before = look()
    a.kinit()
    a.read(m / "default/cache")
    for i in range(3):
        name = "%d.more%d" % (a.uid, i)
        a.call(os.mkdir, m / ("by-name/" + name))
        a.write(m / ("by-name/%s/cache" % name), a.read(m / "default/cache"))
        a.write(m / ("collection/tktAb%d" % i), b"")
    eq(look(), before, "what one user sees of another's work")


@test(*ALL)
def inode_numbers_tell_nothing(t):
    """They are no counter: two new ones of a user are far apart."""
    m, u = t.mount(), t.user()
    u.kinit()
    numbers = [u.stat(m / ("default/" + n)).st_ino
               for n in ("cache", "principal", "name", "info", "info.json")]
    gaps = [abs(x - y) for i, x in enumerate(numbers) for y in numbers[:i]]
    check(min(gaps) > 1 << 32, "inode numbers %s", numbers)


@test("heimdal", "sssd", "kcmd")
def proc_shows_nothing(t):
    """Nothing secret, and no user's names, in what /proc shows to all."""
    m = t.mount()
    u, other = t.user(), t.user(principal=None)
    u.kinit()
    u.read(m / "default/cache")
    pid = m.process.pid
    for name in ("cmdline", "comm", "stat", "status"):
        text = other.read("/proc/%d/%s" % (pid, name))
        for part in (u.principal, "%d:" % u.uid):
            check(part.encode() not in text, "/proc/PID/%s: %r", name, text)
    for name in ("environ", "maps", "mem"):
        def body(path="/proc/%d/%s" % (pid, name)):
            with open(path, "rb") as f:
                return f.read(1)
        try:
            other.call(body)
            check(False, "another user reads /proc/PID/%s", name)
        except OSError as e:
            check(e.errno in (1, 13, 5), "%s: %s", name, e)


@test("kcmd")
def text_files_hold_no_secret(t):
    m, u = t.mount(), t.user()
    u.kinit()
    u.kvno("host/localhost")
    secrets = []
    for cred in image(u, m / "default/cache").creds:
        if not cred.is_config():
            secrets += [cred.key, cred.key.hex().encode(),
                        cred.ticket[-16:], cred.ticket[-16:].hex().encode()]
    for name in ("info", "info.json", "principal", "name"):
        data = u.read(m / ("default/" + name))
        for s in secrets:
            check(s not in data.lower() and s not in data,
                  "%s shows a secret", name)
    status = u.read(m / ".kcmfs/status")
    for s in secrets:
        check(s not in status, "status shows a secret")
    mode = u.stat(m / ".kcmfs/status").st_mode
    check(stat.S_ISREG(mode), "status is %o", mode)


@test("kcmd")
def errors_are_ones_own(t):
    """.kcmfs/status shows each caller their own failures alone."""
    d = t.own_daemon()
    m = t.mount()
    a, b = t.user(), t.user(principal=None)
    a.kinit()
    a.read(m / "default/cache")
    d.stop()
    raises(111, a.read, m / "default/cache")
    check("refused" in a.text(m / ".kcmfs/status").lower(),
          "no error in %s", a.text(m / ".kcmfs/status"))
    text = b.text(m / ".kcmfs/status")
    for part in (str(a.uid), a.principal):
        check(part not in text, "another's %s in %s", part, text)
    for line in ("last error: none", "failures: 0"):
        check(line in text, "%r is not in %s", line, text)


@test("kcmd")
def group_and_supplementary_groups(t):
    """A member of one's group is another user."""
    m = t.mount()
    a, b = t.user(), t.user(principal=None)
    a.kinit()
    path = paths_of(t, m, a).cache
    r = run(["setpriv", "--reuid", b.uid, "--regid", a.gid, "--groups",
             "%d,0" % a.gid, "cat", path], code=None, timeout=DEADLINE)
    check(r.code != 0, "a member of the group reads %s", path)
    r = subprocess.run(["setpriv", "--reuid", str(b.uid), "--regid",
                        str(a.gid), "--clear-groups", "ls", "-a", m.path],
                       stdout=subprocess.PIPE, check=True)
    check(str(a.uid).encode() not in r.stdout, "the listing has %s", r.stdout)
