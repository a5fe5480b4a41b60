"""server.py: what it costs to know about the server; sections of bench.py.

In the database that was the first to have the extension, where collectors of
the server run.  The worker's jobs are off meanwhile, so that what is timed is
not done by somebody else.
"""
import statistics

from storage import median_ms

STATEMENTS = 5000
TABLES = 2000
VIEWS = ("overview", "dashboard_operations", "dashboard_database", "dashboard_security")


def quiet_session(bench):
    sql = bench.session("bench")
    sql.run("UPDATE monitoring.jobs SET enabled = false")
    return sql


def done(sql):
    sql.run("UPDATE monitoring.jobs SET enabled = true")
    sql.close()


def statements(bench):
    """A snapshot of statements that all have run since the one before."""
    sql = quiet_session(bench)

    def run_statements():
        # operators make them different statements
        sql.run("""SELECT 'SELECT 1' || string_agg(CASE WHEN i >> b & 1 = 1 THEN ' + 1' ELSE ' - 1' END, '' ORDER BY b)
            FROM generate_series(1, %d) AS i, generate_series(0, 12) AS b GROUP BY i""" % STATEMENTS, end="\\gexec")
    run_statements()
    stored = int(sql.value("SELECT monitoring.snapshot_statements()"))
    if stored < STATEMENTS:
        raise SystemExit("%d of %d statements were stored" % (stored, STATEMENTS))
    times = []
    for _ in range(7):
        run_statements()
        times.append(sql.milliseconds("SELECT monitoring.snapshot_statements()"))
    ms = statistics.median(times)
    bench.add("snapshot of %d statements; peer: PoWA, as measured for its own" % stored, "%.0f ms" % ms, "120 ms", "%.1f × faster" % (120 / ms),
              "≤ 40 ms", ms <= 40)
    done(sql)


def collectors(bench):
    """All collectors at their intervals, in a database of 2,000 tables; what Prometheus reads; the dashboards."""
    sql = quiet_session(bench)
    sql.run("CREATE SCHEMA many")
    sql.run("SELECT format('CREATE TABLE many.t%%s (id integer PRIMARY KEY, v text)', i) FROM generate_series(1, %d) AS i" % TABLES, end="\\gexec")
    sql.run("ANALYZE")
    names = sql.value("""SELECT string_agg(collector || ' ' || extract(epoch FROM every), ',') FROM monitoring.collector_status
        WHERE state NOT IN ('elsewhere', 'disabled')""").split(",")
    share = 0
    for name, every in (n.split(" ") for n in names):
        ms = median_ms(sql, "SELECT monitoring.collect('{%s}')" % name, 5)
        share += ms / 1000 / float(every)
    failed = sql.value("SELECT count(*) FROM monitoring.collector_status WHERE state NOT IN ('elsewhere', 'disabled', 'ok')")
    if failed != "0":
        raise SystemExit("%s collectors did not work" % failed)
    bench.add("%d collectors at their intervals, %d tables: share of a core" % (len(names), TABLES), "%.2f %%" % (100 * share), "-", "-",
              "≤ 1 %", share <= 0.01)
    ms = median_ms(sql, "SELECT length(monitoring.prometheus_exposition())")
    size = int(sql.value("SELECT octet_length(monitoring.prometheus_exposition())"))
    bench.add("a set for Prometheus, %d kB" % (size / 1000), "%.1f ms" % ms, "-", "-", "≤ 8 ms", ms <= 8)
    for view in VIEWS:
        bench.add("view %s" % view, "%.1f ms" % median_ms(sql, "SELECT count(*) FROM (SELECT * FROM monitoring.%s OFFSET 0) AS v" % view),
                  "-", "-", "-", True)
    sql.run("SELECT format('DROP TABLE many.t%%s', i) FROM generate_series(1, %d) AS i" % TABLES, end="\\gexec")
    sql.run("DROP SCHEMA many")
    done(sql)


SECTIONS = {"statements": statements, "collectors": collectors}
