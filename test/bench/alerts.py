"""alerts.py: what an evaluation of the alert rules costs; sections of bench.py.

Each section has a database of its own, whose worker leaves it alone.  Prometheus
gets the same observations through scrapes, for as long as a window is, and says
itself how long its rules took; it has ended before ours are measured.
"""
import bisect
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import storage

SERIES = 1000
RULES = 10000
WINDOW = 300
PEER_ROUNDS = 7
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
INSTANCES = 100000
INSTANCES_OF_A_RULE = 1000


def threshold(rule):
    """Between what the p95 of no series and that of all series is beyond."""
    return 2 + 6 * (rule // SERIES) * SERIES / RULES


class Exposition:
    """The observations as a Prometheus histogram, on a port of the loopback."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = [[0] * (len(BUCKETS) + 1) for _ in range(SERIES)]
        self.sums = [0.0] * SERIES
        exposition = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = exposition.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def observe(self, values):
        with self.lock:
            for series, value in enumerate(values):
                self.counts[series][bisect.bisect_left(BUCKETS, value)] += 1
                self.sums[series] += value

    def text(self):
        lines = ["# TYPE bench_seconds histogram"]
        with self.lock:
            for series in range(SERIES):
                total = 0
                for bound, count in zip(BUCKETS + ("+Inf",), self.counts[series]):
                    total += count
                    lines.append('bench_seconds_bucket{series="%d",le="%s"} %d' % (series, bound, total))
                lines.append('bench_seconds_sum{series="%d"} %r' % (series, self.sums[series]))
                lines.append('bench_seconds_count{series="%d"} %d' % (series, total))
        return "\n".join(lines) + "\n"


class Prometheus:
    """A Prometheus that scrapes the exposition every 15 seconds and evaluates the rules every 10."""

    def __init__(self, exposition):
        self.directory = tempfile.TemporaryDirectory(prefix="monitoring-bench-prometheus-")
        root = Path(self.directory.name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        (root / "rules.yml").write_text("groups:\n- name: bench\n  interval: 10s\n  rules:\n" + "".join(
            "  - {alert: bench %d, expr: 'histogram_quantile(0.95, rate(bench_seconds_bucket{series=\"%d\"}[5m])) > %r'}\n"
            % (rule, rule % SERIES, threshold(rule)) for rule in range(RULES)))
        (root / "prometheus.yml").write_text(
            "global: {scrape_interval: 15s}\nrule_files: [rules.yml]\nscrape_configs:\n- job_name: bench\n  static_configs:\n"
            "  - targets: ['127.0.0.1:%d']\n" % exposition.server.server_port)
        self.process = subprocess.Popen(
            ["prometheus", "--config.file=%s" % (root / "prometheus.yml"), "--storage.tsdb.path=%s" % (root / "data"),
             "--web.listen-address=" + self.address, "--log.level=error"], stdin=subprocess.DEVNULL)

    def metric(self, name):
        """Prometheus's own metric about its group of rules."""
        with urllib.request.urlopen("http://%s/metrics" % self.address, timeout=30) as response:
            found = re.search(r"^%s\{[^}]*bench[^}]*\} (\S+)$" % name, response.read().decode(), re.M)
        if not found:
            raise SystemExit("Prometheus has no %s" % name)
        return float(found.group(1))

    def durations(self, rounds):
        """Seconds of that many evaluations, one after the other."""
        found = []
        seen = self.metric("prometheus_rule_group_last_evaluation_timestamp_seconds")
        give_up = time.monotonic() + 60 * rounds
        while len(found) < rounds:
            if time.monotonic() > give_up:
                raise SystemExit("Prometheus does not evaluate its rules")
            time.sleep(0.5)
            last = self.metric("prometheus_rule_group_last_evaluation_timestamp_seconds")
            if last != seen:
                found.append(self.metric("prometheus_rule_group_last_duration_seconds"))
                seen = last
        if self.metric("prometheus_rule_group_rules") != RULES or self.metric("prometheus_rule_evaluation_failures_total") > 0:
            raise SystemExit("Prometheus does not evaluate all rules")
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.directory.cleanup()


def observe(sql, exposition):
    """An observation of each series a second, for the length of a window."""
    source = random.Random(42)
    began = time.monotonic()
    for second in range(WINDOW):
        values = [round(source.lognormvariate(0, 1), 6) for _ in range(SERIES)]
        sql.run("""SELECT monitoring.record_batch(array_agg('bench_seconds'::text), array_agg(v), array_agg(jsonb_build_object('series', (n - 1)::text)))
                   FROM unnest('{%s}'::float8[]) WITH ORDINALITY AS o (v, n)""" % ",".join(map(str, values)))
        exposition.observe(values)
        if second % 10 == 9:
            sql.run("SELECT monitoring.flush()")
        time.sleep(max(0, began + second + 1 - time.monotonic()))


def rules(bench):
    """10,000 rules of p95 over 5 minutes, of 1,000 series: one evaluation; peer: Prometheus, the same group of rules."""
    sql = storage.new_database(bench, "bench_rules")
    sql.run("""SELECT count(monitoring.create_alert_rule('bench ' || r, 'bench_seconds', 'p95', '5 minutes', '>', 2 + 6 * (r / %d) * %d / %d::float8,
                   labels => jsonb_build_object('series', (r %% %d)::text))) FROM generate_series(0, %d) AS r"""
            % (SERIES, SERIES, RULES, SERIES, RULES - 1))
    exposition = Exposition()
    prometheus = Prometheus(exposition) if shutil.which("prometheus") else None
    peer = None
    try:
        observe(sql, exposition)
        if prometheus:
            peer = statistics.median(prometheus.durations(PEER_ROUNDS))
    finally:
        if prometheus:
            prometheus.stop()
        exposition.server.shutdown()
    at = sql.value("SELECT clock_timestamp()")
    sql.run("SELECT monitoring.evaluate_alerts('%s')" % at)
    if sql.value("SELECT count(*) FILTER (WHERE state = 'firing') BETWEEN %d AND %d AND count(last_error) = 0 FROM monitoring.alert_rules"
                 % (RULES // 20, RULES - RULES // 20)) != "t":
        raise SystemExit("the rules do not find what they are there for")
    ours = statistics.median(
        sql.milliseconds("SELECT monitoring.evaluate_alerts('%s'::timestamptz + interval '%d milliseconds')" % (at, n + 1))
        for n in range(bench.options.rounds)) / 1000
    bench.add("10,000 rules of p95 over 5 minutes, 1,000 series: an evaluation; peer: Prometheus", "%.3f s" % ours,
              "%.3f s" % peer if peer else "-", "%.1f × faster" % (peer / ours) if peer else "-", "≤ 0.5 s", ours <= 0.5)
    storage.drop_database(bench, sql, "bench_rules")


def synchronise(bench, sql, at, what):
    """All instances fire, none changes, all resolve, none changes; three times."""
    measured = {"all fire": [], "none changes": [], "all resolve": []}
    for _ in range(3):
        for value, act in ((1, "all fire"), (0, "all resolve")):
            sql.run("UPDATE bench_value SET v = %d" % value)
            for step, changes in ((act, INSTANCES), ("none changes", 0)):
                at += 60
                evaluate = "SELECT monitoring.evaluate_alerts(to_timestamp(%d))" % at
                began = time.monotonic()
                if sql.value(evaluate) != str(changes):
                    raise SystemExit("not %d alerts changed" % changes)
                measured[step].append(time.monotonic() - began)
    for step, bar in (("all fire", 5), ("all resolve", 5), ("none changes", 0.5)):
        median = statistics.median(measured[step])
        bench.add("100,000 instances, %s: %s" % (what, step), "%.2f s" % median, "-", "-", "≤ %s s" % bar, median <= bar)
    return at


def instances(bench):
    """100,000 instances of 100 rules whose values are at hand: all fire, all resolve, none changes; critical ones open incidents."""
    sql = storage.new_database(bench, "bench_instances")
    sql.run("CREATE UNLOGGED TABLE bench_value AS SELECT 0 AS v")
    sql.run("""CREATE FUNCTION bench_values(at timestamptz, rule_ids bigint[])
               RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text) LANGUAGE sql
               SECURITY DEFINER SET search_path = pg_catalog, pg_temp
               AS 'SELECT r.id, jsonb_build_object(''host'', ''host-'' || n), v.v::float8, NULL::jsonb, NULL::text
                   FROM unnest(rule_ids) AS r (id), generate_series(1, %d) AS n, public.bench_value AS v'""" % INSTANCES_OF_A_RULE)
    sql.run("INSERT INTO monitoring.alert_rule_kinds (kind, function) VALUES ('bench', 'public.bench_values')")
    sql.run("SELECT monitoring.create_receiver('bench', 'webhook', 'http://127.0.0.1:9/')")
    sql.run("""SELECT count(monitoring.create_alert_rule('bench ' || r, NULL, NULL, '1 minute', '>', 0, kind => 'bench',
                   annotations => '{"summary": "{{host}} has {{value}}"}')) FROM generate_series(1, %d) AS r"""
            % (INSTANCES // INSTANCES_OF_A_RULE))
    at = int(sql.value("SELECT extract(epoch FROM date_trunc('minute', clock_timestamp()))::bigint"))
    sql.run("SELECT monitoring.evaluate_alerts(to_timestamp(%d))" % at)
    at = synchronise(bench, sql, at, "medium")
    sql.run("""SELECT count(*) FROM (SELECT monitoring.update_alert_rule(name, '{"severity": "critical"}') FROM monitoring.alert_rules) AS r""")
    synchronise(bench, sql, at, "critical")
    storage.drop_database(bench, sql, "bench_instances")


SECTIONS = {"rules": rules, "instances": instances}
