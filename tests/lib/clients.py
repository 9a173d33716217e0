"""The FILE and DIR clients that tests run, as one table.

Each entry of READERS takes (user, path of a cache file) and returns
(principal, [service principals]) as that client sees it; it raises when the
client fails.  build() compiles those that are programs of our own.
"""
import os
import re
import subprocess

from util import Failed, check, run

SOURCES = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), "clients")
PYTHON = "/usr/bin/python3"
GSS_SERVICE = "HTTP@localhost"


def build(tools, bench=False):
    """Compiles into TOOLS/clients what is newer there than its result; with
    bench also what tests/bench alone runs.  (bench.c is run by test_budget.)
    """
    out = os.path.join(tools, "clients")
    os.makedirs(out, exist_ok=True)
    environment = dict(os.environ, GO111MODULE="off", LC_ALL="C",
                       GOPATH="/usr/share/gocode",
                       GOCACHE=os.path.join(out, "go-cache"))

    def gcc(source, result, *options):
        return (source, result,
                ["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread",
                 "-o", os.path.join(out, result), source, *options])
    programs = [
        gcc("ccall.c", "ccall", "-lkrb5"),
        gcc("hunt.c", "hunt", "-lkrb5"),
        gcc("../bench/bench.c", "bench", "-lkrb5"),
        ("TicketCache.java", "TicketCache.class",
         ["javac", "-d", out, "TicketCache.java"]),
        ("gocache.go", "gocache",
         ["go", "build", "-o", os.path.join(out, "gocache"), "gocache.go"])]
    if bench:
        programs += [gcc("../bench/floor.c", "floor", "-I/usr/include/fuse3",
                         "-lfuse3"),
                     gcc("../bench/wire.c", "wire")]
    for source, result, command in programs:
        source, result = (os.path.join(SOURCES, source),
                          os.path.join(out, result))
        if os.path.exists(result) and \
                os.path.getmtime(result) >= os.path.getmtime(source):
            continue
        try:
            run(command, cwd=SOURCES, env=environment, timeout=300)
        except OSError as e:
            raise Failed("%s (tests/setup test installs it)" % e) from e


def program(user, name):
    return os.path.join(user.test.tools, "clients", name)


def ccall(user, *arguments, cc=None, code=0):
    """One libkrb5 call (tests/clients/ccall.c); its output."""
    return user.run(program(user, "ccall"), *arguments, cc=cc, code=code).out


def ccall_process(user, *arguments):
    """ccall with pipes, for `iterate CACHE step`."""
    return subprocess.Popen(
        [program(user, "ccall"), *arguments], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=user.env, cwd=user.home,
        user=user.uid, group=user.gid, extra_groups=[])


def _lines(out):
    principal = re.search(r"^principal (.*)$", out, re.M)
    check(principal, "no principal in: %s", out)
    return principal.group(1), re.findall(r"^ticket (.*)$", out, re.M)


def _own(services):
    """Clients differ in whether they list config entries at all."""
    return [s for s in services if "X-CACHECONF:" not in s]


def mit(user, path):
    return user.klist("FILE:" + path)


def heimdal(user, path):
    out = user.heimdal("heimtools", "klist", "-c", "FILE:" + path).out
    principal = re.search(r"^ +Principal: (.*)$", out, re.M).group(1)
    # "Nov 22 11:00:00 2026  Nov 22 21:00:00 2026  krbtgt/R@R"; an expired
    # ticket has >>>Expired<<< in the place of the second
    return principal, re.findall(
        r"^\w{3} +\d+ [\d:]+ \d+  .*  (\S+@\S+)\s*$", out, re.M)


def java(user, path, service=None):
    arguments = [service] if service else []
    out = user.run("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1",
                   "-XX:+UseSerialGC", "-Xmx64m",
                   "-Djava.security.krb5.conf=" + user.env["KRB5_CONFIG"],
                   "-cp", program(user, ""), "TicketCache", path,
                   *arguments).out
    return out if service else _lines(out)


def gokrb5(user, path):
    principal, services = _lines(user.run(program(user, "gocache"), path).out)
    return principal, _own(services)


def impacket(user, path):
    principal, services = _lines(user.run(
        PYTHON, os.path.join(SOURCES, "impcache.py"), path).out)
    return principal, _own(services)


def libkrb5(user, path):
    """The API itself, without klist."""
    out = ccall(user, "iterate", "FILE:" + path)
    return ccall(user, "principal", "FILE:" + path).strip(), \
        [line.split()[0] for line in out.splitlines()
         if not line.startswith("config ")]


# Java knows the TGT alone: JAAS puts nothing else into the Subject.
READERS = {"mit": mit, "heimdal": heimdal, "gokrb5": gokrb5,
           "impacket": impacket, "libkrb5": libkrb5}


# -------------------------------------------------------------- GSS tokens

def token_of(out):
    return re.search(r"^token (\S+)$", out, re.M).group(1)


def java_token(user, path, service=GSS_SERVICE):
    return token_of(java(user, path, service))


def python_token(user, cache, service=GSS_SERVICE):
    """cache as KRB5CCNAME has it; "-" takes the user's KRB5CCNAME."""
    return token_of(user.run(PYTHON, os.path.join(SOURCES, "gsscache.py"),
                             "init", cache, service).out)


def accept(realm, user, token, service="HTTP/localhost"):
    """Whom the service behind the keytab takes the token's sender for."""
    keytab = realm.keytab(service)
    out = user.run(PYTHON, os.path.join(SOURCES, "gsscache.py"), "accept",
                   keytab, input=token.encode()).out
    return re.search(r"^peer (.*)$", out, re.M).group(1)


def go_ticket(user, path, service="HTTP/localhost"):
    """gokrb5 asks the KDC for this service with the cache's TGT."""
    out = user.run(program(user, "gocache"), path, service).out
    return re.search(r"^service (.*)$", out, re.M).group(1)



