"""GSS-API clients pick the cache of a collection that fits the service: by
its realm and by ~/.k5identity, over two realms with a KDC each."""
import os
import re
import socket
import subprocess

import clients
from harness import ALL, test
from realm import Realm
from util import (check, end_process, eq, free_port, has,
                  lacks, tail, wait_for)

OTHER, HOST = "OTHER.TEST", "web.other.test"
MODULES = "/usr/lib/apache2/modules"

APACHE = """\
ServerRoot {dir}
PidFile {dir}/pid
ErrorLog {dir}/error.log
Listen 127.0.0.1:{port}
ServerName localhost
User www-data
Group www-data
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authn_core_module {modules}/mod_authn_core.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule authz_user_module {modules}/mod_authz_user.so
LoadModule auth_gssapi_module {modules}/mod_auth_gssapi.so
LoadModule headers_module {modules}/mod_headers.so
StartServers 1
DocumentRoot {dir}/docs
<Location "/">
  AuthType GSSAPI
  AuthName "GSS"
  GssapiCredStore keytab:{keytab}
  Require valid-user
  Header always set X-User "expr=%{{REMOTE_USER}}"
</Location>
"""


class World:
    """Two realms, a web server that both know, a user with a principal and
    a cache of each of three identities."""

    def __init__(self, t, collection):
        self.t, self.user = t, t.user(principal=None)
        self.path = collection(self.user)
        self.cc = "DIR:%s" % self.path
        self.other = Realm(os.path.join(t.dir, "other"), OTHER)
        t.cleanup(self.other.stop)
        self.other.start()
        t.realm.others = [self.other]
        t.cleanup(t.realm.others.clear)
        t.realm.write_conf(t.krb5_conf, t.kcm_socket)
        with open(t.krb5_conf, "a") as f:
            f.write("    .other.test = %s\n    other.test = %s\n"
                    % (OTHER, OTHER))
        self.other.add_service("HTTP/" + HOST)
        self.keytab = os.path.join(t.dir, "keytab")
        for realm, name in ((t.realm, "HTTP/localhost"),
                            (t.realm, "host/localhost"),
                            (self.other, "HTTP/" + HOST)):
            realm.add_to_keytab(self.keytab, name)
        self.who = {}
        for who, realm in (("alice", t.realm), ("bob", t.realm),
                           ("carol", self.other)):
            name = "%s%d" % (who, self.user.uid)
            realm.add(name)
            self.who[who] = "%s@%s" % (name, realm.name)
            self.user.run("kinit", "-k", "-t", realm.keytab(name),
                          self.who[who], cc=self.cc)

    def identity(self, text):
        path = os.path.join(self.user.home, ".k5identity")
        self.user.write(path, text.encode())

    def switch(self, who):
        self.user.run("kswitch", "-p", self.who[who], cc=self.cc)

    def select(self, *services, code=0):
        """Who python3-gssapi is to each of them, by its default."""
        out = self.user.run(
            clients.PYTHON, os.path.join(clients.SOURCES, "gsscache.py"),
            "select", self.keytab, *services, cc=self.cc, code=code).out
        return re.findall(r"^peer (.*)$", out, re.M)

    # -- curl

    def apache(self):
        self.dir = os.path.join(self.t.dir, "apache")
        os.makedirs(os.path.join(self.dir, "docs"))
        self.port = free_port()
        with open(os.path.join(self.dir, "docs/index.html"), "w") as f:
            f.write("hello\n")
        conf = os.path.join(self.dir, "conf")
        with open(conf, "w") as f:
            f.write(APACHE.format(dir=self.dir, port=self.port,
                                  modules=MODULES, keytab=self.keytab))
        with open(os.path.join(self.dir, "out"), "wb") as out:
            server = subprocess.Popen(
                ["apache2", "-X", "-f", conf], stdin=subprocess.DEVNULL,
                stdout=out, stderr=out,
                env=dict(os.environ, KRB5_CONFIG=self.t.krb5_conf))
        self.t.cleanup(lambda: end_process(server))

        def ready():
            check(server.poll() is None, "apache2 ended:\n%s%s",
                  tail(out.name), tail(os.path.join(self.dir, "error.log")))
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        wait_for("apache2", ready)

    def curl(self, host):
        """Whom the web server takes curl for."""
        out = self.user.run(
            "curl", "-s", "-i", "--negotiate", "-u", ":", "--resolve",
            "%s:%d:127.0.0.1" % (host, self.port),
            "http://%s:%d/index.html" % (host, self.port), cc=self.cc).out
        users = re.findall(r"^X-User: (.+?)\r?$", out, re.M)
        check(users and "200 OK" in out, "curl:\n%s\n%s", out,
              tail(os.path.join(self.dir, "error.log")))
        return users[-1]


def selection(w):
    own = (w.who["alice"], w.who["bob"])
    # by the realm of the service, whatever the primary is
    for who in ("alice", "carol", "bob"):
        w.switch(who)
        theirs, ours = w.select("HTTP@" + HOST, "HTTP@localhost")
        eq(theirs, w.who["carol"], "primary " + who)
        check(ours in own, "%s with primary %s", ours, who)
        if who != "carol":
            eq(ours, w.who[who], "the primary is of the realm")
        eq(w.curl(HOST), w.who["carol"], "curl, primary " + who)
        check(w.curl("localhost") in own, "curl to localhost")
    # by ~/.k5identity, before that
    w.identity("# comment\n%s host=localhost service=HTTP\n"
               "%s realm=%s\n" % (w.who["alice"], w.who["bob"],
                                  w.t.realm.name))
    for who in ("bob", "carol"):
        w.switch(who)
        eq(w.select("HTTP@localhost", "host@localhost", "HTTP@" + HOST),
           [w.who["alice"], w.who["bob"], w.who["carol"]], "primary " + who)
        eq(w.curl("localhost"), w.who["alice"], "curl, primary " + who)
    # it is stored where it belongs
    out = w.user.run("klist", "-A", cc=w.cc).out
    parts = {}
    for part in out.split("Ticket cache: ")[1:]:
        name = re.search("Default principal: (.*)", part).group(1)
        parts[name] = part
    has(parts[w.who["carol"]], "HTTP/%s@%s" % (HOST, OTHER))
    has(parts[w.who["alice"]], "HTTP/localhost@")
    has(parts[w.who["bob"]], "host/localhost@")
    lacks(parts[w.who["alice"]], "host/localhost@")
    # an identity whose cache is gone is none
    w.user.run("kdestroy", "-p", w.who["alice"], cc=w.cc)
    eq(w.select("HTTP@localhost", code=1), [])


@test()
def on_disk(t):
    def directory(u):
        path = os.path.join(u.home, "collection")
        u.call(os.mkdir, path, 0o700)
        return path
    w = World(t, directory)
    w.apache()
    selection(w)


@test(*ALL)
def on_the_mount(t):
    m = t.mount()
    w = World(t, lambda u: m / "collection")
    w.apache()
    selection(w)
