-- The tree of routes: the one that comes with the extension, changes and what they may not be, which routes an alert takes.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;
BEGIN;
SET LOCAL timezone = 'UTC';
UPDATE monitoring.receiver_defs SET enabled = false;
DELETE FROM monitoring.routing_queue; -- what other tests have left to the worker
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;

SELECT route, matchers, receivers, group_by, group_wait, group_interval, repeat_interval, digest, escalation_policy, enabled FROM monitoring.route_tree;
-- who is told by default: nobody yet; then everybody, team-lead only once there is such a receiver
SELECT route, receivers FROM monitoring.test_route('{"severity": "high"}') WHERE verdict = 'taken';
SELECT monitoring.create_receiver('chat', 'webhook', 'https://a.example.com/'), monitoring.create_receiver('ops', 'webhook', 'https://b.example.com/');
SELECT route, receivers, group_wait FROM monitoring.test_route('{"severity": "high"}') WHERE verdict = 'taken';
SELECT monitoring.create_receiver('team-lead', 'webhook', 'https://c.example.com/');
SELECT route, receivers, group_wait FROM monitoring.test_route('{"severity": "high"}') WHERE verdict = 'taken';
SELECT monitoring.enable_receiver('team-lead', false);
SELECT route, receivers FROM monitoring.test_route('{"severity": "high"}') WHERE verdict = 'taken';

-- inheritance: everything but matchers, continue and times
SELECT monitoring.set_escalation_policy('shop', '[{"receivers": ["*"]}]');
SELECT monitoring.set_time_interval('nights', '{"times": [{"start": "22:00", "end": "24:00"}, {"start": "00:00", "end": "06:00"}]}');
SELECT monitoring.create_route('shop', '{"team": "shop"}', receivers => '{chat}', group_by => '{alertname,site}', group_wait => '10 s', group_interval => '1 min',
	repeat_interval => '1 h', continue_matching => true, mute_times => '{nights}', escalation_policy => 'shop', place => 1) > 0;
SELECT monitoring.create_route('checkout', '{"service": {"=~": "check.*"}, "severity": {"!=": "low"}}', parent => 'shop', receivers => '{ops}') > 0;
SELECT monitoring.create_route('quiet', '{"service": "batch"}', parent => 'shop', receivers => '{}', escalation_policy => '', digest => '1 day', group_by => '{}') > 0;
SELECT monitoring.create_route('deep', '{"x": ""}', parent => 'quiet', receivers => '{*}', digest => '0', group_by => '{...}') > 0;
SELECT route, matchers, receivers, group_by, group_wait, group_interval, repeat_interval, digest, escalation_policy, mute_times, continue_matching
FROM monitoring.route_tree WHERE name IN ('root', 'shop', 'checkout', 'quiet', 'deep');

-- which routes an alert takes and why
SELECT route, verdict, why, receivers, group_key, group_wait, digest, muted_by FROM monitoring.test_route(
	'{"alertname": "slow", "team": "shop", "service": "checkout", "site": "x", "severity": "critical"}', '2030-01-07 23:00+00');
SELECT route, verdict, why, receivers, group_key, digest, muted_by FROM monitoring.test_route(
	'{"alertname": "slow", "team": "shop", "service": "batch", "severity": "low"}', '2030-01-07 12:00+00');
SELECT route, verdict, group_key FROM monitoring.test_route('{"alertname": "slow", "team": "shop", "service": "batch", "x": "y"}') WHERE verdict = 'taken';
SELECT monitoring.update_route('shop', '{"enabled": false}');
SELECT route, verdict FROM monitoring.test_route('{"alertname": "slow", "team": "shop", "severity": "none"}');

-- changes: what is left out stays
SELECT monitoring.update_route('shop', '{"enabled": true, "group_wait": null, "receivers": ["ops", "chat"], "name": "Shop"}');
SELECT monitoring.update_route('high', '{"group_wait": "1 minute"}');
SELECT route, receivers, group_wait, group_interval FROM monitoring.route_tree WHERE name IN ('Shop', 'checkout', 'high');
SELECT monitoring.move_route('quiet', 'checkout');
SELECT monitoring.move_route('Shop', place => 3);
SELECT monitoring.move_route('info', place => 1);
SELECT route FROM monitoring.route_tree;
SELECT monitoring.drop_route('deep');
SELECT route FROM monitoring.route_tree WHERE depth > 1;
SELECT kind, count(*) > 0 AS asked FROM monitoring.routing_queue GROUP BY kind ORDER BY kind;

-- what is refused
SELECT s, pg_temp.try('SELECT monitoring.' || s) AS error FROM unnest(ARRAY[
	$$create_route('Shop')$$, $$create_route('')$$, $$create_route(E'a\nb')$$, $$create_route('x', '[]')$$, $$create_route('x', NULL)$$,
	$$create_route('x', '{"a": ["b"]}')$$, $$create_route('x', '{"a": {}}')$$, $$create_route('x', '{"a": {"~": "b"}}')$$, $$create_route('x', '{"a": {"=~": "("}}')$$,
	$$create_route('x', '{"a": {"=~": "(.)\\1"}}')$$, $$create_route('x', '{"a": null}')$$, $$create_route('x', '{"": "b"}')$$,
	$$create_route('x', parent => 'nobody')$$, $$create_route('x', receivers => '{nobody}')$$, $$create_route('x', receivers => '{NULL}')$$,
	$$create_route('x', group_by => '{a,...}')$$, $$create_route('x', group_by => '{""}')$$, $$create_route('x', group_by => '{{a}}')$$,
	$$create_route('x', group_wait => '-1 s')$$, $$create_route('x', group_interval => '0')$$, $$create_route('x', repeat_interval => '0')$$,
	$$create_route('x', repeat_interval => '1 month')$$, $$create_route('x', digest => '1 s')$$, $$create_route('x', digest => '-1 h')$$,
	$$create_route('x', escalation_policy => 'nobody')$$, $$update_route('Shop', '{"escalation_policy": "nobody"}')$$, $$drop_escalation_policy('shop')$$,
	$$create_route('x', mute_times => '{never}')$$, $$create_route('x', active_times => '{never}')$$, $$create_route('x', active_times => '{NULL}')$$,
	$$update_route('nobody', '{}')$$, $$update_route('Shop', '[]')$$, $$update_route('Shop', '{"parent": "root"}')$$, $$update_route('Shop', '{"name": "root"}')$$,
	$$update_route('root', '{"matchers": {"a": "b"}}')$$, $$update_route('root', '{"enabled": false}')$$, $$update_route('root', '{"mute_times": ["nights"]}')$$,
	$$update_route('root', '{"continue_matching": true}')$$, $$update_route('Shop', '{"group_wait": "soon"}')$$,
	$$move_route('root', 'Shop')$$, $$move_route('Shop', 'Shop')$$, $$move_route('Shop', 'quiet')$$, $$move_route('Shop', 'nobody')$$,
	$$drop_route('root')$$, $$drop_route('Shop')$$, $$drop_route('nobody')$$, $$drop_time_interval('nights')$$]) AS s;
-- not too deep
SELECT count(monitoring.create_route('level ' || n, parent => CASE WHEN n > 1 THEN 'level ' || n - 1 END)) FROM generate_series(1, 15) AS n;
SELECT pg_temp.try($$SELECT monitoring.create_route('level 16', parent => 'level 15')$$);
SELECT pg_temp.try($$SELECT monitoring.move_route('Shop', 'level 14')$$), pg_temp.try($$SELECT monitoring.move_route('Shop', 'level 12')$$);

-- receivers and times that a route names and that have gone: every enabled receiver rather than nobody, no mute time
SELECT monitoring.create_route('gone', '{"team": "gone"}', receivers => '{chat}', place => 1) > 0;
SELECT monitoring.drop_receiver('chat');
SELECT receivers FROM monitoring.test_route('{"team": "gone"}') WHERE verdict = 'taken';
SELECT monitoring.update_route('gone', '{"group_wait": "0"}');

-- labels by their names
SELECT names, monitoring.pick_labels(labels, names) AS picked
FROM (VALUES ('{"a": 1, "bc": null, "b": "x", "d": {"a": [2]}}'::jsonb)) AS l (labels),
	(VALUES (NULL::text[]), ('{}'), ('{a,bc,abc,e,""}'), ('{d,d,b}')) AS n (names);
SELECT monitoring.pick_labels(NULL, '{a}') IS NULL AS none, monitoring.pick_labels('{}', '{a}') AS empty;
SELECT pg_temp.try(s) FROM unnest(ARRAY['SELECT monitoring.pick_labels(''[]'', NULL)', 'SELECT monitoring.pick_labels(''1'', ''{a}'')', 'SELECT monitoring.pick_labels(''{}'', ''{a,NULL}'')']) AS s;
ROLLBACK;

-- Random alerts against a random tree, compared with Alertmanager's algorithm written down plainly.
BEGIN;
CREATE FUNCTION pg_temp.walk(route monitoring.routes, labels jsonb) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
	child monitoring.routes;
	below bigint[];
	found bigint[] := '{}';
BEGIN
	IF NOT route.enabled OR NOT monitoring.labels_match(labels, route.matchers) THEN
		RETURN;
	END IF;
	FOR child IN SELECT * FROM monitoring.routes AS r WHERE r.parent_id = route.id ORDER BY r.position LOOP
		below := ARRAY(SELECT pg_temp.walk(child, labels));
		found := found || below;
		EXIT WHEN below <> '{}' AND NOT child.continue_matching;
	END LOOP;
	RETURN QUERY SELECT unnest(CASE WHEN found = '{}' THEN ARRAY[route.id] ELSE found END);
END $$;
SELECT setseed(0.4);
CREATE FUNCTION pg_temp.some(texts text[]) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT texts[1 + floor(random() * cardinality(texts))] $$;
DO $$
BEGIN
	FOR n IN 1 .. 120 LOOP
		PERFORM monitoring.create_route('r' || n,
			(SELECT jsonb_object_agg(pg_temp.some('{a,b,c,d}'), pg_temp.some(ARRAY['"1"', '"2"', '""', '{"=~": "[12]"}', '{"!=": "1"}', '{"!~": "2|3"}', '{"exists": true}', '{"exists": false}', '{"=": "3"}'])::jsonb)
			FROM generate_series(1, 1 + floor(random() * 2)::integer) AS i WHERE n > 0),
			parent => CASE WHEN n > 12 THEN 'r' || floor(1 + random() * least(n - 1, 30)) END, continue_matching => random() < 0.7,
			place => CASE WHEN random() < 0.5 THEN 1 END);
	END LOOP;
	UPDATE monitoring.routes SET enabled = false WHERE random() < 0.05 AND parent_id IS NOT NULL;
END $$;
CREATE TEMP TABLE alert AS
	SELECT n, (SELECT coalesce(jsonb_object_agg(l, pg_temp.some('{1,2,3,4}')), '{}') FROM unnest('{a,b,c,d,e}'::text[]) AS l WHERE random() < 0.6 AND n > 0) AS labels
	FROM generate_series(1, 400) AS n;
CREATE TEMP TABLE got AS
	SELECT m.n, array_agg(m.route_id ORDER BY m.route_id) AS routes
	FROM monitoring.match_routes((SELECT array_agg(labels ORDER BY n) FROM alert)) AS m GROUP BY m.n;
CREATE TEMP TABLE expected AS
	SELECT a.n, ARRAY(SELECT w FROM pg_temp.walk(r, a.labels) AS w ORDER BY w) AS routes
	FROM alert AS a CROSS JOIN monitoring.routes AS r WHERE r.parent_id IS NULL;
SELECT count(*) AS different FROM (TABLE got EXCEPT TABLE expected UNION ALL (TABLE expected EXCEPT TABLE got)) AS d;
SELECT count(DISTINCT routes) > 50 AS many_ways, max(cardinality(routes)) > 2 AS several_at_once FROM got;

-- what routes and groups look at: everything, once a group is made by all labels
SELECT bool_and(k = ANY (monitoring.routing_labels())) AS asked, 'unasked' = ANY (monitoring.routing_labels()) AS unasked
FROM monitoring.routes AS r CROSS JOIN LATERAL jsonb_object_keys(r.matchers) AS k WHERE r.enabled;
SELECT count(monitoring.update_route(name, '{"group_by": ["..."]}')) FROM (SELECT name FROM monitoring.routes ORDER BY id LIMIT 1) AS r;
SELECT monitoring.routing_labels();
ROLLBACK;
