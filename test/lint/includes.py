#!/usr/bin/env python3
"""includes.py SRC: which file may include which.

Slices build on each other in one direction (docs/architecture.md); a slice
includes its own files and those of lower slices.  The plain C parts of
sketches, chunks and segments and the sender program use no server headers.
PG_VERSION_NUM is tested in compat.h only.  Prints one line per offence; exit
status 1 when there is one.
"""
import pathlib
import re
import sys

LEVEL = {"core": 0, "sketch": 1, "worker": 1, "metrics": 2, "signals": 2, "outbound": 2, "server": 3, "health": 3, "business": 3,
         "alerts": 4, "notify": 5, "reports": 5, "console": 6}
# Compiled without the server: file or directory below src -> what it may include besides system headers.
PLAIN_C = {"sketch/expo_": ("sketch/expo_",), "metrics/chunk_codec": ("metrics/chunk_codec", "sketch/expo_"),
           "metrics/segment_codec": ("metrics/segment_codec", "sketch/expo_"),
           "core/normalize": ("core/normalize.h",), "signals/fingerprint": ("signals/fingerprint.h",),
           "server/host_parse": ("server/host_parse.h",),
           "outbound/sender/": ("outbound/sender/",), "alerts/seasonal.c": ("alerts/seasonal.h",),
           "alerts/promql": ("alerts/promql",), "alerts/yaml/yaml_json": ("alerts/yaml/yaml_json.h",)}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def resolve(src, path, name):
    """The path below src that an include means, or None for a header from elsewhere."""
    for candidate in (path.parent / name, src / name):
        if candidate.resolve().is_file() and src.resolve() in candidate.resolve().parents:
            return candidate.resolve().relative_to(src.resolve()).as_posix()
    return None


def offences(src, path):
    here = path.relative_to(src).as_posix()
    text = path.read_text(encoding="utf-8")
    plain = next((allowed for start, allowed in PLAIN_C.items() if here.startswith(start)), None)
    for name in INCLUDE.findall(text):
        target = resolve(src, path, name)
        if plain is not None:
            if target is None or not target.startswith(plain):
                yield "%s includes %s, but is plain C without the server" % (here, name)
        elif target and "/" in target and "/" in here:
            own, other = here.split("/")[0], target.split("/")[0]
            if own != other and LEVEL[own] <= LEVEL[other]:
                yield "%s includes %s, which is not below %s" % (here, target, own)
            if own != other and target.endswith("_internal.h"):
                yield "%s includes %s, which is private to %s" % (here, target, other)
    if here != "compat.h" and "PG_VERSION_NUM" in text:
        yield "%s tests PG_VERSION_NUM; compat.h is the place" % here
    lines = text.count("\n")
    if lines > 1000:
        yield "%s has %d lines; split it" % (here, lines)


def main():
    src = pathlib.Path(sys.argv[1])
    found = [o for path in sorted(src.rglob("*.[ch]")) for o in offences(src, path)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
