"""Unmodified clients that write, on every path form: after each step KCM:
and the file hold the same tickets.
"""
import os
import signal
import socket
import subprocess
import time

import ccfile
import clients
from harness import ALL, test
from made import TGT, svc
from tree import by_name
from util import (Failed, Skip, check, end_process, eq, free_port, has, run,
                  tail, wait_for)
from writing import Subject, same_creds

PLAIN = {"uuid", "by-name"}
SOURCES = clients.SOURCES
# all that gssproxy leaves in a client's cache
GSSPROXY = "Encrypted/Credentials/v1@X-GSSPROXY:"


class Bench:
    """A user, a cache name, one path form; step() compares."""

    def __init__(self, t, m, form, user=None):
        self.t, self.m, self.form = t, m, form
        self.u = user or t.user()
        self.s = Subject(t, m, self.u, "tktmine")
        self.u.call(os.mkdir, self.s.dir())
        self.u.run("ln", "-sfn", "by-name/" + by_name(self.s.name),
                   "%s/default" % m)
        self.path = self.s.path(form if form != "uuid" else "by-name")
        self.cc = "FILE:" + self.path

    def uuid_from_now(self):
        if self.form == "uuid":
            self.path = self.s.path("uuid")
            self.cc = "FILE:" + self.path

    def step(self, what, *services, first=TGT):
        """KCM: and the file hold the TGT and tickets of these services."""
        want = sorted([first] + [x if "@" in x else x + "@EXAMPLE.COM"
                                 for x in services])
        for cc in (self.cc, "KCM:" + self.s.name):
            got, tickets = self.u.klist(cc)
            eq((got, sorted(tickets)), (self.u.principal, want),
               "%s by %s" % (what, cc))
        held, file = self.s.in_kcm(), self.s.file()
        same_creds(what, file.creds, ccfile.supersede(held.creds))

    def gone(self, what):
        check(self.s.gone(), "%s: still in KCM", what)
        check(not self.u.exists(self.path), "%s: still a file", what)
        for cc in (self.cc, "KCM:" + self.s.name):
            self.u.run("klist", "-c", cc, code=1)

    def k5start(self, *arguments):
        self.u.run("k5start", "-q", "-f", self.u.keytab, *arguments,
                   self.u.principal)


FORMS = ("by-name", "uuid", "default", "krb5cc", "collection")


@test(*ALL)
def mit_tools(t):
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        b.u.kinit("-r", "1d", "-c", b.cc)
        b.uuid_from_now()
        b.step("kinit -k over none")
        b.u.kvno("-c", b.cc, svc(0), svc(1))
        b.step("kvno", svc(0), svc(1))
        b.u.run("kinit", "-R", "-c", b.cc)
        b.step("kinit -R")
        b.u.kvno("-c", b.cc, svc(2))
        b.step("kvno again", svc(2))
        b.u.kinit("-c", b.cc)
        b.step("kinit -k over existing")
        b.u.run("kinit", "-c", b.cc, b.u.principal, input=b"pass word\n")
        b.step("kinit with a password over existing")
        b.u.run("kdestroy", "-c", b.cc)
        b.gone("kdestroy")
        b.u.kinit("-c", b.cc)
        b.step("kinit again")


@test(*ALL)
def kstart(t):
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        b.k5start("-k", b.cc)
        b.uuid_from_now()
        b.step("k5start -k")
        b.u.kvno("-c", b.cc, svc(0))
        b.step("kvno", svc(0))
        b.k5start("-H", "60", "-k", b.cc)
        b.step("k5start -H", svc(0))
        b.k5start("-k", b.cc)
        b.step("k5start -k again")
        b.k5start("-m", "600", "-k", b.path)
        b.step("k5start -m")
        b.u.kinit("-r", "1d", "-c", b.cc)
        b.step("kinit -r")
        b.u.run("krenew", "-k", b.cc)
        b.step("krenew")


@test("heimdal", "sssd", "kcmd")
def k5start_as_a_daemon(t):
    """-K: it goes on by itself and replaces the cache each minute; a signal
    makes it do so at once."""
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        if form == "uuid":          # there is none before there is a cache
            b.k5start("-k", b.cc)
            b.uuid_from_now()
        k5start_k(b)


def tickets(b):
    """None while the file is not whole: k5start unlinks it, creates it and
    writes to it."""
    try:
        data = b.u.read(b.path)
    except FileNotFoundError:
        return None
    return (data and ccfile.parse(data).creds) or None


def k5start_k(b):
    before = tickets(b)         # of one that is there: it is replaced
    p = subprocess.Popen(
        ["k5start", "-q", "-K", "1", "-k", b.cc, "-f", b.u.keytab,
         b.u.principal], env=b.u.env, user=b.u.uid, group=b.u.gid,
        extra_groups=[])

    def ends():
        """A signal between its look for one and its sleep is lost on it."""
        p.terminate()
        return p.poll() is not None
    try:
        wait_for("the first ticket", lambda: tickets(b) not in (None, before))
        b.step("k5start -K")
        first = tickets(b)
        p.send_signal(signal.SIGALRM)
        wait_for("the second", lambda: tickets(b) not in (None, first))
        b.step("k5start -K after SIGALRM")
    finally:
        wait_for("k5start to end", ends)


@test(*ALL)
def python_gssapi_and_impacket(t):
    m = t.mount()
    gss = os.path.join(SOURCES, "gsscache.py")
    for form in FORMS:
        b = Bench(t, m, form)
        b.u.run(clients.PYTHON, gss, "store", b.cc, b.u.principal,
                "pass word")
        b.uuid_from_now()
        b.step("gss_store_cred over none")
        clients.python_token(b.u, b.cc)
        b.step("gss_init_sec_context", "HTTP/localhost")
        b.u.run(clients.PYTHON, gss, "store", b.cc, b.u.principal,
                "pass word")
        b.step("gss_store_cred over existing")
        if form != "uuid":          # which goes with the cache
            b.u.run("kdestroy", "-c", b.cc)
            b.gone("kdestroy")
        b.u.run(clients.PYTHON, gss, "keytab", b.cc, b.u.keytab,
                b.u.principal)
        b.step("client keytab")
        check(b.s.file().config(), "no configuration entry")
        b.u.kvno("-c", b.cc, svc(0))
        b.step("kvno", svc(0))
        b.u.run(clients.PYTHON, os.path.join(SOURCES, "impcache.py"), b.path,
                b.path)
        b.step("impacket saveFile", svc(0))


@test(*ALL)
def heimdal_tools(t):
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        secret = os.path.join(b.u.home, "password")
        b.u.write(secret, b"pass word\n")
        kinit = ("kinit.heimdal", "--password-file=" + secret, "-c", b.cc,
                 b.u.principal)
        b.u.heimdal(*kinit)
        b.step("Heimdal kinit over none")
        b.uuid_from_now()
        b.u.heimdal("kgetcred", "-c", b.cc, "svc0/host.example.com")
        b.step("kgetcred", svc(0))
        eq(clients.heimdal(b.u, b.path)[0], b.u.principal)
        b.u.heimdal(*kinit[:2], "-c", b.cc, b.u.principal)
        b.step("Heimdal kinit over existing")
        b.u.heimdal("kdestroy.heimdal", "-c", b.cc)
        b.gone("Heimdal kdestroy")


@test("heimdal", "sssd", "kcmd")
def samba(t):
    """Newer Heimdal: cache-XXXXXX, reopened by path, renamed."""
    m = t.mount()
    program = os.path.join(SOURCES, "sambacache.py")
    for form in FORMS:
        b = Bench(t, m, form)
        user = b.u.principal.split("@")[0]
        b.u.run(clients.PYTHON, program, "kinit", b.cc, user, "EXAMPLE.COM",
                "pass word", "svc0", "host.example.com")
        b.uuid_from_now()
        b.step("Samba's kinit", svc(0))
        b.u.run(clients.PYTHON, program, "use", b.cc, "svc1",
                "host.example.com")
        b.step("Samba with a cache", svc(0), svc(1))


# ------------------------------------------------------------------ services

def apache(t, keytab):
    """(process, port, directory for delegated caches)"""
    top = os.path.join(t.dir, "apache")
    deleg = os.path.join(top, "deleg")
    os.makedirs(os.path.join(top, "docs"))
    os.mkdir(deleg)
    run(["chown", "www-data:", deleg])
    with open(os.path.join(top, "docs", "index.html"), "w") as f:
        f.write("hello\n")
    port = free_port()
    conf = os.path.join(top, "conf")
    module = os.path.join(t.tools, "unpack", "mod_auth_gssapi.so")
    if not os.path.exists(module):
        module = "/usr/lib/apache2/modules/mod_auth_gssapi.so"
    modules = "/usr/lib/apache2/modules/mod_%s.so"
    with open(conf, "w") as f:
        f.write("ServerRoot %s\nPidFile %s/pid\nErrorLog %s/error.log\n"
                "Listen 127.0.0.1:%d\nServerName localhost\n"
                "User www-data\nGroup www-data\n" % (top, top, top, port))
        for name in ("mpm_prefork", "authn_core", "authz_core",
                     "authz_user"):
            f.write("LoadModule %s_module %s\n" % (name, modules % name))
        f.write("LoadModule auth_gssapi_module %s\nStartServers 1\n"
                "DocumentRoot %s/docs\n<Location />\nAuthType GSSAPI\n"
                "AuthName GSS\nGssapiCredStore keytab:%s\n"
                "GssapiDelegCcacheDir %s\nRequire valid-user\n</Location>\n"
                % (module, top, keytab, deleg))
    p = subprocess.Popen(["apache2", "-X", "-f", conf],
                         env=dict(os.environ, KRB5_CONFIG=t.krb5_conf,
                                  KRB5RCACHENAME="none:"),
                         stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    t.cleanup(lambda: end_process(p))

    def up():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for("apache", up)
    return port


@test("heimdal", "sssd", "kcmd")
def curl_negotiate(t):
    m = t.mount()
    port = apache(t, t.realm.keytab("HTTP/localhost"))
    for form in FORMS:
        b = Bench(t, m, form)
        b.u.kinit("-f", "-c", b.cc)
        b.uuid_from_now()
        b.step("kinit -f")
        for delegation in ("none", "always"):
            out = b.u.run("curl", "-sS", "--negotiate", "-u", ":",
                          "--delegation", delegation,
                          "http://localhost:%d/index.html" % port, cc=b.cc).out
            if out != "hello\n":
                with open(os.path.join(t.dir, "apache/error.log")) as f:
                    raise Failed(out + f.read())
            b.step("curl", "HTTP/localhost")


@test("heimdal", "sssd", "kcmd")
def ssh_delegation(t):
    """ssh reads and appends, by each path form; sshd's delegated cache is a
    file in /tmp, the path is compiled in: no path form of ours applies."""
    m = t.mount()
    top = os.path.join(t.dir, "sshd")
    os.mkdir(top)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", top + "/key"])
    port = free_port()
    with open(top + "/conf", "w") as f:
        f.write("Port %d\nListenAddress 127.0.0.1\nHostKey %s/key\n"
                "PidFile none\nGSSAPIAuthentication yes\n"
                "GSSAPIStrictAcceptorCheck no\nPasswordAuthentication no\n"
                "KbdInteractiveAuthentication no\nUsePAM no\n"
                "PubkeyAuthentication no\nStrictModes no\n" % (port, top))
    os.makedirs("/run/sshd", exist_ok=True)
    log = open(top + "/log", "w")
    p = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", top + "/conf"], stderr=log,
        env=dict(os.environ, KRB5_CONFIG=t.krb5_conf,
                 KRB5_KTNAME=t.realm.keytab("host/localhost")))
    t.cleanup(log.close)
    t.cleanup(lambda: end_process(p))

    def up():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for("sshd", up)
    for form in FORMS:
        b = Bench(t, m, form)
        b.u.kinit("-f", "-c", b.cc)
        b.uuid_from_now()
        b.step("kinit -f")
        ssh(b, port, top)
        b.step("ssh", "host/localhost")


def ssh(b, port, top):
    """Log in with delegation; the session says where its cache is."""
    r = b.u.run("ssh", "-p", port, "-o", "GSSAPIAuthentication=yes",
                "-o", "GSSAPIDelegateCredentials=yes",
                "-o", "PreferredAuthentications=gssapi-with-mic",
                "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                "u%d@localhost" % b.u.uid, "echo $KRB5CCNAME; exit 7",
                cc=b.cc, code=None)
    if r.code != 7:
        with open(top + "/log") as f:
            text = f.read()
        if "locked" in text or "not allowed" in text:
            raise Skip("sshd takes the test users for locked")
        raise AssertionError("%s\n%s" % (r, text))
    has(r.out, "FILE:/tmp/krb5cc_%d" % b.u.uid)


@test(*ALL)
def gssproxy_entry(t):
    """initialize and one store of an opaque entry with no times, as the
    interposer does it; the same cache goes on being one."""
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        entry = ccfile.Cred(b.s.client, ccfile.princ(
            GSSPROXY, 0), 0,
            ticket=ccfile.key_bytes("opaque", 700))
        clients.ccall(b.u, "init", b.cc, b.u.principal)
        b.uuid_from_now()
        for cc in (b.cc, "KCM:" + b.s.name):
            eq(b.u.klist(cc), (b.u.principal, []), "initialize by " + cc)
        fd = b.u.call(os.open, b.path, os.O_RDWR | os.O_APPEND)
        os.write(fd, entry.bytes())
        os.close(fd)
        same_creds("KCM", b.s.in_kcm().creds, [entry])
        b.step("the opaque entry", first=GSSPROXY)


def gssproxy(t, user):
    """The daemon itself, for one service of this user; its socket."""
    top = os.path.join(t.dir, "gssproxy%d" % user.uid)
    os.makedirs(top + "/run")
    os.chmod(top, 0o755)
    os.chmod(top + "/run", 0o755)
    sock = top + "/run/default.sock"
    with open(top + "/conf", "w") as f:
        f.write("[gssproxy]\n  debug_level = 3\n[service/test]\n"
                "  mechs = krb5\n  socket = %s\n  cred_usage = initiate\n"
                "  cred_store = client_keytab:%s\n"
                "  cred_store = ccache:FILE:%s/ccache\n"
                "  euid = %d\n" % (sock, user.keytab, top, user.uid))
    log = open(top + "/log", "w")
    p = subprocess.Popen(
        ["/usr/sbin/gssproxy", "-i", "-d", "-c", top + "/conf",
         "-C", top + "/none", "-s", top + "/run/main.sock"],
        stdout=log, stderr=log,
        env=dict(os.environ, KRB5_CONFIG=t.krb5_conf, GSS_USE_PROXY="no"))
    t.cleanup(log.close)
    t.cleanup(lambda: end_process(p))
    wait_for("gssproxy's socket", lambda: os.path.exists(sock) or p.poll())
    check(p.poll() is None, "gssproxy ended: %s", tail(top + "/log"))
    return sock, top + "/log"


@test("heimdal", "sssd", "kcmd")
def gssproxy_daemon(t):
    """A client of the interposer: gssproxy holds the keytab, the client's
    cache gets its opaque entry, which a second client then uses."""
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        sock, log = gssproxy(t, b.u)
        env = {"GSS_USE_PROXY": "yes", "GSSPROXY_SOCKET": sock}
        for _ in range(2):
            r = b.u.run(clients.PYTHON, os.path.join(SOURCES, "gsscache.py"),
                        "init", "-", clients.GSS_SERVICE, cc=b.cc, env=env,
                        code=None)
            check(r.code == 0, "%s\n%s", r, tail(log))
            b.uuid_from_now()
            b.step("a client of gssproxy", first=GSSPROXY)


@test("heimdal", "sssd", "kcmd")
def pam_krb5(t):
    """As the user (a screen saver, sudo -u) it makes the cache by each path
    form.  As root (login, sshd) it makes a cache and gives it away: refused,
    clearly, because it would be root's in KCM."""
    import glob
    module = glob.glob(os.path.join(
        t.tools, "unpack", "libpam-krb5", "lib", "*", "security",
        "pam_krb5.so"))
    if not module:
        raise Skip("libpam-krb5 is not unpacked")
    m = t.mount()
    for form in FORMS:
        b = Bench(t, m, form)
        service = "kcmfs-test-%d" % b.u.uid
        rules = ("%s minimum_uid=1000 no_update_user retain_after_close "
                 "ccache=%s" % (module[0], b.cc))
        with open("/etc/pam.d/" + service, "w") as f:
            f.write("auth required %s\naccount required %s\n"
                    "session required %s\n" % (rules, rules, rules))
        t.cleanup(lambda name=service: os.unlink("/etc/pam.d/" + name))
        command = ("pamtester", service, "u%d" % b.u.uid, "authenticate",
                   "setcred(PAM_ESTABLISH_CRED)")
        as_root = run(command, input=b"pass word\n", code=None,
                      env=dict(os.environ, KRB5_CONFIG=t.krb5_conf))
        check(as_root.code != 0, "root made a cache for the user: %s",
              as_root)
        b.u.run(*command, input=b"pass word\n")
        b.uuid_from_now()
        b.step("pam_krb5 as the user")
        b.u.run(*command, input=b"pass word\n")
        b.step("pam_krb5 again")
    check(m.alive(), "kcmfs died")
