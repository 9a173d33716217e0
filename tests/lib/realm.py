"""A Kerberos realm of the tests' own: krb5kdc on loopback, free ports.

One KDC serves a whole run; what a test changes in it belongs to principals
that the test made for itself.
"""
import itertools
import os
import subprocess

from util import Failed, end_process, free_port, run, tail, wait_for
import socket

PASSWORD = "pass word"      # of every principal that is given one

KDC_CONF = """\
[kdcdefaults]
    kdc_listen = 127.0.0.1:{port}
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    {realm} = {{
        database_name = {dir}/principal
        key_stash_file = {dir}/stash
        acl_file = {dir}/acl
        max_life = 24h
        max_renewable_life = 7d
        supported_enctypes = aes256-cts:normal aes128-cts:normal
    }}
[logging]
    kdc = FILE:{dir}/kdc.log
    default = FILE:{dir}/other.log
"""

KRB5_CONF = """\
[libdefaults]
    default_realm = {default}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    udp_preference_limit = 1
    forwardable = true
    ticket_lifetime = 10h
    renew_lifetime = 2d
    default_cc_type = KCM
{lines}
[realms]
{realms}
[domain_realm]
    localhost = {default}
    .localhost = {default}
"""


class Realm:
    """start() makes the database and the KDC; principals come by add()."""

    def __init__(self, directory, name="EXAMPLE.COM"):
        self.dir, self.name = directory, name
        self.others = []                # realms that krb5.conf names too
        self.process, self.port = None, None
        self._serial = itertools.count(1)
        os.makedirs(directory, exist_ok=True)

    # -- the KDC

    def start(self):
        for attempt in range(5):
            self.port = free_port()
            self._write("kdc.conf", KDC_CONF.format(
                port=self.port, realm=self.name, dir=self.dir))
            self.write_conf(self._path("krb5.conf"))
            if attempt == 0:
                run(["kdb5_util", "create", "-s", "-r", self.name,
                     "-P", "master"], env=self.env())
                os.chmod(self.dir, 0o755)
            if self._launch():
                return self
        raise Failed("krb5kdc does not start:\n" + tail(self._path("kdc.out")))

    def _launch(self):
        out = open(self._path("kdc.out"), "ab")
        self.process = subprocess.Popen(
            ["krb5kdc", "-n", "-r", self.name, "-P", self._path("kdc.pid")],
            env=self.env(), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        out.close()

        def answers():
            if self.process.poll() is not None:
                return "dead"
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0 and "up"
        # A port that somebody took between the choice and the bind.
        return wait_for("the KDC", answers) == "up" and \
            self.process.poll() is None

    def stop(self):
        if self.process:
            end_process(self.process)

    def describe(self):
        """What a worker process needs to use this realm (see attach)."""
        return {"dir": self.dir, "name": self.name, "port": self.port}

    @classmethod
    def attach(cls, description):
        realm = cls(description["dir"], description["name"])
        realm.port = description["port"]
        return realm

    # -- principals

    def _admin(self, *query):
        run(["kadmin.local", "-r", self.name, "-q", " ".join(query)],
            env=self.env())

    def add(self, name, password=PASSWORD, options=""):
        """A user with a password (for kinit by password or by keytab)."""
        self._admin("addprinc", options, '-pw "%s"' % password, name)
        return name

    def add_service(self, name):
        self._admin("addprinc -randkey", name)
        return name

    def keytab(self, *names):
        """A new keytab with the keys of these, left as they are."""
        path = self._path("keytab.%d.%d" % (os.getpid(), next(self._serial)))
        for name in names:
            self.add_to_keytab(path, name)
        return path

    def add_to_keytab(self, path, name):
        self._admin("ktadd -norandkey -k", path, name)
        os.chmod(path, 0o644)       # test keys; any test uid reads them

    def set_life(self, name, seconds):
        """The longest ticket that the KDC gives this principal from now."""
        self._admin('modprinc -maxlife "%d seconds"' % seconds, name)

    # -- configuration

    def write_conf(self, path, kcm_socket=None, extra=""):
        """A krb5.conf: no includes, gokrb5 does not know them."""
        lines = ""
        if kcm_socket:
            lines += "    kcm_socket = %s\n" % kcm_socket
        lines += extra
        realms = ""
        for realm in [self] + self.others:
            realms += ("    %s = {\n        kdc = 127.0.0.1:%s\n    }\n"
                       % (realm.name, realm.port))
        with open(path, "w") as f:
            f.write(KRB5_CONF.format(default=self.name, lines=lines,
                                     realms=realms))
        os.chmod(path, 0o644)
        return path

    def env(self):
        return dict(os.environ, KRB5_CONFIG=self._path("krb5.conf"),
                    KRB5_KDC_PROFILE=self._path("kdc.conf"),
                    LC_ALL="C", TZ="UTC")

    def _path(self, name):
        return os.path.join(self.dir, name)

    def _write(self, name, text):
        with open(self._path(name), "w") as f:
            f.write(text)
