#!/usr/bin/env python3
"""bench.py: the measurements behind docs/benchmarks.md.

Every comparison alternates ours and the peer's within a round, takes the ratio
per round and reports the median of the ratios, so that the machine's drift
cancels out.  Standard library only; talks to the server through psql and
pgbench, started with the prefix given after "--".
"""
import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import alerts
import delivery
import measure
import overhead
import server
import storage

RECORD_ROWS = 1000000
DISTRIBUTION_ROWS = 500000
ERROR_BAR = 0.005415
QUANTILES = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
NORMAL = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
DISTRIBUTIONS = {
    "uniform": "random() * 1000",
    "lognormal": "exp(%s)" % NORMAL,
    "Pareto": "power(1 - random(), -1 / 1.5)",
    "constant": "42.5",
    "with zeroes": "CASE WHEN random() < 0.3 THEN 0 ELSE -ln(1 - random()) END",
    "mixed sign": NORMAL,
}


class Psql:
    """One session; statements in, rows or milliseconds out."""

    def __init__(self, bench, database):
        self.process = subprocess.Popen(
            bench.command("psql") + ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database],
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.count = 0

    def run(self, statement, end=";"):
        """The rows of one statement (or, with end="", of a psql command), as lists of text."""
        self.count += 1
        mark = "--end-%d--" % self.count
        self.process.stdin.write("%s%s\n\\echo %s\n" % (" ".join(statement.split()), end, mark))
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.strip() == mark:
                return [row.split("|") for row in lines if row]
            lines.append(line.rstrip("\n"))
        raise SystemExit("psql ended at: %s" % statement)

    def value(self, statement):
        return self.run(statement)[0][0]

    def milliseconds(self, statement):
        """psql's own timing of one statement."""
        self.run("\\timing on", end="")
        rows = self.run(statement)
        self.run("\\timing off", end="")
        return next(float(match.group(1)) for row in rows if (match := re.match(r"Time: ([0-9.]+) ms", row[0])))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Bench:
    def __init__(self, options):
        self.options = options
        self.rows = []

    def command(self, program):
        o = self.options
        return o.prefix + ["%s/%s" % (o.pgbin, program), "-h", o.socket, "-p", str(o.port), "-U", "postgres"]

    def session(self, database):
        return Psql(self, database)

    def control(self, *arguments):
        o = self.options
        subprocess.run(o.prefix + [o.pgbin + "/pg_ctl", "-D", o.data, "-l", o.log, "-w", "-t", "60", "-m", "fast"] + list(arguments),
                       check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def installed(self, library):
        directory = subprocess.run([self.options.pgbin + "/pg_config", "--pkglibdir"], check=True, text=True,
                                   capture_output=True).stdout
        return os.path.exists("%s/%s.so" % (directory.strip(), library))

    def pgbench(self, *arguments):
        """Transactions per second, connections' set-up excluded."""
        out = subprocess.run(self.command("pgbench") + ["-n", "-T", str(self.options.seconds)] + list(arguments) +
                             ["bench"], check=True, text=True, capture_output=True, stdin=subprocess.DEVNULL).stdout
        return float(re.search(r"tps = ([0-9.]+)", out).group(1))

    def add(self, what, ours, peer, ratio, bar, ok):
        """One line of the table, told at once."""
        row = (what, ours, peer, ratio, bar, "met" if ok else "MISSED")
        self.rows.append(row)
        print("    " + " | ".join(row), flush=True)

    def table(self):
        head = ("what", "ours", "peer", "ratio", "bar", "verdict")
        widths = [max(len(r[i]) for r in self.rows + [head]) for i in range(len(head))]
        for row in [head, tuple("-" * w for w in widths)] + self.rows:
            print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |")


def recorded(sql, metric, expected):
    """What was timed must have happened: every observation is there."""
    count = float(sql.value("SELECT monitoring.value('%s', 'count', '1 hour')" % metric))
    if count != expected:
        raise SystemExit("%s holds %.0f observations instead of %d" % (metric, count, expected))


def record_cost(bench):
    """Recording into a hot series against inserting the same values into an indexed table."""
    sql = Psql(bench, "bench")
    n = RECORD_ROWS
    sql.run("CREATE UNLOGGED TABLE hot AS SELECT random() * 1000 AS x FROM generate_series(1, %d)" % n)
    sql.run("CREATE TABLE observations (series integer, at timestamptz, value float8)")
    sql.run("CREATE INDEX ON observations (series, at)")
    sql.run("VACUUM ANALYZE hot")
    label = "'{\"route\": \"/cart\"}'"

    def insert():
        sql.run("TRUNCATE observations")
        return sql.milliseconds("INSERT INTO observations SELECT 1, clock_timestamp(), x FROM hot")

    record, base, peer = measure.per_round(
        7, lambda: sql.milliseconds("SELECT count(monitoring.record('bench_hot', x, %s)) FROM hot" % label),
        lambda: sql.milliseconds("SELECT count(abs(x)) FROM hot"), insert)
    recorded(sql, "bench_hot", 7 * n)
    net = [a - b for a, b in zip(record, base)]
    ratio = statistics.median(measure.ratios(net, peer))
    bench.add("record, hot series with a label, per row; peer: INSERT … SELECT, two-column index",
              "%.3f µs" % (statistics.median(net) / n * 1e3), "%.2f µs" % (statistics.median(peer) / n * 1e3),
              "1/%.0f" % (1 / ratio), "1/40", ratio <= 1 / 40)
    sql.close()


def aggregates(bench):
    """sketch(x) against sum, percentile_cont and tdigest on the same column."""
    sql = Psql(bench, "bench")
    n = bench.options.rows
    sql.run("CREATE EXTENSION tdigest SCHEMA public")
    sql.run("SELECT setseed(0.42)")
    sql.run("CREATE UNLOGGED TABLE sample AS SELECT exp(%s) AS x FROM generate_series(1, %d)" % (NORMAL, n))
    sql.run("VACUUM ANALYZE sample")
    statements = (
        "SELECT monitoring.percentile(monitoring.sketch(x), 0.99) FROM sample",
        "SELECT sum(x) FROM sample",
        "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY x) FROM sample",
        "SELECT tdigest_percentile(x, 100, 0.99) FROM sample")
    for statement in statements:
        sql.run(statement)
    ours, plain, exact, tdigest = measure.per_round(5, *(lambda s=s: sql.milliseconds(s) for s in statements))
    for name, peer, bar in (("sum(x)", plain, 1.4), ("percentile_cont", exact, 1 / 4), ("tdigest", tdigest, 1 / 2.5)):
        ratio = statistics.median(measure.ratios(ours, peer))
        good = ratio <= bar
        bench.add("sketch(x) over %s rows; peer: %s" % ("{:,}".format(n), name),
                  "%.0f ms" % statistics.median(ours), "%.0f ms" % statistics.median(peer),
                  "%.2f ×" % ratio if bar > 1 else "%.1f × faster" % (1 / ratio),
                  "≤ %.1f ×" % bar if bar > 1 else "≥ %.1f ×" % (1 / bar), good)
    sql.run("DROP TABLE sample")
    sql.close()


def errors(bench):
    """Largest relative error against percentile_disc, by distribution."""
    sql = Psql(bench, "bench")
    quantiles = "ARRAY[%s]::float8[]" % ", ".join(map(str, QUANTILES))
    for name, expression in DISTRIBUTIONS.items():
        sql.run("SELECT setseed(0.42)")
        worst = float(sql.value("""
            WITH v AS MATERIALIZED (SELECT (%s)::float8 AS x FROM generate_series(1, %d)),
            p AS (SELECT monitoring.percentiles(monitoring.sketch(x), %s) AS ours,
                         percentile_disc(%s) WITHIN GROUP (ORDER BY x) AS exact FROM v)
            SELECT max(CASE WHEN e = 0 THEN abs(o) ELSE abs(o - e) / abs(e) END)
            FROM p, unnest(ours, exact) AS u(o, e)""" % (expression, DISTRIBUTION_ROWS, quantiles, quantiles)))
        bench.add("largest error of 11 percentiles, %s; peer: percentile_disc" % name, "%.4f %%" % (100 * worst), "exact",
                  "-", "≤ %.4f %%" % (100 * ERROR_BAR), worst <= ERROR_BAR)
    sql.close()


def scaling(bench):
    """Two backends recording into one series at once, against two that only compute."""
    sessions = [Psql(bench, "bench") for _ in range(2)]
    record = "SELECT count(monitoring.record('bench_scaling', x, '{\"route\": \"/cart\"}')) FROM hot"
    plain = "SELECT count(abs(x)) FROM hot, generate_series(1, 3)"
    if sessions[0].value("SELECT to_regclass('hot') IS NULL") == "t":
        sessions[0].run("CREATE UNLOGGED TABLE hot AS SELECT random() * 1000 AS x FROM generate_series(1, %d)" % RECORD_ROWS)
        sessions[0].run("VACUUM ANALYZE hot")

    def both(statement):
        started = time.monotonic()
        threads = [threading.Thread(target=s.run, args=(statement,)) for s in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - started

    def one(statement):
        started = time.monotonic()
        sessions[0].run(statement)
        return time.monotonic() - started

    record1, record2, plain1, plain2 = measure.per_round(9, lambda: one(record), lambda: both(record), lambda: one(plain),
                                                 lambda: both(plain))
    recorded(sessions[0], "bench_scaling", 9 * 3 * RECORD_ROWS)
    ours = statistics.median(2 * a / b for a, b in zip(record1, record2))
    peer = statistics.median(2 * a / b for a, b in zip(plain1, plain2))
    bench.add("two backends recording into one series, speed-up; peer: count(abs(x))", "%.2f ×" % ours, "%.2f ×" % peer,
              "%.3f" % (ours / peer), "≥ 0.95", ours / peer >= 0.95)
    for session in sessions:
        session.close()


INGEST_ROWS = """SELECT 'http_request_seconds' AS metric, round(random()::numeric, 6)::float8 AS value,
    jsonb_build_object('route', '/api/v1/' || i %% 10, 'method', (ARRAY['GET', 'POST', 'PUT', 'DELETE', 'HEAD'])[i / 10 %% 5 + 1],
                       'status', (200 + i / 50 %% 5)::text, 'instance', 'web-' || i / 250) AS labels
    FROM (SELECT (random() * 999)::int AS i FROM generate_series(1, %d)) AS r"""


def bulk(bench):
    """COPY into the view ingest and batches, against the same rows into a plain table with one two-column index."""
    sql = Psql(bench, "bench")
    n = RECORD_ROWS
    rows = INGEST_ROWS % n
    path = bench.options.data + "/bench_rows"
    sql.run("COPY (%s) TO '%s'" % (rows, path))
    sql.run("CREATE TABLE plain (metric text, value float8, labels jsonb, kind text, ts timestamptz DEFAULT now())")
    sql.run("CREATE INDEX ON plain (metric, ts)")
    sql.run("CREATE UNLOGGED TABLE arrays AS SELECT array_agg(metric) AS m, array_agg(value) AS v, array_agg(labels) AS l, "
            "jsonb_agg(jsonb_build_object('metric', metric, 'value', value, 'labels', labels)) AS j "
            "FROM (SELECT *, row_number() OVER () / 1000 AS batch FROM (%s) AS r) AS r GROUP BY batch" % rows)

    def rate(statement):
        sql.run("TRUNCATE plain")
        return n / sql.milliseconds(statement) * 1e3

    copied, ingested, inserted, *batches = measure.per_round(
        5, lambda: rate("COPY plain (metric, value, labels) FROM '%s'" % path),
        lambda: rate("COPY monitoring.ingest (metric, value, labels) FROM '%s'" % path),
        lambda: rate("INSERT INTO plain (metric, value, labels) SELECT u.* FROM arrays, unnest(m, v, l) AS u"),
        lambda: rate("SELECT sum(monitoring.record_batch(m, v, l)) FROM arrays"),
        lambda: rate("SELECT sum(monitoring.record_json(j)) FROM arrays"),
        lambda: rate("SELECT sum(monitoring.record_values('http_request_seconds', v)) FROM arrays"))
    recorded(sql, "http_request_seconds", 20 * n)

    def line(what, ours, peer, floor):
        ratio = statistics.median(measure.ratios(ours, peer))
        bench.add(what, "%.2f M/s" % (statistics.median(ours) / 1e6), "%.2f M/s" % (statistics.median(peer) / 1e6),
                  "%.1f ×" % ratio, "≥ %.1f M/s" % (floor / 1e6), statistics.median(ours) >= floor and ratio > 1)

    line("COPY into ingest, 4 labels, 1,000 series; peer: COPY into a table, two-column index", ingested, copied, 3e5)
    for what, ours in zip(("record_batch", "record_json", "record_values"), batches):
        line("%s, 1,000 a call; peer: INSERT … SELECT of the same" % what, ours, inserted, 1.5e6)
    sql.run("DROP TABLE plain, arrays")
    sql.close()


def codec(bench):
    """the plain C of chunks: bytes a point, the entropy bound of distributions, nanoseconds."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as directory:
        program = directory + "/chunk_sizes"
        subprocess.run(["cc", "-O3", "-fno-strict-aliasing", "-I%s/src" % root, "-o", program,
                        "%s/test/bench/chunk_sizes.c" % root, *map(str, root.glob("src/metrics/chunk_codec*.c")),
                        *map(str, root.glob("src/sketch/expo_*.c")), "-lm"], check=True)
        out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    print(out, flush=True)
    for values in (17, 170):
        name, size, bound = re.search(r"^(distribution, lognormal doubles) +%d +([0-9.]+) +([0-9.]+) " % values, out, re.M).groups()
        ratio = float(size) / float(bound)
        bench.add("%s, %d a point, without the row; peer: entropy bound" % (name, values), "%s B" % size, "%s B" % bound,
                  "%.2f ×" % ratio, "≤ 1.10 ×", ratio <= 1.1)


SECTIONS = {"record": record_cost, "bulk": bulk, "scaling": scaling, "aggregates": aggregates, "errors": errors,
            **storage.SECTIONS, "codec": codec, **alerts.SECTIONS,
            **delivery.SECTIONS, **server.SECTIONS, **overhead.SECTIONS}


def main():
    parser = argparse.ArgumentParser()
    for name in ("--pgbin", "--socket", "--data", "--log"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--rounds", "--rows", "--seconds"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("prefix", nargs="+")
    bench = Bench(parser.parse_args())
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # further servers are removed
    setup = Psql(bench, "postgres")
    setup.run("CREATE DATABASE bench")
    print("==> %s" % setup.value("SELECT version()"), flush=True)
    setup.close()
    subprocess.run(bench.command("pgbench") + ["-i", "-s", "10", "-q", "bench"], check=True, capture_output=True)
    setup = Psql(bench, "bench")
    setup.run("CREATE EXTENSION monitoring")
    setup.close()
    chosen = [name for name in bench.options.only.split(",") if name] or list(SECTIONS)
    for name in chosen:
        print("==> %s: %s" % (name, SECTIONS[name].__doc__.split("\n")[0]), flush=True)
        SECTIONS[name](bench)
    print()
    bench.table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
