#!/usr/bin/python3
# What:  the client and the tickets of a cache, by impacket.
# Why:   impacket takes KRB5CCNAME as a bare path; FILE: is part of the name.
# How:   KRB5CCNAME=/run/kcmfs/default/cache ./whoami_impacket.py
import os

from impacket.krb5.ccache import CCache

cache = CCache.loadFile(os.environ.get("KRB5CCNAME",
                                       "/run/kcmfs/default/cache"))
print(cache.principal.prettyPrint().decode())
for credential in cache.credentials:
    print(" ", credential["server"].prettyPrint().decode())
