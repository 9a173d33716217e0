"""README, manual pages and completion: every command in them runs, every
option is in them, and nothing else."""
import ast
import errno
import json
import os
import re
import signal
import struct

import ccfile
from harness import BUILD, REPO, test
from stranger import MOUNT, Host
from util import check, eq, has, raises, run, wait_for

PAGES = ("fs/kcmfs.8", "fs/kcmfs.5", "kcm/kcmd.8", "examples/kcmls.1")
SVC = "svc0/host.example.com"


def text_of(path):
    with open(os.path.join(REPO, path)) as f:
        return f.read()


def person(t, name="alice"):
    """A user, and the name that stands for them in the texts made theirs."""
    u = t.user(principal=None)
    t.realm.add("%s%d" % (name, u.uid))
    return u


def fitted(u, script):
    """The script with names that exist here."""
    for name in ("alice", "bob"):
        script = script.replace(name + "@", "%s%d@" % (name, u.uid))
    return script.replace("host%2Fa.example.com", "svc0%2Fhost.example.com")


# ------------------------------------------------------------------ README

def readme_blocks():
    return re.findall(r"^```sh\n(.*?)^```", text_of("README.md"), re.M | re.S)


@test("sssd", "heimdal", "none")
def readme(t):
    """A stranger's way through it, on a host with that daemon or none."""
    blocks = readme_blocks()
    command = "apt-get update && apt-get install -y make && make "
    eq(blocks[:2], [command + "run\n", command + "test\n"])
    makefile = text_of("Makefile")
    check(re.search(r"^run: deps.*\n(\t.*\n)*?\t.*examples/run.sh \$\(MNT\)",
                    makefile, re.M), "make run")
    check(re.search(r"^test: deps-test.*\n(\t.*\n)*?\t.* check$", makefile,
                    re.M), "make test")
    host, u = Host(t), person(t)
    out = host.mount()
    has(out, "No KCM daemon answers" if t.on == "none"
        else "A KCM daemon answers")
    has(host.mount(), "mounted on %s already" % MOUNT)
    shown = []
    for block in blocks[2:]:
        check("apt-get" not in block, block)
        shown.append(host.sh(fitted(u, block), user=u,
                             input=b"pass word\n").out)
    first, status, _, scripts = shown
    eq(first.count("Default principal: alice%d@EXAMPLE.COM" % u.uid), 2,
       "klist by FILE: and by KCM:")
    check(re.search(r"Ticket cache: KCM:%d" % u.uid, first), first)
    has(first, "hours", "info")
    has(first, "krbtgt%2FEXAMPLE.COM@EXAMPLE.COM", "ls -l")
    has(status, "answers: yes")
    eq(scripts.splitlines()[:2], ["alice%d@EXAMPLE.COM" % u.uid, "false"])
    check(re.match(r"\d{10}", scripts.splitlines()[2]), scripts)
    has(scripts, "tickets/krbtgt")
    host.sh("umount " + MOUNT)


# Rows of the table that other tests meet: java_takes_the_ticket,
# python_programs, go_reads_the_cache, another_uid_inside.
ELSEWHERE = {"Unable to obtain Principal Name for authentication",
             "No such file or directory", "no such file or directory"}


def readme_messages():
    """What the first column of `when it does not work` has in backticks."""
    table = text_of("README.md").split("## When it does not work")[1]
    cells = re.findall(r"^\| (.*?) \|", table.split("\n## ")[0], re.M)
    return {m for cell in cells for m in re.findall("`(.*?)`", cell)}


@test("kcmd")
def readme_errors(t):
    """What `when it does not work` says is what is met."""
    daemon = t.own_daemon("--max-caches=1")
    host, u = Host(t), t.user()
    host.mount()
    cc = {"KRB5CCNAME": "FILE:%s/default/cache" % MOUNT}
    met = set()

    def says(text, script, user=u, **options):
        r = host.sh(script, user=user, code=None, **options)
        check(r.code != 0, "%s is no error: %s", script, r)
        has(r.err, text)
        met.add(text)
    says("No credentials cache found", "klist", env=cc)
    kinit = "kinit -k -t %s %s" % (u.keytab, u.principal)
    host.sh(kinit, user=u, env=cc)
    second = "%s/by-name/%d.second" % (MOUNT, u.uid)
    host.sh("mkdir " + second, user=u)
    says("Disk quota exceeded", "cp %s/default/cache %s/cache" % (
        MOUNT, second))
    says("Credentials cache I/O operation failed", kinit, env={
        "KRB5CCNAME": "FILE:%s/cache" % second})
    says("kcmfs is mounted there already", "kcmfs " + MOUNT, user=None)
    daemon.stop()
    says("Credentials cache I/O operation failed", kinit, env=cc)
    says("Connection refused", "cat %s/default/cache" % MOUNT)
    daemon.start()
    host.sh("umount %s && kcmfs -o ro %s" % (MOUNT, MOUNT))
    says("Credentials cache permissions incorrect", kinit, env=cc)
    says("Read-only file system", "echo >%s/default/x" % MOUNT)
    host.sh("kill -9 $(grep -lsx kcmfs /proc/[0-9]*/comm | cut -d/ -f3 |"
            " grep -x '%s')" % "\\|".join(map(str, host.served())))
    wait_for("its end", lambda: not host.served())
    host.sh("ls %s || true" % MOUNT)    # what was sent before is aborted
    says("Transport endpoint is not connected", "ls " + MOUNT)
    # the kernel knows the attributes of the root for a second more
    host.sh("while stat %s; do sleep .1; done" % MOUNT)
    host.mount()
    host.sh(kinit, user=u, env=cc)
    host.sh("ln -s %s/default/cache ~/link" % MOUNT, user=u)
    r = u.heimdal("heimtools", "klist", "-c", "FILE:%s/link" % u.home,
                  code=None)
    has(r.out + r.err, "Refuses to open symlinks for caches")
    met.add("Refuses to open symlinks for caches")
    host.sh("umount %s && kcmfs -o timeout=1 %s" % (MOUNT, MOUNT))
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        says("Connection timed out", "cat %s/default/cache" % MOUNT)
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    says("there is no /dev/fuse", "unshare -m sh -euc 'mount -t tmpfs tmpfs"
         " /dev; $EXAMPLES/run.sh /tmp'", user=None)
    eq(readme_messages(), met | ELSEWHERE)


@test("none")
def paths_in_the_texts_exist(t):
    for page in ("README.md", "examples/DESIGN.md"):
        text = text_of(page)
        here = os.path.dirname(os.path.join(REPO, page))
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            check(os.path.exists(os.path.join(here, link)), link)
        for path in re.findall(r"`((?:fs|kcm|tests|examples)/[\w./-]+)`",
                               text):
            check(os.path.exists(os.path.join(REPO, path)), "%s: %s", page,
                  path)
        for target in re.findall(r"`make ([a-z-]+)", text):
            check(re.search(r"^%s:|PHONY:.*\b%s\b" % (target, target),
                            text_of("Makefile"), re.M), target)


def sources():
    """{path: text} of the programs."""
    return {path: text_of(path) for path in (
        os.path.join(d, n) for d in ("fs", "kcm")
        for n in os.listdir(os.path.join(REPO, d))) if path[-2:] in (".c",
                                                                     ".h")}


@test("none")
def design_is_true_to_the_code(t):
    """Files exist, functions are in the files named beside them, and every
    other name occurs."""
    text, code = text_of("examples/DESIGN.md"), sources()
    for path in re.findall(r"\b(?:fs|kcm|tests|examples)/[\w/-]+\.\w+", text):
        check(os.path.exists(os.path.join(REPO, path)), path)
    path = re.search(r"^## The main path.*?\n\n(.*?)\n\n", text,
                     re.M | re.S).group(1)
    pairs = [(n, f) for n, f in re.findall(
        r"(\w+(?:, \w+)*)\s+((?:fs|kcm)/\w+\.c(?:, kcm/\w+\.c)*)", path)]
    check(len(pairs) >= 8, "the main path: %r", pairs)
    for names, files in pairs:
        for name in names.split(", "):
            check(any(re.search(r"^%s\(" % name, code[f], re.M)
                      for f in files.split(", ")), "%s in %s", name, files)
    everything = "\n".join(code.values())
    for name in re.findall(r"`(?:[a-z]+->)?([a-z_]+)(?:\(\))?`", text):
        check(re.search(r"%s\b" % name, everything), name)


# ------------------------------------------------------------ manual pages

@test("none")
def manual_lint(t):
    for page in PAGES:
        r = run(["mandoc", "-T", "lint", os.path.join(REPO, page)], code=None)
        bad = [line for line in r.out.splitlines()
               if "referenced manual not found" not in line
               and "outdated mandoc.db" not in line]
        eq(bad, [], page)
        r = run(["groff", "-mandoc", "-ww", "-b", "-z", "-K", "utf8", "-T",
                 "utf8", os.path.join(REPO, page)])
        eq(r.err, "", "groff " + page)
    eq(text_of("fs/mount.kcmfs.8"), ".so man8/kcmfs.8\n")


def rendered(page):
    out = run(["mandoc", "-T", "ascii", os.path.join(REPO, page)]).out
    return re.sub(r".\x08", "", out)


def help_options():
    """(options of the command line, mount options) of kcmfs --help."""
    text = run([os.path.join(BUILD, "kcmfs"), "--help"]).out
    line, mount = re.search(
        r"^Options:\n(.*?)^Mount options.*?:\n(.*?)^Passed on .*?:\n(.*?)\n\n",
        text, re.M | re.S).group(1, 2)
    passed = re.search(r"^Passed on .*?:\n(.*?)\n\n", text,
                       re.M | re.S).group(1).split()
    words = set(re.findall(r"^  (-\w)|(--[\w-]+=?)", line, re.M))
    return ({w for pair in words for w in pair if w},
            set(re.findall(r"^  (\w+=?)", mount, re.M)) | set(passed))


@test("none")
def manual_has_every_option(t):
    text = rendered("fs/kcmfs.8")
    line, mount = help_options()
    for option in line | mount:
        name = option.rstrip("=")
        check(re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(name), text)
              or (len(name) == 2 and name[1] in "dfhsV"),
              "kcmfs.8 lacks %s", option)
    for option in re.findall(r"^ +(--[\w-]+)", text, re.M):
        check(option in {o.rstrip("=") for o in line}, option)
    text = rendered("kcm/kcmd.8")
    usage = run([os.path.join(BUILD, "kcmd"), "-h"]).out
    for option in re.findall(r"^  (--?[\w-]+)", usage, re.M):
        has(text, option, "kcmd.8")


# ------------------------------------------------------------------- limits

MIB = 1 << 20
# Row of LIMITS in kcmfs.8: where the program has it.
LIMITS = {
    "Scratch files and links": "fs/draft.h:DRAFTS_PER_UID",
    "Bytes of one": "fs/draft.h:DRAFT_BYTES",
    "Bytes of all, and of entries in part": "fs/draft.h:DRAFT_BYTES_PER_UID",
    "Bytes on their way to KCM": "fs/draft.h:COPIES_PER_UID",
    "Age of one left alone": "fs/draft.h:DRAFT_AGE_S",
    "Bytes of one entry of a cache": "fs/change.h:RECORD_MAX",
    "Names reserved by mkdir": "fs/ops_name.c:RESERVED_DIRS",
    "Time for a new cache in place of one unlinked":
        "fs/ops_name.c:RESERVED_MS",
    "Open files and directories": "fs/node.h:HANDLES_PER_UID",
    "Requests at a time": "fs/ops.c:REQUESTS_PER_UID",
    "With those on open files": "fs/ops.c:REQUESTS_PER_UID,ON_OPEN_FILES",
    "Of these, waiting for KCM": "kcm/pool.c:WAITING_PER_ID",
    "Connections to KCM": "kcm/pool.c:CONNECTIONS_PER_ID",
    "Lines logged in a minute": "kcm/log.c:LINES_PER_MINUTE",
    "Of these, refusals": "fs/status.c:FAILURES_LOGGED",
    "Caches, with --embedded": "kcm/server.h:KCM_SERVER_CACHES",
    "Bytes of them": "kcm/server.h:KCM_SERVER_BYTES",
}


def limits():
    """{row of LIMITS: (the most, the error's name or what happens)}"""
    text = text_of("fs/kcmfs.8").split(".Sh LIMITS\n")[1].split("\n.Sh ")[0]
    units = {None: 1, "MiB": MIB, "minutes": 60}
    return {name: (int(n) * units[unit or None], end)
            for name, n, unit, end in re.findall(
                r'^\.It "(.*?)" Ta (\d+)(?: (\w+))? Ta (.+)$', text, re.M)}


def in_the_code(where):
    path, names = where.split(":")
    total = 0
    for name in names.split(","):
        value = re.search(r"^#define %s +(.+?)(?: +/\*.*)?$" % name,
                          text_of(path), re.M).group(1)
        value = re.sub(r"\(\w+\)|(?<=\d)u\b", "", value)
        check(re.fullmatch(r"[\d *()]+", value), "%s is %r", name, value)
        total += eval(value)
    return total // (1000 if names.endswith("_MS") else 1)


@test("none")
def manual_limits_are_those_of_the_code(t):
    eq({name: most for name, (most, _) in limits().items()},
       {name: in_the_code(where) for name, where in LIMITS.items()})
    everybody = in_the_code("fs/mount.c:MAX_THREADS")
    has(text_of("fs/kcmfs.8"), "have %d requests at a time" % everybody)
    # kcmd's own, where it is described
    text = rendered("kcm/kcmd.8")
    has(text, "%d by default" % limits()["Caches, with --embedded"][0])
    has(text, "%d MiB by default" % (limits()["Bytes of them"][0] // MIB))


def reached(most, function):
    """How often it went well, and the name of the error that ended that."""
    for i in range(most):
        try:
            function(i)
        except OSError as e:
            return i, errno.errorcode[e.errno]
    return most, None


@test("embedded")
def manual_limits_are_those_one_meets(t):
    """What the rows say, and it is answered what they say."""
    m, u = t.mount(), t.user()
    u.kinit()
    rows = limits()
    top = m / ("by-name/%d" % u.uid)

    def meets(row, function):
        most, error = rows[row]
        eq(u.call(reached, most + 10, function), (most, error), row)

    def scratch(i):
        if i % 2:
            os.symlink("by-name/%d" % u.uid, m / ("link%d" % i))
        else:
            os.close(os.open("%s/s%d" % (top, i), os.O_CREAT | os.O_WRONLY))
    meets("Scratch files and links", scratch)
    for i in range(rows["Scratch files and links"][0]):
        u.call(os.unlink, m / ("link%d" % i) if i % 2
               else "%s/s%d" % (top, i))
    meets("Names reserved by mkdir",
          lambda i: os.mkdir(m / ("by-name/%d.d%d" % (u.uid, i))))
    # a file, and all of them, in bytes: with what is reserved for growing
    most, error = rows["Bytes of one"]
    with u.call(open, top + "/one", "wb", buffering=0) as f:
        u.call(os.pwrite, f.fileno(), b"x", most - 1)
        raises(getattr(errno, error), u.call, os.pwrite, f.fileno(), b"x",
               most)
        eq(os.fstat(f.fileno()).st_size, most)
    most, error = rows["Bytes of all, and of entries in part"]
    with u.call(open, top + "/all", "wb", buffering=0) as f, \
            u.call(open, top + "/more", "wb", buffering=0) as g:
        rest = most - rows["Bytes of one"][0]
        u.call(os.pwrite, f.fileno(), b"x", rest - 1)
        raises(getattr(errno, error), u.call, os.pwrite, g.fileno(), b"x", 0)
    for name in ("one", "all", "more"):
        u.call(os.unlink, top + "/" + name)
    # an entry that does not end
    most, error = rows["Bytes of one entry of a cache"]
    principal = ccfile.Writer(4).principal(ccfile.princ(u.principal)).out
    begin = principal + principal + struct.pack(">HI", 18, 0x7fffffff)
    f = u.call(os.open, m / "default/cache", os.O_WRONLY | os.O_APPEND)
    u.call(os.write, f, begin)
    done = len(begin)
    while done < most:
        done += u.call(os.write, f, b"k" * min(MIB, most - done))
    raises(getattr(errno, error), u.call, os.write, f, b"k")
    raises(errno.EINVAL, os.close, f)       # what is there is in part


def examples(page):
    """The literal blocks of EXAMPLES: [[(prompt, command), ...], ...]"""
    text = text_of(page).split(".Sh EXAMPLES")[1].split("\n.Sh ")[0]
    found = []
    for block in re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", text,
                            re.M | re.S):
        commands = []
        for line in block.replace("\\e", "\\").splitlines():
            if line[:2] in ("$ ", "# "):
                commands.append([line[0], line[2:]])
            elif commands:          # the rest of a command, or its output
                commands[-1][1] += "\n" + line
            else:
                commands.append([" ", line])
        found.append(commands)
    return found


@test("kcmd", "sssd", "heimdal")
def manual_examples_of_the_tree(t):
    host, u = Host(t), person(t)
    t.realm.add("bob%d" % u.uid)
    host.mount()
    outs = []
    for number, block in enumerate(examples("fs/kcmfs.5")):
        script = "\n".join(command for _, command in block)
        outs.append(host.sh(fitted(u, script), user=u,
                            input=b"pass word\n").out)
        if number in (0, 2):        # tickets for the examples that follow
            host.sh("kvno -q " + SVC, user=u, env={"KRB5CCNAME": "KCM:"})
    kinit, jq, found, attributes, other = outs
    has(attributes, 'user.kcm.principal="alice%d@EXAMPLE.COM"' % u.uid)
    has(kinit, "alice%d@EXAMPLE.COM" % u.uid)
    eq(jq.splitlines()[0], "true")
    has(jq, SVC + "@EXAMPLE.COM")
    check(re.search(r"^alice\S+\tKCM:\S+\t20\d\d-\d\d-\d\dT", jq, re.M), jq)
    has(found, "./svc0%2Fhost.example.com@EXAMPLE.COM")
    has(found, "krbtgt/EXAMPLE.COM@EXAMPLE.COM")
    eq(other.strip(), "Password for bob%d@EXAMPLE.COM:" % u.uid)
    eq(host.sh("readlink %s/default" % MOUNT, user=u).out,
       "by-name/%d.other\n" % u.uid)
    host.sh("! [ -e %s/default/cache ]" % MOUNT, user=u)


@test("none")
def manual_examples_of_the_program(t):
    host, u = Host(t), person(t)
    for block in examples("fs/kcmfs.8"):
        script = "\n".join(command for _, command in block)
        if script.startswith("mount -t"):
            continue                # test_cli.py has mount(8) and fstab
        if script.startswith("journalctl"):
            entry = {"KCMFS_UID": "1000", "KCMFS_PROGRAM": "klist",
                     "KCMFS_CACHE": "1000"}
            out = host.sh(re.sub(r"^journalctl[^|]*\|", "", script),
                          input=json.dumps(entry).encode()).out
            eq(out, "1000\tklist\t1000\n")
            continue
        root = block[0][0] == "#"
        if "--embedded" in script:
            host.sh("umount " + MOUNT)
        host.sh(script, user=None if root else u)
    has(host.sh("cat %s/.kcmfs/status" % MOUNT).out, "source: embedded")
    host.sh("kinit alice%d && klist && klist KCM:" % u.uid, user=u,
            env={"KRB5CCNAME": "FILE:%s/default/cache" % MOUNT},
            input=b"pass word\n")
    # kcmls.1 and, where nobody has the socket, kcmd.8
    has(host.sh("kcmls", user=u).out, "alice%d@EXAMPLE.COM" % u.uid)
    host.sh("umount " + MOUNT)
    wait_for("its end", lambda: not host.served())      # and of its socket
    for prompt, command in examples("kcm/kcmd.8")[0]:
        user = None if prompt == "#" else u
        out = host.sh(fitted(u, command), user=user,
                      input=b"pass word\n").out
    has(out, "alice%d@EXAMPLE.COM" % u.uid)
    for pid in host.served():
        host.sh("kill %d" % pid)


@test("none")
def schema_and_description_agree(t):
    """The members that kcm/describe.h lists are those of the schema."""
    schema = json.loads(text_of("examples/info.schema.json"))
    comment = text_of("kcm/describe.h").split(" * The same for programs")[1]
    comment = comment.split(" */")[0]
    names = list(schema["properties"])
    for part in ("ticket", "config"):
        names += schema["$defs"][part]["properties"]
    for name in names:
        check(re.search(r"\b%s\b" % name, comment), name)


# ------------------------------------------------------------------- tests

def docstrings():
    """Of all functions that are tests of a mount, or parts of one."""
    place = os.path.join(REPO, "tests/mount")
    for name in os.listdir(place):
        if re.fullmatch(r"test_.*\.py", name):
            for node in ast.parse(text_of(os.path.join(place, name))).body:
                if isinstance(node, ast.FunctionDef):
                    yield ast.get_docstring(node) or ""


@test("none")
def every_point_about_clients_has_its_test(t):
    """What FILE clients need is numbered; [n] in a test's docstring says
    which of it the test is about."""
    named = {int(n) for text in docstrings()
             for n in re.findall(r"\[(\d+)\]", text)}
    eq(named, set(range(1, 36)), "numbers")


# -------------------------------------------------------------- completion

def complete(t, *words):
    """What <Tab> offers behind these words."""
    script = """. %s
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }
_%s "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%%s\\n' "${COMPREPLY[@]}"
""" % (os.path.join(REPO, "examples/completion/kcmfs"), words[0])
    return run(["bash", "-c", script, "bash", *words],
               cwd=t.dir).out.split()


@test("none")
def completion_knows_every_option(t):
    line, mount = help_options()
    eq(set(complete(t, "kcmfs", "-")), line)
    eq(set(complete(t, "kcmfs", "-o", "")), mount)
    usage = run([os.path.join(BUILD, "kcmd"), "-h"]).out
    ours = set(complete(t, "kcmd", "-"))
    eq({o for o in ours if o not in ("--help", "--version")},
       {a + b for a, b in re.findall(r"^  (--?[\w-]+)(=?)", usage, re.M)})
    eq(complete(t, "kcmfs", "-o", "ro,tim"), ["ro,timeout="])
    eq(complete(t, "kcmfs", "em"), ["embedded"])
    os.mkdir(os.path.join(t.dir, "point"))
    eq(complete(t, "kcmfs", "kcm", "po"), ["point"])
    eq(complete(t, "kcmfs", "--kcm-socket", "=", "po"), ["point"])
