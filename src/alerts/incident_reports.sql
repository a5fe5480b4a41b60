-- incidents, reports: what is learned from them: the report of one, and how long it takes to notice, to act and to mend.

CREATE FUNCTION monitoring.incident_report(id bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
	incident monitoring.incidents;
	report jsonb;
BEGIN
	SELECT i.* INTO incident FROM monitoring.incidents AS i WHERE i.id = incident_report.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'incident % does not exist', id
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.incidents.';
	END IF;
	report := to_jsonb(incident) || jsonb_build_object(
		'seconds_to_detect', extract(epoch FROM incident.detected_at - incident.started_at),
		'seconds_to_acknowledge', extract(epoch FROM incident.acknowledged_at - incident.detected_at),
		'seconds_to_mitigate', extract(epoch FROM incident.mitigated_at - incident.started_at),
		'seconds_to_resolve', extract(epoch FROM incident.resolved_at - incident.started_at),
		'post_mortem', (SELECT d.post_mortem FROM monitoring.incident_defs AS d WHERE d.id = incident_report.id));
	RETURN report || jsonb_build_object(
		'alerts', (SELECT coalesce(jsonb_agg(jsonb_build_object('alert_id', a.alert_id, 'joined_at', a.joined_at, 'ended_at', a.ended_at,
				'rule', h.rule_name, 'severity', h.severity, 'labels', h.labels, 'summary', h.annotations ->> 'summary', 'impact', h.details -> 'impact')
				|| monitoring.alert_reading(to_jsonb(h.value), h.op, to_jsonb(h.threshold), h.details) ORDER BY a.joined_at, h.rule_name, h.labels::text, a.alert_id), '[]')
			FROM (SELECT m.* FROM monitoring.incident_alerts AS m WHERE m.incident_id = incident_report.id
				ORDER BY m.joined_at, m.alert_id LIMIT 200) AS a
			LEFT JOIN LATERAL (SELECT t.* FROM monitoring.alert_history AS t
				WHERE t.alert_id = a.alert_id AND t.to_state = 'firing' ORDER BY t.id LIMIT 1) AS h ON true),
		'timeline', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(t)) ORDER BY t.n), '[]')
			FROM (SELECT row_number() OVER () AS n, l.* FROM monitoring.incident_timeline(incident_report.id) AS l LIMIT 1000) AS t),
		'evidence', (SELECT monitoring.evidence_of(m.alert_id) FROM monitoring.incident_alerts AS m
			WHERE m.incident_id = incident_report.id ORDER BY m.joined_at, m.alert_id LIMIT 1),
		'deployments', (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.at), '[]') FROM monitoring.deployments AS d
			WHERE d.at > incident.started_at - interval '1 day' AND d.at <= coalesce(incident.resolved_at, 'infinity')),
		'setting_changes', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(c)) ORDER BY c.at, c.scope, c.name), '[]')
			FROM (SELECT h.* FROM monitoring.setting_changes AS h
				WHERE h.at > incident.started_at - interval '1 day' AND h.at <= coalesce(incident.resolved_at, 'infinity')
				ORDER BY h.at, h.scope, h.name LIMIT 100) AS c));
END $$;
COMMENT ON FUNCTION monitoring.incident_report(bigint) IS 'Everything about an incident as JSON: its fields, seconds to detect (from start), to acknowledge (from detection), to mitigate and to resolve (from start), its first 200 alerts, timeline, the evidence of its first alert, deployments and changes of settings (the first 100) from the day before, and post_mortem. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.markdown_text(t text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(regexp_replace(t, '[[:cntrl:]]+', ' ', 'g'), '([\\`*_{}\[\]<>()#+!|~-])', '\\\1', 'g')
$$;
COMMENT ON FUNCTION monitoring.markdown_text(text) IS 'Text that stands for itself in Markdown, on one line.';

CREATE FUNCTION monitoring.incident_report_markdown(id bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
SET TimeZone = 'UTC' SET IntervalStyle = 'postgres' AS $$
	WITH report AS MATERIALIZED (
		SELECT monitoring.incident_report(incident_report_markdown.id) AS r
	)
	SELECT format(E'# Incident %s: %s\n\n', r ->> 'id', monitoring.markdown_text(r ->> 'title'))
		|| format(E'| | |\n|---|---|\n| Severity | %s |\n| Status | %s |\n', r ->> 'severity', r ->> 'status')
		|| (SELECT string_agg(format(E'| %s | %s |\n', f.name, coalesce(to_char((r ->> f.key)::timestamptz, 'YYYY-MM-DD HH24:MI:SS "UTC"'), '-')), '' ORDER BY f.n)
			FROM (VALUES (1, 'Started', 'started_at'), (2, 'Detected', 'detected_at'), (3, 'Acknowledged', 'acknowledged_at'),
				(4, 'Mitigated', 'mitigated_at'), (5, 'Resolved', 'resolved_at')) AS f (n, name, key))
		|| (SELECT string_agg(format(E'| %s | %s |\n', f.name, coalesce(make_interval(secs => round((r ->> f.key)::float8))::text, '-')), '' ORDER BY f.n)
			FROM (VALUES (1, 'Time to detect', 'seconds_to_detect'), (2, 'Time to acknowledge', 'seconds_to_acknowledge'),
				(3, 'Time to resolve', 'seconds_to_resolve')) AS f (n, name, key))
		|| coalesce((SELECT string_agg(format(E'| %s | %s |\n', monitoring.markdown_text(o.key), monitoring.markdown_text(o.value)), '' ORDER BY o.key)
			FROM jsonb_each_text(nullif(r -> 'roles', 'null')) AS o), '')
		|| CASE WHEN r ->> 'summary' <> '' THEN format(E'\n%s\n', monitoring.markdown_text(r ->> 'summary')) ELSE '' END
		|| E'\n## Alerts\n\n'
		|| coalesce((SELECT string_agg(format(E'- **%s** (%s) %s\n', monitoring.markdown_text(a ->> 'rule'), a ->> 'severity',
				coalesce(monitoring.markdown_text(a ->> 'summary'), '')), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'alerts') WITH ORDINALITY AS e (a, n)), E'None.\n')
		|| E'\n## Timeline\n\n'
		|| coalesce((SELECT string_agg(format(E'- %s %s%s%s\n', to_char((t ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), t ->> 'kind',
				coalesce(' by ' || monitoring.markdown_text(t ->> 'actor'), ''),
				CASE WHEN nullif(t -> 'details', '{}') IS NOT NULL THEN ': ' || (SELECT string_agg(monitoring.markdown_text(d.key || ' ' || d.value), ', ' ORDER BY d.key)
					FROM jsonb_each_text(t -> 'details') AS d) ELSE '' END), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'timeline') WITH ORDINALITY AS e (t, n)), '')
		|| E'\n## Deployments of the day before\n\n'
		|| coalesce((SELECT string_agg(format(E'- %s %s %s (%s)\n', to_char((d ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'),
				monitoring.markdown_text(d ->> 'service'), monitoring.markdown_text(d ->> 'version'), d ->> 'outcome'), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'deployments') WITH ORDINALITY AS e (d, n)), E'None.\n')
		|| coalesce((SELECT E'\n## Settings changed since the day before\n\n' || string_agg(format(E'- %s %s %s: %s to %s\n',
				to_char((c ->> 'at')::timestamptz, 'YYYY-MM-DD HH24:MI:SS'), monitoring.markdown_text(c ->> 'scope'), monitoring.markdown_text(c ->> 'name'),
				coalesce(monitoring.markdown_text(c ->> 'old_value'), 'not set'), coalesce(monitoring.markdown_text(c ->> 'new_value'), 'not set')), '' ORDER BY n)
			FROM jsonb_array_elements(r -> 'setting_changes') WITH ORDINALITY AS e (c, n)), '')
		|| E'\n## What we learned\n\n' || coalesce((r ->> 'post_mortem') || E'\n', E'Not written yet.\n')
	FROM report
$$;
COMMENT ON FUNCTION monitoring.incident_report_markdown(bigint) IS 'The report of an incident as Markdown, times in UTC, for a post-incident review. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.incident_metrics(since timestamptz, until timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (severity text, incidents bigint, resolved bigint, mttd interval, mttd_median interval, mttd_p90 interval,
	mtta interval, mtta_median interval, mtta_p90 interval, mttr interval, mttr_median interval, mttr_p90 interval,
	downtime interval, mtbf interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	-- One that goes on from before is no failure of this time, but down it is.
	WITH incident AS MATERIALIZED (
		SELECT i.severity, i.resolved_at, i.detected_at >= incident_metrics.since AS within, i.detected_at - i.started_at AS to_detect,
			greatest(i.acknowledged_at - i.detected_at, '0') AS to_acknowledge, i.resolved_at - i.started_at AS to_resolve,
			tstzrange(greatest(i.started_at, incident_metrics.since),
				greatest(i.started_at, incident_metrics.since, least(i.resolved_at, incident_metrics.until))) AS period
		FROM monitoring.incidents AS i
		WHERE i.detected_at < incident_metrics.until
			AND (i.detected_at >= incident_metrics.since OR coalesce(i.resolved_at > incident_metrics.since, true))
	), counted AS (
		SELECT i.severity, count(*) FILTER (WHERE i.within) AS incidents, count(i.resolved_at) FILTER (WHERE i.within) AS resolved,
			avg(i.to_detect) FILTER (WHERE i.within) AS mttd,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_detect) FILTER (WHERE i.within) AS ttd,
			avg(i.to_acknowledge) FILTER (WHERE i.within) AS mtta,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_acknowledge) FILTER (WHERE i.within) AS tta,
			avg(i.to_resolve) FILTER (WHERE i.within) AS mttr,
			percentile_cont('{0.5,0.9}'::float8[]) WITHIN GROUP (ORDER BY i.to_resolve) FILTER (WHERE i.within) AS ttr,
			range_agg(i.period) AS periods
		FROM incident AS i
		GROUP BY GROUPING SETS ((), (i.severity))
		HAVING count(*) > 0
	)
	SELECT c.severity, c.incidents, c.resolved, c.mttd, c.ttd[1], c.ttd[2], c.mtta, c.tta[1], c.tta[2], c.mttr, c.ttr[1], c.ttr[2],
		d.downtime, CASE WHEN c.incidents > 0 THEN (incident_metrics.until - incident_metrics.since - d.downtime) / c.incidents END
	FROM counted AS c
	CROSS JOIN LATERAL (SELECT coalesce(sum(upper(r) - lower(r)), '0') AS downtime FROM unnest(c.periods) AS r) AS d
	ORDER BY c.severity IS NOT NULL, array_position('{critical,high,medium,low,info}', c.severity)
$$;
COMMENT ON FUNCTION monitoring.incident_metrics(timestamptz, timestamptz) IS 'Figures about the incidents that were detected between two times, for all severities (null) and each: mean, median and 90th percentile of the times to detect (detected - started), to acknowledge (acknowledged - detected, of those that were) and to resolve (resolved - started, of those that are); downtime = the time in which one was going on, also one from before; mtbf = (time - downtime) / incidents, null without any. Error 22023 for times that are not finite or not in order.';

CREATE FUNCTION monitoring.deployment_metrics(since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	blamed_for interval DEFAULT '1 hour')
RETURNS TABLE (service text, deployments bigint, per_day float8, failures bigint, change_failure_rate float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT monitoring.check_period(since, until);
	SELECT d.service, count(*), count(*) / (extract(epoch FROM deployment_metrics.until - deployment_metrics.since)::float8 / 86400),
		count(*) FILTER (WHERE d.failed), count(*) FILTER (WHERE d.failed)::float8 / count(*)
	FROM (
		SELECT p.service, p.outcome <> 'ok' OR EXISTS (
				SELECT FROM monitoring.incident_defs AS i
				WHERE i.started_at >= p.at AND i.started_at < p.at + blamed_for
					AND coalesce(i.labels ->> 'service', p.service) = p.service) AS failed
		FROM monitoring.deployments AS p
		WHERE p.at >= deployment_metrics.since AND p.at < deployment_metrics.until
	) AS d
	GROUP BY GROUPING SETS ((), (d.service))
	HAVING count(*) > 0
	ORDER BY d.service NULLS FIRST
$$;
COMMENT ON FUNCTION monitoring.deployment_metrics(timestamptz, timestamptz, interval) IS 'Deployments between two times, of all services (null) and of each: how many, how many a day, and how many failed: those marked as failed or rolled back, and those within blamed_for of which an incident began that has the service''s label or none. Error 22023 for times that are not finite or not in order.';
