-- Formatters: exact requests for given notifications.
\pset format unaligned
BEGIN;
SET LOCAL client_min_messages = warning;

-- Receivers of all kinds, as formatters see them: secrets are markers.
CREATE TEMP TABLE receiver AS
SELECT v.kind, jsonb_build_object('name', 'r', 'kind', v.kind, 'url', v.url, 'config', v.config) AS doc
FROM (VALUES
	('webhook', 'https://example.com/hook', '{"headers": {"X-Team": "shop", "Idempotency-Key": "mine"}, "signing_secret": "MARK", "basic_auth": "BASIC"}'::jsonb),
	('slack', 'https://example.com/hook', '{"headers": {"X-Team": "shop"}}'),
	('discord', 'https://example.com/hook', '{"username": "pg"}'),
	('teams', 'https://example.com/hook', '{}'),
	('telegram', NULL, '{"chat_id": "@ops", "message_thread_id": 7, "bot_token": "MARK"}'),
	('alertmanager', 'https://example.com/am/', '{"bearer_token": "MARK", "keep_alive_seconds": 60}'),
	('notify', NULL, '{"channel": "alerts"}'),
	('sql', NULL, '{"function": "shop.on_alert"}'),
	('sentry', 'https://o1.example.com/x/42', '{"public_key": "MARK", "environment": "test"}'),
	('pagerduty', NULL, '{"routing_key": "MARK", "source": "db1"}'),
	('opsgenie', 'https://api.eu.example.com', '{"api_key": "MARK", "tags": ["db"], "responders": [{"type": "team", "name": "ops"}]}'),
	('twilio', NULL, '{"username": "AC0", "basic_auth": "BASIC", "to": "+4930123456", "from": "+15550001"}'),
	('email', 'smtp://mail.example.com:25', '{"from": "\"Wächter, Die\" <mon@example.com>", "to": ["\"Ann \\\"A\\\"\" <ann@example.com>, bob@example.com"], "bcc": "c@example.com"}')
) AS v (kind, url, config);

CREATE FUNCTION pg_temp.request(kind text, notification jsonb, more jsonb DEFAULT '{}') RETURNS TABLE (method text, url text, headers jsonb, body text) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT * FROM %s($1, $2)', (SELECT k.function FROM monitoring.receiver_kinds AS k WHERE k.kind = request.kind))
		USING (SELECT jsonb_set(r.doc, '{config}', r.doc -> 'config' || more) FROM pg_temp.receiver AS r WHERE r.kind = request.kind), notification;
END $$;
CREATE FUNCTION pg_temp.pretty(body text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN jsonb_pretty(body::jsonb);
EXCEPTION WHEN OTHERS THEN
	RETURN replace(body, E'\r', '');
END $$;
-- n alerts of one group; the text is hostile on purpose
CREATE FUNCTION pg_temp.example(n integer, status text DEFAULT 'firing', more jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT monitoring.make_payload('r', '{}:{alertname="Errors"}', status, '{"alertname": "Errors"}', jsonb_agg(jsonb_build_object(
		'status', status, 'labels', jsonb_build_object('alertname', 'Errors', 'severity', 'high', 'route', '/' || i),
		'annotations', '{"summary": "<@U1> & \"quoted\" \\ back\u0001slash *_~`[x](http://evil) @everyone", "runbook_url": "https://example.com/run?a=1&b=(2)", "value": "3"}'::jsonb,
		'startsAt', '2026-01-01T00:00:00.000Z', 'endsAt', CASE status WHEN 'firing' THEN '0001-01-01T00:00:00Z' ELSE '2026-01-01T00:10:00.000Z' END,
		'fingerprint', 'f' || i, 'value', '3', 'threshold', '2', 'op', '>', 'impact', '{"customers": 3}'::jsonb) ORDER BY i))
		|| '{"idempotencyKey": "01234567-89ab-cdef-0123-456789abcdef", "id": 5, "now": "2026-01-01T00:00:30Z"}' || more
	FROM generate_series(1, n) AS i
$$;

-- one alert, to everybody
SELECT r.kind, f.method, f.url, f.headers, pg_temp.pretty(f.body) AS body
FROM receiver AS r CROSS JOIN LATERAL pg_temp.request(r.kind, pg_temp.example(1)) AS f WHERE r.kind NOT IN ('email', 'sentry') ORDER BY r.kind COLLATE "C";
SELECT f.method, f.url, f.headers, b.n, pg_temp.pretty(b.line) AS body
FROM pg_temp.request('sentry', pg_temp.example(1)) AS f CROSS JOIN string_to_table(f.body, E'\n') WITH ORDINALITY AS b (line, n);
SELECT f.method, f.url, f.headers, regexp_count(f.body, E'\n') = regexp_count(f.body, E'\r\n') AS line_ends, split_part(replace(f.body, E'\r', ''), E'\n\n', 1) AS mail_header
FROM pg_temp.request('email', pg_temp.example(1)) AS f;
SELECT p.n, convert_from(decode(split_part(split_part(p.part, E'\r\n\r\n', 2), '--', 1), 'base64'), 'UTF8') AS part
FROM pg_temp.request('email', pg_temp.example(1)) AS f CROSS JOIN string_to_table(f.body, E'\r\n--monitoring-') WITH ORDINALITY AS p (part, n) WHERE p.n IN (2, 3);

-- the end of it; pagerduty and opsgenie find it by its key, sentry is told nothing
SELECT r.kind, f.url, f.body
FROM receiver AS r CROSS JOIN LATERAL pg_temp.request(r.kind, pg_temp.example(1, 'resolved')) AS f WHERE r.kind IN ('pagerduty', 'opsgenie', 'sentry', 'alertmanager', 'twilio') ORDER BY r.kind;
SELECT r.kind, f.url, f.body FROM receiver AS r CROSS JOIN LATERAL pg_temp.request(r.kind,
	jsonb_set(pg_temp.example(1, 'firing', '{"reason": "acknowledged"}'), '{alerts,0,acknowledged}', '{"by": "ann"}')) AS f WHERE r.kind IN ('pagerduty', 'opsgenie') ORDER BY r.kind;

-- Groups of several rules, digests, alerts that ended beside others that fire, and more than are listed.
WITH shown AS (
	SELECT v.n, v.group_labels, v.more, jsonb_agg(jsonb_build_object('status', s, 'labels', jsonb_build_object('alertname', a, 'site', 'x'), 'annotations', '{}'::jsonb) ORDER BY a) AS alerts
	FROM (VALUES (1, '{"site": "x"}'::jsonb, '{}'::jsonb, '{a,b}'::text[]), (2, '{}', '{"digest": {"route": "low"}, "truncatedAlerts": 150}', '{a,b}'), (3, '{}', '{}', '{a}')) AS v (n, group_labels, more, names)
	CROSS JOIN LATERAL unnest(v.names, '{firing,resolved}'::text[]) AS x (a, s) WHERE a IS NOT NULL
	GROUP BY v.n, v.group_labels, v.more)
SELECT s.n, jsonb_path_query_array(f.body::jsonb, '$.blocks[*].text.text') AS texts
FROM shown AS s CROSS JOIN LATERAL monitoring.format_slack('{"url": "x", "config": {}}', monitoring.make_payload('r', 'g', 'firing', s.group_labels, s.alerts, s.more)) AS f ORDER BY s.n;
-- a message of an application: no alerts at all
SELECT r.kind, f.body ~ 'Nightly report' AS title, f.body ~ 'All is well' AS text
FROM receiver AS r CROSS JOIN LATERAL pg_temp.request(r.kind, '{"title": "Nightly report", "text": "All is well", "status": "firing", "groupKey": "g", "alerts": [], "idempotencyKey": "k"}') AS f
WHERE r.kind NOT IN ('email', 'twilio') ORDER BY r.kind COLLATE "C";
SELECT jsonb_path_query_array(f.body::jsonb, '$.blocks[*].text.text') AS texts FROM pg_temp.request('slack', jsonb_set(jsonb_set(pg_temp.example(1, 'firing', '{"reason": "message"}'),
	'{alerts,0,annotations}', '{"summary": "Errors", "description": "All is well"}'), '{alerts,0,value}', 'null')) AS f;

-- Limits hold whatever is in the alert, and what is left out is said.
CREATE TEMP TABLE big AS
SELECT jsonb_set(pg_temp.example(1), '{alerts}', (SELECT jsonb_agg(jsonb_build_object('status', 'firing', 'labels', jsonb_build_object('alertname', repeat('&', 10000), 'severity', 'critical', 'n', n::text, 'x', repeat(t, 5000)),
	'annotations', jsonb_build_object('summary', repeat(t, 10000), 'description', repeat('<' || t, 10000)), 'value', repeat('9', 400))) FROM generate_series(1, 25) AS n))
	|| jsonb_build_object('groupLabels', jsonb_build_object('alertname', repeat(t, 10000)), 'commonLabels', jsonb_build_object('x', repeat(t, 5000), repeat('k', 500), 'v')) AS notification
FROM unnest(ARRAY[U&'\+01F600', U&'\0627', '"', '&', '*', '<b>', E'\n']) AS t;
SELECT b.block ->> 'type' AS type, count(*), max(length(b.block -> 'text' ->> 'text')) <= CASE b.block ->> 'type' WHEN 'header' THEN 150 ELSE 3000 END AS fits,
	bool_and(b.block -> 'text' ->> 'text' !~ '&(?!(amp|lt|gt);)') AS whole_entities
FROM big CROSS JOIN pg_temp.request('slack', big.notification) AS f
CROSS JOIN jsonb_array_elements(f.body::jsonb -> 'blocks') AS b (block) GROUP BY 1 ORDER BY 1;
SELECT bool_and(monitoring.text_units(e ->> 'title') <= 256) AS title, bool_and(monitoring.text_units(e ->> 'description') <= 4096) AS description, bool_and(e ->> 'description' ~ 'and [0-9]+ more$') AS says
FROM big CROSS JOIN pg_temp.request('discord', big.notification) AS f CROSS JOIN LATERAL (SELECT f.body::jsonb -> 'embeds' -> 0) AS x (e);
SELECT bool_and(octet_length(f.body) <= 28000) AS teams, bool_and(f.body ~ 'and [0-9]+ more') AS says FROM big CROSS JOIN pg_temp.request('teams', big.notification) AS f;
SELECT bool_and(monitoring.text_units(f.body::jsonb ->> 'text') <= 4096) AS telegram, bool_and(f.body::jsonb ->> 'text' ~ 'and [0-9]+ more$') AS says FROM big CROSS JOIN pg_temp.request('telegram', big.notification) AS f;
SELECT bool_and(octet_length(f.body) <= 7900) AS notify, bool_and((f.body::jsonb ->> 'more')::integer > 0) AS says FROM big CROSS JOIN pg_temp.request('notify', big.notification) AS f;
SELECT bool_and(octet_length(f.body) <= 512000) AS pagerduty, bool_and(length(f.body::jsonb #>> '{payload,summary}') <= 1024) AS summary FROM big CROSS JOIN pg_temp.request('pagerduty', big.notification) AS f;
SELECT bool_and(length(b ->> 'message') <= 130) AS message, bool_and(length(b ->> 'description') <= 15000) AS description, bool_and(length((b -> 'details')::text) <= 8000) AS details
FROM big CROSS JOIN pg_temp.request('opsgenie', big.notification) AS f CROSS JOIN LATERAL (SELECT f.body::jsonb) AS x (b);
SELECT bool_and(length(split_part(f.body, '&', 1)) < 480 * 12) AS twilio FROM big CROSS JOIN pg_temp.request('twilio', big.notification) AS f;
SELECT bool_and(length(b) < 60000) AS sentry FROM big CROSS JOIN pg_temp.request('sentry', big.notification) AS f (m, u, h, b);
SELECT max(octet_length(f.body)) < 1000000 AS email, max(length(l)) AS longest_line FROM big CROSS JOIN pg_temp.request('email', big.notification) AS f CROSS JOIN string_to_table(f.body, E'\r\n') AS l;

-- A 10 MB annotation is no trouble.
CREATE TEMP TABLE huge AS
SELECT jsonb_set(pg_temp.example(1), '{alerts,0,annotations,summary}', to_jsonb(repeat('<@U1> & "x" ', 1000000))) AS notification;
SELECT r.kind, octet_length(f.body) < 300000 AS bounded
FROM huge CROSS JOIN receiver AS r CROSS JOIN LATERAL pg_temp.request(r.kind, huge.notification) AS f
WHERE r.kind IN ('slack', 'email', 'telegram') ORDER BY r.kind;

-- Templates: what is filled in is escaped for the place, the template itself is not; values are cut until all of it fits.
SELECT r.kind, f.body
FROM (VALUES ('slack'), ('discord'), ('telegram'), ('teams'), ('opsgenie'), ('pagerduty')) AS r (kind)
CROSS JOIN LATERAL pg_temp.request(r.kind, pg_temp.example(1), '{"title": "{{severity}}: {{ $labels.route }} {{labels.none}}", "text": "_{{summary}}_ = {{ $value }} {{annotations.runbook_url}}"}') AS f;
SELECT length(t), t ~ '^<i>(&quot;)+…</i> (&quot;)+… end$' AS whole FROM monitoring.fill_template('<i>{{summary}}</i> {{labels.x}} end',
	jsonb_build_object('summary', repeat('"', 5000), 'label_map', jsonb_build_object('x', repeat('"', 5000))), 'html', 500) AS t;
SELECT monitoring.fill_template('{{summary}} {{value}}', '{"summary": "{{value}}", "value": "{{summary}}"}', 'text', 100);
SELECT f.headers, replace(split_part(f.body, E'\r\nDate', 1), E'\r', '') AS top FROM pg_temp.request('email', jsonb_set(pg_temp.example(1), '{alerts,0,annotations,summary}', to_jsonb(E'Ünï\r\nBcc: evil@example.com\r\n\r\n' || repeat(U&'\+01F600', 100))), '{"title": "{{summary}}"}') AS f;

-- escaping and cutting
SELECT n, s, monitoring.escape_text(t, s, n) FROM (VALUES ('a<b', 10, 'slack'), ('a<b', 6, 'slack'), ('a<b', 5, 'slack'), ('abc', 3, 'text'), ('abc', 2, 'text'), ('abc', 0, 'text'), ('', 5, 'text'), (NULL, 5, 'text'),
	('"<a&b>''', 100, 'html'), ('*_`[x](y)@here #1', 100, 'discord'), ('*_`[x](y)', 100, 'teams'), ('*_', 3, 'discord'), (U&'\+01F600\+01F600', 4, 'text'), (U&'\+01F600\+01F600', 3, 'text'), (U&'\+01F600\+01F600', 2, 'text')) AS v (t, n, s);
SELECT monitoring.escape_text(E'a\r\nb\rc\td\x01\x7f' || U&'\202e\2066x\0085\feff\2028y\200f', 'text', 100) AS lines, monitoring.escape_text(E'a\r\nb\rc\td\x01' || U&'\2028y', 'text', 100, true) AS line;
SELECT monitoring.escape_text('a', 'pdf', 1);
ROLLBACK;
SELECT monitoring.text_units(U&'a\00e4\20ac\+01F600');
SELECT monitoring.common_pairs('[{"l": {"a": "1", "b": "2"}}, {"l": {"a": "1", "b": "3"}}, {"l": {"a": "1"}}]', 'l'),
	monitoring.common_pairs('[{"l": {"a": "1"}}, {"l": {}}]', 'l'), monitoring.common_pairs('[{"l": {"a": "1"}}]', 'l'), monitoring.common_pairs('[]', 'l');
SELECT u, monitoring.safe_link(u) FROM unnest('{https://a/b?c=(d)&e,http://a/,javascript:alert(1),"https://a/<b>","https://a/ b",https://a/b|c}'::text[]) AS u;
SELECT monitoring.form_encode('{"a": "x y&z=ä+1", "b": "", "c": null}'), monitoring.prometheus_labels('{"9a": "1", "a.b": "2", "": "3", "e": "", "x-y": 4}');
