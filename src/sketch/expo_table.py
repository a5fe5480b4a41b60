#!/usr/bin/env python3
"""expo_table.py > expo_table.h: the tables of expo_index.c, in exact integer arithmetic.

boundary[k + 1] is the smallest 52-bit mantissa of a double above 2^(k/256),
k = 0..255; boundary[1] = 1 makes exact powers of two close the bucket below.
linear[c] is the last k with boundary[k] <= the start of cell c, for 512 cells
of equal width: a cell has at most one boundary inside, so that one comparison
finishes the search.
"""
from math import isqrt

BITS = 52
STEPS = 256
CELLS = 512


def root(k):
    """floor(2^(k/256) * 2^52): the 256th root is eight square roots."""
    x = 1 << (k + BITS * STEPS)
    for _ in range(8):
        x = isqrt(x)
    return x


def boundaries():
    one = 1 << BITS
    return [0] + [root(k) + 1 - one for k in range(STEPS)] + [one]


def linear(boundary):
    cells = []
    for cell in range(CELLS):
        start = cell << (BITS - 9)
        k = max(i for i in range(STEPS + 1) if boundary[i] <= start)
        assert boundary[min(k + 2, STEPS + 1)] >= start + (1 << (BITS - 9))
        cells.append(k)
    return cells


def show(name, kind, values, per_line, form):
    print("\nconst %s %s[%d] = {" % (kind, name, len(values)))
    for i in range(0, len(values), per_line):
        print("\t" + ", ".join(form % v for v in values[i:i + per_line]) + ",")
    print("};")


boundary = boundaries()
print("/* Made by expo_table.py; not edited by hand. */\n/* clang-format off */")
show("expo_boundary", "uint64_t", boundary, 4, "UINT64_C(0x%014X)")
show("expo_linear", "uint16_t", linear(boundary), 16, "%d")
