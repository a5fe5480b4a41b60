-- formatters: functions that turn a notification into a request, one for each built-in kind of receivers.

CREATE FUNCTION monitoring.format_webhook(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT 'POST', receiver ->> 'url',
		'{"Content-Type": "application/json"}'::jsonb || coalesce(receiver -> 'config' -> 'headers', '{}')
			|| jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey'),
		jsonb_build_object(
			'version', '4',
			'groupKey', notification -> 'groupKey',
			'truncatedAlerts', coalesce(notification -> 'truncatedAlerts', '0'),
			'status', notification -> 'status',
			'receiver', notification -> 'receiver',
			'groupLabels', notification -> 'groupLabels',
			'commonLabels', notification -> 'commonLabels',
			'commonAnnotations', notification -> 'commonAnnotations',
			'externalURL', '',
			'alerts', (SELECT jsonb_agg(jsonb_build_object(
					'status', a.value -> 'status', 'labels', a.value -> 'labels', 'annotations', a.value -> 'annotations',
					'startsAt', a.value -> 'startsAt', 'endsAt', a.value -> 'endsAt', 'generatorURL', '',
					'fingerprint', a.value -> 'fingerprint') ORDER BY a.ordinality)
				FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a))::text
$$;
COMMENT ON FUNCTION monitoring.format_webhook(jsonb, jsonb) IS 'Formatter of the kind webhook: the body of Alertmanager''s webhook, version 4, with an Idempotency-Key header.';

CREATE FUNCTION monitoring.slack_escape(t text, max_length integer) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	WITH piece AS (
		SELECT c.n, replace(replace(replace(c.ch, '&', '&amp;'), '<', '&lt;'), '>', '&gt;') AS e
		FROM string_to_table(left(t, max_length + 1), NULL) WITH ORDINALITY AS c (ch, n)
	), running AS (
		SELECT p.n, p.e, sum(length(p.e)) OVER (ORDER BY p.n) AS so_far, sum(length(p.e)) OVER () AS total FROM piece AS p
	)
	SELECT coalesce(string_agg(r.e, '' ORDER BY r.n) FILTER (WHERE r.so_far <= max_length - (r.total > max_length)::integer), '')
		|| CASE WHEN max(r.total) > max_length THEN '…' ELSE '' END
	FROM running AS r
$$;
COMMENT ON FUNCTION monitoring.slack_escape(text, integer) IS 'Text for Slack with & < > escaped, so that it can neither link nor mention; cut to so many characters after escaping, marked by an ellipsis.';

CREATE FUNCTION monitoring.format_slack(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH alert AS (
		SELECT a.ordinality AS n, a.value -> 'labels' AS labels, a.value -> 'annotations' AS annotations,
			coalesce(a.value -> 'annotations' ->> 'summary', a.value -> 'annotations' ->> 'description', a.value -> 'labels' ->> 'alertname')
				|| CASE WHEN a.value ->> 'status' <> notification ->> 'status' THEN format(' (%s)', a.value ->> 'status') ELSE '' END AS summary,
			CASE WHEN a.value ->> 'value' IS NOT NULL THEN concat_ws(' ', 'value', a.value ->> 'value',
				'(threshold ' || (a.value ->> 'op') || ' ' || (a.value ->> 'threshold') || ')') END AS reading,
			(SELECT string_agg(l.key || '=' || l.value, ', ' ORDER BY l.key COLLATE "C")
				FROM jsonb_each_text(a.value -> 'labels') AS l WHERE l.key <> 'alertname') AS label_text
		FROM jsonb_array_elements(notification -> 'alerts') WITH ORDINALITY AS a
	), title AS (
		SELECT format('[%s] %s', upper(notification ->> 'status') || CASE WHEN m.n > 1 THEN ':' || m.n ELSE '' END,
			coalesce(notification -> 'groupLabels' ->> 'alertname', 'digest of ' || (notification -> 'digest' ->> 'route'),
				notification -> 'commonLabels' ->> 'alertname', monitoring.labels_text(notification -> 'groupLabels'))) AS t, m.n
		FROM (SELECT count(*) + coalesce((notification ->> 'truncatedAlerts')::bigint, 0) AS n FROM alert) AS m
	)
	-- The pieces keep Slack's limits: header 150 characters, section 3000.
	SELECT 'POST', receiver ->> 'url',
		'{"Content-Type": "application/json"}'::jsonb || coalesce(receiver -> 'config' -> 'headers', '{}')
			|| jsonb_build_object('Idempotency-Key', notification ->> 'idempotencyKey'),
		jsonb_build_object(
			'text', (SELECT monitoring.slack_escape(title.t || ': ' || (SELECT summary FROM alert WHERE n = 1), 500) FROM title),
			'blocks', jsonb_build_array(
				jsonb_build_object('type', 'header', 'text', jsonb_build_object('type', 'plain_text',
					'text', (SELECT monitoring.slack_escape(title.t, 150) FROM title))))
			|| (SELECT jsonb_agg(jsonb_build_object('type', 'section', 'text', jsonb_build_object('type', 'mrkdwn',
					'text', concat_ws(E'\n', '*' || monitoring.slack_escape(a.summary, 1000) || '*',
						monitoring.slack_escape(a.reading, 200), monitoring.slack_escape(a.label_text, 1500)))) ORDER BY a.n)
				FROM alert AS a WHERE a.n <= 10)
			|| (SELECT CASE WHEN title.n > 10 THEN jsonb_build_array(jsonb_build_object('type', 'section', 'text',
					jsonb_build_object('type', 'mrkdwn', 'text', format('… and %s more', title.n - 10)))) ELSE '[]' END
				FROM title))::text
$$;
COMMENT ON FUNCTION monitoring.format_slack(jsonb, jsonb) IS 'Formatter of the kind slack: a message for an incoming webhook, with fall-back text, a header and a section for each of the first ten alerts.';

INSERT INTO monitoring.receiver_kinds (kind, function, description, builtin) VALUES
	('webhook', 'monitoring.format_webhook', 'JSON body of Alertmanager''s webhook, version 4', true),
	('slack', 'monitoring.format_slack', 'message for a Slack incoming webhook', true);
