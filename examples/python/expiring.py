#!/usr/bin/python3
# What:  one line for each of your caches: principal and time that is left.
# Why:   info.json needs no Kerberos library and no parsing of klist.
# How:   ./expiring.py [MINUTES]   exits with 1 if a cache ends within MINUTES
import glob
import json
import sys

limit = int(sys.argv[1]) * 60 if len(sys.argv) > 1 else 0
status = 0
for path in sorted(glob.glob("/run/kcmfs/by-name/*/info.json")):
    with open(path) as f:
        cache = json.load(f)
    left = 0 if cache["expired"] else cache["expires"] - cache["time"]
    print("%-40s %s %d min" % (cache["principal"], cache["name"], left // 60))
    status |= left < limit
sys.exit(status)
