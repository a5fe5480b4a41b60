-- alerts, statistics: how often alerts fire, how fast people act, how much of it is noise; and the story of one alert.
--
-- An episode is what alert_history tells of one alert_id. The row of its end knows when it began and fired, so that a period
-- is read once; what still fires is in alert_states.

----------------------------------------------------------------------------------------------------------------------
-- One alert
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_timeline(alert_id bigint)
RETURNS TABLE (at timestamptz, kind text, actor text, details jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT t.at, t.kind, t.actor, t.details
	FROM (
		SELECT h.at, 1 AS rank, h.id, h.to_state AS kind, NULL::text AS actor,
			jsonb_strip_nulls(jsonb_build_object('from', h.from_state, 'reason', h.reason)
				|| monitoring.alert_reading(to_jsonb(h.value), h.op, to_jsonb(h.threshold), h.details)) AS details
		FROM monitoring.alert_history AS h
		WHERE h.alert_id = alert_timeline.alert_id
		UNION ALL
		SELECT e.at, CASE WHEN e.actor IS NULL THEN 2 ELSE 0 END, e.id, e.kind, e.actor, e.details
		FROM monitoring.alert_events AS e
		WHERE e.alert_id = alert_timeline.alert_id
		UNION ALL
		SELECT i.at, 2, 0, 'incident', NULL, i.details FROM monitoring.incident_joined(alert_timeline.alert_id) AS i) AS t
	ORDER BY t.at, t.rank, t.id
$$;
COMMENT ON FUNCTION monitoring.alert_timeline(bigint) IS 'Everything that happened to an alert, in order: its transitions (kind pending, firing, resolved, or inactive for one that did not fire), what people did (actor says who) and what the extension decided.';

-- Events know the groups of alerts that have ended, too. All alerts of a digest are one group, which says nothing about them.
CREATE FUNCTION monitoring.group_keys(alert_ids bigint[], since timestamptz) RETURNS TABLE (alert_id bigint, keys text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT e.alert_id, array_agg(DISTINCT e.details ->> 'group_key')
	FROM monitoring.entered_groups(alert_ids, since) AS e
	WHERE NOT EXISTS (
		SELECT FROM monitoring.route_settings() AS r WHERE r.name = e.details ->> 'route' AND r.digest IS NOT NULL)
	GROUP BY e.alert_id
$$;
COMMENT ON FUNCTION monitoring.group_keys(bigint[], timestamptz) IS 'Keys of the groups that alerts have come to since a time, digests left out; no row for alerts that have come to none.';

CREATE FUNCTION monitoring.correlated_alerts(alert bigint, within interval DEFAULT '15 minutes', shared text[] DEFAULT NULL)
RETURNS TABLE (alert_id bigint, rule text, severity text, labels jsonb, fired_at timestamptz, same_group boolean, shared_labels jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	self record;
	own_keys text[];
BEGIN
	SELECT h.rule_id, h.labels, coalesce(h.fired_at, h.active_at) AS at INTO self
	FROM monitoring.alert_history AS h
	WHERE h.alert_id = alert
	ORDER BY h.id DESC
	LIMIT 1;
	IF NOT FOUND THEN
		PERFORM monitoring.check_alert(alert);
	ELSIF within IS NULL OR within < '0' OR NOT isfinite(self.at + within) THEN
		RAISE EXCEPTION 'the time between correlated alerts must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	own_keys := (SELECT k.keys FROM monitoring.group_keys(ARRAY[alert], self.at) AS k);
	RETURN QUERY
	WITH near AS MATERIALIZED (
		SELECT h.alert_id, h.rule_id, h.rule_name, h.severity, h.labels, h.fired_at, greatest(h.at - self.at, self.at - h.at) AS apart
		FROM monitoring.alert_history AS h
		WHERE h.at BETWEEN self.at - within AND self.at + within AND h.to_state = 'firing' AND h.alert_id <> alert
	), judged AS (
		SELECT n.*, CASE WHEN own_keys IS NULL THEN n.rule_id = self.rule_id ELSE coalesce(g.keys && own_keys, false) END AS same_group,
			c.pairs, c.number
		FROM near AS n
		LEFT JOIN monitoring.group_keys((SELECT array_agg(m.alert_id) FROM near AS m), self.at - within) AS g ON g.alert_id = n.alert_id
		CROSS JOIN LATERAL (
			SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') AS pairs, count(*) AS number
			FROM jsonb_each(n.labels) AS e
			WHERE self.labels -> e.key = e.value AND (shared IS NULL OR e.key = ANY (shared))) AS c
	)
	SELECT j.alert_id, j.rule_name, j.severity, j.labels, j.fired_at, j.same_group, j.pairs
	FROM judged AS j
	WHERE j.same_group OR j.number > 0
	ORDER BY j.number DESC, j.apart, j.alert_id;
END $$;
COMMENT ON FUNCTION monitoring.correlated_alerts(bigint, interval, text[]) IS 'Alerts that fired within a time before or after an alert did and came to the same group (see notification_groups; if the alert came to none, those of its rule) or share labels with it (of those in `shared`; null: any), closest relatives first. Errors: 42704 if there is no such alert, 22023 for a negative time.';

----------------------------------------------------------------------------------------------------------------------
-- Many alerts
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.alert_episodes(since timestamptz, until timestamptz DEFAULT clock_timestamp(),
	flap_within interval DEFAULT '30 minutes')
RETURNS TABLE (alert_id bigint, rule text, severity text, labels jsonb, fingerprint text, active_at timestamptz,
	fired_at timestamptz, ended_at timestamptz, firing_seconds float8, acknowledged_at timestamptz, false_positive boolean,
	refired boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_period(since, until);
	IF flap_within IS NULL OR flap_within < '0' THEN
		RAISE EXCEPTION 'the time within which an alert flaps must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN QUERY
	WITH episodes AS (
		SELECT h.alert_id, h.rule_name, h.severity, h.labels, h.fingerprint, h.active_at, h.fired_at,
			CASE WHEN h.at < alert_episodes.until THEN h.at END AS ended_at
		FROM monitoring.alert_history AS h
		WHERE h.at >= alert_episodes.since AND h.from_state = 'firing' AND h.to_state = 'resolved'
			AND h.fired_at < alert_episodes.until
		UNION ALL
		SELECT s.alert_id, d.name, d.severity, monitoring.alert_labels(d, s.series_labels), s.fingerprint, s.active_at,
			s.fired_at, NULL
		FROM monitoring.alert_states AS s
		JOIN monitoring.alert_rule_defs AS d ON d.id = s.rule_id
		WHERE s.state = 'firing' AND s.fired_at < alert_episodes.until
	)
	SELECT e.alert_id, e.rule_name, e.severity, e.labels, e.fingerprint, e.active_at, e.fired_at, e.ended_at,
		extract(epoch FROM coalesce(e.ended_at, alert_episodes.until) - greatest(e.fired_at, alert_episodes.since))::float8,
		CASE WHEN h.first_acknowledged_at < alert_episodes.until THEN h.first_acknowledged_at END,
		coalesce(h.false_positive, false),
		coalesce(e.fired_at - lag(e.ended_at) OVER (PARTITION BY e.fingerprint ORDER BY e.fired_at, e.alert_id)
			<= alert_episodes.flap_within, false)
	FROM episodes AS e
	LEFT JOIN monitoring.alert_handling AS h ON h.alert_id = e.alert_id;
END $$;
COMMENT ON FUNCTION monitoring.alert_episodes(timestamptz, timestamptz, interval) IS 'Alerts that fired at some time of a period, one row per episode, as things were at its end. ended_at is null for those that still fired then, firing_seconds the part of the period in which it fired; refired says that it fired again within flap_within after its previous episode. Error 22023 for a period that does not end after it began.';

CREATE FUNCTION monitoring.alert_statistics(since timestamptz DEFAULT NULL, until timestamptz DEFAULT clock_timestamp(),
	by text DEFAULT 'alertname', flap_within interval DEFAULT '30 minutes')
RETURNS TABLE (name text, firings bigint, firing_seconds float8, acknowledged bigint, mtta_seconds float8,
	mtta_median_seconds float8, mtta_p90_seconds float8, resolved bigint, mttr_seconds float8, mttr_median_seconds float8,
	mttr_p90_seconds float8, noise_ratio float8, flapping_ratio float8, false_positives bigint, false_positive_ratio float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT x.name, count(*) FILTER (WHERE x.fired), sum(x.firing_seconds), count(x.mtta),
		avg(x.mtta), percentile_cont(0.5) WITHIN GROUP (ORDER BY x.mtta), percentile_cont(0.9) WITHIN GROUP (ORDER BY x.mtta),
		count(x.mttr),
		avg(x.mttr), percentile_cont(0.5) WITHIN GROUP (ORDER BY x.mttr), percentile_cont(0.9) WITHIN GROUP (ORDER BY x.mttr),
		count(*) FILTER (WHERE x.mttr IS NOT NULL AND x.mtta IS NULL)::float8 / nullif(count(x.mttr), 0),
		count(*) FILTER (WHERE x.fired AND x.refired)::float8 / nullif(count(*) FILTER (WHERE x.fired), 0),
		count(*) FILTER (WHERE x.fired AND x.false_positive),
		count(*) FILTER (WHERE x.fired AND x.false_positive)::float8 / nullif(count(*) FILTER (WHERE x.fired), 0)
	FROM (
		SELECT (e.labels || jsonb_build_object('alertname', e.rule, 'severity', e.severity)) ->> by AS name, e.firing_seconds,
			e.refired, e.false_positive, p.fired,
			CASE WHEN p.fired AND e.acknowledged_at IS NOT NULL
				-- while it was pending: at once
				THEN greatest(extract(epoch FROM e.acknowledged_at - e.fired_at), 0)::float8 END AS mtta,
			CASE WHEN p.fired THEN extract(epoch FROM e.ended_at - e.active_at)::float8 END AS mttr
		FROM monitoring.alert_episodes(coalesce(since, until - '7 days'::interval), until, flap_within) AS e
		CROSS JOIN LATERAL (SELECT e.fired_at >= coalesce(since, until - '7 days'::interval) AS fired) AS p) AS x
	GROUP BY x.name
	ORDER BY 2 DESC, 1
$$;
COMMENT ON FUNCTION monitoring.alert_statistics(timestamptz, timestamptz, text, interval) IS 'Figures about the alerts of a period (default: the last seven days), one row per value of a label: alertname (one row per rule), severity, or any other, such as team. firings: alerts that fired in the period; all else but firing_seconds is about those. firing_seconds: time in which they fired within the period, of all instances together. mtta: from firing to acknowledged, where it was (acknowledged says how often); mttr: from the beginning of the breach to the end of the alert, where it has ended (resolved). Each as mean, median and 90th percentile, in seconds. noise_ratio: share of those that ended which nobody acknowledged. flapping_ratio: share of firings that came within flap_within after the same alert''s previous end. false_positive_ratio: share marked as such. Ratios are null where there is nothing to divide by. Error 22023 for a period that does not end after it began.';

CREATE VIEW monitoring.alert_counts AS
	SELECT v.severity, pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'pending') AS pending,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing') AS firing,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing' AND a.acknowledged_at IS NOT NULL) AS acknowledged,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing' AND a.suppressed IS NOT NULL) AS suppressed,
		pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'resolved') AS resolved
	FROM (VALUES (1, 'critical'), (2, 'high'), (3, 'medium'), (4, 'low'), (5, 'info')) AS v (rank, severity)
	LEFT JOIN monitoring.alerts AS a ON a.severity OPERATOR(pg_catalog.=) v.severity
	GROUP BY v.rank, v.severity
	ORDER BY v.rank;
COMMENT ON VIEW monitoring.alert_counts IS 'How many alerts there are now by severity and state.';
COMMENT ON COLUMN monitoring.alert_counts.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.alert_counts.pending IS 'Alerts that are pending.';
COMMENT ON COLUMN monitoring.alert_counts.firing IS 'Alerts that fire.';
COMMENT ON COLUMN monitoring.alert_counts.acknowledged IS 'Firing ones that somebody has acknowledged.';
COMMENT ON COLUMN monitoring.alert_counts.suppressed IS 'Firing ones of which nobody is notified now, acknowledged ones among them.';
COMMENT ON COLUMN monitoring.alert_counts.resolved IS 'Alerts that were resolved within the last day.';

CREATE FUNCTION monitoring.flapping_alerts(since timestamptz DEFAULT NULL, until timestamptz DEFAULT clock_timestamp(),
	flap_within interval DEFAULT '30 minutes')
RETURNS TABLE (rule text, labels jsonb, fingerprint text, firings bigint, refirings bigint, flapping_ratio float8, last_fired_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT (array_agg(e.rule))[1], (array_agg(e.labels ORDER BY e.fired_at DESC))[1], e.fingerprint, count(*),
		count(*) FILTER (WHERE e.refired), count(*) FILTER (WHERE e.refired)::float8 / count(*), max(e.fired_at)
	FROM monitoring.alert_episodes(coalesce(since, until - '7 days'::interval), until, flap_within) AS e
	GROUP BY e.fingerprint
	HAVING bool_or(e.refired)
	ORDER BY 5 DESC, 7 DESC
$$;
COMMENT ON FUNCTION monitoring.flapping_alerts(timestamptz, timestamptz, interval) IS 'Alerts that fired again within flap_within after they had ended, in a period (default: the last seven days), those that did so most often first. A larger keep_firing_for or a resolve_threshold calms them. Error 22023 for a period that does not end after it began.';

----------------------------------------------------------------------------------------------------------------------
-- Forgetting
----------------------------------------------------------------------------------------------------------------------

-- A little at a time: an hour later there is more.
CREATE FUNCTION monitoring.forget_alerts(at timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH history AS (
		SELECT forget_alerts.at - p.keep - p.partition_step AS since
		FROM monitoring.retention_policies AS p
		WHERE p.relation = 'alert_history' AND p.enabled
	), silences AS (
		DELETE FROM monitoring.silence_defs AS s
		WHERE s.id IN (
			SELECT o.id FROM monitoring.silence_defs AS o WHERE o.ends_at < (SELECT h.since FROM history AS h) LIMIT 10000)
	), handling AS (
		DELETE FROM monitoring.alert_handling AS a
		WHERE a.alert_id IN (
			SELECT o.alert_id
			FROM monitoring.alert_handling AS o
			WHERE o.updated_at < (SELECT h.since FROM history AS h)
				AND NOT EXISTS (SELECT FROM monitoring.alert_states AS s WHERE s.alert_id = o.alert_id)
			LIMIT 10000)
		RETURNING a.alert_id, a.first_acknowledged_at
	), alerts AS (
		-- what was done about them goes first
		DELETE FROM monitoring.incident_alerts AS m
		WHERE m.alert_id IN (
			SELECT o.alert_id
			FROM monitoring.incident_defs AS i
			JOIN monitoring.incident_alerts AS o ON o.incident_id = i.id
			WHERE i.resolved_at < (SELECT h.since FROM history AS h) AND o.ended_at < (SELECT h.since FROM history AS h)
				AND NOT EXISTS (SELECT FROM monitoring.alert_handling AS a WHERE a.alert_id = o.alert_id)
			LIMIT 10000)
		RETURNING m.incident_id
	)
	-- incidents are kept, and with them how many alerts they had and when somebody first acknowledged one
	UPDATE monitoring.incident_defs AS i
	SET acknowledged_at = least(i.acknowledged_at, f.acknowledged_at), forgotten_alerts = i.forgotten_alerts + f.alerts
	FROM (
		SELECT k.incident_id, min(k.acknowledged_at) AS acknowledged_at, count(*) FILTER (WHERE k.alert) AS alerts
		FROM (
			SELECT m.incident_id, d.first_acknowledged_at AS acknowledged_at, false AS alert
			FROM handling AS d
			JOIN monitoring.incident_alerts AS m ON m.alert_id = d.alert_id
			UNION ALL
			SELECT a.incident_id, NULL, true FROM alerts AS a
		) AS k
		GROUP BY k.incident_id
	) AS f
	WHERE i.id = f.incident_id AND (f.acknowledged_at IS NOT NULL OR f.alerts > 0)
$$;
COMMENT ON FUNCTION monitoring.forget_alerts(timestamptz) IS 'The periodic job that deletes silences, what was done about alerts, and the alerts of resolved incidents, once alert_history has forgotten them. Incidents stay.';

INSERT INTO monitoring.jobs (name, function, every, priority) VALUES ('forget_alerts', 'monitoring.forget_alerts', '1 hour', 200);
