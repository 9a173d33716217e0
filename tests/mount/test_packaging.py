"""make install and the Debian packages."""
import glob
import os
import re
import shutil
import stat
import subprocess

from harness import BUILD, REPO, test
from installed import files, install, make
from util import Failed, check, eq, has, run

PROGRAMS = ("usr/bin/kcmfs", "usr/bin/kcmls", "usr/sbin/kcmd")
HELPERS = ("usr/sbin/mount.kcmfs", "usr/sbin/mount.fuse.kcmfs")
OTHERS = (
    "lib/systemd/system/kcmfs.service", "lib/systemd/system/kcmd.service",
    "lib/systemd/system/kcmd.socket", "lib/systemd/user/kcmfs.service",
    "lib/tmpfiles.d/kcmfs.conf", "share/bash-completion/completions/kcmfs",
    "share/man/man8/kcmfs.8", "share/man/man8/kcmd.8",
    "share/man/man8/mount.kcmfs.8", "share/man/man8/mount.fuse.kcmfs.8",
    "share/man/man5/kcmfs.5", "share/doc/kcmfs/README.md",
    "share/doc/kcmfs/LICENSE", "share/doc/kcmfs/examples/container/run.sh",
)


@test("none")
def installs_all_and_uninstalls_it(t):
    where = install(t)
    found = files(where)
    for name in PROGRAMS + HELPERS + tuple("usr/" + o for o in OTHERS):
        check("/" + name in found, "%s is not installed", name)
    for name, mode in found.items():
        if stat.S_ISREG(mode):
            check(not mode & 0o7022 and mode & 0o044, "%s: %o", name, mode)
        if not stat.S_ISLNK(mode):
            continue
        check(os.path.exists(where + name), "%s leads nowhere", name)
    for helper in HELPERS:
        eq(os.path.realpath(os.path.join(where, helper)),
           os.path.realpath(os.path.join(where, "usr/bin/kcmfs")))
    has(run([os.path.join(where, HELPERS[0]), "-V"]).out, "kcmfs ")
    # the units name what is there
    for unit in glob.glob(where + "/usr/lib/systemd/*/kcm*.service"):
        with open(unit) as f:
            program = re.search(r"^ExecStart=(\S+)", f.read(), re.M).group(1)
        check(os.path.exists(where + program), "%s: %s", unit, program)
    make("uninstall", "DESTDIR=" + where, "prefix=/usr")
    eq(files(where), {}, "what uninstall leaves")


@test("none")
def units_below_another_prefix(t):
    where = os.path.join(t.dir, "local")
    make("install", "-o", "all", "DESTDIR=" + where)
    with open(where + "/usr/local/lib/systemd/system/kcmfs.service") as f:
        has(f.read(), "\nExecStart=/usr/local/bin/kcmfs ")
    with open(where + "/usr/local/lib/systemd/system/kcmd.service") as f:
        has(f.read(), "\nExecStart=/usr/local/sbin/kcmd ")


class Root:
    """This system's root directory under an overlay: what is changed in it
    is gone with the test."""

    def __init__(self, t):
        top = os.path.join(t.dir, "root")
        for name in ("", "/upper", "/work", "/root"):
            os.mkdir(top + name)
        self.path, self.upper = top + "/root", top + "/upper"
        run(["mount", "-t", "overlay", "overlay", "-o",
             "lowerdir=/,upperdir=%s/upper,workdir=%s/work" % (top, top),
             self.path])
        t.cleanup(lambda: run(["umount", "-l", self.path]))
        for name, kind in (("proc", "proc"), ("run", "tmpfs"),
                           ("tmp", "tmpfs")):
            run(["mount", "-t", kind, kind, os.path.join(self.path, name)])
        run(["mount", "--rbind", "/dev", self.path + "/dev"])
        # Nothing is started: there is no init here.
        with open(self.path + "/usr/sbin/policy-rc.d", "w") as f:
            f.write("#!/bin/sh\nexit 101\n")
        os.chmod(self.path + "/usr/sbin/policy-rc.d", 0o755)

    def run(self, *command, **options):
        return run(["chroot", self.path, *command],
                   env={"PATH": os.environ["PATH"], "LC_ALL": "C",
                        "DEBIAN_FRONTEND": "noninteractive"}, **options)

    def ours(self):
        """Files of kcmfs that were made since, but dpkg's own notes."""
        return sorted(p for p in files(self.upper)
                      if "kcm" in p and not p.startswith("/var/lib/dpkg/")
                      and not p.startswith("/var/log/"))


def build_packages(t):
    """{package: path}, built as `make deb` does, in a copy."""
    source = os.path.join(t.dir, "source")
    os.mkdir(source)
    for name in ("Makefile", "README.md", "LICENSE", "fs", "kcm", "examples"):
        run(["cp", "-r", os.path.join(REPO, name), source])
    env = {k: v for k, v in os.environ.items()
           if k not in ("MAKEFLAGS", "MAKELEVEL", "B", "V")}
    run(["make", "-C", source, "deb"], env=dict(
        env, DEB_BUILD_OPTIONS="parallel=2 noautodbgsym"), timeout=170)
    built = glob.glob(source + "/build/deb/*.deb")
    return {os.path.basename(p).split("_")[0]: p for p in built}


@test("none")
def debian_packages(t):
    """Built, clean to lintian, installed, used, removed, purged."""
    if not shutil.which("dh"):
        raise Failed("debhelper is not installed (make deps-test)")
    packages = build_packages(t)
    check({"kcmfs", "kcmd"} <= set(packages), "built: %s", packages)
    r = run(["setpriv", "--reuid", "65534", "--regid", "65534",
             "--clear-groups", "lintian", "--fail-on", "error,warning",
             packages["kcmfs"], packages["kcmd"]], code=None, timeout=120,
            env=dict(os.environ, HOME=t.dir, LC_ALL="C"))
    eq((r.code, r.out), (0, ""), "lintian")
    depends = run(["dpkg-deb", "-f", packages["kcmfs"], "Depends"]).out
    for name in ("fuse3", "libfuse3-3", "libkrb5-3", "libseccomp2"):
        has(depends, name)

    root = Root(t)
    for name in ("kcmfs", "kcmd"):
        shutil.copy(packages[name], root.path + "/tmp/%s.deb" % name)
    root.run("dpkg", "-i", "/tmp/kcmfs.deb", "/tmp/kcmd.deb")
    eq(root.run("dpkg", "--verify", "kcmfs", "kcmd").out, "")
    for program in ("kcmfs", "kcmd", "mount.kcmfs"):
        has(root.run(program, "-V").out, "kcm")
    enabled = files(root.upper + "/etc/systemd")
    check(any(p.endswith("/kcmfs.service") for p in enabled),
          "kcmfs.service is not enabled: %s", enabled)
    check(not any("kcmd" in p for p in enabled), "kcmd: %s", enabled)
    check(not any(p.startswith("/user/") for p in enabled),
          "the user's unit is enabled for everybody")
    works_installed(t, root)
    root.run("dpkg", "-r", "kcmfs", "kcmd")
    check(not os.path.exists(root.path + "/usr/bin/kcmfs"), "not removed")
    check(os.path.exists(root.path + "/etc/default/kcmfs"), "no conffile")
    root.run("dpkg", "-P", "kcmfs", "kcmd")
    # an overlay keeps a character device for what was removed
    left = [p for p in root.ours() if not stat.S_ISCHR(
        os.lstat(root.upper + p).st_mode)]
    eq(left, [], "what purge leaves")


def works_installed(t, root):
    """Mounted by mount(8) in that root."""
    u = t.user(principal=None)
    os.makedirs(root.path + "/run/kcmfs", exist_ok=True)
    root.run("mount", "-t", "fuse.kcmfs", "embedded", "/run/kcmfs")
    try:
        names = u.list(root.path + "/run/kcmfs")
        check("by-name" in names, "the tree is %s", names)
    finally:
        subprocess.run(["umount", root.path + "/run/kcmfs"], check=True)
