"""A validator for the part of JSON Schema that examples/info.schema.json
uses; a keyword that it does not know is an error."""
import json
import re

TYPES = {"object": dict, "array": list, "string": str, "null": type(None),
         "boolean": bool, "integer": int, "number": (int, float)}
NOTES = {"$schema", "$id", "title", "description", "$defs"}


def problems(value, schema_path):
    """[what is wrong], empty for a value that fits."""
    with open(schema_path) as f:
        root = json.load(f)
    return list(_check(value, root, root, "$"))


def _is(value, name):
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def _check(value, schema, root, where):
    known = NOTES | {"$ref"}
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        yield from _check(value, target, root, where)
    for keyword, rule in schema.items():
        if keyword in known:
            continue
        if keyword == "type":
            names = rule if isinstance(rule, list) else [rule]
            if not any(_is(value, n) for n in names):
                yield "%s: %r is no %s" % (where, value, "/".join(names))
        elif keyword == "const":
            if value != rule:
                yield "%s: %r is not %r" % (where, value, rule)
        elif keyword == "anyOf":
            if all(list(_check(value, s, root, where)) for s in rule):
                yield "%s: %r fits none of the forms" % (where, value)
        elif keyword == "required":
            for name in rule:
                if isinstance(value, dict) and name not in value:
                    yield "%s: no %s" % (where, name)
        elif keyword == "properties":
            for name, part in rule.items():
                if isinstance(value, dict) and name in value:
                    yield from _check(value[name], part, root,
                                      where + "." + name)
        elif keyword == "additionalProperties":
            assert rule is False
            for name in value if isinstance(value, dict) else ():
                if name not in schema["properties"]:
                    yield "%s: %s is not in the schema" % (where, name)
        elif keyword == "items":
            for number, item in enumerate(
                    value if isinstance(value, list) else ()):
                yield from _check(item, rule, root,
                                  "%s[%d]" % (where, number))
        elif keyword == "pattern":
            if isinstance(value, str) and not re.search(rule, value):
                yield "%s: %r does not match %s" % (where, value, rule)
        elif keyword == "minimum":
            if _is(value, "number") and value < rule:
                yield "%s: %r is less than %r" % (where, value, rule)
        else:
            raise ValueError("schema keyword %s" % keyword)
