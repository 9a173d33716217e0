"""Test users: numeric uids, each with a home and a principal of its own.

Every test takes fresh uids, so that tests can share one KCM daemon: it keeps
the caches of one uid from the others, which is what the tests rely on (and
what test_users.py proves).
"""
import os
import re

from util import call_as, run

FIRST_UID, COUNT = 20001, 2000
HEIMDAL_TOOLS = "unpack/heimdal-clients/usr/bin"


def write_passwd(directory):
    """passwd and group with the test uids, to be bound over /etc's."""
    for name, line in (("passwd", "u%d:x:%d:%d::/tmp:/bin/sh\n"),
                       ("group", "u%d:x:%d:\n")):
        with open("/etc/" + name) as f:
            text = f.read()
        fields = 3 if name == "passwd" else 2
        for uid in range(FIRST_UID, FIRST_UID + COUNT):
            text += line % ((uid,) * fields)
        with open(os.path.join(directory, name), "w") as f:
            f.write(text)


class User:
    """Runs commands and functions as this uid, with its environment."""

    def __init__(self, test, uid, home):
        self.test, self.uid, self.gid, self.home = test, uid, uid, home
        self.principal = None
        self.keytab = None
        self.env = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": home,
            "TMPDIR": home, "LC_ALL": "C", "TZ": "UTC", "USER": "u%d" % uid,
            "KRB5_CONFIG": test.krb5_conf, "KRB5CCNAME": "KCM:",
            # what sanitizer builds of ours need to know is for kcmfs only
        }

    def _env(self, cc, more):
        env = dict(self.env)
        if cc is not None:
            env["KRB5CCNAME"] = cc
        env.update(more or {})
        return env

    def run(self, *command, cc=None, env=None, **options):
        """The command as this user; cc is its KRB5CCNAME (default KCM:)."""
        return run(command, user=self.uid, group=self.gid, extra_groups=[],
                   env=self._env(cc, env), cwd=options.pop("cwd", self.home),
                   **options)

    def heimdal(self, tool, *arguments, cc=None, env=None, **options):
        """A Heimdal tool, in a namespace whose /run is the daemon's.

        Without cc it takes KCM's default cache: to Heimdal "KCM:" is not
        that but a cache of empty name, so it is told by default_cc_type.
        """
        path = os.path.join(self.test.tools, HEIMDAL_TOOLS, tool)
        environment = self._env(cc, env)
        if cc is None:
            del environment["KRB5CCNAME"]
        return run(["unshare", "-m", "--propagation", "private", "sh", "-c",
                    'mount --bind "$1" /run && shift && exec "$@"', "sh",
                    self.test.kcm_run_dir,
                    "setpriv", "--reuid", self.uid, "--regid", self.gid,
                    "--clear-groups", path, *arguments],
                   env=environment, cwd=self.home, **options)

    def call(self, function, *args, **kwargs):
        return call_as(self.uid, self.gid, function, *args, **kwargs)

    # -- files

    def read(self, path):
        def body():
            with open(path, "rb", buffering=0) as f:
                parts = []
                while part := f.read(1 << 20):
                    parts.append(part)
                return b"".join(parts)
        return self.call(body)

    def text(self, path):
        return self.read(path).decode()

    def write(self, path, data):
        def body():
            with open(path, "wb", buffering=0) as f:
                f.write(data)
        self.call(body)

    def list(self, path):
        return sorted(self.call(os.listdir, path))

    def stat(self, path):
        return self.call(os.lstat, path)

    def link(self, path):
        return self.call(os.readlink, path)

    def exists(self, path):
        """A path without a cache is ENOENT; any other error is a failure."""
        try:
            self.stat(path)
            return True
        except FileNotFoundError:
            return False

    # -- Kerberos

    def kinit(self, *options, cc=None, principal=None):
        """A ticket for the user's principal, from the keytab."""
        return self.run("kinit", "-k", "-t", self.keytab, *options,
                        principal or self.principal, cc=cc)

    def kvno(self, *services, cc=None):
        return self.run("kvno", "-q", *services, cc=cc)

    def klist(self, cc=None):
        """(principal, [service principals in the order shown]) of a cache.

        MIT's klist hides config entries without -C; that is what is wanted.
        """
        out = self.run("klist", *(["-c", cc] if cc else [])).out
        principal = re.search(r"^Default principal: (.*)$", out, re.M).group(1)
        services = re.findall(
            r"^\d\d/\d\d/\d\d \S+  \d\d/\d\d/\d\d \S+  (\S+)$", out, re.M)
        return principal, services

    def klist_names(self, cc=None):
        """{cache name: principal} of the collection (status 1: empty)."""
        out = self.run("klist", "-l", cc=cc, code=None).out.splitlines()[2:]
        rows = [line.split(None, 1) for line in out]
        return {name.strip(): princ for princ, name in rows}

    def default_name(self):
        """KCM's own idea of the default cache, as KCM:NAME."""
        out = self.run("klist").out
        return re.search(r"^Ticket cache: (.*)$", out, re.M).group(1)
