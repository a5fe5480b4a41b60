-- Bad input: a clear error with SQLSTATE and hint, nothing half-done.
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT monitoring.record('1bad', 1);
\echo :SQLSTATE
SELECT monitoring.record('', 1);
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '[1]');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '"a"');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '{"a": {"b": 1}}');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '{"a": [1]}');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, '{"a": "line\nbreak"}');
\echo :SQLSTATE
SELECT monitoring.record('err_x', 1, jsonb_build_object('a', repeat('x', 65536)));
\echo :SQLSTATE
SELECT monitoring.increment('err_x_total', -1);
\echo :SQLSTATE
SELECT monitoring.record('err_kind', 1);
\echo :SQLSTATE
SELECT monitoring.increment('err_kind');
\echo :SQLSTATE
SELECT monitoring.set_gauge('err_kind', 1);
\echo :SQLSTATE
SELECT monitoring.flush() > 0;
\echo :SQLSTATE
SELECT monitoring.increment('err_kind');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'median');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'p101');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'p');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'last');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', '-1 minute');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', '0');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', at => 'infinity');
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count', labels => '[]');
\echo :SQLSTATE
SELECT monitoring.percentile('err_kind', 1.1);
\echo :SQLSTATE
SELECT monitoring.percentile('err_kind', -0.1);
\echo :SQLSTATE
SELECT monitoring.percentile('err_kind', 'NaN');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '2024-01-02', '2024-01-01', '1 hour');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '2024-01-01', '2025-01-01', '1 second');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '4714-11-24 00:00+00 BC', '294276-12-31 23:59:59+00', '1 day');
\echo :SQLSTATE
SELECT * FROM monitoring.query('err_kind', 'count', '2024-01-01', '2024-01-02', '-1 hour');
\echo :SQLSTATE
SELECT monitoring.grant_access('pg_monitor', 'boss');
\echo :SQLSTATE
SELECT monitoring.grant_access('nobody_of_that_name', 'viewer');
\echo :SQLSTATE
SELECT * FROM monitoring.apply_retention('infinity');
\echo :SQLSTATE
SELECT monitoring.ensure_partition('pg_class', now());
\echo :SQLSTATE
BEGIN READ ONLY;
SELECT monitoring.flush();
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT monitoring.value('err_kind', 'count');
\echo :SQLSTATE
COMMIT;
-- refused and counted, without an error in the application
SELECT refused AS refused_before FROM monitoring.self \gset
SELECT monitoring.record('err_kind', 'NaN'), monitoring.record('err_kind', 'Infinity'), monitoring.record('err_kind', '-Infinity');
\echo :SQLSTATE
SELECT refused - :refused_before AS refused FROM monitoring.self;
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count');
\echo :SQLSTATE
-- null arguments do nothing
SELECT monitoring.record(NULL, 1), monitoring.record('err_kind', NULL);
\echo :SQLSTATE
SELECT monitoring.value('err_kind', 'count');
\echo :SQLSTATE
