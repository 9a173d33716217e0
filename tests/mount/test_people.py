"""What people and scripts read: info, info.json, tickets/, config/, status,
extended attributes, df, the journal and the access log."""
import errno
import json
import os
import re
import socket
import time

import ccfile
import tree
from harness import ALL, REAL, REPO, test
from kcmwire import OPCODES
from made import made_cache, usual_creds
from schema import problems
from tree import paths_of
from util import check, eq, has, lacks, raises, run, wait_for

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"
SVC = "svc0/host.example.com@EXAMPLE.COM"
SCHEMA = os.path.join(REPO, "examples", "info.schema.json")


def with_tickets(t, *kinit):
    m, u = t.mount(), t.user()
    u.kinit(*kinit)
    u.kvno("svc0/host.example.com")
    return m, u, paths_of(t, m, u)


def klist_tickets(text):
    """[(service, start, end, renew until or None, flags, skey, tkt)] of what
    klist -ef prints; times as `date` seconds."""
    found = []
    line = re.compile(r"^(\d\d/\d\d/\d\d \d\d:\d\d:\d\d)  "
                      r"(\d\d/\d\d/\d\d \d\d:\d\d:\d\d)  (\S+)\n((?:\t.*\n)*)",
                      re.M)
    for start, end, service, more in line.findall(text):
        renew = re.search(r"renew until ([\d/]+ [\d:]+)", more)
        found.append((
            service, seconds(start), seconds(end),
            seconds(renew.group(1)) if renew else None,
            re.search(r"Flags: (\w*)", more).group(1),
            *re.search(r"Etype \(skey, tkt\): (\S+), (\S+)", more).groups()))
    return sorted(found)


def seconds(text):
    return int(time.mktime(time.strptime(text, "%m/%d/%y %H:%M:%S"))
               - time.timezone)


# ------------------------------------------------------------- info, JSON

@test(*ALL)
def json_agrees_with_klist(t):
    """Each ticket of klist -ef, and nothing else, with the same numbers."""
    m, u, paths = with_tickets(t, "-r", "1d", "-f")
    theirs = klist_tickets(u.run("klist", "-ef", "KCM:" + paths.name).out)
    ours = json.loads(u.text(paths / "info.json"))
    eq(sorted((k["server"], k["starttime"] or k["authtime"], k["endtime"],
               k["renew_till"], k["flags"], k["session_enctype"]["name"],
               k["ticket_enctype"]["name"]) for k in ours["tickets"]), theirs)
    eq(len(theirs), 2)
    eq(ours["principal"], u.principal)
    eq(ours["name"], "KCM:" + paths.name)
    eq(ours["uuid"], paths.uuid)
    eq(ours["default"], True)
    # by any path
    for form in ("by-name", "default"):
        path = os.path.join(os.path.dirname(paths.forms[form]), "info.json")
        eq(json.loads(u.text(path))["uuid"], paths.uuid)


@test(*ALL)
def info_agrees_with_klist(t):
    m, u, paths = with_tickets(t, "-r", "1d")
    info = u.text(paths / "info")
    for (service, start, end, renew, flags, skey, tkt) in klist_tickets(
            u.run("klist", "-ef").out):
        block = re.search(r"^Ticket: +%s\n((?:  .*\n)*)" % re.escape(service),
                          info, re.M)
        check(block, "no %s in %s", service, info)
        for part in (*(time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(s))
                       for s in (start, end, renew)),
                     "Flags:     %s (" % flags,
                     "session key %s, ticket %s" % (skey, tkt)):
            has(block.group(1), part, "info")
    check(re.search(r"^State: +(9 hours 59 minutes|10 hours) left$", info,
                    re.M), info)
    check(re.search(r"^UUID: +%s$" % paths.uuid, info, re.M), info)
    has(info, "KCM:%s (the default)" % paths.name)


@test("sssd", "kcmd")
def klist_of_all_caches(t):
    """`cat by-name/*/info` is klist -A."""
    m, u, paths = with_tickets(t)
    t.realm.add("second%d" % u.uid)
    u.run("kinit", "second%d" % u.uid, input=b"pass word\n")
    out = u.run("klist", "-A").out
    text = u.run("sh", "-c", "cat %s/by-name/*/info" % m).out
    for pattern, ours in ((r"^Default principal: (\S+)$",
                           r"^Principal: +(\S+)$"),
                          (r"^Ticket cache: (\S+)$", r"^Cache: +(KCM:\S+)"),
                          (r"^[\d/]+ [\d:]+  [\d/]+ [\d:]+  (\S+)$",
                           r"^Ticket: +(\S+)")):
        eq(sorted(re.findall(ours, text, re.M)),
           sorted(re.findall(pattern, out, re.M)), pattern)
    eq(text.count("(the default)"), 1)
    has(text, "\n\nCache: ", "between two of them")


@test(*ALL)
def expired_superseded_offset(t):
    """What klist does not say: expired, superseded, in words."""
    m, u = t.mount(), t.user()
    now = int(time.time())
    creds = [ccfile.tgt(u.principal, now - 80000, life=3600),
             ccfile.ticket(u.principal, "host/a@EXAMPLE.COM", now - 50),
             ccfile.config(u.principal, "secret_key", b"hidden-value"),
             ccfile.config(u.principal, "shown", b"shown-value")]
    if t.on != "sssd":              # it keeps one per client and server
        creds.append(ccfile.ticket(u.principal, "host/a@EXAMPLE.COM",
                                   now - 10))
    paths = paths_of(t, m, u, made_cache(t, u, creds, offset=120))
    info = u.text(paths / "info")
    check(re.search(r"^State: +EXPIRED 21 hours 1\d minutes ago$", info,
                    re.M), info)
    has(info, TGT + "  [expired]")
    has(info, "KDC offset:  2 minutes (+120 s): the KDC's clock is ahead")
    eq("[superseded by a newer one]" in info, t.on != "sssd")
    has(info, "shown: shown-value")
    lacks(info, "hidden-value")
    data = json.loads(u.text(paths / "info.json"))
    eq(problems(data, SCHEMA), [])
    eq((data["expired"], data["kdc_offset"]), (True, 120))
    eq([k["superseded"] for k in data["tickets"]
        if k["server"].startswith("host/")],
       [False] if t.on == "sssd" else [True, False])


@test(*ALL)
def json_follows_its_schema(t):
    m, u, paths = with_tickets(t)
    eq(problems(json.loads(u.text(paths / "info.json")), SCHEMA), [])
    odd = made_cache(t, u, [
        ccfile.ticket(u.principal, ccfile.Principal(
            b"R", (b'q"\\', b"\x01\xff"), 1), int(time.time())),
        ccfile.config(u.principal, "binary", b"\x00\xff"),
        ccfile.config(u.principal, "of", b"x", TGT)], offset=0)
    data = json.loads(u.text(paths_of(t, m, u, odd) / "info.json"))
    eq(problems(data, SCHEMA), [])
    empty = made_cache(t, u, [], offset=0, name="%d:empty" % u.uid)
    data = json.loads(u.text(paths_of(t, m, u, empty) / "info.json"))
    eq(problems(data, SCHEMA), [])
    eq((data["expires"], data["expired"], data["tickets"]), (None, True, []))
    # and the validator is none that lets everything pass
    data["principal"] = 7
    del data["name"]
    data["more"] = 1
    eq(len(problems(data, SCHEMA)), 3)


# ------------------------------------------------------- tickets, config

@test(*ALL)
def ls_and_find(t):
    """name = service, size, mtime = start time; find -newermt."""
    m, u = t.mount(), t.user()
    now = int(time.time())
    creds = [ccfile.tgt(u.principal, now - 7200, life=90000),
             ccfile.ticket(u.principal, "host/old@EXAMPLE.COM", now - 7000,
                           life=90000),
             ccfile.ticket(u.principal, "host/new@EXAMPLE.COM", now - 60,
                           life=90000)]
    paths = paths_of(t, m, u, made_cache(t, u, creds, offset=0))
    out = u.run("ls", "-l", "--time-style=+%s", paths / "tickets").out
    rows = {r[-1]: r for r in map(str.split, out.splitlines()[1:])}
    for cred in creds:
        name = tree.ticket_name(str(cred.server))
        row = rows[name]
        eq((row[0], int(row[5])), ("-r--------", cred.starttime), name)
        eq(int(row[4]), len(u.read(paths / ("tickets/" + name))))
    out = u.run("find", paths / "tickets", "-type", "f", "-newermt",
                "-1 hour").out
    eq(out.split(), [paths / "tickets/host%2Fnew@EXAMPLE.COM"])


@test(*ALL)
def rm_of_one_ticket(t):
    m, u, paths = with_tickets(t)
    u.run("rm", os.path.join(paths.by_name, "tickets",
                             tree.ticket_name(SVC)))
    eq(u.klist(), (u.principal, [TGT]))
    raises(errno.ENOENT, u.call, os.unlink,
           os.path.join(paths.by_name, "tickets", tree.ticket_name(SVC)))


@test(*ALL)
def cp_of_one_ticket(t):
    """One ticket to another cache; and klist of that ticket alone."""
    m, u, paths = with_tickets(t)
    ticket = os.path.join(paths.by_name, "tickets", tree.ticket_name(SVC))
    eq(u.run("klist", "FILE:" + ticket).out.count(SVC), 1)
    other = made_cache(t, u, [ccfile.tgt(u.principal, int(time.time()))],
                       offset=0, name="%d:other" % u.uid)
    target = paths_of(t, m, u, other)
    u.run("cp", ticket, os.path.join(target.by_name, "tickets/"))
    eq(sorted(u.klist("KCM:" + other)[1]), sorted([TGT, SVC]))
    eq(u.read(os.path.join(target.by_name, "tickets",
                           tree.ticket_name(SVC))), u.read(ticket))
    # onto a ticket of the same name: cp says why not, cp -f does it
    path = os.path.join("tickets", tree.ticket_name(TGT))
    mine, theirs = (os.path.join(p.by_name, path) for p in (paths, target))
    has(u.run("cp", mine, theirs, code=1).err, "Permission denied")
    u.run("cp", "-f", mine, theirs)
    eq(u.read(theirs), u.read(mine))


@test(*ALL)
def config_cat_echo_rm(t):
    m, u = t.mount(), t.user()
    paths = paths_of(t, m, u, made_cache(t, u, usual_creds(u), offset=0))
    directory = os.path.join(paths.by_name, "config")
    eq(u.run("cat", directory + "/setting").out, "value")
    u.run("sh", "-c", "printf other > %s/setting" % directory)
    u.run("sh", "-c", "echo new > %s/added" % directory)
    eq(u.run("cat", directory + "/setting", directory + "/added").out,
       "othernew\n")
    shown = u.run("klist", "-C", "KCM:" + paths.name).out
    has(shown, "config: setting = other")
    has(shown, "config: added = new")
    u.run("rm", directory + "/setting")
    lacks(u.run("klist", "-C", "KCM:" + paths.name).out, "setting")
    eq(u.list(directory), ["added"])


# ------------------------------------------------------------------ status

def status(u, m):
    """(fields, {operation: (count, mean, max)})"""
    head, _, table = u.text(m / ".kcmfs/status").partition("\n\n")
    rows = [line.split() for line in table.splitlines()[1:]]
    return dict(line.split(": ", 1) for line in head.splitlines()), {
        r[0]: tuple(map(int, r[1:])) for r in rows}


@test(*ALL)
def status_counts_and_says_who(t):
    m, u, paths = with_tickets(t)
    fields, before = status(u, m)
    has(fields["daemon"].lower().split(), {"sssd": "sssd-kcm"}.get(t.on, t.on))
    eq((fields["answers"], fields["caches"], fields["default"],
        fields["failures"], fields["mode"]),
       ("yes", "1", "KCM:" + paths.name, "0", "read-write"))
    for _ in range(5):
        u.read(paths.cache)
    _, after = status(u, m)
    opens = [part.get("open", (0,))[0] for part in (before, after)]
    eq(opens[1] - opens[0], 6, "opens, that of status too")
    for count, mean, most in after.values():
        check(count > 0 and 0 <= mean <= most, "%r", after)
    # one user's numbers are not another's
    other = t.user()
    eq(status(other, m)[1].get("open"), None)


@test(*ALL)
def status_knows_the_daemon(t):
    """Once something was written, which shows what it can do."""
    m, u = t.mount(), t.user()
    u.kinit(cc="FILE:%s/default/cache" % m)
    fields = status(u, m)[0]
    eq((fields["daemon"], fields["cache limit"]), {
        "embedded": ("embedded", "1024"),
        "kcmd": ("kcmd",
                 "unknown (--max-caches of kcmd, 1024 by default)"),
        "sssd": ("sssd-kcm", "unknown (max_uid_ccaches of [kcm] in "
                 "sssd.conf, 64 by default)"),
        "heimdal": ("Heimdal kcm", "unknown")}[t.on])


@test(*REAL)
def status_when_the_daemon_is_gone(t):
    daemon = t.own_daemon()
    m, u, paths = with_tickets(t)
    daemon.stop()
    raises(errno.ECONNREFUSED, u.read, paths.cache)
    fields, _ = status(u, m)
    eq(fields["answers"], "no, Connection refused")
    check(int(fields["failures"]) >= 1, fields["failures"])
    has(fields["last error"], "Connection refused")
    check(re.search(r"\(\d{4}-\d\d-\d\d ", fields["last error"]), "time")
    lines = m.log_text().count("Connection refused")
    for _ in range(20):
        raises(errno.ECONNREFUSED, u.read, paths.cache)
    check(m.log_text().count("Connection refused") <= lines + 3,
          "a line for each refusal: %s", m.log_text())
    daemon.start()
    wait_for("the daemon", lambda: status(u, m)[0]["answers"] == "yes")


@test(*REAL)
def status_when_the_daemon_hangs(t):
    """It says so long before what hangs gives up."""
    p = t.proxy()
    m, u = t.mount("-o", "timeout=120", socket=p.socket), t.user()
    u.kinit()
    eq(status(u, m)[0]["answers"], "yes")
    for name in OPCODES.values():
        p.hold(name)
    begin = time.monotonic()
    eq(status(u, m)[0]["answers"], "no, Connection timed out")
    check(time.monotonic() - begin < 60, "it waits as long as others")
    p.release()
    eq(status(u, m)[0]["answers"], "yes")


@test("kcmd")
def nobody_fills_the_log(t):
    """By what is refused: one user's lines are limited, and told apart."""
    m, u, other = t.mount(), t.user(), t.user()

    def refuse(user, number):
        try:
            user.call((os.mkdir, lambda p: os.symlink("x", p))[number % 2],
                      m / "by-principal/x")
        except OSError as e:
            check(e.errno != errno.ENOENT, e)
            return
        check(False, "no error")

    def logged(user):
        return len(re.findall(r"info: uid %d \w+: " % user.uid,
                              m.log_text()))
    for number in range(200):
        refuse(u, number)
    eq(logged(u), 60)
    refuse(other, 0)
    eq(logged(other), 1)
    eq(status(u, m)[0]["failures"], "200")


@test(*ALL)
def df_counts_caches(t):
    m, u, _ = with_tickets(t)

    def used(user):
        s = user.call(os.statvfs, m.path)
        return s.f_files - s.f_ffree
    eq(used(u), 1)
    made_cache(t, u, [], offset=0)
    eq(used(u), 2)
    eq(used(t.user()), 0)
    check(re.search(r"^kcmfs +\d+ +2 +\d+ +\d+% ", u.run(
        "df", "-i", m.path).out, re.M), "df -i")


@test("kcmd")
def df_without_a_daemon(t):
    """Who watches file systems sees no error and waits not long."""
    daemon = t.own_daemon("--fault=any:1:hang")
    m, u = t.mount("-o", "timeout=30"), t.user()
    begin = time.monotonic()
    u.run("df", "-i", m.path)
    check(time.monotonic() - begin < 5, "df took too long")
    daemon.stop()
    u.run("df", "-i", m.path)


# ---------------------------------------------------- extended attributes

@test(*ALL)
def attributes_of_a_cache(t):
    m, u, paths = with_tickets(t)
    end = [c.endtime for c in ccfile.parse(u.read(paths.cache)).tickets()
           if str(c.server) == TGT][0]
    want = {"user.kcm.name": "KCM:" + paths.name,
            "user.kcm.uuid": paths.uuid,
            "user.kcm.principal": u.principal,
            "user.kcm.expires": str(end)}
    for path in (*paths.forms.values(), paths.dir, paths.by_name,
                 m / "default/"):
        out = u.run("getfattr", "-d", "-m", "-", path).out
        eq(dict(re.findall(r'^(\S+)="(.*)"$', out, re.M)), want, path)
        eq(u.call(os.getxattr, path, "user.kcm.name").decode(),
           want["user.kcm.name"])
    for path in (m.path, m / "by-name", paths / "info"):
        eq(u.call(os.listxattr, path), [])
    raises(errno.ENODATA, u.call, os.getxattr, paths.cache, "user.kcm.none")
    raises(errno.ENODATA, u.call, os.getxattr, paths.cache, "user.other")
    for change in ((os.setxattr, paths.cache, "user.kcm.name", b"x"),
                   (os.removexattr, paths.cache, "user.kcm.name")):
        raises(errno.EOPNOTSUPP, u.call, *change)


@test(*ALL)
def attributes_without_tickets(t):
    m, u = t.mount(), t.user()
    name = made_cache(t, u, [], offset=0)
    paths = paths_of(t, m, u, name)
    eq(sorted(u.call(os.listxattr, paths.cache)),
       ["user.kcm.name", "user.kcm.principal", "user.kcm.uuid"])
    # a name that is only reserved
    directory = m / ("by-name/%d.reserved" % u.uid)
    u.call(os.mkdir, directory)
    eq(u.call(os.listxattr, directory), ["user.kcm.name"])
    eq(u.call(os.getxattr, directory, "user.kcm.name").decode(),
       "KCM:%d:reserved" % u.uid)


@test("kcmd")
def an_append_costs_no_more(t):
    """The kernel asks for security.capability before some changes: not
    before this one.  A guard for who changes how files are opened."""
    u = t.user()
    u.kinit()
    m = t.mount("-d")
    paths = paths_of(t, m, u)
    path = paths.forms["by-name"]
    u.read(path)

    def append(number):
        cred = ccfile.ticket(u.principal, "host/%d@EXAMPLE.COM" % number,
                             int(time.time()))
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
        os.write(fd, cred.bytes())
        os.close(fd)

    def requests():
        return re.findall(r"opcode: (\w+)", m.log_text())
    for number in range(3):
        before = len(requests())
        u.call(append, number)
        wait_for("RELEASE", lambda: "RELEASE" in requests()[before:])
        names = requests()[before:]
        lacks(names, "GETXATTR", "requests of one append")
        check(names.index("RELEASE") < 6, "%r", names)


# ---------------------------------------------------- journal, access log

class Journal:
    """A journal in the namespace of the tests: what was sent, as dicts."""

    def __init__(self, t):
        os.makedirs("/run/systemd", exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", "/run/systemd"])
        t.cleanup(self.end)
        os.mkdir("/run/systemd/journal")
        path = "/run/systemd/journal/socket"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        os.chmod(path, 0o666)
        self.socket.setblocking(False)
        self.entries = []

    def read(self):
        while True:
            try:
                datagram = self.socket.recv(65536).decode()
            except BlockingIOError:
                return self.entries
            check(datagram.endswith("\n"), "%r", datagram)
            self.entries.append(dict(
                line.split("=", 1) for line in datagram.splitlines()))

    def find(self, **fields):
        def found():
            return [e for e in self.read() if all(
                e.get(k) == v for k, v in fields.items())]
        return wait_for("an entry with %r" % fields, found)

    def end(self):
        self.socket.close()
        run(["umount", "/run/systemd"])


def mount_as_a_service(t, *options):
    """kcmfs with the journal as its stderr, as systemd starts it."""
    log = os.path.join(t.dir, "mnt%d.log" % len(t._mounts))
    with open(log, "w") as f:
        s = os.fstat(f.fileno())
    m = t.mount(*options, start=False, env={
        "JOURNAL_STREAM": "%d:%d" % (s.st_dev, s.st_ino)})
    return m.start(says="")


@test("kcmd")
def the_journal_has_fields(t):
    journal = Journal(t)
    m, u = mount_as_a_service(t, "-o", "audit"), t.user()
    journal.find(SYSLOG_IDENTIFIER="kcmfs", PRIORITY="6",
                 MESSAGE="mounted on %s, source %s" % (m, t.checked()))
    u.kinit()
    paths = paths_of(t, m, u)
    u.run("cat", paths.cache)
    e = journal.find(KCMFS_UID=str(u.uid), KCMFS_PROGRAM="cat")[0]
    eq((e["KCMFS_CACHE"], e["KCMFS_ACCESS"], e["KCMFS_OPERATION"]),
       (paths.name, "read", "open"))
    check(re.match(r"uid %d open: audit: pid %s \(cat\) opens cache %s for "
                   r"reading$" % (u.uid, e["KCMFS_PID"], paths.name),
                   e["MESSAGE"]), e["MESSAGE"])
    u.kvno("svc1/host.example.com", cc="FILE:" + paths.forms["by-name"])
    journal.find(KCMFS_PROGRAM="kvno", KCMFS_ACCESS="write",
                 KCMFS_CACHE=paths.name)
    # a default switch
    other = made_cache(t, u, [], offset=0)
    u.call(os.symlink, "by-name/" + tree.by_name(other), m / "default.new")
    u.call(os.rename, m / "default.new", m / "default")
    e = journal.find(KCMFS_UID=str(u.uid), KCMFS_CACHE=other)[0]
    eq(e["MESSAGE"], "uid %d rename: default is %s" % (u.uid, other))
    # what was refused
    raises(errno.EINVAL, u.write, paths.forms["by-name"], b"no cache")
    e = journal.find(KCMFS_UID=str(u.uid), ERRNO=str(errno.EINVAL))[0]
    eq(e["KCMFS_CACHE"], paths.name)
    text = json.dumps(journal.entries)
    for cred in ccfile.parse(u.read(paths.cache)).tickets():
        lacks(text, cred.key[:8].hex(), "the journal")


@test("kcmd")
def a_name_forges_no_field(t):
    """A program and a cache may be called anything."""
    journal = Journal(t)
    m, u = mount_as_a_service(t, "-o", "audit"), t.user()
    name = made_cache(t, u, usual_creds(u), offset=0,
                      name="%d:a\nKCMFS_UID=0" % u.uid)
    program = os.path.join(u.home, "x\nPRIORITY=0")
    u.call(os.symlink, "/bin/cat", program)
    u.run(program, paths_of(t, m, u, name).cache)
    e = journal.find(KCMFS_ACCESS="read")[0]
    eq((e["KCMFS_UID"], e["PRIORITY"]), (str(u.uid), "6"))
    has(e["KCMFS_CACHE"], "\\x0a")
    has(e["KCMFS_PROGRAM"], "\\x0a")


@test(*ALL)
def the_access_log_of_changes(t):
    """Also those made without an open of the cache; whose they are."""
    m, u = t.mount("-o", "audit"), t.user()
    cc = "FILE:%s/default/cache" % m
    u.kinit(cc=cc)
    u.kvno("svc0/host.example.com", cc=cc)
    name = paths_of(t, m, u).name
    tickets = m / "default/tickets"
    u.run("sh", "-c", "cp %s/svc0* ~/ticket && rm %s/svc0*" % (
        tickets, tickets))
    u.run("cp", u.home + "/ticket", tickets + "/again")
    u.run("sh", "-c", "cd %s/default/config && echo a | dd of=new status=none"
          " && echo b | tee new >/dev/null" % m)
    u.run("kdestroy", "-q", "-c", cc)
    u.kinit(cc=cc)
    u.run("shred", "-n", "0", "-z", "--size=64", m / "default/cache")
    lines = re.findall(
        r"uid %d \w+: audit: pid \d+ \((\w+)\) (.*) cache (\S+)(.*)" % u.uid,
        m.log_text())
    eq({line[2] for line in lines}, {name})
    found = {line[:2] + line[3:] for line in lines}
    for line in (("kinit", "replaces", ""), ("kvno", "opens", " for writing"),
                 ("rm", "removes an entry of", ""),
                 ("cp", "adds entries to", ""),
                 ("dd", "sets an entry of", ""),
                 ("tee", "sets an entry of", ""),
                 ("kdestroy", "destroys", ""),
                 ("shred", "destroys", "")):
        check(line in found, "no %r in %r", line, found)


@test("kcmd", "sssd")
def the_access_log(t):
    """-o audit; without it nobody's opens are logged."""
    u = t.user()
    u.kinit()
    quiet, m = t.mount(), t.mount("-o", "audit")
    for mount in (quiet, m):
        u.run("cat", mount / "default/cache")
        u.run("cat", mount / "default/info")
    lacks(quiet.log_text(), "audit")
    lines = re.findall(r"audit: .*", m.log_text())
    eq(len(lines), 1)
    check(re.search(r"pid \d+ \(cat\) opens cache \S+ for reading",
                    lines[0]), lines[0])
    eq(status(u, m)[0]["access log"], "on")
