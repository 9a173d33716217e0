"""The examples do what their heads say, on a host with default paths."""
import os
import re

from harness import REPO, test
from stranger import EXAMPLES, MOUNT, Host
from util import check, eq, has, lacks, run

TGT = "krbtgt/EXAMPLE.COM@EXAMPLE.COM"
SVC = "svc0/host.example.com@EXAMPLE.COM"
GO = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}


def host_with_tickets(t):
    host, u = Host(t), t.user()
    host.mount()
    host.sh("kinit -k -t %s %s && kvno -q %s" % (u.keytab, u.principal, SVC),
            user=u, env={"KRB5CCNAME": "FILE:%s/default/cache" % MOUNT})
    return host, u


def readme():
    with open(os.path.join(REPO, "README.md")) as f:
        return f.read()


def java(host, u, *words):
    return host.sh(" ".join((
        "java -Xshare:auto -XX:TieredStopAtLevel=1 -Xmx64m",
        "-Djava.security.krb5.conf=$KRB5_CONFIG", *words)), user=u, code=None)


@test("kcmd")
def java_takes_the_ticket(t):
    host, u = host_with_tickets(t)
    r = java(host, u, "-Djava.security.auth.login.config="
             "$EXAMPLES/java/jaas.conf", "$EXAMPLES/java/WhoAmI.java")
    eq((r.code, r.out.strip()), (0, u.principal), str(r))
    # as Hadoop has it in its own entry: KRB5CCNAME, FILE: and all
    with open(os.path.join(EXAMPLES, "java/jaas.conf")) as f:
        text = f.read().replace('"/run', '"FILE:/run')
    path = os.path.join(t.dir, "hadoop.conf")
    with open(path, "w") as f:
        f.write(text.replace("doNotPrompt", "renewTGT=true doNotPrompt"))
    r = java(host, u, "-Djava.security.auth.login.config=" + path,
             "$EXAMPLES/java/WhoAmI.java")
    eq((r.code, r.out.strip()), (0, u.principal), str(r))
    # and what the README says of the error
    host.sh("kdestroy -q -c KCM:", user=u)
    r = java(host, u, "-Djava.security.auth.login.config="
             "$EXAMPLES/java/jaas.conf", "$EXAMPLES/java/WhoAmI.java")
    check(r.code != 0, "a login without a ticket")
    has(r.err, "Unable to obtain Principal Name for authentication")


@test("kcmd")
def go_reads_the_cache(t):
    host, u = host_with_tickets(t)
    cache = os.path.join(t.tools, "clients", "go-cache")
    program = os.path.join(t.dir, "go-example")
    run(["go", "build", "-o", program, os.path.join(EXAMPLES, "go/main.go")],
        env=dict(os.environ, GOCACHE=cache, **GO), timeout=300)
    out = host.sh(program, user=u).out
    eq(out.splitlines()[0], u.principal)
    has(out, "svc0/host.example.com")
    # the README's warning about FILE:
    r = host.sh(program + " FILE:%s/default/cache" % MOUNT, user=u, code=1)
    has(r.err, "no such file or directory")


@test("kcmd", "sssd")
def python_programs(t):
    host, u = host_with_tickets(t)
    script = '"$EXAMPLES/python/whoami_impacket.py"'
    bare = {"KRB5CCNAME": MOUNT + "/default/cache"}
    out = host.sh(script, user=u, env=bare).out
    eq(out.splitlines()[0], u.principal)
    has(out, "svc0/host.example.com")
    # the README's warning about FILE:
    r = host.sh(script, user=u, code=None,
                env={"KRB5CCNAME": "FILE:" + bare["KRB5CCNAME"]})
    check(r.code != 0 and "No such file or directory" in r.err, str(r))
    out = host.sh('"$EXAMPLES/python/expiring.py" 10', user=u).out
    check(re.search(r"^%s +KCM:%d\S* (59\d|600) min$" % (
        re.escape(u.principal), u.uid), out, re.M), out)
    eq(host.sh('"$EXAMPLES/python/expiring.py" 99999', user=u,
               code=None).code, 1)


@test("kcmd", "sssd", "heimdal")
def a_container_sees_the_tickets(t):
    host, u = host_with_tickets(t)
    out = host.sh('"$EXAMPLES/container/run.sh" '
                  "sh -c 'id -u; ls -A /run; klist; kvno -q svc1/"
                  "host.example.com'", user=u).out
    eq(out.splitlines()[:2], ["0", "kcmfs"])
    has(out, u.principal)
    # the service ticket that it got is in KCM
    has(host.sh("klist", user=u, env={"KRB5CCNAME": "KCM:"}).out,
        "svc1/host.example.com")


@test("kcmd", "sssd", "heimdal")
def cron_with_a_keytab(t):
    host, u = host_with_tickets(t)
    job = {"KEYTAB": u.keytab, "PRINCIPAL": u.principal}
    for _ in range(2):              # the second finds its cache
        out = host.sh('"$EXAMPLES/cron/job.sh" klist', user=u, env=job).out
        has(out, u.principal)
    has(host.sh("klist KCM:%d:cron" % u.uid, user=u).out, u.principal)
    # the line of the README, from nothing and again
    host.sh("kdestroy -q -c KCM:%d:cron" % u.uid, user=u)
    line = re.search(r"`(mkdir -p [^`]* && k5start [^`]*)`", readme()).group(1)
    line = line.replace("1000.cron", "%d.cron" % u.uid).replace(
        "KEYTAB", u.keytab).replace("COMMAND", "klist")
    for _ in range(2):
        has(host.sh(line, user=u).out, u.principal)
    text = open(os.path.join(EXAMPLES, "cron/crontab")).read()
    check(re.search(r"^7 \* \* \* \* \S+job\.sh ", text, re.M), text)


@test("kcmd")
def systemd_units(t):
    """systemd likes them; what report.service runs works as its user."""
    units = [os.path.join(EXAMPLES, "systemd", n)
             for n in ("run-kcmfs.mount", "report.service")]
    r = run(["systemd-analyze", "verify", "--man=no", *units], code=None)
    for unit in units:
        lacks(r.err, unit, "systemd-analyze")
        lacks(r.err, os.path.basename(unit) + ":", "systemd-analyze")
    host, u = host_with_tickets(t)
    text = open(units[1]).read()
    exec_start = re.search(r"^ExecStart=(.*)$", text, re.M).group(1)
    eq(host.sh(exec_start, user=u).out, u.principal + "\n")


@test("kcmd", "heimdal")
def as_toolbox_sees_the_host(t):
    """Its containers have the host's / at /run/host, and a /run of theirs."""
    host, u = host_with_tickets(t)
    path = re.search(r"^\| toolbox.*?`KRB5CCNAME=(\S+)`", readme(),
                     re.M).group(1)
    out = host.sh("bwrap --unshare-user --ro-bind /usr /usr --dev /dev "
                  "--symlink usr/lib /lib --symlink usr/lib64 /lib64 "
                  "--proc /proc --tmpfs /run --bind / /run/host "
                  "--ro-bind \"$KRB5_CONFIG\" /etc/krb5.conf "
                  "--unsetenv KRB5_CONFIG --setenv KRB5CCNAME %s "
                  "/usr/bin/klist" % path, user=u).out
    has(out, u.principal)


@test("kcmd", "sssd")
def krb5_conf_d(t):
    """libkrb5 without KRB5CCNAME: kinit, klist -A, kswitch, kdestroy."""
    host, u = host_with_tickets(t)
    with open(host.conf) as f:
        text = f.read()
    with open(host.conf, "w") as f:
        f.write("includedir %s/krb5.conf.d\n" % EXAMPLES + text)
    has(host.sh("klist", user=u).out, "Ticket cache: DIR::%s/collection/" %
        MOUNT)
    t.realm.add("second%d" % u.uid)
    host.sh("kinit second%d" % u.uid, user=u, input=b"pass word\n")
    eq(host.sh("klist -A", user=u).out.count("Default principal"), 2)
    host.sh("kswitch -p %s" % u.principal, user=u)
    has(host.sh("klist", user=u).out, u.principal)
    host.sh("kdestroy -q -A", user=u)
    eq(host.sh("ls %s/by-principal" % MOUNT, user=u).out, "")


@test("kcmd")
def profile_d(t):
    host, u = host_with_tickets(t)
    read = '. "$EXAMPLES/profile.d/kcmfs.sh"; echo "${KRB5CCNAME-none}"'
    eq(host.sh("unset KRB5CCNAME; " + read, user=u).out,
       "FILE:%s/default/cache\n" % MOUNT)
    eq(host.sh("KCMFS_SPELLING=bare; " + read, user=u).out,
       "%s/default/cache\n" % MOUNT)
    eq(host.sh(read, user=u, env={"KRB5CCNAME": "KCM:"}).out, "KCM:\n")
    for spelling in ("FILE", "bare"):
        has(host.sh("KCMFS_SPELLING=%s; %s; klist; dash -euc '%s; klist'" % (
            spelling, read, read), user=u).out, u.principal)
    host.sh("umount " + MOUNT)
    eq(host.sh(read, user=u).out, "none\n")


@test("kcmd", "sssd")
def migration_from_copies(t):
    host, u = host_with_tickets(t)
    for script in ("before", "after"):
        out = host.sh('"$EXAMPLES/migrate/%s.sh" sh -c '
                      "'kvno -q svc2/host.example.com; klist'" % script,
                      user=u, env={"TMPDIR": u.home}).out
        has(out, u.principal)
        shown = host.sh("klist KCM:", user=u).out
        eq("svc2/" in shown, script == "after", script)
    eq(os.listdir(u.home), [])


@test("kcmd", "sssd", "heimdal")
def kcmls_and_kcmsocket(t):
    host, u = host_with_tickets(t)
    out = host.sh("kcmls", user=u).out
    for part in (u.principal, TGT, SVC, "(default)"):
        has(out, part, "kcmls")
    eq(host.sh('"$KCMFS_BUILD/kcmsocket"').out,
       "/var/run/.heim_org.h5l.kcm-socket\n")


@test("none")
def each_says_what_why_how(t):
    paths = [os.path.join(EXAMPLES, "systemd/report.service")]
    for name in ("completion", "container", "cron", "go", "java",
                 "krb5.conf.d", "migrate", "profile.d", "python"):
        directory = os.path.join(EXAMPLES, name)
        paths += [os.path.join(directory, n) for n in os.listdir(directory)]
    for path in paths:
        with open(path) as f:
            head = "".join(f.readlines()[:8])
        for word in ("What: ", "Why: ", "How: "):
            has(head, word, path)
