#!/usr/bin/python3
"""Samba's bundled Heimdal, newer than 7.8, by python3-samba:

  sambacache.py kinit CACHE USER REALM PASSWORD SERVICE HOST
  sambacache.py use CACHE SERVICE HOST        HOST may not be localhost
"""
import os
import sys

from samba import gensec
from samba.credentials import MUST_USE_KERBEROS, Credentials
from samba.param import LoadParm


def token(lp, creds, service, host):
    g = gensec.Security.start_client({"lp_ctx": lp, "target_hostname": host})
    g.set_credentials(creds)
    g.set_target_service(service)
    g.set_target_hostname(host)
    g.start_mech_by_name("gssapi_krb5")
    print("token", len(g.update(b"")[1]))


def main(operation, cache, *arguments):
    lp, creds = LoadParm(), Credentials()
    if operation == "kinit":
        user, realm, password, service, host = arguments
        lp.set("realm", realm)
        creds.guess(lp)
        creds.set_username(user)
        creds.set_realm(realm)
        creds.set_password(password)
        creds.set_kerberos_state(MUST_USE_KERBEROS)
        print("cache", creds.get_named_ccache(lp, cache).get_name())
    else:
        service, host = arguments
        os.environ["KRB5CCNAME"] = cache
        creds.guess(lp)
        creds.set_kerberos_state(MUST_USE_KERBEROS)
        print("cache", creds.get_named_ccache(lp).get_name())
        print("principal", creds.get_username())
    token(lp, creds, service, host)


main(*sys.argv[1:])
