"""overhead.py: what a loaded library costs pgbench -S, with clusters side by side.

Two runs of the same thing differ by several percent on a shared machine: by
what its other users do meanwhile, by where memory happens to lie, by which
processor a session wakes up on.  So every candidate has a cluster of its own,
all on one processor, and they take turns of a tenth of a second: all but one
stand still (SIGSTOP).  What disturbs one disturbs the others.  Where memory lies
stays the same as long as a server runs; so each round has new servers.

The one processor is always busy, so that throughput is the inverse of the time
that server and client take for a transaction.  Background processes work by the
clock on the wall, not by transactions: the share of the machine that they take
of a second is taken off.
"""
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import time

import measure

WITHOUT = ""
OURS = "monitoring"
PEERS = ("pg_stat_statements", "pg_stat_monitor", "pg_stat_statements,pg_stat_monitor")
WARM_UP = 30  # seconds: caches, and the first runs of jobs
TURN = 0.1
PROCESSOR = max(os.sched_getaffinity(0))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def pin():
    os.sched_setaffinity(0, {PROCESSOR})


def send(processes, number):
    for pid in processes:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def processor_seconds(pid, with_children=False):
    """Of a process so far, and of its children that have ended; 0 if it has ended itself."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(int(field) for field in fields[11:15 if with_children else 13]) / os.sysconf("SC_CLK_TCK")


class Cluster:
    """A copy of the benchmark's stopped cluster, running with libraries of its own, and a pgbench."""

    def __init__(self, bench, name, libraries):
        self.bench = bench
        self.data, self.port = "%s_%s" % (bench.options.data, name), free_port()
        self.run("cp", "-a", bench.options.data, self.data)
        self.control("-l", bench.options.log, "-o",
                     "-c shared_preload_libraries=%s -c port=%d -c monitoring.shared_memory=64MB "
                     "-c monitoring.max_statements=5000" % (libraries, self.port), "start")
        with open(self.data + "/postmaster.pid") as file:
            self.postmaster = int(file.readline())

    def run(self, *command):
        return subprocess.run(self.bench.options.prefix + list(command), check=True, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, preexec_fn=pin)

    def control(self, *arguments):
        self.run(self.bench.options.pgbin + "/pg_ctl", "-D", self.data, "-w", "-t", "60", *arguments)

    def start_pgbench(self, seconds):
        """Without the prefix: what it starts with would stop with it, and stay so."""
        self.client = subprocess.Popen(
            [self.bench.options.pgbin + "/pgbench", "-h", self.bench.options.socket, "-p", str(self.port), "-U", "postgres",
             "-n", "-S", "-M", "prepared", "-T", str(seconds), "bench"],
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=pin)

    def finish_pgbench(self):
        """Transactions, and the processor time that the client took for them."""
        output = self.client.stdout.read()
        _, status, usage = os.wait4(self.client.pid, 0)
        self.client.returncode = os.waitstatus_to_exitcode(status)
        time.sleep(0.2)  # its session ends
        return int(re.search(r"processed: ([0-9]+)", output).group(1)), usage.ru_utime + usage.ru_stime

    def children(self):
        with open("/proc/%d/task/%d/children" % (self.postmaster, self.postmaster)) as file:
            return [int(pid) for pid in file.read().split()]

    def stand_still(self):
        """The postmaster first: it starts no further child then."""
        send([self.postmaster], signal.SIGSTOP)
        send(self.children() + [self.client.pid], signal.SIGSTOP)

    def go_on(self):
        send([self.client.pid] + self.children() + [self.postmaster], signal.SIGCONT)

    def used(self):
        """Processor time so far of those that are there while no client is, and of all."""
        background = sum(processor_seconds(pid) for pid in self.children())
        return background, background + processor_seconds(self.postmaster, True)

    def remove(self):
        send(self.children() + [self.postmaster], signal.SIGCONT)
        self.control("-m", "immediate", "stop")
        self.run("rm", "-rf", self.data)


def take_turns(clusters, seconds):
    for cluster in clusters:
        cluster.stand_still()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for cluster in random.sample(clusters, len(clusters)):
            cluster.go_on()
            time.sleep(TURN)
            cluster.stand_still()
    for cluster in clusters:
        cluster.go_on()


def measure_together(clusters, seconds):
    """Of each, transactions per second, and the server's processor time a transaction in microseconds."""
    before, began, figures = [cluster.used() for cluster in clusters], time.monotonic(), []
    for cluster in clusters:
        cluster.start_pgbench(seconds)
    take_turns(clusters, seconds - 1)
    for cluster, (background_before, all_before) in zip(clusters, before):
        n, client = cluster.finish_pgbench()
        background, all_used = cluster.used()
        background -= background_before
        sessions = all_used - all_before - background
        left = 1 - background / (time.monotonic() - began) / os.cpu_count()
        figures.append((left * n / (sessions + client), 1e6 * sessions / left / n))
    return figures


def measure_round(bench, candidates):
    """Figures of each candidate, in new servers."""
    clusters = {}
    try:
        for number in random.sample(range(len(candidates)), len(candidates)):
            clusters[number] = Cluster(bench, "candidate_%d" % number, candidates[number])
        for cluster in clusters.values():
            cluster.start_pgbench(WARM_UP)
        for cluster in clusters.values():
            cluster.finish_pgbench()
        return measure_together([clusters[number] for number in range(len(candidates))],
                                bench.options.seconds * len(candidates))
    finally:
        for cluster in clusters.values():
            cluster.remove()


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
    bench.control("stop")
    try:
        without, again, ours, *theirs = zip(*(measure_round(bench, candidates) for _ in range(bench.options.rounds)))
    finally:
        bench.control("start")
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
