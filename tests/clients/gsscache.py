#!/usr/bin/python3
"""GSS-API by python3-gssapi (MIT's libgssapi):

  gsscache.py init CACHE|- SERVICE@HOST   initiate; CACHE or $KRB5CCNAME
  gsscache.py select KEYTAB SERVICE@HOST...   who libkrb5 lets us be to each
  gsscache.py accept KEYTAB               accept a base64 token from stdin
  gsscache.py store CACHE USER PASSWORD   acquire by password, store there
  gsscache.py keytab CACHE KEYTAB USER    acquire by client keytab into CACHE
"""
import base64
import sys

import gssapi


def init(cache, service):
    store = None if cache == "-" else {"ccache": cache}
    mine = gssapi.Credentials(usage="initiate", store=store)
    peer = gssapi.Name(service, gssapi.NameType.hostbased_service)
    context = gssapi.SecurityContext(name=peer, creds=mine, usage="initiate",
                                     flags=[])
    print("principal", mine.name)
    print("token", base64.b64encode(context.step()).decode())


def select(keytab, *services):
    for service in services:
        peer = gssapi.Name(service, gssapi.NameType.hostbased_service)
        mine = gssapi.SecurityContext(name=peer, usage="initiate", flags=[])
        keys = gssapi.Credentials(usage="accept", store={"keytab": keytab})
        theirs = gssapi.SecurityContext(creds=keys, usage="accept")
        theirs.step(mine.step())
        print("peer", theirs.initiator_name)


def accept(keytab):
    mine = gssapi.Credentials(usage="accept", store={"keytab": keytab})
    context = gssapi.SecurityContext(creds=mine, usage="accept")
    context.step(base64.b64decode(sys.stdin.read()))
    print("peer", context.initiator_name)


def store(cache, user, password):
    name = gssapi.Name(user, gssapi.NameType.kerberos_principal)
    got = gssapi.raw.acquire_cred_with_password(name, password.encode())
    gssapi.Credentials(got.creds).store(store={"ccache": cache},
                                        usage="initiate", overwrite=True)


def from_keytab(cache, keytab, user):
    name = gssapi.Name(user, gssapi.NameType.kerberos_principal)
    mine = gssapi.Credentials(name=name, usage="initiate", store={
        "ccache": cache, "client_keytab": keytab})
    print("principal", mine.name, mine.lifetime)


{"init": init, "select": select, "accept": accept, "store": store,
 "keytab": from_keytab}[sys.argv[1]](*sys.argv[2:])
