-- Every rule of every pack by itself: values just beside its threshold raise nothing, those just beyond let it fire with its
-- severity, those between threshold and resolve threshold keep it firing, and beyond that it is resolved. What is recorded is made
-- from the rule's own definition (metric, function, window, labels, denominator, shift, horizon), on virtual time some days ago.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
-- neither evaluates the worker, nor does it record what is recorded here
CREATE TEMP TABLE apf_jobs AS SELECT name FROM monitoring.jobs WHERE enabled AND name NOT IN ('flush', 'compact');
UPDATE monitoring.jobs SET enabled = false WHERE name IN (SELECT name FROM apf_jobs);
-- it may be about to run one; it has taken note when they are no longer listed
DO $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM monitoring.status WHERE database = current_database() AND job IN (SELECT name FROM apf_jobs));
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT count(monitoring.drop_alert_rule(name)) AS rules_before FROM monitoring.alert_rules;

CREATE SCHEMA apf;
CREATE TABLE apf.rules AS
	SELECT p.pack, r.rule ->> 'name' AS name, coalesce(r.rule ->> 'kind', 'metric') AS kind, r.rule ->> 'metric' AS metric, r.rule ->> 'fn' AS fn,
		(r.rule ->> 'over')::interval AS over, r.rule ->> 'op' AS op, (r.rule ->> 'threshold')::float8 AS threshold,
		(r.rule ->> 'resolve_threshold')::float8 AS resolve_threshold, coalesce(r.rule ->> 'pending_for', '0')::interval AS pending_for,
		r.rule ->> 'severity' AS severity, coalesce(r.rule -> 'labels', '{}') AS labels,
		(SELECT coalesce(jsonb_object_agg(b, 'x'), '{}') FROM jsonb_array_elements_text(r.rule -> 'by') AS b) AS groups,
		coalesce(r.rule -> 'params', '{}') AS params, r.rule ->> 'no_data' AS no_data, r.n
	FROM monitoring.rule_packs AS p CROSS JOIN LATERAL jsonb_array_elements(p.document -> 'rules') WITH ORDINALITY AS r (rule, n) WHERE p.builtin;

-- How far apart observations are: whole minutes that divide the window, a dozen of them or as many as there are.
CREATE FUNCTION apf.step(over interval) RETURNS interval LANGUAGE sql AS $$
	SELECT max(m) * interval '1 minute' FROM generate_series(1, 5000) AS m
	WHERE (extract(epoch FROM over) / 60)::int % m = 0 AND m <= greatest(1, extract(epoch FROM over) / 720)
$$;
-- The kind of metric that a function is for.
CREATE FUNCTION apf.kind_for(fn text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN fn IN ('sum', 'increase', 'rate') THEN 'counter' WHEN fn = 'count' OR fn ~ '^p\d' THEN 'distribution' ELSE 'gauge' END
$$;
-- Observations whose fn, over every window that ends from a time until another, is a value.
CREATE FUNCTION apf.observe(metric text, fn text, over interval, labels jsonb, value float8, since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	kind text := apf.kind_for(fn);
	every interval := apf.step(over);
	share float8 := extract(epoch FROM every) / extract(epoch FROM over);
BEGIN
	PERFORM monitoring.record_at(metric, CASE kind WHEN 'counter' THEN value * share WHEN 'gauge' THEN value ELSE CASE fn WHEN 'count' THEN 1 ELSE value END END, p.t, labels, kind)
	FROM (SELECT t, row_number() OVER (ORDER BY t) AS n FROM generate_series(since - over, until - interval '1 minute', every) AS t) AS p
	-- of what is counted, as many as have come by now less those that had before
	CROSS JOIN LATERAL generate_series(1, CASE fn WHEN 'count' THEN floor(p.n * value * share)::int - floor((p.n - 1) * value * share)::int ELSE 1 END);
END $$;

-- Make a rule's value what is asked for, at every time from one until another.
CREATE PROCEDURE apf.inject(r apf.rules, value float8, since timestamptz, until timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	base constant float8 := greatest(400, 4 * (r.params ->> 'min_denominator')::float8);   -- of ratios
	now_value float8 := r.threshold * 0.8;
	ahead interval;
BEGIN
	PERFORM monitoring.delete_series(m) FROM unnest(ARRAY[r.metric, r.params ->> 'metric', 'nps_score', 'certificate_expiry_timestamp_seconds']) AS m WHERE m IS NOT NULL;
	DELETE FROM monitoring.statement_deltas AS s WHERE s.queryid = 7002;
	DELETE FROM monitoring.statement_hours AS s WHERE s.queryid = 7002;
	DELETE FROM monitoring.statement_totals AS s WHERE s.queryid IN (7002, 7003);
	DELETE FROM monitoring.login_attempts AS l WHERE l.username = 'apf';
	DELETE FROM monitoring.change_log AS c WHERE c.username = 'apf';
	COMMIT;
	CASE
	WHEN r.kind = 'metric' AND r.op IN ('<', '<=') AND value <= 0 AND apf.kind_for(r.fn) = 'counter' THEN
		-- nothing since a while
		PERFORM monitoring.record_at(r.metric, 1, since - r.over - interval '2 hours', r.labels || r.groups, 'counter');
		COMMIT;
		-- that there is such a metric is known
		PERFORM monitoring.flush();
	WHEN r.kind = 'metric' THEN
		PERFORM apf.observe(r.metric, r.fn, r.over, r.labels || r.groups, value, since, until);
	WHEN r.kind = 'ratio' THEN
		PERFORM apf.observe(r.metric, r.fn, r.over, r.labels || r.groups, value * base, since, until);
		-- the denominator, of which the numerator may be a part
		PERFORM apf.observe(coalesce(r.params ->> 'metric', r.metric), coalesce(r.params ->> 'fn', r.fn), r.over,
			coalesce(r.params -> 'labels', (SELECT jsonb_object_agg(l.key, 'other') FROM jsonb_each(r.labels) AS l WHERE r.params ->> 'metric' = r.metric), '{}') || r.groups,
			CASE WHEN r.params ->> 'metric' = r.metric THEN base * (1 - value) ELSE base END, since, until);
	WHEN r.kind = 'change' THEN
		PERFORM monitoring.record_at(r.metric, base, since - (r.params ->> 'shift')::interval - interval '1 minute', r.labels || r.groups, apf.kind_for(r.fn)),
			monitoring.record_at(r.metric, base * value, since - interval '1 minute', r.labels || r.groups, apf.kind_for(r.fn));
	WHEN r.kind = 'absence' THEN
		PERFORM monitoring.record_at(r.metric, 1, since - make_interval(secs => value), r.labels || r.groups);
	WHEN r.kind = 'forecast' THEN
		-- a line that reaches the value at the horizon
		ahead := (r.params ->> 'horizon')::interval;
		PERFORM monitoring.record_at(r.metric, now_value + (value - now_value) * extract(epoch FROM t - since)::float8 / extract(epoch FROM ahead)::float8, t, r.labels || r.groups, 'gauge')
		FROM generate_series(since - r.over - interval '1 hour', until - interval '1 minute', r.over / 120) AS t;
	WHEN r.kind = 'slow_query' THEN
		PERFORM monitoring.ensure_partition('statement_deltas', since);
		INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds)
		VALUES (since - interval '1 minute', since - interval '2 minutes', 7002, 10, true, 10, value * 10, value);
	WHEN r.name = 'StatementRegressed' THEN
		-- a hundred executions in an hour of the week before, and in the last one
		PERFORM monitoring.ensure_partition('statement_deltas', since), monitoring.ensure_partition('statement_hours', since - interval '3 days');
		INSERT INTO monitoring.statement_hours (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency)
		SELECT h, h - interval '1 hour', 7002, 10, true, 100, 3, 0.03, (SELECT monitoring.sketch(0.03 + 0 * g) FROM generate_series(1, 100) AS g)
		FROM date_trunc('hour', since - interval '3 days') AS h;
		INSERT INTO monitoring.statement_deltas (bucket, since, queryid, userid, toplevel, calls, total_seconds, max_seconds, latency)
		SELECT since - interval '1 minute', since - interval '2 minutes', 7002, 10, true, 100, 3 * value, 0.03 * value, monitoring.sketch(0.03 * value + 0 * g)
		FROM generate_series(1, 100) AS g;
	WHEN r.name = 'NewSlowStatement' THEN
		-- a slow one that has been known for long, and one since an hour
		INSERT INTO monitoring.statement_totals (queryid, userid, toplevel, first_seen, last_seen, calls, max_seconds)
		VALUES (7002, 10, true, since - interval '1 hour', since, 1, value), (7003, 10, true, since - interval '3 days', since, 1, 100);
	WHEN r.name LIKE 'Login%' AND r.kind = 'sql' THEN
		-- failures of another kind do not count, and what worked came after them
		PERFORM monitoring.ensure_partition('login_attempts', since);
		INSERT INTO monitoring.login_attempts (at, last_at, attempts, outcome, reason, username, client, pid)
		SELECT since - o.ago, since - o.ago, o.attempts, o.outcome, o.reason, 'apf', '192.0.2.1', 1
		FROM (VALUES ('failed', 'password', value::integer, interval '2 minutes'), ('failed', 'database', 100, '2 minutes'), ('ok', 'md5', 100, '1 minute')) AS o (outcome, reason, attempts, ago);
	WHEN r.name = 'PrivilegeEscalation' THEN
		PERFORM monitoring.ensure_partition('change_log', since);
		INSERT INTO monitoring.change_log (at, class, command, statement, username, pid, number)
		SELECT since - interval '1 minute', 'role', 'ALTER ROLE', CASE WHEN n <= value THEN 'ALTER ROLE a SUPERUSER' ELSE 'ALTER ROLE a NOSUPERUSER' END, 'apf', 1, n FROM generate_series(1, 3) AS n;
	WHEN r.name LIKE 'Certificate%' THEN
		PERFORM monitoring.record_at('certificate_expiry_timestamp_seconds', extract(epoch FROM since) + value, since - interval '1 hour', '{"check": "shop"}', 'gauge');
	WHEN r.name = 'NpsLow' THEN
		-- promoters and detractors
		PERFORM monitoring.record_at('nps_score', CASE WHEN n <= 100 + value THEN 10 ELSE 3 END, since - n * interval '1 hour') FROM generate_series(1, 200) AS n;
	WHEN r.kind = 'anomaly' THEN
		-- so many orders in each hour of the day, each week the same but for a little; then, in the last hours, a share of them
		PERFORM monitoring.record_at(r.metric, (100 + 50 * sin(extract(hour FROM t) / 4) + (h * 7919) % 11) * CASE WHEN t > since - interval '4 hours' THEN value ELSE 1 END,
			t, r.labels || r.groups, 'counter')
		FROM generate_series(0, 5 * 7 * 24) AS h CROSS JOIN LATERAL (SELECT since - interval '30 minutes' - h * interval '1 hour' AS t) AS p;
	END CASE;
	COMMIT;
END $$;

-- Values just beside a number, on either side, as far as what is recorded is fine enough for.
CREATE FUNCTION apf.margin(r apf.rules, bound float8) RETURNS float8 LANGUAGE sql AS $$
	SELECT CASE r.kind WHEN 'absence' THEN 120 WHEN 'ratio' THEN greatest(least(0.03 * bound, (1 - bound) / 2), CASE r.fn WHEN 'count' THEN 1.0 / 400 ELSE 0 END) WHEN 'sql' THEN CASE WHEN r.name LIKE '%Statement%' THEN 0.1 ELSE greatest(2, 0.03 * bound) END
		ELSE greatest(0.03 * abs(bound), CASE WHEN bound = 0 THEN 1 ELSE 0 END) END
$$;
CREATE TABLE apf.phases AS
	SELECT r.pack, r.name, p.n, p.phase, p.value, p.expected
	FROM apf.rules AS r
	CROSS JOIN LATERAL (SELECT CASE WHEN r.op IN ('>', '>=') THEN 1 ELSE -1 END AS up) AS u
	CROSS JOIN LATERAL (VALUES
		(1, 'beside', r.threshold - u.up * apf.margin(r, r.threshold), NULL),
		(2, 'beyond', r.threshold + u.up * apf.margin(r, r.threshold), 'firing'),
		(3, 'between', CASE WHEN r.fn IS DISTINCT FROM 'count' THEN (r.threshold + r.resolve_threshold) / 2 END, 'firing'),
		(4, 'back', coalesce(r.resolve_threshold, r.threshold) - u.up * apf.margin(r, coalesce(r.resolve_threshold, r.threshold)), 'resolved')
	) AS p (n, phase, value, expected)
	WHERE r.kind <> 'anomaly' AND p.value IS NOT NULL
	UNION ALL
	-- what makes a score is not known beforehand
	SELECT r.pack, r.name, p.n, p.phase, p.value, p.expected
	FROM apf.rules AS r
	CROSS JOIN (VALUES (1, 'beside', 0.95, NULL), (2, 'beyond', 0.2, 'firing'), (4, 'back', 1, 'resolved')) AS p (n, phase, value, expected)
	WHERE r.kind = 'anomaly';
-- nothing happens less often than never
UPDATE apf.phases AS p SET value = CASE WHEN p.phase = 'beyond' THEN 0 ELSE 1 END FROM apf.rules AS r
WHERE r.name = p.name AND r.op = '<=' AND r.threshold = 0;
UPDATE apf.phases AS p SET value = 0 FROM apf.rules AS r WHERE r.name = p.name AND p.value < 0 AND r.kind = 'metric';
ALTER TABLE apf.phases ADD state text, ADD severity text, ADD error text;

CREATE PROCEDURE apf.try_rule(r apf.rules) LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz := date_trunc('day', clock_timestamp()) - interval '9 days 12 hours';
	phase apf.phases;
BEGIN
	PERFORM monitoring.import_rules(jsonb_build_object('format', 'monitoring alert rules', 'version', 1, 'rules', (
		SELECT jsonb_agg(d.rule) FROM monitoring.rule_packs AS p CROSS JOIN LATERAL jsonb_array_elements(p.document -> 'rules') AS d (rule)
		WHERE p.pack = r.pack AND d.rule ->> 'name' = r.name)));
	FOR phase IN SELECT * FROM apf.phases AS p WHERE p.name = r.name ORDER BY p.n LOOP
		start := start + interval '5 minutes';
		CALL apf.inject(r, phase.value, start, start + r.pending_for);
		-- each rule is due in a session that has not evaluated yet
		PERFORM monitoring.remember_evaluation(NULL), monitoring.evaluate_alerts(start);
		PERFORM monitoring.remember_evaluation(NULL), monitoring.evaluate_alerts(start + r.pending_for);
		UPDATE apf.phases AS p
		SET state = (SELECT string_agg(a.state, ', ') FROM monitoring.alerts AS a WHERE a.rule = r.name),
			severity = (SELECT min(a.severity) FROM monitoring.alerts AS a WHERE a.rule = r.name),
			error = (SELECT d.last_error FROM monitoring.alert_rules AS d WHERE d.name = r.name)
		WHERE p.name = r.name AND p.n = phase.n;
		COMMIT;
		start := start + r.pending_for;
	END LOOP;
	-- no data at all, where that is a breach
	IF r.no_data = 'alerting' THEN
		PERFORM monitoring.delete_series(r.metric);
		PERFORM monitoring.evaluate_alerts(start + n * interval '1 minute') FROM generate_series(1, 5) AS n;
		INSERT INTO apf.phases (pack, name, n, phase, expected, state, severity)
		SELECT r.pack, r.name, 5, 'no data', 'firing, resolved', string_agg(a.state, ', ' ORDER BY a.state), min(a.severity) FROM monitoring.alerts AS a WHERE a.rule = r.name;
	END IF;
	PERFORM monitoring.drop_alert_rule(r.name);
	COMMIT;
END $$;

DO $$
DECLARE
	r apf.rules;
BEGIN
	FOR r IN SELECT * FROM apf.rules ORDER BY pack, n LOOP
		CALL apf.try_rule(r);
	END LOOP;
END $$;

SELECT p.pack, count(DISTINCT p.name) AS rules, count(*) FILTER (WHERE p.phase = 'beside') AS beside, count(*) FILTER (WHERE p.phase = 'beyond') AS beyond,
	count(*) FILTER (WHERE p.phase = 'between') AS between, count(*) FILTER (WHERE p.phase = 'back') AS back, count(*) FILTER (WHERE p.phase = 'no data') AS no_data
FROM apf.phases AS p GROUP BY p.pack ORDER BY p.pack;
-- what is not as it should be
SELECT p.pack, p.name, p.phase, p.value, p.expected, p.state, p.severity, p.error
FROM apf.phases AS p JOIN apf.rules AS r ON r.name = p.name
WHERE p.state IS DISTINCT FROM p.expected OR p.severity <> r.severity OR p.error IS NOT NULL ORDER BY p.pack, r.n, p.n;

-- All of them together, with everything as it should be: silence, and no rule is in error.
SELECT count(*) AS rules, count(*) FILTER (WHERE i.outcome <> 'created') AS not_created FROM monitoring.list_packs() AS p CROSS JOIN LATERAL monitoring.install_rules(p.pack) AS i;
SELECT count(monitoring.delete_series(m)) AS metrics FROM (SELECT DISTINCT unnest(ARRAY[r.metric, r.params ->> 'metric', 'nps_score', 'certificate_expiry_timestamp_seconds']) AS m FROM apf.rules AS r) AS n WHERE m IS NOT NULL;
SELECT date_trunc('day', clock_timestamp()) - interval '3 days 12 hours' AS t0 \gset
CREATE TABLE apf.healthy (metric text, kind text, value float8, labels jsonb);
INSERT INTO apf.healthy VALUES
	('check_up', 'gauge', 1, '{"check": "db", "check_severity": "critical"}'), ('check_up', 'gauge', 1, '{"check": "site", "check_severity": "high"}'),
	('http_server_request_duration_seconds', 'distribution', 0.08, '{"service": "s", "method": "GET", "route": "/", "status_class": "2xx"}'),
	('errors_total', 'counter', 0.2, '{"service": "s"}'), ('websocket_connections', 'gauge', 500, '{"endpoint": "e"}'),
	('job_duration_seconds', 'distribution', 2, '{"queue": "q", "outcome": "ok"}'), ('queue_oldest_seconds', 'gauge', 3, '{"queue": "q"}'), ('health_score', 'gauge', 95, '{}'),
	('payments_total', 'counter', 10, '{"provider": "p", "outcome": "ok"}'), ('payment_webhooks_total', 'counter', 10, '{"provider": "p", "outcome": "ok"}'),
	('orders_total', 'counter', 5, '{}'), ('booking_steps_total', 'counter', 10, '{"step": "start"}'), ('bookings_total', 'counter', 8, '{"outcome": "ok"}'),
	('inventory_items', 'gauge', 200, '{"category": "c"}'), ('subscriptions_ended_total', 'counter', 0.1, '{}'), ('subscriptions_active', 'gauge', 1000, '{}'),
	('nps_score', 'distribution', 10, '{}'), ('rating_score', 'distribution', 4.8, '{"subject": "s"}'),
	('pg_up', 'gauge', 1, '{}'), ('pg_connections_used_ratio', 'gauge', 0.3, '{}'), ('pg_block_reads_total', 'counter', 5000, '{"database": "d", "outcome": "hit"}'),
	('pg_block_reads_total', 'counter', 50, '{"database": "d", "outcome": "miss"}'),
	('pg_replication_lag_seconds', 'gauge', 0.1, '{"standby": "s"}'), ('pg_replication_slot_retained_bytes', 'gauge', 1e7, '{"slot": "s"}'), ('pg_xid_age', 'gauge', 1e8, '{"database": "d"}'),
	('pg_longest_transaction_seconds', 'gauge', 5, '{"database": "d"}'), ('pg_longest_idle_transaction_seconds', 'gauge', 1, '{"database": "d"}'),
	('pg_lock_longest_wait_seconds', 'gauge', 0, '{"database": "d"}'), ('pg_locks_waiting', 'gauge', 0, '{"database": "d"}'), ('pg_deadlocks_total', 'counter', 0, '{"database": "d"}'),
	('pg_wait_seconds_total', 'counter', 120, '{"wait_event_type": "CPU", "wait_event": "CPU"}'), ('pg_wait_seconds_total', 'counter', 30, '{"wait_event_type": "IO", "wait_event": "DataFileRead"}'),
	('pg_wait_seconds_total', 'counter', 5, '{"wait_event_type": "LWLock", "wait_event": "WALWrite"}'), ('pg_wait_seconds_total', 'counter', 5, '{"wait_event_type": "Lock", "wait_event": "transactionid"}'),
	('pg_temp_bytes_total', 'counter', 1e5, '{"database": "d"}'), ('pg_transactions_total', 'counter', 100, '{"database": "d", "outcome": "committed"}'),
	('pg_transactions_total', 'counter', 1, '{"database": "d", "outcome": "rolled_back"}'), ('pg_checkpoints_total', 'counter', 0.2, '{"cause": "timed"}'), ('pg_checkpoints_total', 'counter', 0.01, '{"cause": "requested"}'),
	('pg_archive_failed_total', 'counter', 0, '{}'), ('pg_sequence_used_ratio', 'gauge', 0.1, '{"database": "d", "sequence": "s"}'), ('pg_table_dead_tuples_ratio', 'gauge', 0.05, '{"database": "d", "table": "t"}'),
	('host_cpu_used_ratio', 'gauge', 0.3, '{"host": "h"}'), ('host_memory_used_ratio', 'gauge', 0.5, '{"host": "h"}'), ('host_disk_used_ratio', 'gauge', 0.5, '{"host": "h", "mount": "/"}'),
	('logins_total', 'counter', 10, '{"service": "s", "outcome": "ok"}'), ('logins_total', 'counter', 1, '{"service": "s", "outcome": "failed"}'), ('pg_login_failures_total', 'counter', 0.1, '{}'),
	('pg_errors_total', 'counter', 1, '{"database": "d", "sqlstate_class": "42"}'), ('rate_limited_requests_total', 'counter', 1, '{"service": "s"}'),
	('certificate_expiry_timestamp_seconds', 'gauge', extract(epoch FROM :'t0'::timestamptz + interval '60 days'), '{"check": "c"}'),
	('page_load_duration_seconds', 'distribution', 1, '{"page": "p"}'), ('web_vitals_lcp_seconds', 'distribution', 1.5, '{"page": "p"}'), ('web_vitals_inp_seconds', 'distribution', 0.1, '{"page": "p"}'),
	('web_vitals_cls', 'distribution', 0.02, '{"page": "p"}'), ('web_vitals_fcp_seconds', 'distribution', 1, '{"page": "p"}'), ('web_vitals_ttfb_seconds', 'distribution', 0.3, '{"page": "p"}'),
	('web_vitals_fid_seconds', 'distribution', 0.05, '{"page": "p"}'), ('page_js_heap_bytes', 'distribution', 2e7, '{"page": "p"}'), ('page_bundle_bytes', 'gauge', 5e4, '{"bundle": "b"}');
-- every metric that a rule reads is there
SELECT DISTINCT m FROM apf.rules AS r CROSS JOIN LATERAL unnest(ARRAY[r.metric, r.params ->> 'metric']) AS m WHERE m NOT IN (SELECT h.metric FROM apf.healthy AS h);
SELECT count(monitoring.record_at(h.metric, h.value, :'t0'::timestamptz + n * interval '1 minute', h.labels, h.kind)) > 2000 AS recorded
FROM apf.healthy AS h CROSS JOIN generate_series(-40, 29) AS n;
SELECT monitoring.remember_evaluation(NULL);
SELECT sum(monitoring.evaluate_alerts(:'t0'::timestamptz + n * interval '3 minutes')) AS transitions FROM generate_series(0, 10) AS n;
SELECT rule, state, labels, value FROM monitoring.alerts;
SELECT name, last_error FROM monitoring.alert_rules WHERE last_error IS NOT NULL;

-- where nothing succeeds any more, nothing is counted as a success: its share is zero, not unknown
SELECT count(monitoring.delete_series(m)) AS metrics FROM unnest('{payments_total,bookings_total,booking_steps_total}'::text[]) AS m;
SELECT count(monitoring.record_at(m.metric, 10, :'t0'::timestamptz + n * interval '1 minute', m.labels, 'counter')) AS recorded
FROM (VALUES ('payments_total', '{"provider": "x", "outcome": "failed"}'::jsonb), ('booking_steps_total', '{"step": "start"}')) AS m (metric, labels)
CROSS JOIN generate_series(31, 99) AS n;
SELECT monitoring.evaluate_alerts(:'t0'::timestamptz + n * interval '5 minutes') > 0 AS transitions FROM generate_series(20, 20) AS n;
SELECT rule, state, value FROM monitoring.alerts WHERE rule ~ '^(Payment|Booking)' ORDER BY rule;

SELECT count(monitoring.drop_alert_rule(name)) AS rules FROM monitoring.alert_rules;
SELECT count(monitoring.delete_series(m)) AS metrics FROM (SELECT DISTINCT h.metric AS m FROM apf.healthy AS h) AS n;
DELETE FROM monitoring.alert_history; DELETE FROM monitoring.alert_events; DELETE FROM monitoring.alert_handling;
DELETE FROM monitoring.statement_deltas WHERE queryid = 7002;
DELETE FROM monitoring.statement_hours WHERE queryid = 7002;
DELETE FROM monitoring.statement_totals WHERE queryid IN (7002, 7003);
DROP SCHEMA apf CASCADE;
UPDATE monitoring.jobs SET enabled = true WHERE name IN (SELECT name FROM apf_jobs);
