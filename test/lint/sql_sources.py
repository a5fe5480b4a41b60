#!/usr/bin/env python3
"""sql_sources.py SRC: house rules that the SQL of the slices keeps.

CREATE OR REPLACE and IF NOT EXISTS would adopt an object that somebody planted
before CREATE EXTENSION ran; DETACH ... CONCURRENTLY cannot run in a function.  The
script is read in the encoding of the database, which need not be UTF8.
Prints one line per offence; exit status 1 when there is one.
"""
import pathlib
import re
import sys

FORBIDDEN = (
    (re.compile(r"\bCREATE\s+OR\s+REPLACE\b", re.I), "CREATE OR REPLACE"),
    (re.compile(r"\b(CREATE|ADD)\s[^;()]*\bIF\s+NOT\s+EXISTS\b", re.I), "IF NOT EXISTS"),
    (re.compile(r"\bCREATE\s+(ROLE|USER)\b", re.I), "a role (they are cluster-wide)"),
)


def without_comments(text):
    return re.sub(r"/\*.*?\*/|--[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def main():
    found = []
    for path in sorted(p for s in ("*.sql", "*.json") for p in pathlib.Path(sys.argv[1]).rglob(s)):
        source = path.read_text(encoding="utf-8")
        text = without_comments(source)
        for pattern, what in FORBIDDEN if path.suffix == ".sql" else ():
            for match in pattern.finditer(text):
                found.append("%s:%d: %s" % (path.relative_to(sys.argv[1]), text.count("\n", 0, match.start()) + 1, what))
        for match in re.finditer(r"[^\x00-\x7f]", source):
            found.append("%s:%d: not ASCII: %s" % (path.relative_to(sys.argv[1]), source.count("\n", 0, match.start()) + 1, match.group()))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
