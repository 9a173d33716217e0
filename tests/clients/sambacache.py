#!/usr/bin/python3
"""Samba's own (newer) Heimdal on FILE caches:

  sambacache.py kinit CACHE USER REALM PASSWORD SERVICE HOST
  sambacache.py use CACHE SERVICE HOST
"""
import os
import sys

from samba import gensec
from samba.credentials import MUST_USE_KERBEROS, Credentials
from samba.param import LoadParm

config = LoadParm()
mine = Credentials()
verb, cache = sys.argv[1:3]
if verb == "kinit":
    user, realm, password = sys.argv[3:6]
    config.set("realm", realm)
    mine.guess(config)
    mine.set_username(user)
    mine.set_realm(realm)
    mine.set_password(password)
    mine.set_kerberos_state(MUST_USE_KERBEROS)
    mine.get_named_ccache(config, cache)
else:
    os.environ["KRB5CCNAME"] = cache
    mine.guess(config)
    mine.set_kerberos_state(MUST_USE_KERBEROS)
    mine.set_named_ccache(cache, 0, config)
service, host = sys.argv[-2:]
client = gensec.Security.start_client({"lp_ctx": config,
                                       "target_hostname": host})
client.set_credentials(mine)
client.set_target_service(service)
client.set_target_hostname(host)
client.start_mech_by_name("gssapi_krb5")
print("token", len(client.update(b"")[1]))
