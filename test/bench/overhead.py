"""overhead.py: what a loaded library costs pgbench -S, with clusters side by side.

Restarts between runs measure mostly the restarts: cold caches and another
layout of memory.  So every candidate has a cluster of its own, a copy of the
same data, and all are up all the time; all but the measured one stand still
(SIGSTOP), so that the background processes of one are not paid for by another.
A background process that has stood still makes up for what it missed by one
run, for which there is time before each measurement.
"""
import os
import signal
import socket
import statistics
import subprocess

import measure

WITHOUT = ""
OURS = "monitoring"
PEERS = ("pg_stat_statements", "pg_stat_monitor", "pg_stat_statements,pg_stat_monitor")
WARM_UP = 8  # seconds: caches, and the first runs of jobs
CATCH_UP = 2


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Cluster:
    """A copy of the benchmark's stopped cluster, running with libraries of its own."""

    def __init__(self, bench, name, libraries):
        self.bench, self.libraries = bench, libraries
        self.data, self.port = "%s_%s" % (bench.options.data, name), free_port()
        self.run("cp", "-a", bench.options.data, self.data)
        self.control("-l", bench.options.log, "-o",
                     "-c shared_preload_libraries=%s -c port=%d" % (libraries, self.port), "start")
        self.pgbench(WARM_UP)
        self.freeze()

    def run(self, *command):
        return subprocess.run(self.bench.options.prefix + list(command), check=True, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL)

    def control(self, *arguments):
        self.run(self.bench.options.pgbin + "/pg_ctl", "-D", self.data, "-w", "-t", "60", *arguments)

    def pgbench(self, seconds):
        return self.bench.pgbench("-S", "-M", "prepared", "-c", "2", "-j", "2", "-T", str(seconds), "-p", str(self.port))

    def processes(self):
        """The postmaster, then its children."""
        with open(self.data + "/postmaster.pid") as file:
            postmaster = int(file.readline())
        with open("/proc/%d/task/%d/children" % (postmaster, postmaster)) as file:
            return [postmaster] + [int(pid) for pid in file.read().split()]

    def processor_seconds(self):
        """Of all its processes so far; the postmaster, read last, has that of those which have ended."""
        ticks, (postmaster, *children) = 0, self.processes()
        for pid in children + [postmaster]:
            try:
                with open("/proc/%d/stat" % pid) as file:
                    fields = file.read().rpartition(")")[2].split()
            except FileNotFoundError:
                continue
            ticks += sum(int(field) for field in fields[11:15 if pid == postmaster else 13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def signal(self, processes, number):
        for pid in processes:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def freeze(self):
        """The postmaster first: it starts no further child then."""
        self.signal(self.processes()[:1], signal.SIGSTOP)
        self.signal(self.processes()[1:], signal.SIGSTOP)

    def thaw(self):
        self.signal(reversed(self.processes()), signal.SIGCONT)

    def measure(self):
        self.thaw()
        self.pgbench(CATCH_UP)
        before = self.processor_seconds()
        tps = self.pgbench(self.bench.options.seconds)
        used = self.processor_seconds() - before
        self.freeze()
        return tps, 1e6 * used / (tps * self.bench.options.seconds)

    def remove(self):
        self.thaw()
        self.control("-m", "immediate", "stop")
        self.run("rm", "-rf", self.data)


def compare(bench, what, ours, peers, unit, bar):
    """A line: the median of the ratios per round, and its interval."""
    ratio = statistics.median(measure.ratios(ours, peers))
    bench.add("%s (%d rounds)" % (what, len(ours)), "%.4g %s" % (statistics.median(ours), unit),
              "%.4g %s" % (statistics.median(peers), unit),
              "%.3f [%.3f, %.3f]" % ((ratio,) + measure.interval(measure.ratios(ours, peers))),
              "≥ %s" % bar if bar else "-", not bar or ratio >= bar)


def compare_both(bench, what, ours, peers, bar):
    """Transactions per second, and the time of processors that all processes of the server take for one."""
    (tps, time), (peers_tps, peers_time) = zip(*ours), zip(*peers)
    compare(bench, "pgbench -S, " + what, tps, peers_tps, "tps", bar)
    compare(bench, "the server's processor time a transaction, " + what, time, peers_time, "µs", None)


def library_overhead(bench):
    """pgbench -S with the library, without it, and with what others load to watch statements."""
    peers = [peer for peer in PEERS if all(bench.installed(library) for library in peer.split(","))]
    candidates = [WITHOUT, WITHOUT, OURS] + peers
    clusters = []
    bench.control("stop")
    try:
        for number, libraries in enumerate(candidates):
            clusters.append(Cluster(bench, "candidate_%d" % number, libraries))
        without, again, *figures = measure.per_round(bench.options.rounds, *(c.measure for c in clusters))
    finally:
        for cluster in clusters:
            cluster.remove()
        bench.control("start")
    ours, *theirs = figures
    baseline = [tuple((a + b) / 2 for a, b in zip(*pair)) for pair in zip(without, again)]
    compare_both(bench, "library loaded; peer: not loaded", ours, baseline, 0.97)
    compare_both(bench, "not loaded; peer: not loaded (A/A floor)", again, without, None)
    for libraries, results in zip(peers, theirs):
        compare_both(bench, "%s; peer: not loaded" % libraries, results, baseline, None)
        compare_both(bench, "library loaded; peer: %s" % libraries, ours, results, 1 if "," in libraries else None)


def record_overhead(bench):
    """One record in every pgbench transaction, against the same transaction without."""
    body = """\\set aid random(1, 1000000)
\\set bid random(1, 10)
\\set tid random(1, 100)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance%s FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
%sEND;
"""
    record = "monitoring.record('bench_transaction', abs(:delta), '{\"route\": \"/pay\"}')"
    scripts = {"alone": ("", "SELECT %s;\n" % record), "within": (", " + record, ""), "without": ("", "")}
    # /dev/stdin cannot be read twice; the scripts go where the server's user can read them
    for name, places in scripts.items():
        subprocess.run(bench.options.prefix + ["tee", "%s/bench_%s.sql" % (bench.options.data, name)], check=True, text=True,
                       input=body % places, stdout=subprocess.DEVNULL)

    def tps(name):
        return bench.pgbench("-c", "2", "-f", "%s/bench_%s.sql" % (bench.options.data, name))
    for what, name in (("a statement of its own", "alone"), ("a column of its SELECT", "within")):
        ours, without, again = measure.per_round(bench.options.rounds, lambda name=name: tps(name), lambda: tps("without"),
                                                 lambda: tps("without"))
        compare(bench, "one record per pgbench transaction, as %s; peer: none" % what, ours, without, "tps", 0.97)
        compare(bench, "the same without; peer: none (A/A floor)", again, without, "tps", None)


SECTIONS = {"overhead": library_overhead, "transaction": record_overhead}
