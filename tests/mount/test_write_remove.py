"""Removing and replacing credentials in place; tickets/ and config/.

[n] in a docstring is the point of file-clients.md, section 11.
"""
import errno
import os
from dataclasses import replace

import ccfile
import clients
from harness import ALL, test
from tree import ticket_name
from util import check, eq, raises
from writing import (FORMS, HEIMDAL_MARK, MIT_MARK, Subject, append,
                     is_tombstone, opened, patch, put, rename_over, tombstone)


@test(*ALL)
def tombstones_in_place(t):
    """[10] [12] MIT's and Heimdal's marks remove exactly that entry from
    KCM; the next image is clean again."""
    m = t.mount()
    for mark in (MIT_MARK, HEIMDAL_MARK):
        s = Subject(t, m, t.user())
        have = [s.tgt()] + [s.ticket() for _ in range(6)] + \
            [s.config("a", b"1"), s.config("b", b"2")]
        s.make(*have)
        for form in FORMS:
            gone = have.pop(2)
            patch(s.u, s.path(form), gone.bytes(), tombstone(gone, mark))
            s.holds(*have, forms=FORMS)
        if mark == MIT_MARK:
            gone = have.pop()       # a config entry
            patch(s.u, s.path(), gone.bytes(), tombstone(gone, mark))
            s.holds(*have)


@test(*ALL)
def libkrb5_removes(t):
    """[11] krb5_cc_remove_cred with two and with many matches: each by an
    open of its own at the offset that the iterator saw."""
    m = t.mount()
    for form in ("by-name", "collection", "krb5cc"):
        s = Subject(t, m, t.user())
        # one per client and server is all that sssd keeps
        kinds = (18,) if t.on == "sssd" else (17, 18, 19, 20, 23)
        keep = [s.tgt(), s.ticket(), s.config("k", b"v")]
        many = [ccfile.ticket(s.client, "many/x@EXAMPLE.COM", s.start + n,
                              enctype=kind)
                for n, kind in enumerate(kinds)]
        two = [ccfile.ticket(s.client, "two/x@EXAMPLE.COM", s.start + n,
                             enctype=kind)
               for n, kind in enumerate(kinds[:2])]
        s.make(keep[0], *many[:3], keep[1], *two, *many[3:], keep[2])
        clients.ccall(s.u, "remove", "FILE:" + s.path(form),
                      "two/x@EXAMPLE.COM")
        s.holds(*keep, *many)
        clients.ccall(s.u, "remove", "FILE:" + s.path(form),
                      "many/x@EXAMPLE.COM")
        s.holds(*keep, forms=FORMS)


@test(*ALL)
def libkrb5_config(t):
    """A key set twice has the last value, once; unset it is gone."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.config("other", b"x")]
    s.make(*have)
    cc = "FILE:" + s.path()
    for value in ("one", "two", "two", "three"):
        clients.ccall(s.u, "set-config", cc, "key", value)
        eq(clients.ccall(s.u, "get-config", cc, "key").strip(), value)
        eq(clients.ccall(s.u, "get-config", "KCM:" + s.name, "key").strip(),
           value)
        eq([c.ticket for c in s.in_kcm().creds if c.config_key() == "key"],
           [value.encode()], "entries in KCM")
    clients.ccall(s.u, "set-config", cc, "key")
    s.holds(*have)


@test(*ALL)
def replaced_in_place(t):
    """A record over a record of the same length; several at once."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()] + [s.ticket() for _ in range(5)]
    s.make(*have)
    new = replace(have[2], key=b"\x5a" * 32, endtime=have[2].endtime + 1)
    patch(s.u, s.path(), have[2].bytes(), new.bytes())
    have[2] = new
    s.holds(*have)
    both = have[3].bytes() + have[4].bytes()
    new = [replace(c, ticket=b"\x33" * len(c.ticket)) for c in have[3:5]]
    patch(s.u, s.path("collection"), both, new[0].bytes() + new[1].bytes())
    have[3:5] = new
    s.holds(*have, forms=FORMS)
    # the same bytes again change nothing
    stamp = s.u.stat(s.path()).st_mtime_ns
    patch(s.u, s.path(), have[1].bytes(), have[1].bytes())
    eq(s.u.stat(s.path()).st_mtime_ns, stamp, "mtime")


@test(*ALL)
def offsets_are_stable_while_open(t):
    """[11] [24] A removal and a store by others, KCM: clients or files,
    move nothing under an open handle."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()] + [s.ticket() for _ in range(4)]
    s.make(*have)
    before = s.u.read(s.path())
    new = s.ticket()
    held = opened(s.u, s.path(), os.O_RDWR)
    eq(os.pread(held, 1 << 20, 0), before)
    patch(s.u, s.path("uuid"), have[1].bytes(),
          tombstone(have[1], MIT_MARK))
    append(s.u, s.path("collection"), new.bytes())
    if t.on != "sssd":
        clients.ccall(s.u, "remove", "KCM:" + s.name,
                      str(have[3].server))
        have.pop(3)
    clients.ccall(s.u, "store", "KCM:" + s.name, "kcm/x@EXAMPLE.COM",
                  "18")
    for form in ("by-name", "collection"):
        now = ccfile.parse(s.u.read(s.path(form)))
        live = [c for c in now.creds if not is_tombstone(c)]
        eq(sorted(map(str, (c.server for c in live))),
           sorted(str(c.server) for c in s.in_kcm().creds))
        data = s.u.read(s.path(form))
        for cred in have[2:]:
            eq(data.find(cred.bytes()), before.find(cred.bytes()),
               "offset of %s" % cred.server)
    # the second removal goes by the offset that was seen at the start
    at = before.index(have[-1].bytes())
    os.pwrite(held, tombstone(have[-1], MIT_MARK), at)
    os.close(held)
    gone = [have.pop(1), have.pop()]
    names = s.in_kcm().servers()
    for cred in gone:
        check(str(cred.server) not in names, "%s still there", cred.server)
    cache = s.file()
    check(not any(map(is_tombstone, cache.creds)), "tombstones after close")
    check(not ccfile.check_order(cache), "%s", ccfile.check_order(cache))
    eq(sorted(cache.servers()), sorted(names))


@test(*ALL)
def iterating_while_others_change(t):
    """[24] libkrb5's iterator, step by step, sees no torn entry, and each
    that was there all the time exactly once."""
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()] + [s.ticket(size=3000) for _ in range(8)]
    s.make(*have)
    p = clients.ccall_process(s.u, "iterate", "FILE:" + s.path(), "step")
    seen = []
    for n in range(100):
        line = p.stdout.readline()
        if not line:
            break
        seen.append(line.split()[0])
        if n == 1:
            patch(s.u, s.path("collection"), have[2].bytes(),
                  tombstone(have[2], MIT_MARK))
        elif n < 6:
            append(s.u, s.path(), s.ticket(size=3000).bytes())
        p.stdin.write("\n")
        p.stdin.flush()
    eq(p.wait(20), 0, "exit status of ccall")
    p.stdin.close()
    p.stdout.close()
    for cred in have[:2] + have[3:]:
        eq(seen.count(str(cred.server)), 1, "times %s" % cred.server)


@test(*ALL)
def rm_in_tickets(t):
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt()] + [s.ticket() for _ in range(4)]
    s.make(*have)
    for form in ("uuid", "by-name", "default"):
        gone = have.pop(1)
        s.u.run("rm", os.path.join(s.dir(form), "tickets",
                                   ticket_name(str(gone.server))))
        s.holds(*have)
        raises(errno.ENOENT, s.u.call, os.unlink, os.path.join(
            s.dir(form), "tickets", ticket_name(str(gone.server))))


@test(*ALL)
def cp_into_tickets(t):
    m = t.mount()
    s = Subject(t, m, t.user())
    have = [s.tgt(), s.config("k", b"old")]
    s.make(*have)
    more = [s.ticket(), s.ticket(), s.config("k", b"new")]
    local = os.path.join(s.u.home, "file")
    s.u.write(local, s.cache(*more).bytes())
    s.u.run("cp", local, os.path.join(s.dir(), "tickets/new"))
    have[1:] = more
    s.holds(*have)
    check("new" not in s.u.list(os.path.join(s.dir(), "tickets")), "listed")
    more = s.ticket()
    s.u.write(local, s.cache(more, version=3).bytes())
    s.u.run("cp", "-p", local, os.path.join(s.dir("uuid"), "tickets/new"))
    have.append(more)
    s.holds(*have)
    s.u.write(local, b"no cache at all")
    r = s.u.run("cp", local, os.path.join(s.dir(), "tickets/bad"), code=1)
    check("Invalid argument" in r.err, "%s", r.err)
    s.holds(*have)


@test(*ALL)
def config_files(t):
    m = t.mount()
    s = Subject(t, m, t.user())
    s.make(s.tgt(), s.config("old", b"1"))
    config = os.path.join(s.dir(), "config")
    for script in ("echo -n blue >colour", "echo -n red >colour",
                   "echo -n dark >>colour", "rm old",
                   "echo -n x >per@a@REALM"):
        s.u.run("sh", "-c", "cd %s && %s" % (config, script))
    eq(s.in_kcm().config(), {"colour": b"reddark", "per@a@REALM": b"x"})
    eq(s.u.list(config), ["colour", "per@a@REALM"])
    eq(s.u.read(config + "/colour"), b"reddark")
    eq(s.file().config(), s.in_kcm().config())
    eq(clients.ccall(s.u, "get-config", "FILE:" + s.path(), "colour"),
       "reddark\n")
    raises(errno.ENOENT, s.u.call, os.unlink, config + "/old")


@test(*ALL)
def superseded_go_with_theirs(t):
    """Removing an entry of cache also removes what it superseded."""
    m = t.mount()
    s = Subject(t, m, t.user())
    old = [ccfile.ticket(s.client, "x/y@EXAMPLE.COM", s.start + n)
           for n in range(3)]
    s.make(s.tgt(), *old)
    patch(s.u, s.path(), old[2].bytes(), tombstone(old[2], MIT_MARK))
    eq(len(s.in_kcm().creds), 1, "left in KCM")
    s.holds(s.tgt())


@test(*ALL)
def removed_entries_in_what_is_written(t):
    """A file that is copied in with tombstones has none in KCM."""
    m = t.mount()
    s = Subject(t, m, t.user())
    live = [s.tgt(), s.ticket()]
    dead = s.ticket()
    data = s.cache(live[0]).bytes() + tombstone(dead, MIT_MARK) + \
        live[1].bytes()
    put(s.u, s.path("collection"), data)
    s.holds(*live)
    # a live one written over a removed one comes back
    put(s.u, s.path("collection"), data,
        flags=os.O_RDWR | os.O_TRUNC)

    fd = opened(s.u, s.path(), os.O_RDWR)
    gone = live[1].bytes()
    at = os.pread(fd, 1 << 20, 0).index(gone)
    os.pwrite(fd, tombstone(live[1], MIT_MARK), at)
    eq(len(s.in_kcm().creds), 1)
    os.pwrite(fd, gone, at)
    os.close(fd)
    s.holds(*live)


@test(*ALL)
def links_of_what_is_gone(t):
    """[14] fstat of an open file says at once that it has no name, also
    where the kernel knew another file by the name that went."""
    m = t.mount()
    s = Subject(t, m, t.user())
    for form in FORMS:
        other = "by-name" if form == "collection" else "collection"
        for replaced in (False, True):
            have = [s.tgt(), s.ticket(size=900), s.ticket()]
            s.make(*have)
            s.u.read(s.path(form))
            patch(s.u, s.path(form), have[1].bytes(),
                  tombstone(have[1], MIT_MARK))
            s.u.read(s.path(other))     # a shorter file, and so another one
            fd = opened(s.u, s.path(form))
            before = os.fstat(fd)
            if replaced:
                rename_over(s.u, s.path(form), s.cache(s.tgt()).bytes())
            else:
                s.u.call(os.unlink, s.path(form))
            after = os.fstat(fd)
            os.close(fd)
            eq((before.st_nlink, after.st_nlink, after.st_size),
               (1, 0, before.st_size), "links of %s, replaced: %s" % (
                   form, replaced))
