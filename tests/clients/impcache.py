#!/usr/bin/python3
"""impcache.py PATH [COPY]: what impacket sees in a credential cache file;
with COPY, impacket saves what it read there."""
import sys

from impacket.krb5.ccache import CCache


def name(principal):
    return principal.prettyPrint().decode()


cache = CCache.loadFile(sys.argv[1])
if cache is None:
    sys.exit("impacket: not loaded")
print("principal", name(cache.principal))
for credential in cache.credentials:
    print("ticket", name(credential["server"]))
if len(sys.argv) > 2:
    cache.saveFile(sys.argv[2])
