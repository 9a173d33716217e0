"""What `make install` installs, once for a module."""
import os

from harness import BUILD, REPO
from util import run


def make(*arguments, **options):
    """make in the source tree, with the programs that are tested."""
    env = {k: v for k, v in os.environ.items()
           if k not in ("MAKEFLAGS", "MAKELEVEL", "B", "V")}
    return run(["make", "-C", REPO, "--no-print-directory", "B=" + BUILD,
                *variant(), *arguments], env=env, timeout=170, **options)


def variant():
    """V= of a build in build-asan and so on, or its flags would differ."""
    name = os.path.basename(BUILD)
    kinds = ("asan", "tsan", "debug", "cov")
    return ["V=" + k for k in kinds if name == "build-" + k]


def install(t, *arguments):
    """DESTDIR of a fresh installation."""
    where = os.path.join(t.dir, "installed")
    make("install", "-o", "all", "DESTDIR=" + where, "prefix=/usr", *arguments)
    return where


def files(where):
    """{path below where: mode}, links and files."""
    found = {}
    for directory, _, names in os.walk(where):
        for name in names:
            path = os.path.join(directory, name)
            found[path[len(where):]] = os.lstat(path).st_mode
    return found
