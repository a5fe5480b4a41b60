"""storage.py: what stored metrics cost, in bytes and in time; sections of bench.py.

Past data is recorded with record_at() an hour at a time and compacted after each
hour, so that rows and index entries come in the order in which they come in
service.  Each kind of data has a database of its own: its size is that of its
tables with their indexes.
"""
import statistics

LOGNORMAL = "exp(sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()))"
DAY = "date_trunc('day', clock_timestamp(), 'UTC') - interval '1 day'"
CHUNK_TABLES = ("chunks", "hourly", "daily")


def median_ms(sql, statement, times=9):
    """Milliseconds of a statement that has run before."""
    sql.run(statement)
    return statistics.median(sql.milliseconds(statement) for _ in range(times))


def new_database(bench, name):
    """A session in a database of its own whose worker leaves it alone."""
    admin = bench.session("postgres")
    admin.run("CREATE DATABASE %s" % name)
    admin.close()
    sql = bench.session(name)
    sql.run("BEGIN")
    sql.run("CREATE EXTENSION monitoring")
    sql.run("UPDATE monitoring.jobs SET enabled = false")
    sql.run("COMMIT")
    sql.run("SELECT setseed(0.42)")
    return sql


def drop_database(bench, sql, name):
    sql.close()
    admin = bench.session("postgres")
    admin.run("DROP DATABASE %s WITH (FORCE)" % name)
    admin.close()


def stored_bytes(sql, tables=CHUNK_TABLES):
    return int(sql.value("SELECT sum(bytes) FROM monitoring.partitions() WHERE parent IN ('%s')" % "', '".join(tables)))


def fill_hour(sql, hour, metric, kind, series, per_minute, value):
    """per_minute observations a minute of each series, for the hour of yesterday; `value` may use s (series) and m (minute)."""
    sql.run("""SELECT count(monitoring.record_at('%s', %s, %s + make_interval(hours => %d, mins => m, secs => 60.0 * o / %d),
                   jsonb_build_object('host', 'host-' || s), '%s'))
               FROM generate_series(1, %d) AS s, generate_series(0, 59) AS m, generate_series(0, %d) AS o"""
            % (metric, value, DAY, hour, per_minute, kind, series, per_minute - 1))


def bytes_per_point(bench):
    """Bytes of a one-minute point on disk, row and index included."""
    walk = "(1000 * s + sum((random() * 6 - 3)::int) OVER (PARTITION BY s ORDER BY m))"
    cases = (
        ("gauge, integer random walk, one sample a minute", "gauge", 500, 1, None, 4),
        ("counter, whole increments", "counter", 500, 1, "(random() * 200)::int", 4),
        ("distribution, 17 lognormal doubles a minute", "distribution", 150, 17, LOGNORMAL, 36),
        ("distribution, 170 lognormal doubles a minute", "distribution", 100, 170, LOGNORMAL, 95))
    for number, (what, kind, series, per_minute, value, bar) in enumerate(cases):
        sql = new_database(bench, "points_%d" % number)
        for hour in range(24):
            if value:
                fill_hour(sql, hour, "bench_points", kind, series, per_minute, value)
            else:
                sql.run("""SELECT count(monitoring.record_at('bench_points', v, %s + make_interval(hours => %d, mins => m),
                               jsonb_build_object('host', 'host-' || s), 'gauge'))
                           FROM (SELECT s, m, %s AS v FROM generate_series(1, %d) s, generate_series(0, 59) m) AS w"""
                        % (DAY, hour, walk, series))
            sql.run("SELECT monitoring.compact()")
        points = int(sql.value("SELECT sum(monitoring.chunk_points(data)) FROM monitoring.chunks"))
        if points != series * 1440:
            raise SystemExit("%d points are stored instead of %d" % (points, series * 1440))
        size = stored_bytes(sql, ("chunks",)) / points
        bench.add("bytes per one-minute point: %s" % what, "%.1f B" % size, "-", "-", "≤ %d B" % bar, size <= bar)
        drop_database(bench, sql, "points_%d" % number)


def month(bench):
    """A day of 100 distributions at 10,000 events an hour and 900 gauges, scaled to a month; and reads of it."""
    sql = new_database(bench, "month")
    for hour in range(24):
        fill_hour(sql, hour, "bench_latency_seconds", "distribution", 100, 167, LOGNORMAL)
        fill_hour(sql, hour, "bench_level", "gauge", 900, 1, "(1000 * s + 50 * sin(m) + random() * 10)::int")
        sql.run("SELECT monitoring.compact()")
    # in service these two are written once, when the day or month is over
    sql.run("VACUUM FULL monitoring.hourly")
    sql.run("VACUUM FULL monitoring.daily")
    size = stored_bytes(sql) * 30 / 1e9
    bench.add("reference month: 100 distributions at 10,000 events/h, 900 gauges", "%.2f GB" % size, "-", "-", "< 0.6 GB", size < 0.6)
    fill_hour(sql, 0, "bench_one_seconds", "distribution", 1, 17, LOGNORMAL)
    for day in range(30):
        sql.run("""SELECT count(monitoring.record_at('bench_one_seconds', %s,
                       clock_timestamp() - make_interval(days => %d) + make_interval(mins => m, secs => 3 * o), '{"host": "a"}'))
                   FROM generate_series(-1440, -2) AS m, generate_series(1, 17) AS o""" % (LOGNORMAL, day))
    sql.run("SELECT monitoring.compact()")
    sql.run("VACUUM ANALYZE")

    def read(what, statement, bar):
        took = median_ms(sql, statement)
        bench.add(what, "%.1f ms" % took, "-", "-", "≤ %g ms" % bar, took <= bar)

    read("p95 of one series over 30 days at 1 h", """SELECT count(value) FROM monitoring.query('bench_one_seconds', 'p95',
         date_trunc('hour', now()) - interval '30 days', date_trunc('hour', now()), '1 hour', '{"host": "a"}')""", 5)
    read("p95 of one series over 24 h at 1 min, compacted", """SELECT count(value) FROM monitoring.query('bench_one_seconds',
         'p95', %s, %s + interval '1 day', '1 minute', '{"host": "a"}')""" % (DAY, DAY), 4)
    drop_database(bench, sql, "month")


def top(bench):
    """The ten worst of 1,000 series."""
    sql = new_database(bench, "top")
    fill_hour(sql, 23, "bench_top_seconds", "distribution", 1000, 17, LOGNORMAL)
    sql.run("SELECT monitoring.compact()")
    took = median_ms(sql, """SELECT * FROM monitoring.top('bench_top_seconds', 'p95', '{host}', '1 hour', 10, '{}',
                                                          %s + interval '1 day' - interval '1 second')""" % DAY)
    bench.add("top 10 of 1,000 series by p95 over 1 h", "%.0f ms" % took, "-", "-", "≤ 60 ms", took <= 60)
    drop_database(bench, sql, "top")


def merge(bench):
    """Merging a million stored sketches of 170 observations each."""
    sql = bench.session("bench")
    sql.run("SELECT setseed(0.42)")
    sql.run("""CREATE UNLOGGED TABLE sketches AS SELECT s FROM (SELECT i %% 1000, monitoring.sketch(%s) AS s
               FROM generate_series(1, 170000) AS i GROUP BY 1) AS t, generate_series(1, 1000)""" % LOGNORMAL)
    sql.run("VACUUM ANALYZE sketches")
    ours = median_ms(sql, "SELECT monitoring.merge(s) FROM sketches", 3)
    scan = median_ms(sql, "SELECT count(s) FROM sketches", 3)
    each = (ours - scan) / 1e6 * 1e3
    bench.add("merge of a million stored sketches of 170 observations, each, less the scan", "%.2f µs" % each, "-", "-", "≤ 1 µs", each <= 1)
    sql.run("DROP TABLE sketches")
    sql.close()


def flush(bench):
    """A flush of 10,000 dirty gauges, and what live series take of memory."""
    sql = new_database(bench, "flushes")
    record = """SELECT count(monitoring.set_gauge('bench_flush', i + %d, jsonb_build_object('host', 'host-' || i / 100, 'disk', 'sd' || i %% 100)))
                FROM generate_series(1, 10000) AS i"""
    used = "SELECT memory_used_bytes FROM monitoring.self"
    before = int(sql.value(used))
    sql.run(record % 0)
    scalar = (int(sql.value(used)) - before) / 10000
    sql.run("SELECT monitoring.flush()")
    times, wal = [], []
    for number in range(9):
        sql.run(record % number)
        start = sql.value("SELECT pg_current_wal_insert_lsn()")
        times.append(sql.milliseconds("SELECT monitoring.flush()"))
        wal.append(int(sql.value("SELECT pg_current_wal_insert_lsn() - '%s'::pg_lsn" % start).split(".")[0]) / 10000)
    bench.add("flush of 10,000 dirty gauges", "%.0f ms" % statistics.median(times), "-", "-", "≤ 150 ms", statistics.median(times) <= 150)
    bench.add("WAL of it, per series", "%.0f B" % statistics.median(wal), "-", "-", "≤ 40 B", statistics.median(wal) <= 40)
    bench.add("memory of a live gauge", "%.0f B" % scalar, "-", "-", "≤ 600 B", scalar <= 600)
    before = int(sql.value(used))
    sql.run("""SELECT count(monitoring.record('bench_memory_seconds', %s, jsonb_build_object('host', i / 1000)))
               FROM generate_series(0, 99999) AS i""" % LOGNORMAL)
    each = (int(sql.value(used)) - before) / 100
    bench.add("memory of a live distribution with 1,000 observations", "%.1f KB" % (each / 1024), "-", "-", "≤ 6 KB", each <= 6144)
    drop_database(bench, sql, "flushes")


def many_series(bench):
    """100,000 series recorded, flushed and queried."""
    sql = new_database(bench, "many")
    sql.run("ALTER SYSTEM SET monitoring.max_series = 200000")
    sql.run("SELECT pg_reload_conf()")
    sql.run("SELECT pg_sleep(0.5)")
    took = sql.milliseconds("""SELECT count(monitoring.set_gauge('bench_many', i, jsonb_build_object('device', 'device-' || i)))
                               FROM generate_series(1, 100000) AS i""")
    written = sql.milliseconds("SELECT monitoring.flush()")
    read = sql.milliseconds("SELECT count(*) FROM monitoring.series_values('bench_many', 'last', '5 minutes', '{}', '{device}', clock_timestamp())")
    one = median_ms(sql, "SELECT monitoring.value('bench_many', 'last', '5 minutes', '{\"device\": \"device-77\"}')")
    overflow, share = sql.run("SELECT overflow, memory_used_ratio FROM monitoring.self")[0]
    bench.add("100,000 series: recorded first, flushed, all read, one read",
              "%.0f, %.0f, %.0f, %.1f ms" % (took, written, read, one), "-", "%.0f %% of 256 MB" % (100 * float(share)),
              "no overflow", overflow == "0")
    drop_database(bench, sql, "many")


def few(bench):
    """A few of 10,000 series by label, one by one and in one call."""
    sql = new_database(bench, "few")
    for _ in range(3):
        sql.run("""SELECT count(monitoring.record('bench_few_seconds', 1 + random(), jsonb_build_object('device', 'device-' || i, 'room', i % 100)))
                   FROM generate_series(1, 10000) AS i""")
        sql.run("SELECT monitoring.flush()")
    sql.run("VACUUM ANALYZE")
    one = median_ms(sql, """SELECT count(monitoring.value('bench_few_seconds', 'p95', '5 minutes', '{"device": "device-77"}'))
                            FROM generate_series(1, 200)""") / 200
    bench.add("p95 over 5 min of one of 10,000 series, by label", "%.2f ms" % one, "-", "-", "≤ 0.5 ms", one <= 0.5)
    request = "ROW('bench_few_seconds', 'p95', '5 minutes', jsonb_build_object('device', 'device-' || i), NULL, NULL)::monitoring.value_request"
    many = median_ms(sql, "SELECT count(*) FROM monitoring.read_values(ARRAY(SELECT %s FROM generate_series(1, 1000) AS i))" % request)
    bench.add("the same of 1,000 of them in one read_values()", "%.0f ms" % many, "-", "-", "≤ 100 ms", many <= 100)
    drop_database(bench, sql, "few")


def idle(bench):
    """What an idle database's worker does in twenty seconds."""
    sql = bench.session("bench")
    look = """SELECT (SELECT sum(runs) FROM monitoring.status WHERE database = 'bench'), xact_commit + xact_rollback
              FROM pg_stat_database WHERE datname = 'bench'"""
    sql.run("SELECT pg_sleep(2)")
    before = [int(v) for v in sql.run(look)[0]]
    sql.run("SELECT pg_sleep(20)")
    after = [int(v) for v in sql.run(look)[0]]
    runs, transactions = after[0] - before[0], after[1] - before[1]
    bench.add("idle for 20 s: runs of jobs, transactions of the database", "%d" % runs, "%d" % transactions, "-", "≤ 3 per run", transactions <= 3 * runs + 5)
    sql.close()


SECTIONS = {"merge": merge, "flush": flush, "series": many_series, "points": bytes_per_point, "top": top,
            "few": few, "month": month, "idle": idle}
