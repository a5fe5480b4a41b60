-- advisors of vacuum: dead rows, frozen ids, and what keeps old rows alive.

CREATE FUNCTION monitoring.find_unvacuumed_tables(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	WITH tables AS (
		SELECT t.*, pg_stat_get_dead_tuples(t.relation) AS dead, pg_stat_get_live_tuples(t.relation) AS live,
			greatest(pg_stat_get_last_vacuum_time(t.relation), pg_stat_get_last_autovacuum_time(t.relation)) AS vacuumed_at,
			monitoring.vacuum_due_at(t.options, t.tuples) AS due_at
		FROM monitoring.advised_tables() AS t
		WHERE t.kind IN ('r', 'm')
	)
	SELECT 'table', t.identity,
		CASE WHEN t.dead > (thresholds ->> 'high_ratio')::float8 * (t.dead + t.live) THEN 'high' ELSE 'medium' END,
		t.dead / nullif(t.dead + t.live, 0)::float8,
		format('%s of %s rows of %s are dead, more than autovacuum waits for.', t.dead, t.dead + t.live, t.identity),
		jsonb_build_object('dead_rows', t.dead, 'rows', t.live, 'autovacuum_due_at', round(t.due_at::numeric), 'vacuumed_at', t.vacuumed_at, 'bytes', t.bytes,
			'oldest_xmin_age', (SELECT max(age(a.backend_xmin)) FROM pg_stat_activity AS a WHERE a.pid <> pg_backend_pid())),
		t.bytes * t.dead / nullif(t.dead + t.live, 0), 'bytes',
		format('VACUUM (ANALYZE) %s;', t.identity),
		format('SELECT coalesce(pg_stat_get_dead_tuples(to_regclass(%L)) <= %s, true) AS fixed', t.identity,
			greatest(round((t.due_at * (thresholds ->> 'times_due')::float8)::numeric), (thresholds ->> 'min_rows')::numeric))
	FROM tables AS t
	WHERE t.dead > t.due_at * (thresholds ->> 'times_due')::float8 AND t.dead > (thresholds ->> 'min_rows')::float8
$$;
COMMENT ON FUNCTION monitoring.find_unvacuumed_tables(timestamptz, jsonb) IS 'Advisor unvacuumed_tables. Thresholds: min_rows that are dead; times_due: so many times those at which autovacuum is to come; high_ratio of dead rows.';

CREATE FUNCTION monitoring.find_autovacuum_off(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'table', t.identity, 'medium', t.impact,
		format('Autovacuum is switched off for table %s%s.', t.identity, CASE o.name WHEN 'toast' THEN '''s large values' ELSE '' END),
		jsonb_build_object('rows', t.tuples, 'dead_rows', pg_stat_get_dead_tuples(t.relation), 'options', to_jsonb(t.options)), NULL::float8, NULL,
		format('ALTER %s %s RESET (%sautovacuum_enabled);', CASE t.kind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, t.identity,
			CASE o.name WHEN 'toast' THEN 'toast.' ELSE '' END),
		format('SELECT NOT EXISTS (SELECT FROM pg_class AS c CROSS JOIN unnest(c.reloptions) AS o WHERE c.oid = %s AND o = ANY (%L)) AS fixed',
			CASE o.name WHEN 'toast' THEN format('(SELECT m.reltoastrelid FROM pg_class AS m WHERE m.oid = to_regclass(%L))', t.identity)
				ELSE format('to_regclass(%L)', t.identity) END, '{autovacuum_enabled=false,autovacuum_enabled=off,autovacuum_enabled=0,autovacuum_enabled=no}')
	FROM monitoring.advised_tables() AS t
	LEFT JOIN pg_class AS x ON x.oid = t.toast
	CROSS JOIN LATERAL (
		SELECT CASE WHEN EXISTS (SELECT FROM unnest(t.options) AS u WHERE u ~ '^autovacuum_enabled=(false|off|0|no)$') THEN 'table'
			WHEN EXISTS (SELECT FROM unnest(x.reloptions) AS u WHERE u ~ '^autovacuum_enabled=(false|off|0|no)$') THEN 'toast' END AS name) AS o
	WHERE o.name IS NOT NULL AND t.tuples >= (thresholds ->> 'min_rows')::float8
$$;
COMMENT ON FUNCTION monitoring.find_autovacuum_off(timestamptz, jsonb) IS 'Advisor autovacuum_off: tables with autovacuum_enabled = off. Thresholds: min_rows.';

CREATE FUNCTION monitoring.find_old_ids(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
	-- the server stops giving out ids three million before 2^31
	WITH limits AS (
		SELECT 2144483647::float8 AS stop, (thresholds ->> 'medium_age')::float8 AS medium, (thresholds ->> 'high_age')::float8 AS high,
			(thresholds ->> 'critical_ratio')::float8 * 2144483647 AS critical, (thresholds ->> 'times_freeze_age')::float8 AS times
	), databases AS (
		SELECT d.datname, v.kind, v.age
		FROM pg_database AS d
		CROSS JOIN LATERAL (VALUES ('transaction', greatest(age(d.datfrozenxid), 0)), ('multixact', greatest(mxid_age(d.datminmxid), 0))) AS v (kind, age)
	), tables AS (
		SELECT t.identity, v.kind, v.age,
			v.age / nullif(least(monitoring.table_option(t.options, v.setting), current_setting(v.setting)::float8), 0) AS times, t.impact
		FROM monitoring.advised_tables() AS t
		JOIN pg_class AS c ON c.oid = t.relation AND c.relkind <> 'p'
		CROSS JOIN LATERAL (VALUES ('transaction', age(c.relfrozenxid), 'autovacuum_freeze_max_age'),
			('multixact', mxid_age(c.relminmxid), 'autovacuum_multixact_freeze_max_age')) AS v (kind, age, setting)
	)
	SELECT 'database', format('%s (%s ids)', quote_ident(d.datname), d.kind),
		CASE WHEN d.age >= l.critical THEN 'critical' WHEN d.age >= l.high THEN 'high' ELSE 'medium' END, least(d.age / l.stop, 1),
		format('Database %I has rows of %s ids ago; the server stops writing when there are %s.', d.datname, d.kind || ' ' || d.age, l.stop),
		jsonb_build_object('age', d.age, 'stops_at', l.stop, 'used_ratio', round((d.age / l.stop)::numeric, 4)), NULL::float8, NULL,
		-- VACUUM does one database
		CASE WHEN d.datname = current_database() THEN 'VACUUM (FREEZE);' END,
		format('SELECT %s(d.%I) < %s AS fixed FROM pg_database AS d WHERE d.datname = %L', CASE d.kind WHEN 'transaction' THEN 'age' ELSE 'mxid_age' END,
			CASE d.kind WHEN 'transaction' THEN 'datfrozenxid' ELSE 'datminmxid' END, l.medium, d.datname)
	FROM databases AS d
	CROSS JOIN limits AS l
	WHERE d.age >= l.medium
	UNION ALL
	SELECT 'table', format('%s (%s ids)', t.identity, t.kind), 'medium', least(t.age / l.stop, 1),
		format('Autovacuum should have frozen table %s at a tenth fewer %s ids than the %s that it has come to.', t.identity, t.kind, t.age),
		jsonb_build_object('age', t.age, 'times_freeze_age', round(t.times::numeric, 3)), NULL, NULL, format('VACUUM (FREEZE) %s;', t.identity),
		format('SELECT coalesce((SELECT %s(c.%I) < %s FROM pg_class AS c WHERE c.oid = to_regclass(%L)), true) AS fixed',
			CASE t.kind WHEN 'transaction' THEN 'age' ELSE 'mxid_age' END, CASE t.kind WHEN 'transaction' THEN 'relfrozenxid' ELSE 'relminmxid' END, t.age, t.identity)
	FROM tables AS t
	CROSS JOIN limits AS l
	WHERE t.times >= l.times
	UNION ALL
	-- autovacuum does not see what a session keeps to itself, but the database's age does
	SELECT 'temporary table', format('%I.%I', n.nspname, c.relname), 'medium', least(age(c.relfrozenxid) / l.stop, 1),
		format('Temporary table %I.%I is %s transactions old: only its session can vacuum or drop it, and the database''s age waits for it.',
			n.nspname, c.relname, age(c.relfrozenxid)),
		jsonb_build_object('age', age(c.relfrozenxid)), NULL, NULL, NULL,
		format('SELECT to_regclass(%L) IS NULL AS fixed', format('%I.%I', n.nspname, c.relname))
	FROM pg_class AS c
	JOIN pg_namespace AS n ON n.oid = c.relnamespace
	CROSS JOIN limits AS l
	WHERE c.relpersistence = 't' AND c.relkind = 'r' AND age(c.relfrozenxid) >= l.times * current_setting('autovacuum_freeze_max_age')::float8
$$;
COMMENT ON FUNCTION monitoring.find_old_ids(timestamptz, jsonb) IS 'Advisor old_ids: ages of transaction and multixact ids. Thresholds: medium_age and high_age of a database, critical_ratio of the age at which the server stops; times_freeze_age: so many times autovacuum_freeze_max_age, of a table.';

CREATE FUNCTION monitoring.find_xmin_holders(at timestamptz, thresholds jsonb) RETURNS SETOF monitoring.advice_row
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH holders AS (
		SELECT 'session' AS object_type, a.pid::text AS object_name,
			format('session %s of %s (%s), %s', a.pid, coalesce(a.usename, '?'), coalesce(nullif(a.application_name, ''), 'no application name'), coalesce(a.state, '?')) AS who,
			greatest(age(a.backend_xmin), age(a.backend_xid), 0) AS age,
			find_xmin_holders.at - a.xact_start AS since, a.backend_type,
			format('SELECT pg_terminate_backend(%s);', a.pid) AS fix,
			format('SELECT NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = %s AND a.xact_start = %L) AS fixed', a.pid, a.xact_start) AS verify
		FROM pg_stat_activity AS a
		WHERE a.backend_type NOT IN ('autovacuum worker', 'walsender') AND a.pid <> pg_backend_pid() AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
		UNION ALL
		SELECT 'prepared transaction', quote_literal(p.gid), format('prepared transaction %L of %s', p.gid, p.owner), age(p.transaction),
			find_xmin_holders.at - p.prepared, NULL, CASE WHEN p.database = current_database() THEN format('ROLLBACK PREPARED %L;', p.gid) END,
			format('SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts AS p WHERE p.gid = %L) AS fixed', p.gid)
		FROM pg_prepared_xacts AS p
		UNION ALL
		SELECT 'replication slot', quote_ident(s.slot_name), format('replication slot %I', s.slot_name), greatest(age(s.xmin), age(s.catalog_xmin)),
			NULL, NULL, CASE WHEN NOT s.active THEN format('SELECT pg_drop_replication_slot(%L);', s.slot_name) END,
			NULL
		FROM pg_replication_slots AS s
		WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
		UNION ALL
		SELECT 'standby', quote_ident(r.application_name), format('standby %I, whose queries hot_standby_feedback protects', r.application_name),
			age(r.backend_xmin), NULL, NULL, NULL, NULL
		FROM pg_stat_replication AS r
		WHERE r.backend_xmin IS NOT NULL
	)
	SELECT DISTINCT ON (h.object_type, h.object_name) h.object_type, h.object_name,
		CASE WHEN h.since >= (thresholds ->> 'high_time')::interval OR h.age >= (thresholds ->> 'high_age')::bigint THEN 'high' ELSE 'medium' END,
		least(greatest(h.age, 0) / 2144483647::float8, 1),
		format('Vacuum can remove no row that was deleted in the last %s transactions: %s may still want to see it.', h.age, h.who),
		jsonb_build_object('xmin_age', h.age, 'held_for_seconds', round(extract(epoch FROM h.since)), 'backend_type', h.backend_type), NULL::float8, NULL, h.fix, h.verify
	FROM holders AS h
	WHERE h.since >= (thresholds ->> 'medium_time')::interval OR h.age >= (thresholds ->> 'medium_age')::bigint
	ORDER BY h.object_type, h.object_name, h.age DESC
$$;
COMMENT ON FUNCTION monitoring.find_xmin_holders(timestamptz, jsonb) IS 'Advisor xmin_holders: transactions, prepared transactions, slots and standbys that keep old rows alive. Thresholds: medium_time, high_time (intervals), medium_age, high_age (transactions), either of both.';

INSERT INTO monitoring.advisors (name, function, category, every, thresholds, description, builtin) VALUES
	('unvacuumed_tables', 'monitoring.find_unvacuumed_tables', 'vacuum', '6 hours', '{"min_rows": 10000, "times_due": 2, "high_ratio": 0.2}',
		'Tables with more than 10,000 dead rows and twice those at which autovacuum is to come; high if a fifth of the rows are dead.', true),
	('autovacuum_off', 'monitoring.find_autovacuum_off', 'vacuum', '1 day', '{"min_rows": 1000}', 'Tables for which autovacuum is switched off.', true),
	('old_ids', 'monitoring.find_old_ids', 'vacuum', '1 hour',
		'{"medium_age": 500000000, "high_age": 1000000000, "critical_ratio": 0.8, "times_freeze_age": 1.1}',
		'Databases with rows of 500 million transaction or multixact ids ago, high from 1 billion, critical at 80 % of the end; tables that autovacuum should have frozen.', true),
	('xmin_holders', 'monitoring.find_xmin_holders', 'vacuum', '10 minutes',
		'{"medium_time": "30 minutes", "high_time": "24 hours", "medium_age": 10000000, "high_age": 100000000}',
		'What keeps vacuum from removing rows: transactions and prepared ones older than 30 minutes, whatever is 10 million transactions behind.', true);
