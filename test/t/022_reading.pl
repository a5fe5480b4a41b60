# Every function and every way to read against SQL over the raw observations:
# random windows, steps, alignments, selectors and groupings, with the borders
# between memory, segments, minutes, chunks, hourly, daily and late points
# wherever a random compaction puts them.
#
#   READING_SEED=n    repeat a run (the seed is printed)
#   READING_CHECKS=n  comparisons per stage (default 25)

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use QuietNode;
use Test::More;

my $seed = $ENV{READING_SEED} || int(rand(1_000_000));
my $checks = $ENV{READING_CHECKS} || 25;
diag("READING_SEED=$seed READING_CHECKS=$checks");
srand($seed);

my $node = new_quiet_node('main', <<'CONF', allows_streaming => 1);
monitoring.shared_memory = 32MB
monitoring.flush_interval = '1h'
timezone = 'UTC'
CONF
# A stage is one transaction, which makes and drops tables for each comparison.
$node->append_conf('postgresql.conf', 'max_locks_per_transaction = ' . (64 + $checks));
$node->start;
# Nothing but this test flushes, compacts or drops.
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION monitoring; UPDATE monitoring.jobs SET enabled = false; COMMIT');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(<<'SQL');
CREATE TABLE raw (
    metric text, labels jsonb, at timestamptz, v float8,
    late boolean, -- kept in minutes from the beginning
    us bigint -- at, in microseconds
);

CREATE FUNCTION us(at timestamptz) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;
CREATE FUNCTION at_us(us bigint) RETURNS timestamptz IMMUTABLE LANGUAGE sql
    AS $$ SELECT timestamptz 'epoch' + us * interval '1 microsecond' $$;
CREATE FUNCTION floor_us(us bigint, unit bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$ SELECT us - (us % unit + unit) % unit $$;
CREATE FUNCTION pick(VARIADIC a text[]) RETURNS text VOLATILE LANGUAGE sql AS $$ SELECT a[1 + floor(random() * cardinality(a))::int] $$;
CREATE FUNCTION time_in(lo timestamptz, hi timestamptz) RETURNS timestamptz VOLATILE LANGUAGE sql AS $$ SELECT lo + (hi - lo) * random() $$;

-- A random observation: of a metric, a series, a time.
CREATE FUNCTION observe(t timestamptz, late boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kind text := pick('counter', 'gauge', 'distribution', 'distribution');
    labels jsonb := jsonb_strip_nulls(jsonb_build_object('host', pick('a', 'b', 'c'), 'dc', pick('east', 'west', NULL)));
    v float8 := CASE kind WHEN 'counter' THEN floor(random() * 1000)
                          WHEN 'gauge' THEN round((random() * 200 - 100)::numeric, 2)
                          ELSE CASE WHEN random() < 0.02 THEN 0 WHEN random() < 0.1 THEN -exp(random() * 6) ELSE exp(random() * 14 - 7) END END;
BEGIN
    INSERT INTO raw VALUES (kind, labels, t, v, late, us(t));
    PERFORM monitoring.record_at(kind, v, t, labels, kind);
END $$;

-- Observations of the past: most of the last three days, some of the last 75.
CREATE FUNCTION observe_past(n int) RETURNS void LANGUAGE sql AS $$
    SELECT observe(time_in(clock_timestamp() - CASE WHEN random() < 0.3 THEN interval '75 days' ELSE interval '3 days' END,
                           clock_timestamp() - interval '2 minutes'), true)
    FROM generate_series(1, n) $$;
-- Observations of now: in slots of 10 seconds, unless their minute has been compacted.
CREATE FUNCTION observe_now(n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    compacted timestamptz := coalesce((SELECT minutes FROM monitoring.compaction_state), '-infinity');
    t timestamptz;
BEGIN
    FOR i IN 1 .. n LOOP
        t := clock_timestamp() + interval '1 second' * (random() * 100 - 50);
        PERFORM observe(t, to_timestamp(floor(extract(epoch FROM t) / 10) * 10) < compacted);
    END LOOP;
END $$;

CREATE FUNCTION oldest_partition(relation text) RETURNS timestamptz LANGUAGE sql
    AS $$ SELECT coalesce(min(since), 'infinity') FROM monitoring.partitions(relation) $$;

-- Where observations count now: the start of the point that holds them, and how wide that is.
CREATE FUNCTION points() RETURNS TABLE (metric text, labels jsonb, v float8, us bigint, unit bigint, start bigint) LANGUAGE plpgsql AS $$
DECLARE
    s monitoring.compaction_state;
    minutes_only timestamptz := '-infinity';
    hours_only timestamptz := '-infinity';
    days_only timestamptz := '-infinity';
BEGIN
    SELECT * INTO s FROM monitoring.compaction_state;
    IF FOUND THEN
        minutes_only := least(oldest_partition('segments'), s.minutes);
        hours_only := least(least(oldest_partition('minutes'), oldest_partition('chunks')), s.hourly);
        days_only := least(date_bin('1 day', oldest_partition('hourly') + interval '1 day' - interval '1 microsecond', '2000-01-01'),
                           s.daily);
    END IF;
    RETURN QUERY
    SELECT r.metric, r.labels, r.v, r.us, u.unit, floor_us(r.us, u.unit)
    FROM raw r CROSS JOIN LATERAL (
        SELECT CASE WHEN r.at < days_only THEN 86400000000 WHEN r.at < hours_only THEN 3600000000
                    WHEN r.late OR r.at < minutes_only THEN 60000000 ELSE 10000000 END AS unit) u;
END $$;

CREATE TABLE selectors (id int, selector jsonb, matches text);
INSERT INTO selectors VALUES
(1, '{}', 'true'), (2, '{}', 'true'),
(3, '{"host": "a"}', $$labels ->> 'host' = 'a'$$),
(4, '{"host": {"!=": "a"}}', $$labels ->> 'host' <> 'a'$$),
(5, '{"dc": {"=~": "e.*"}}', $$labels ->> 'dc' = 'east'$$),
(6, '{"dc": {"!~": "e.*|w"}, "host": "b"}', $$coalesce(labels ->> 'dc', '') <> 'east' AND labels ->> 'host' = 'b'$$),
(7, '{"dc": {"exists": false}}', $$NOT labels ? 'dc'$$),
(8, '{"dc": {"=": ""}, "host": {"=~": "[ab]"}}', $$NOT labels ? 'dc' AND labels ->> 'host' IN ('a', 'b')$$),
(9, '{"host": "nobody"}', 'false');

CREATE FUNCTION some_fn(kind text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE kind
        WHEN 'counter' THEN pick('count', 'sum', 'avg', 'rate', 'increase', 'series')
        WHEN 'gauge' THEN pick('count', 'sum', 'avg', 'min', 'max', 'first', 'last', 'delta', 'series')
        ELSE pick('count', 'sum', 'avg', 'min', 'max', 'rate', 'increase', 'series', 'stddev', 'p50', 'p95', 'p99.9', 'p0', 'p100',
                  'share_below(8)', 'share_below(0)', 'share_below(0.37)', 'share_below(-3)', 'share_below(1e9)', 'apdex(0.3)') END $$;

-- A request for read_values() that is there to be in the way of another.
CREATE FUNCTION other_request(kind text, over interval, labels jsonb) RETURNS monitoring.value_request LANGUAGE sql AS $$
    SELECT ROW(k, some_fn(k), CASE WHEN random() < 0.5 THEN other_request.over
                                   ELSE pick('20 seconds', '3 minutes', '1 hour', '5 hours', '1 day', '40 days')::interval END,
               CASE WHEN random() < 0.5 THEN other_request.labels ELSE (SELECT s.selector FROM selectors s ORDER BY random() LIMIT 1) END,
               pick('{}', '{host}', '{host,dc}', NULL)::text[], pick('0', '0', '1 minute', '6 hours', NULL)::interval)::monitoring.value_request
    FROM (SELECT CASE WHEN random() < 0.6 THEN kind ELSE pick('counter', 'gauge', 'distribution', 'nothing') END AS k) c $$;

-- Compare what a call gave (seen) with the observations it is about (cells: bucket, group, point).
CREATE FUNCTION compare_cells(fn text, seconds float8, metric text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    x float8 := substring(fn FROM '\((.*)\)')::float8;
    q float8 := substring(fn FROM '^p([0-9.]+)$')::float8 / 100;
    eps float8 := 0.0054153;
    bad text;
BEGIN
    SELECT format('bucket %s group %s: %s, not %s', at_us(coalesce(s.b, e.b)), coalesce(s.g, e.g), coalesce(s.value::text, 'nothing'),
                  CASE WHEN e.b IS NULL THEN 'nothing' ELSE row_to_json(e)::text END)
    INTO bad
    FROM (SELECT * FROM seen WHERE value IS NOT NULL) s
    FULL JOIN (
        SELECT c.b, c.g, count(*) AS n, sum(v) AS sum, sum(abs(v)) AS sum_abs, min(v) AS min, max(v) AS max,
               count(DISTINCT sid) AS series, stddev_pop(v) AS stddev, sqrt(avg(v * v)) AS rms,
               CASE WHEN q IS NOT NULL THEN percentile_disc(q) WITHIN GROUP (ORDER BY v) END AS p,
               count(*) FILTER (WHERE v <= x - abs(x) * 0.0055)::float8 / count(*) AS below_lo,
               count(*) FILTER (WHERE v <= x + abs(x) * 0.0055)::float8 / count(*) AS below_hi,
               count(*) FILTER (WHERE v <= x)::float8 / count(*) AS below,
               count(*) FILTER (WHERE v <= 4 * x - abs(4 * x) * 0.0055)::float8 / count(*) AS below4_lo,
               count(*) FILTER (WHERE v <= 4 * x + abs(4 * x) * 0.0055)::float8 / count(*) AS below4_hi,
               array_agg(v) FILTER (WHERE is_first) AS firsts, array_agg(v) FILTER (WHERE is_last) AS lasts
        FROM (SELECT k.*, start = min(start) OVER w AS is_first, start = max(start) OVER w AS is_last
              FROM (SELECT cells.b, cells.g, cells.v, cells.sid, floor_us(cells.us, greatest(unit, 60000000)) AS start FROM cells) k
              WINDOW w AS (PARTITION BY k.b, k.g)) c
        GROUP BY c.b, c.g) e ON e.b = s.b AND e.g = s.g
    WHERE s.b IS NULL OR e.b IS NULL OR NOT coalesce(CASE
        WHEN fn = 'count' THEN s.value = e.n
        WHEN fn = 'series' THEN s.value = e.series
        WHEN fn = 'min' THEN s.value = e.min
        WHEN fn = 'max' THEN s.value = e.max
        WHEN fn = 'sum' THEN abs(s.value - e.sum) <= 3e-16 * e.n * e.sum_abs
        WHEN fn = 'avg' THEN abs(s.value * e.n - e.sum) <= 3e-16 * (e.n + 2) * e.sum_abs
        WHEN fn IN ('increase', 'rate') AND metric = 'distribution' THEN
            abs(s.value * CASE fn WHEN 'rate' THEN seconds ELSE 1 END - e.n) <= 1e-12 * e.n
        WHEN fn IN ('increase', 'rate') THEN
            abs(s.value * CASE fn WHEN 'rate' THEN seconds ELSE 1 END - e.sum) <= 3e-16 * (e.n + 3) * e.sum_abs
        WHEN fn = 'first' THEN s.value = ANY (e.firsts)
        WHEN fn = 'last' THEN s.value = ANY (e.lasts)
        WHEN fn = 'delta' THEN EXISTS (SELECT FROM unnest(e.firsts) f CROSS JOIN unnest(e.lasts) l WHERE abs(s.value - (l - f)) < 1e-9)
        WHEN q IS NOT NULL THEN abs(s.value - e.p) <= eps * abs(e.p)
        WHEN fn = 'stddev' THEN abs(s.value - e.stddev) <= eps * e.rms + 1e-9 * e.rms
        WHEN fn IN ('share_below(8)', 'share_below(0)', 'share_below(1e9)') THEN s.value = e.below
        WHEN fn LIKE 'share_below%' THEN s.value BETWEEN e.below_lo AND e.below_hi
        WHEN fn LIKE 'apdex%' THEN s.value BETWEEN (e.below_lo + e.below4_lo) / 2 - 1e-12 AND (e.below_hi + e.below4_hi) / 2 + 1e-12
        END, false)
    LIMIT 1;
    RETURN bad;
END $$;

-- One random comparison; returns what is wrong.
CREATE FUNCTION check_once() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kind text := pick('counter', 'gauge', 'distribution', 'distribution');
    fn text := some_fn(kind);
    call text := pick('value', 'series_values', 'top', 'batch', 'batch', 'batch', 'query', 'query', 'query', 'rolling', 'rolling', 'sketch');
    sel selectors := (SELECT s FROM selectors s ORDER BY random() LIMIT 1);
    grp text[] := pick('{}', '{host}', '{dc}', '{host,dc}', '{nothing}')::text[];
    span interval := pick('20 seconds', '3 minutes', '1 hour', '5 hours', '1 day', '10 days', '40 days', '80 days')::interval;
    until timestamptz := CASE WHEN random() < 0.5 THEN clock_timestamp() + interval '1 minute' ELSE time_in(clock_timestamp() - interval '76 days', clock_timestamp()) END;
    since timestamptz;
    align bigint := pick('1', '10000000', '60000000', '3600000000', '86400000000')::bigint;
    step bigint;
    width bigint;
    first bigint;
    until_us bigint;
    seconds float8;
    shift interval;
    place int;
    bad text;
BEGIN
    IF call = 'sketch' THEN
        kind := 'distribution';
        fn := 'p95';
        grp := CASE WHEN random() < 0.5 THEN grp ELSE '{}' END;
    END IF;
    until := at_us(floor_us(us(until), align));
    until_us := us(until);
    since := until - span;
    DROP TABLE IF EXISTS seen, cells, chosen;
    CREATE TEMP TABLE seen (b bigint, g jsonb, value float8, newest timestamptz);
    CREATE TEMP TABLE chosen AS SELECT p.*, NULL::jsonb AS g, p.labels::text AS sid FROM points() p WHERE p.metric = kind;
    EXECUTE format('DELETE FROM chosen WHERE (%s) IS NOT TRUE', sel.matches);

    IF call IN ('value', 'series_values', 'top', 'batch') OR (call = 'sketch' AND grp = '{}') THEN
        -- One window: every slot that overlaps it.
        until := least(until, clock_timestamp() - interval '20 seconds');
        IF random() < 0.3 THEN
            until := clock_timestamp() + interval '55 seconds';
        END IF;
        until_us := us(until) + 1;
        first := floor_us(us(until - span), 10000000);
        step := until_us - first;
        seconds := (greatest(us(until), CASE WHEN until < clock_timestamp() THEN floor_us(us(until), 10000000) + 10000000 ELSE 0 END) - first) / 1e6;
        grp := CASE WHEN call IN ('value', 'sketch') THEN '{}' ELSE grp END;
        width := step;
        IF call = 'value' THEN
            INSERT INTO seen SELECT first, '{}', monitoring.value(kind, fn, span, sel.selector, until);
        ELSIF call = 'sketch' THEN
            INSERT INTO seen SELECT first, '{}', monitoring.percentile(monitoring.sketch_over(kind, span, sel.selector, until), 0.95);
        ELSIF call = 'series_values' THEN
            INSERT INTO seen SELECT first, v.* FROM monitoring.series_values(kind, fn, span, sel.selector, grp, until) v;
        ELSIF call = 'batch' THEN
            -- among others, which share some of what is read for it
            place := 1 + floor(random() * 8);
            shift := pick('0', '0', '10 seconds', '37 minutes', '1 day', '1 month')::interval;
            IF until + shift - shift <> until THEN
                shift := NULL;
            END IF;
            INSERT INTO seen SELECT first, v.series_labels, v.value, v.newest
            FROM monitoring.read_values(
                ARRAY(SELECT CASE i WHEN place THEN ROW(kind, fn, span, sel.selector, grp, shift)::monitoring.value_request
                                    ELSE other_request(kind, span, sel.selector) END FROM generate_series(1, 8) i),
                CASE WHEN shift IS NULL THEN until ELSE until + shift END) v
            WHERE v.request = place;
        ELSE
            INSERT INTO seen SELECT first, v.* FROM monitoring.top(kind, fn, grp, span, 1000, sel.selector, until) v;
        END IF;
    ELSE
        step := us(at_us(0) + pick('10 seconds', '17 seconds', '7 seconds', '1 minute', '7 minutes', '1 hour', '6 hours', '1 day', '36 hours', '7 days')::interval);
        IF step < (until_us - us(since)) / 400 THEN
            step := ((until_us - us(since)) / 400 / 3600000000 + 1) * 3600000000;
        END IF;
        first := CASE WHEN step >= 10000000 THEN floor_us(us(since), 10000000) ELSE us(since) END;
        seconds := greatest(step, 10000000) / 1e6;
        width := step;
        IF call = 'query' THEN
            INSERT INTO seen SELECT us(bucket), series_labels, value
            FROM monitoring.query(kind, fn, since, until, step * interval '1 microsecond', sel.selector, grp);
        ELSIF call = 'sketch' THEN
            INSERT INTO seen SELECT us(bucket), series_labels, monitoring.percentile(sketch, 0.95)
            FROM monitoring.sketches(kind, since, until, step * interval '1 microsecond', sel.selector, grp);
        ELSE
            width := greatest((step * pick('0.5', '1', '2', '2.5', '3', '7', '24')::numeric)::bigint, 1);
            seconds := greatest(width, 10000000) / 1e6;
            INSERT INTO seen SELECT us(bucket), series_labels, value
            FROM monitoring.rolling(kind, fn, since, until, step * interval '1 microsecond', width * interval '1 microsecond', sel.selector, grp);
        END IF;
        IF (SELECT count(*) FROM (SELECT DISTINCT b FROM seen) d) NOT IN (0, (until_us - first + step - 1) / step) THEN
            RETURN format('%s %s: buckets are missing', call, fn);
        END IF;
    END IF;

    UPDATE chosen SET g = coalesce((SELECT jsonb_object_agg(k, labels -> k) FROM unnest(grp) k WHERE labels ? k), '{}');
    -- Points are rounded outward at the beginning: what reaches into it counts there.
    CREATE TEMP TABLE cells AS
    SELECT w.b, c.g, c.v, c.sid, c.us, c.unit
    FROM chosen c
    CROSS JOIN LATERAL (SELECT greatest(c.start, first + step - width, floor_us(first + step - width, 1)) AS t) p
    CROSS JOIN LATERAL (
        SELECT first + i * step AS b
        FROM generate_series(greatest((p.t - first) / step - 1, 0), least((p.t - first + width) / step + 1, (until_us - first + step - 1) / step - 1)) i
        WHERE p.t >= first + (i + 1) * step - width AND p.t < first + (i + 1) * step) w
    WHERE c.start < until_us AND p.t < until_us AND c.start + c.unit > floor_us(first + step - width, CASE WHEN call IN ('rolling') THEN 1 ELSE 10000000 END)
      AND (c.unit > 10000000 OR c.start >= CASE WHEN call = 'rolling' THEN first + step - width ELSE floor_us(first, 10000000) END);
    bad := compare_cells(fn, seconds, kind);
    IF bad IS NULL AND call = 'batch' THEN
        SELECT format('group %s: newest %s, not %s', s.g, s.newest, at_us(e.last)) INTO bad
        FROM seen s
        JOIN (SELECT c.g, max(c.us) AS last, max(c.unit) AS unit FROM cells c GROUP BY c.g) e ON e.g = s.g
        WHERE NOT coalesce(us(s.newest) BETWEEN least(e.last, us(until)) AND least(us(until), e.last
            + greatest(e.unit, CASE WHEN span < '1 hour' THEN 60000000 WHEN span < '1 day' THEN 3600000000 ELSE 86400000000 END)), false)
        LIMIT 1;
    END IF;
    IF bad IS NOT NULL THEN
        RETURN format('%s(%s, %s) %s .. %s step %s width %s selector %s by %s: %s', call, kind, fn, at_us(first), at_us(until_us), step / 1e6,
                      width / 1e6, sel.selector, grp, bad);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION check_many(seed float8, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    bad text;
    wrong text := '';
BEGIN
    PERFORM setseed(seed);
    FOR i IN 1 .. n LOOP
        bad := check_once();
        IF bad IS NOT NULL THEN
            wrong := wrong || i || ': ' || bad || E'\n';
        END IF;
    END LOOP;
    RETURN wrong;
END $$;
SQL

sub check
{
	my ($stage) = @_;
	my $wrong = sql(sprintf('SET client_min_messages = error; SELECT check_many(%f, %d)', rand(), $checks));
	is($wrong, '', $stage);
	return;
}

sub observe
{
	my ($past, $now) = @_;
	sql(sprintf('SELECT setseed(%f)', rand()) . "; SELECT observe_past($past)");
	sql(sprintf('SELECT setseed(%f)', rand()) . "; SELECT observe_now($now)");
	return;
}

observe(1500, 200);
check('nothing flushed');
sql('SELECT monitoring.flush()');
check('nothing compacted');
observe(300, 100);
check('segments and memory');

for my $days (74, 20 + rand(30), 2 + rand(2), 0.3 + rand(0.5))
{
	sql(sprintf(q{SELECT monitoring.compact(now() - interval '1 day' * %f)}, $days));
	check(sprintf('compacted to %.2f days ago', $days));
	observe(200, 20);
	check('and observed more, some of it late');
}
sql('SELECT monitoring.flush()');
sql('SELECT monitoring.compact(now())');
check('all compacted');
observe(300, 100);
sql('SELECT monitoring.flush()');
check('late data after everything was compacted');
sql('SELECT monitoring.compact(now())');
check('and worked in');

sql(q{SELECT monitoring.reset('gauge'); SELECT monitoring.delete_series('distribution', '{"host": "a", "dc": "west"}');
	DELETE FROM raw WHERE metric = 'gauge' OR metric = 'distribution' AND labels = '{"host": "a", "dc": "west"}'});
check('after reset() and delete_series()');
observe(300, 100);
sql('SELECT monitoring.flush()');
check('recorded anew');
sql('SELECT monitoring.compact(now())');
check('and compacted');

# A standby reads the same.
$node->backup('b1');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b1', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
my $reads = q{SELECT md5(string_agg(q::text, ',' ORDER BY bucket, series_labels))
	FROM (SELECT '2000-01-01'::timestamptz + i * interval '1 day' AS since FROM generate_series(1, 1) i) s,
		 monitoring.query('distribution', 'p95', (SELECT date_trunc('day', min(at)) FROM raw), (SELECT date_trunc('day', max(at)) FROM raw), '1 day', by => '{host,dc}') q};
is($standby->safe_psql('postgres', $reads), sql($reads), 'a standby reads the same');
$standby->stop;

# Retention: what is dropped is read from the next coarser level.
sql(q{SELECT monitoring.apply_retention(now() + interval '6 hours')});
is(sql(q{SELECT count(*) FROM monitoring.partitions('segments') WHERE until <= now() - interval '1 hour'}), '0', 'segments are dropped');
check('segments and minutes dropped');
sql(q{SELECT observe((SELECT min(at) + interval '3 days' FROM raw), true); SELECT monitoring.apply_retention(now() + interval '80 days')});
is(sql(q{SELECT count(*) > 0 FROM monitoring.late l WHERE l.period < (SELECT min(since) FROM monitoring.partitions('chunks'))}), 't',
	'chunks are dropped though a late point waits for them');
sql(q{SELECT monitoring.compact(now()); SELECT monitoring.apply_retention(now() + interval '80 days')});
is(sql(q{SELECT count(*) FROM monitoring.late l WHERE l.period < (SELECT min(since) FROM monitoring.partitions('chunks'))}), '0',
	'which goes to the coarser level alone');
is(sql(q{SELECT count(*) > 0 FROM raw WHERE at < (SELECT min(since) FROM monitoring.partitions('chunks'))}), 't', 'chunks are dropped');
check('chunks dropped');
sql(q{UPDATE monitoring.retention_policies SET keep = '20 days' WHERE relation = 'hourly';
	SELECT monitoring.apply_retention(now() + interval '80 days')});
is(sql(q{SELECT count(*) > 0 FROM raw WHERE at < (SELECT min(since) FROM monitoring.partitions('hourly'))}), 't', 'hourly points are dropped');
check('hourly points dropped');

$node->stop;
done_testing();
