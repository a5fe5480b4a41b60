-- Formatters: exact requests for a given notification.
\pset format unaligned
CREATE TEMP TABLE example AS SELECT
	'{"name": "r", "kind": "x", "url": "https://example.com/hook", "config": {"headers": {"X-Team": "shop", "Idempotency-Key": "mine"}}}'::jsonb AS receiver,
	monitoring.make_payload('r', '{}:{alertname="Errors"}', 'firing', '{"alertname": "Errors"}', jsonb_agg(jsonb_build_object(
		'status', 'firing', 'labels', jsonb_build_object('alertname', 'Errors', 'severity', 'high', 'route', '/' || n),
		'annotations', '{"summary": "<@U1> & \"quoted\" \\ back\u0001slash", "value": "3"}'::jsonb,
		'startsAt', '2026-01-01T00:00:00.000Z', 'endsAt', '0001-01-01T00:00:00Z',
		'fingerprint', 'f' || n, 'value', '3', 'threshold', '2', 'op', '>') ORDER BY n)) || '{"idempotencyKey": "k-1"}' AS notification
FROM generate_series(1, 2) AS n;

SELECT f.method, f.url, f.headers, jsonb_pretty(f.body::jsonb) AS body
FROM example AS e, monitoring.format_webhook(e.receiver, e.notification) AS f;
SELECT f.method, f.url, f.headers, jsonb_pretty(f.body::jsonb) AS body
FROM example AS e, monitoring.format_slack(e.receiver, e.notification) AS f;

-- Slack's limits hold whatever is in the alert: 150 characters in a header, 3000 in a section, 50 blocks.
WITH big AS (
	SELECT e.receiver, monitoring.make_payload('r', 'g', 'firing', jsonb_build_object('alertname', repeat('&', 10000)),
		jsonb_agg(jsonb_build_object('status', 'firing', 'labels', jsonb_build_object('alertname', repeat('&', 10000), 'n', n::text, 'x', repeat('<', 10000)),
			'annotations', jsonb_build_object('summary', repeat('>', 10000)), 'value', repeat('9', 400)))) AS notification
	FROM example AS e CROSS JOIN generate_series(1, 60) AS n GROUP BY e.receiver)
SELECT b.block ->> 'type' AS type, count(*), max(length(b.block -> 'text' ->> 'text')) <= CASE b.block ->> 'type' WHEN 'header' THEN 150 ELSE 3000 END AS fits,
	bool_and(b.block -> 'text' ->> 'text' !~ '&(?!(amp|lt|gt);)') AS whole_entities
FROM big CROSS JOIN monitoring.format_slack(big.receiver, big.notification) AS f
CROSS JOIN jsonb_array_elements(f.body::jsonb -> 'blocks') AS b (block) GROUP BY 1 ORDER BY 1;

SELECT n, monitoring.slack_escape(t, n) FROM (VALUES ('a<b', 10), ('a<b', 6), ('a<b', 5), ('abc', 3), ('abc', 2), ('', 5), (NULL, 5)) AS v (t, n);
SELECT monitoring.common_pairs('[{"l": {"a": "1", "b": "2"}}, {"l": {"a": "1", "b": "3"}}, {"l": {"a": "1"}}]', 'l'),
	monitoring.common_pairs('[{"l": {"a": "1"}}, {"l": {}}]', 'l'), monitoring.common_pairs('[{"l": {"a": "1"}}]', 'l'), monitoring.common_pairs('[]', 'l');

-- Groups of several rules, digests, alerts that ended beside others that fire, and more than are listed.
WITH shown AS (
	SELECT v.n, v.group_labels, v.more, jsonb_agg(jsonb_build_object('status', s, 'labels', jsonb_build_object('alertname', a, 'site', 'x'), 'annotations', '{}'::jsonb) ORDER BY a) AS alerts
	FROM (VALUES (1, '{"site": "x"}'::jsonb, '{}'::jsonb, '{a,b}'::text[]), (2, '{}', '{"digest": {"route": "low"}, "truncatedAlerts": 150}', '{a,b}'), (3, '{}', '{}', '{a}')) AS v (n, group_labels, more, names)
	CROSS JOIN LATERAL unnest(v.names, '{firing,resolved}'::text[]) AS x (a, s) WHERE a IS NOT NULL
	GROUP BY v.n, v.group_labels, v.more)
SELECT s.n, jsonb_path_query_array(f.body::jsonb, '$.blocks[*].text.text') AS texts
FROM shown AS s CROSS JOIN LATERAL monitoring.format_slack('{"url": "x", "config": {}}', monitoring.make_payload('r', 'g', 'firing', s.group_labels, s.alerts, s.more)) AS f ORDER BY s.n;
