"""delivery.py: how fast notifications arrive, how soon, and in how much memory; sections of bench.py.

The receiver is test/lib/fast_receiver.c, which notes when each request came and
its idempotency key: what was lost or came twice is counted from that.
"""
import os
import random
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import storage

ROOT = Path(__file__).resolve().parents[2]
DELIVERIES = int(os.environ.get("DELIVERIES", 20000))
MEMORY_DELIVERIES = int(os.environ.get("MEMORY_DELIVERIES", 200000))
ALERTS = 200
# "about 260 a second by default": what users of pg_net report of one receiver
PEER_RATE = 260

ENQUEUE = """INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
    SELECT t, t, '%(receiver)s', 'group ' || n, 'Bench', 'firing', monitoring.make_payload('%(receiver)s', 'group ' || n, 'firing',
        '{"alertname": "Bench"}', jsonb_build_array(jsonb_build_object('status', 'firing',
            'labels', jsonb_build_object('alertname', 'Bench', 'severity', 'high', 'route', '/cart/' || n),
            'annotations', '{"summary": "p95 of /cart is 0.75 s", "description": "It is usually 0.2 s."}'::jsonb, 'startsAt', '2026-01-02T03:04:05.678Z',
            'endsAt', '0001-01-01T00:00:00Z', 'fingerprint', md5(n::text), 'value', 0.75, 'threshold', 0.5, 'op', '>', 'alert_id', n)),
        '{"reason": "first notification"}'), t, t + interval '1 day'
    FROM (SELECT clock_timestamp() AS t) AS c, generate_series(%(first)d, %(last)d) AS n"""


class Receivers:
    """Two receiver processes: what is slow has connections of its own."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="monitoring-bench-receiver-")
        program = self.directory.name + "/fast_receiver"
        subprocess.run(["cc", "-O2", "-o", program, "%s/test/lib/fast_receiver.c" % ROOT], check=True)
        self.processes, self.urls = {}, {}
        for name in ("fast", "slow"):
            process = subprocess.Popen([program, self.log(name)], stdout=subprocess.PIPE, text=True)
            self.processes[name] = process
            self.urls[name] = "http://127.0.0.1:%s" % process.stdout.readline().split()[1]

    def log(self, name):
        return "%s/%s.log" % (self.directory.name, name)

    def arrived(self, name):
        """Time and idempotency key of each request so far."""
        with open(self.log(name)) as lines:
            return [(int(line.split(" ")[0]) / 1e6, line.split()[2]) for line in lines if line.endswith("\n")]

    def count(self, name):
        with open(self.log(name), "rb") as data:
            return data.read().count(b"\n")

    def stop(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.directory.cleanup()


def database(bench):
    admin = bench.session("postgres")
    admin.run("CREATE DATABASE bench_delivery")
    admin.close()
    sql = bench.session("bench_delivery")
    sql.run("CREATE EXTENSION monitoring")
    return sql


def wait_until(condition, what, seconds=300):
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit("gave up waiting: %s" % what)
        time.sleep(0.02)


def enqueue(sql, receiver, first, last):
    sql.run("SELECT monitoring.ensure_partition('outbox', clock_timestamp())")
    sql.run(ENQUEUE % {"receiver": receiver, "first": first, "last": last})


def check(sql, receivers, expected):
    """Each notification was sent, arrived, and arrived once."""
    wait_until(lambda: sql.value("SELECT count(*) FROM monitoring.outbox WHERE receiver = 'fast' AND state = 'sent'") == str(expected),
               "outcomes are recorded", 30)
    keys = [key for _, key in receivers.arrived("fast")]
    known = {row[0] for row in sql.run("SELECT idempotency_key FROM monitoring.outbox WHERE receiver = 'fast'")}
    lost, twice = len(known - set(keys)), len(keys) - len(set(keys))
    if lost or twice or len(known) != expected:
        raise SystemExit("of %d deliveries %d were lost, %d came twice" % (expected, lost, twice))
    return "%s rows in the outbox, none lost, none twice" % "{:,}".format(expected)


def processes(sql):
    """The notifier and its sender."""
    notifier = sql.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'monitoring notifier' AND datname = current_database()")
    return notifier, subprocess.run(["pgrep", "-P", notifier], check=True, capture_output=True, text=True).stdout.split()[0]


def cpu_us(pid):
    return int(Path("/proc/%s/schedstat" % pid).read_text().split()[0]) / 1e3


def rate(sql, receivers, first):
    """Deliveries a second, from their commit to the last one's arrival, and the processor's time for one of them."""
    pids = processes(sql)
    used = [cpu_us(pid) for pid in pids]
    enqueue(sql, "fast", first + 1, first + DELIVERIES)
    began = time.time()
    wait_until(lambda: receivers.count("fast") >= first + DELIVERIES, "all deliveries")
    used = [(cpu_us(pid) - before) / DELIVERIES for pid, before in zip(pids, used)]
    return DELIVERIES / (receivers.arrived("fast")[-1][0] - began), used


def delivery(bench):
    """Deliveries to one receiver with keep-alive, alone and beside one that takes two seconds to answer."""
    receivers = Receivers()
    sql = database(bench)
    try:
        for name, path in (("fast", "/"), ("slow", "/wait/2000")):
            sql.run("SELECT monitoring.create_receiver('%s', 'webhook', '%s%s')" % (name, receivers.urls[name], path))
        enqueue(sql, "fast", 1, 500)
        check(sql, receivers, 500)
        alone, used = rate(sql, receivers, 500)
        enqueue(sql, "slow", 1, 2000)
        wait_until(lambda: sql.value("SELECT count(*) >= 32 FROM monitoring.outbox WHERE receiver = 'slow' AND state = 'sending'") == "t",
                   "the slow receiver has its hands full")
        beside, _ = rate(sql, receivers, 500 + DELIVERIES)
        facts = check(sql, receivers, 500 + 2 * DELIVERIES)
        slow = receivers.count("slow")
        for what, ours in (("alone", alone), ("beside one that takes 2 s", beside)):
            bench.add("deliveries a second to one receiver, %s (%s); peer: pg_net, as reported" % (what, facts), "%.0f/s" % ours,
                      "%d/s" % PEER_RATE, "%.0f ×" % (ours / PEER_RATE), "≥ 2,500/s", ours >= 2500)
        bench.add("processor's time of a delivery: notifier; sender", "%d; %d µs" % tuple(used), "-", "-", "≤ 400 µs", max(used) <= 400)
        bench.add("deliveries a second, beside the slow one (which got %d) against alone" % slow, "%.2f ×" % (beside / alone), "-", "-", "≥ 0.8 ×",
                  beside / alone >= 0.8)
    finally:
        receivers.stop()
        storage.drop_database(bench, sql, "bench_delivery")


def status_kb(pid, field):
    text = Path("/proc/%s/status" % pid).read_text()
    return int(re.search(r"^%s:\s+(\d+) kB" % field, text, re.M).group(1))


class Memory:
    """What the notifier and its sender take: private memory, and what the notifier's memory contexts hold."""

    def __init__(self, bench, sql):
        self.log = bench.options.log
        self.sql = sql
        self.notifier, self.sender = processes(sql)

    def contexts_kb(self):
        start = os.path.getsize(self.log)
        self.sql.run("SELECT pg_log_backend_memory_contexts(%s)" % self.notifier)
        found = []

        def total():
            with open(self.log, errors="replace") as lines:
                lines.seek(start)
                found[:] = re.findall(r"Grand total: (\d+) bytes", lines.read())
            return found
        wait_until(total, "the notifier's memory contexts", 30)
        return int(found[-1]) // 1024

    def read(self):
        return status_kb(self.notifier, "RssAnon"), self.contexts_kb(), status_kb(self.sender, "RssAnon")


def memory(bench):
    """Memory of the notifier and the sender over many deliveries: at the start, after a tenth, at the end."""
    receivers = Receivers()
    sql = database(bench)
    n = MEMORY_DELIVERIES
    step = max(n // 20, 1)
    try:
        sql.run("SELECT monitoring.create_receiver('fast', 'webhook', '%s/')" % receivers.urls["fast"])
        enqueue(sql, "fast", 1, step)
        wait_until(lambda: receivers.count("fast") >= step // 4, "the first deliveries")
        sizes = Memory(bench, sql)
        figures = [sizes.read()]
        for part in range(1, 20):
            enqueue(sql, "fast", part * step + 1, (part + 1) * step)
            wait_until(lambda: receivers.count("fast") >= part * step, "a part of the deliveries")
            if part == 2:
                figures.append(sizes.read())
        wait_until(lambda: receivers.count("fast") >= 20 * step, "all deliveries")
        figures.append(sizes.read())
        facts = check(sql, receivers, 20 * step)
        for index, what in enumerate(("notifier, private memory", "notifier, its memory contexts", "sender, private memory")):
            start, tenth, end = (f[index] for f in figures)
            bench.add("%s: at the start, after a tenth, at the end of %s deliveries (%s)" % (what, "{:,}".format(20 * step), facts),
                      "%d, %d, %d kB" % (start, tenth, end), "-", "%.2f ×" % (end / tenth), "≤ 1.1 × of a tenth", end <= 1.1 * tenth)
    finally:
        receivers.stop()
        storage.drop_database(bench, sql, "bench_delivery")


def report(bench, what, latencies, median_bar, high_bar):
    latencies = sorted(latencies)
    median, high = statistics.median(latencies), latencies[int(len(latencies) * 0.99) - 1]
    bench.add("%s (%d times): median, 99 %%, longest" % (what, len(latencies)), "%.3f, %.3f, %.3f s" % (median, high, latencies[-1]), "-", "-",
              "≤ %g, %g s" % (median_bar, high_bar), median <= median_bar and high <= high_bar)


def arrivals(sql, receivers, pattern):
    """When the first notification of each alert arrived."""
    names = dict(sql.run("SELECT idempotency_key, alert FROM monitoring.notifications WHERE alert ~ '%s'" % pattern))
    found = {}
    for at, key in receivers.arrived("fast"):
        if key in names:
            found.setdefault(names[key], at)
    return found


def alert_latency(bench, sql, receivers, pattern, what, act, between, bars):
    """Do something for each alert, and see when the receiver has its request."""
    done = {}
    before = receivers.count("fast")
    for number in range(ALERTS):
        time.sleep(random.uniform(*between))
        name = pattern % number
        act(name)
        done[name] = time.time()
    wait_until(lambda: receivers.count("fast") >= before + ALERTS, "all alerts", 30)
    found = arrivals(sql, receivers, "^" + pattern.replace("%d", ""))
    report(bench, what, [found[name] - at for name, at in done.items()], *bars)


def latency(bench):
    """From record() returning, or the commit of raise_alert(), to the receiver having the request; default settings."""
    receivers = Receivers()
    sql = database(bench)
    try:
        sql.run("SELECT monitoring.create_receiver('fast', 'webhook', '%s/')" % receivers.urls["fast"])
        sql.run("""SELECT count(monitoring.create_alert_rule('bench_breach_' || n, 'bench_breach_' || n || '_seconds', 'max', '1 minute', '>', 1,
                       severity => 'critical')) FROM generate_series(0, %d) AS n""" % (ALERTS - 1))
        # the workers of a new database have started, and rules are evaluated
        sql.run("SELECT monitoring.test_receiver('fast')")
        wait_until(lambda: receivers.count("fast") >= 1, "the first delivery")
        wait_until(lambda: sql.value("SELECT count(*) > 0 FROM monitoring.status WHERE job = 'evaluate_alerts' AND last_run > clock_timestamp() - interval '2 s'")
                   == "t", "an evaluation")
        # anywhere between two evaluations
        alert_latency(bench, sql, receivers, "bench_breach_%d", "breach recorded → the receiver has the request",
                      lambda name: sql.run("SELECT monitoring.record('%s_seconds', 5)" % name), (0, 0.4), (1.2, 2))
        alert_latency(bench, sql, receivers, "bench_raised_%d", "raise_alert() → the receiver has the request",
                      lambda name: sql.run("SELECT monitoring.raise_alert('%s', severity => 'critical')" % name), (0.1, 0.4), (0.15, 0.15))
    finally:
        receivers.stop()
        storage.drop_database(bench, sql, "bench_delivery")


SECTIONS = {"delivery": delivery, "memory": memory, "breach": latency}
