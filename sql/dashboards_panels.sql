-- Panels of dashboards: what a line shows, at a time in the past, and what is refused.
\set SHOW_CONTEXT never
SET TimeZone = 'UTC';
CREATE TEMP TABLE clock AS SELECT date_trunc('day', clock_timestamp()) - interval '2 days' AS t0;

-- orders: 60, 120, ... 720 in the twelve steps before t0; 300 in the last step of the day before
SELECT count(*) FROM (
	SELECT monitoring.record_at('dash_orders_total', 60 * k, t0 - interval '5 minutes' * (13 - k) + interval '1 minute', '{}', 'counter')
	FROM clock, generate_series(1, 12) AS k
	UNION ALL
	SELECT monitoring.record_at('dash_orders_total', 300, t0 - interval '1 day 4 minutes', '{}', 'counter') FROM clock) AS r;
-- queues: eight, of which the third has nothing in the last step
SELECT count(*) FROM (
	SELECT monitoring.record_at('dash_queue_length', q * 10 + k, t0 - interval '5 minutes' * (13 - k) + interval '1 minute',
		jsonb_build_object('queue', 'q' || q), 'gauge')
	FROM clock, generate_series(1, 8) AS q, generate_series(1, 12) AS k WHERE NOT (q = 3 AND k = 12)) AS r;

SELECT monitoring.set_dashboard_panel('dash_test', 'orders', 'dash_orders_total', 'increase', unit => 'orders',
	warning => 800, critical => 700, low_is_bad => true, section => 'Shop', sort_order => 1, description => 'fewer than usual: see the shop');
SELECT monitoring.set_dashboard_panel('dash_test', 'queues', 'dash_queue_length', 'last', by => '{queue}', warning => 80, critical => 90,
	section => 'Shop', sort_order => 2, max_series => 3);
SELECT monitoring.set_dashboard_panel('dash_test', 'one queue', 'dash_queue_length', 'last', labels => '{"queue": "q3"}', sort_order => 3);
SELECT monitoring.set_dashboard_panel('dash_test', 'nobody records it', 'dash_nothing', 'p95', warning => 1, sort_order => 4);
SELECT monitoring.set_dashboard_panel('dash_test', 'not recorded here', 'dash_nothing', 'p95', optional => true);
SELECT monitoring.set_dashboard_panel('dash_test', 'no p95 of a gauge', 'dash_queue_length', 'p95', sort_order => 5);
-- of a hundred requests in each of the last steps 2 fail, in the last one 5; and a step in which there were none
SELECT count(*) FROM (
	SELECT monitoring.record_at('dash_requests_total', n, t0 - interval '5 minutes' * (13 - k) + interval '1 minute', jsonb_build_object('outcome', o), 'counter')
	FROM clock, generate_series(1, 12) AS k, LATERAL (VALUES ('ok', 98 - 3 * (k / 12)), ('failed', 2 + 3 * (k / 12))) AS v (o, n) WHERE k <> 5) AS r;
SELECT monitoring.set_dashboard_panel('dash_test', 'failed requests', 'dash_requests_total', 'increase', labels => '{"outcome": "failed"}', of_labels => '{}',
	unit => 'ratio', warning => 0.04, sort_order => 6);
SELECT monitoring.set_dashboard_panel('dash_test', 'lost requests', 'dash_requests_total', 'increase', labels => '{"outcome": "lost"}', of_labels => '{}', sort_order => 7);
SELECT section, item, series_labels, value, unit, status, trend, day_before, description
FROM clock, monitoring.dashboard('dash_test', t0);

-- the same a step later: nothing yet
SELECT item, value, status, trend FROM clock, monitoring.dashboard('dash_test', t0 + interval '5 minutes') WHERE item = 'orders';
SELECT * FROM monitoring.dashboard('no such dashboard');

-- changed, hidden, dropped
SELECT monitoring.set_dashboard_panel('dash_test', 'orders', 'dash_orders_total', 'rate', step => '10 minutes', unit => 'per second', sort_order => 9);
SELECT monitoring.set_dashboard_panel('dash_test', 'queues', 'dash_queue_length', 'last', max_series => 0);
SELECT item, round(value::numeric, 3) AS value, status, trend FROM clock, monitoring.dashboard('dash_test', t0);
SELECT monitoring.drop_dashboard_panel('dash_test', 'queues');
SELECT monitoring.drop_dashboard_panel('dash_test', 'queues');

-- one's own stands in for one that comes with the extension, which is back when it is dropped
INSERT INTO monitoring.dashboard_panel_defs (dashboard, item, metric, fn, builtin) VALUES ('dash_test', 'shipped', 'dash_queue_length', 'max', true);
SELECT monitoring.set_dashboard_panel('dash_test', 'shipped', 'dash_queue_length', 'min');
SELECT fn, builtin FROM monitoring.dashboard_panels WHERE dashboard = 'dash_test' AND item = 'shipped';
SELECT monitoring.drop_dashboard_panel('dash_test', 'shipped');
SELECT fn, builtin FROM monitoring.dashboard_panels WHERE dashboard = 'dash_test' AND item = 'shipped';
SELECT monitoring.drop_dashboard_panel('dash_test', 'shipped');

-- bad input
\set VERBOSITY terse
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'm', 'p101');
SELECT monitoring.set_dashboard_panel('Dash Test', 'x', 'm', 'p95');
SELECT monitoring.set_dashboard_panel('dash_test', E'two\nlines', 'm', 'p95');
SELECT monitoring.set_dashboard_panel('dash_test', 'x', '', 'p95');
-- what would be an error of the whole dashboard
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'no name of a metric', 'p95');
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'm', 'p95', '{"a": {"like": "b"}}');
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'm', 'p95', of_labels => '{"a": []}');
SELECT count(*) FROM monitoring.dashboard_panels WHERE dashboard = 'dash_test' AND item = 'x';
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'm', 'p95', labels => '[]');
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'm', 'p95', step => '1 second');
SELECT monitoring.set_dashboard_panel('dash_test', 'x', 'm', 'p95', max_series => 1000);
SELECT monitoring.set_dashboard_panel('dash_test', 'x', NULL, 'p95');

-- lines of bars
SELECT monitoring.sparkline('{1,2,3,4,5,6,7,8}') AS rising, monitoring.sparkline('{5,NULL,5}') AS flat, monitoring.sparkline('{}') AS none,
	monitoring.sparkline('{NULL,NULL}') = '  ' AS blank, monitoring.sparkline('{-1e308,0,1e308}') AS wide;
SELECT monitoring.threshold_status(v, 0.8, 0.95), monitoring.threshold_status(v, 0.9, 0.7, true), monitoring.threshold_status(v, NULL, 0.95),
	monitoring.threshold_status(v, NULL, NULL)
FROM unnest('{NULL,0.5,0.85,0.95}'::float8[]) AS v;

-- a viewer reads dashboards, and changes none
CREATE ROLE dash_viewer;
SELECT monitoring.grant_access('dash_viewer', 'viewer');
SET ROLE dash_viewer;
SELECT count(*) > 0 AS reads FROM monitoring.dashboard('dash_test');
SELECT monitoring.drop_dashboard_panel('dash_test', 'orders');
RESET ROLE;
SELECT monitoring.revoke_access('dash_viewer');
DROP ROLE dash_viewer;
DELETE FROM monitoring.dashboard_panel_defs WHERE dashboard = 'dash_test';
