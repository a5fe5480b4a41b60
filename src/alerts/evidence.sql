-- alerts, evidence: what the server was doing at the moment when alerts fired, taken in the transaction that makes them fire.
--
-- There is one snapshot for all alerts that fire in an evaluation, and a bound on its size, so that a storm of alerts costs
-- no more than a single one. An alert that fires again and again has five in an hour, and all of an hour take no more than a
-- megabyte: what is left out says so. Texts of statements are kept without their literals.

CREATE TABLE monitoring.alert_evidence (
	at timestamptz NOT NULL,
	alert_ids bigint[] NOT NULL,
	evidence jsonb NOT NULL,
	fingerprints text[] COLLATE "C" NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.alert_evidence IS 'What the server was doing when alerts fired, kept as long as retention_policies says (90 days). See evidence_of().';
COMMENT ON COLUMN monitoring.alert_evidence.at IS 'Time of the evaluation in which they fired.';
COMMENT ON COLUMN monitoring.alert_evidence.alert_ids IS 'The alerts (alerts.alert_id) that fired; of more than 1000 those of the highest severities.';
COMMENT ON COLUMN monitoring.alert_evidence.evidence IS 'The snapshot: activity, waits, blockers, slow_statements, errors, deployments, settings; failed names parts that could not be read.; left_out says why there is no snapshot, alerts_left_out how many alerts beyond those of alert_ids fired.';
COMMENT ON COLUMN monitoring.alert_evidence.fingerprints IS 'Which alerts these are, the same in every episode; empty without a snapshot.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_evidence', '1 day', 2, '90 days', '{(at)}');

CREATE TABLE monitoring.deployments (
	at timestamptz NOT NULL,
	service text NOT NULL,
	version text NOT NULL,
	outcome text NOT NULL DEFAULT 'ok' CHECK (outcome IN ('ok', 'failed', 'rolled_back')),
	description text NOT NULL DEFAULT '',
	actor name NOT NULL,
	PRIMARY KEY (service, at)
);
COMMENT ON TABLE monitoring.deployments IS 'Deployments, as mark_deployment() notes them.';
COMMENT ON COLUMN monitoring.deployments.at IS 'When it was deployed.';
COMMENT ON COLUMN monitoring.deployments.service IS 'What was deployed.';
COMMENT ON COLUMN monitoring.deployments.version IS 'Which version.';
COMMENT ON COLUMN monitoring.deployments.outcome IS 'ok, failed, or rolled_back for one that was taken back later.';
COMMENT ON COLUMN monitoring.deployments.description IS 'What it brought.';
COMMENT ON COLUMN monitoring.deployments.actor IS 'Role that noted it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.deployments', '');
CREATE INDEX deployments_at ON monitoring.deployments (at);

CREATE FUNCTION monitoring.mark_deployment(service text, version text, outcome text DEFAULT 'ok', description text DEFAULT '',
	at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(service, '') !~ '^[^[:cntrl:]]{1,200}$' OR coalesce(version, '') !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a deployment has a service and a version of 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF outcome IS NULL OR outcome NOT IN ('ok', 'failed', 'rolled_back') THEN
		RAISE EXCEPTION 'unknown outcome "%" of a deployment', outcome
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Outcomes are ok, failed and rolled_back.';
	ELSIF at IS NULL OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'the time of a deployment must be finite' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	INSERT INTO monitoring.deployments (at, service, version, outcome, description, actor)
	VALUES (mark_deployment.at, mark_deployment.service, mark_deployment.version, mark_deployment.outcome,
		left(coalesce(mark_deployment.description, ''), 10000), monitoring.calling_role())
	ON CONFLICT ON CONSTRAINT deployments_pkey
	DO UPDATE SET version = excluded.version, outcome = excluded.outcome, description = excluded.description, actor = excluded.actor;
END $$;
COMMENT ON FUNCTION monitoring.mark_deployment(text, text, text, text, timestamptz) IS 'Note that a version of a service was deployed; the same service and time again corrects the note, such as its outcome (ok, failed or rolled_back). Alerts show recent deployments as evidence, and incident_metrics counts them. Error 22023 for anything that is not valid.';

----------------------------------------------------------------------------------------------------------------------
-- Taking evidence
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.scrub_sql(query text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	-- What a cut leaves open, and whatever follows a dollar quote, counts as a literal up to the end.
	SELECT regexp_replace(regexp_replace(left(query, 2000),
		'\$([A-Za-z_][A-Za-z_0-9]*)?\$.*|[eE]''(\\.|''''|[^''\\])*(''|\Z)|''(''''|[^''])*(''|\Z)|--[^\n]*|/\*([^*]|\*(?!/))*(\*/|\Z)', '?', 'g'),
		'(?<![A-Za-z0-9_$"])-?(0[xX][0-9A-Fa-f]+|\.?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?)(?![A-Za-z_])', '?', 'g')
$$;
COMMENT ON FUNCTION monitoring.scrub_sql(text) IS 'The first 2000 characters of a statement with its literals and comments replaced by question marks.';

CREATE FUNCTION monitoring.activity_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(a)) FROM (
		SELECT s.pid, s.datname AS database, s.usename AS "user", left(s.application_name, 64) AS application, s.state,
			concat_ws(': ', s.wait_event_type, s.wait_event) AS wait,
			round(extract(epoch FROM clock_timestamp() - s.query_start)::numeric, 3) AS seconds,
			round(extract(epoch FROM clock_timestamp() - s.xact_start)::numeric, 3) AS transaction_seconds,
			left(monitoring.scrub_sql(s.query), 500) AS query
		FROM pg_stat_activity AS s
		WHERE s.backend_type = 'client backend' AND s.pid <> pg_backend_pid() AND s.state <> 'idle'
		ORDER BY s.state <> 'active', s.query_start
		LIMIT 10) AS a
$$;
COMMENT ON FUNCTION monitoring.activity_evidence(timestamptz) IS 'Evidence: the ten sessions that have been running, or idle in a transaction, for the longest.';

CREATE FUNCTION monitoring.wait_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(w)) FROM (
		SELECT coalesce(concat_ws(': ', s.wait_event_type, s.wait_event), '') AS wait, count(*) AS sessions
		FROM pg_stat_activity AS s
		WHERE s.state = 'active' AND s.pid <> pg_backend_pid()
		GROUP BY 1
		ORDER BY 2 DESC, 1
		LIMIT 10) AS w
$$;
COMMENT ON FUNCTION monitoring.wait_evidence(timestamptz) IS 'Evidence: what active sessions wait for; an empty text is none, they run.';

CREATE FUNCTION monitoring.blocker_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- pg_blocking_pids() takes the locks of the lock table: for a bounded number of sessions, and only if there are any.
	SELECT jsonb_agg(to_jsonb(b)) FROM (
		SELECT w.blocker AS pid, array_agg(w.pid ORDER BY w.pid) AS blocked, s.state, s.usename AS "user",
			round(extract(epoch FROM clock_timestamp() - s.xact_start)::numeric, 3) AS transaction_seconds,
			left(monitoring.scrub_sql(s.query), 500) AS query
		FROM (
			SELECT l.pid, unnest(pg_blocking_pids(l.pid)) AS blocker
			FROM (SELECT a.pid FROM pg_stat_activity AS a WHERE a.wait_event_type = 'Lock' ORDER BY a.query_start LIMIT 20) AS l
		) AS w
		LEFT JOIN pg_stat_activity AS s ON s.pid = w.blocker
		GROUP BY w.blocker, s.state, s.usename, s.xact_start, s.query
		ORDER BY count(*) DESC, w.blocker
		LIMIT 5) AS b
$$;
COMMENT ON FUNCTION monitoring.blocker_evidence(timestamptz) IS 'Evidence: the five sessions that block most others, and whom; looks at the twenty that have waited for the longest.';

CREATE FUNCTION monitoring.statement_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(q)) FROM (
		SELECT v.queryid, v.database, v.max_seconds, v.calls, left(v.query, 500) AS query
		FROM monitoring.slow_query_values(statement_evidence.at, '10 minutes') AS v
		ORDER BY v.max_seconds DESC
		LIMIT 5) AS q
$$;
COMMENT ON FUNCTION monitoring.statement_evidence(timestamptz) IS 'Evidence: the five statements with the longest executions of the last ten minutes.';

CREATE FUNCTION monitoring.error_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(e.part)
	FROM (
		SELECT v.series_labels || jsonb_build_object('count', v.value) AS part
		FROM monitoring.top('errors_total', 'increase', '{service,type}', '10 minutes', 5, '{}', error_evidence.at) AS v
		UNION ALL
		SELECT s.part FROM (
			SELECT jsonb_build_object('issue', i.issue, 'database', i.database, 'severity', i.severity, 'sqlstate', i.sqlstate,
				'title', left(i.title, 200), 'place', i.place, 'new', i.first_seen > error_evidence.at - interval '10 minutes',
				'count', sum(e.occurrences)) AS part
			FROM monitoring.server_errors AS e
			JOIN monitoring.error_issue_states AS i ON i.issue = e.issue AND i.database = e.database
			WHERE e.at > error_evidence.at - interval '10 minutes' AND e.at <= error_evidence.at AND i.state <> 'ignored'
			GROUP BY i.issue, i.database
			ORDER BY sum(e.occurrences) DESC, i.issue
			LIMIT 5) AS s
	) AS e
$$;
COMMENT ON FUNCTION monitoring.error_evidence(timestamptz) IS 'Evidence: of the last ten minutes, the five types of error that errors_total counted most, and the five issues of the server that happened most, but for ignored ones; new ones began in that time.';

CREATE FUNCTION monitoring.deployment_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_agg(to_jsonb(d)) FROM (
		SELECT p.at, p.service, p.version, p.outcome, left(p.description, 200) AS description
		FROM monitoring.deployments AS p
		WHERE p.at > deployment_evidence.at - interval '1 day' AND p.at <= deployment_evidence.at
		ORDER BY p.at DESC
		LIMIT 5) AS d
$$;
COMMENT ON FUNCTION monitoring.deployment_evidence(timestamptz) IS 'Evidence: the five latest deployments of the last day.';

CREATE FUNCTION monitoring.setting_evidence(at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT nullif(jsonb_strip_nulls(jsonb_build_object(
		'changes', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.at DESC, c.scope, c.name) FROM (
			SELECT h.at, nullif(h.scope, 'server') AS scope, h.name, left(h.old_value, 100) AS "from", left(h.new_value, 100) AS "to"
			FROM monitoring.setting_changes AS h
			WHERE h.at > setting_evidence.at - interval '1 day' AND h.at <= setting_evidence.at
			ORDER BY h.at DESC, h.scope, h.name
			LIMIT 20) AS c),
		'configuration_loaded_at', CASE WHEN pg_conf_load_time() > setting_evidence.at - interval '1 day'
			AND pg_conf_load_time() > pg_postmaster_start_time() THEN pg_conf_load_time() END,
		'pending_restart', (SELECT jsonb_agg(s.name ORDER BY s.name) FROM pg_settings AS s WHERE s.pending_restart))), '{}')
$$;
COMMENT ON FUNCTION monitoring.setting_evidence(timestamptz) IS 'Evidence: the latest twenty changes of settings within a day, from what to what; when the configuration was loaded last, if that was within a day and after the start; and settings that wait for a restart.';

CREATE TABLE monitoring.evidence_kinds (
	name text PRIMARY KEY,
	function text NOT NULL,
	place integer NOT NULL,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.evidence_kinds IS 'What belongs to the evidence of an alert. Each names a function(at timestamptz) returning jsonb, null for nothing; it must belong to the owner of the extension or be SECURITY DEFINER.';
COMMENT ON COLUMN monitoring.evidence_kinds.name IS 'Key in the evidence.';
COMMENT ON COLUMN monitoring.evidence_kinds.function IS 'Schema-qualified name of the function.';
COMMENT ON COLUMN monitoring.evidence_kinds.place IS 'Order in which evidence is taken: when there is no room for more, what comes later is left out.';
COMMENT ON COLUMN monitoring.evidence_kinds.builtin IS 'True for what comes with the extension; not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.evidence_kinds', 'WHERE NOT builtin');
INSERT INTO monitoring.evidence_kinds VALUES
	('activity', 'monitoring.activity_evidence', 10, true), ('waits', 'monitoring.wait_evidence', 20, true),
	('blockers', 'monitoring.blocker_evidence', 30, true), ('slow_statements', 'monitoring.statement_evidence', 40, true),
	('errors', 'monitoring.error_evidence', 50, true), ('deployments', 'monitoring.deployment_evidence', 60, true),
	('settings', 'monitoring.setting_evidence', 70, true);

CREATE FUNCTION monitoring.take_evidence(at timestamptz DEFAULT clock_timestamp()) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	max_bytes CONSTANT integer := 32768;
	stop_at CONSTANT timestamptz := clock_timestamp() + '3 seconds';
	evidence jsonb := '{}';
	kind record;
	part jsonb;
	failure text;
BEGIN
	FOR kind IN SELECT k.name, k.function FROM monitoring.evidence_kinds AS k ORDER BY k.place, k.name LOOP
		BEGIN
			part := NULL;
			failure := 'the other evidence took too long';
			IF clock_timestamp() < stop_at THEN
				SELECT nullif(q.row -> 'part', 'null'), q.error INTO part, failure
				FROM monitoring.try_rule_query(current_user,
					format('SELECT %s($1) AS part', monitoring.kind_function('an evidence kind', kind.function, 'timestamptz')), '1 second', 1, true, at) AS q;
			END IF;
			IF failure IS NOT NULL THEN
				RAISE EXCEPTION '%', failure;
			ELSIF octet_length(evidence::text) + octet_length(part::text) > max_bytes THEN
				evidence := jsonb_set(evidence, '{truncated}', coalesce(evidence -> 'truncated', '[]') || to_jsonb(kind.name));
			ELSIF part IS NOT NULL THEN
				evidence := evidence || jsonb_build_object(kind.name, part);
			END IF;
		EXCEPTION WHEN OTHERS THEN
			IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
				RAISE;
			END IF;
			evidence := evidence || jsonb_build_object('failed',
				coalesce(evidence -> 'failed', '{}') || jsonb_build_object(kind.name, left(SQLERRM, 200)));
		END;
	END LOOP;
	RETURN evidence;
END $$;
COMMENT ON FUNCTION monitoring.take_evidence(timestamptz) IS 'What the server is doing, as it is kept when an alert fires: one key for each of evidence_kinds, at most 32 kB; truncated names what had no room, failed what could not be read, with the error. Each function has a second, all have three, and none can change anything.';

-- Sizes are those that are stored, so nothing is read to know them.
CREATE FUNCTION monitoring.evidence_left_out(fingerprints text[], at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	WITH latest AS MATERIALIZED (
		SELECT pg_column_size(e.evidence) + pg_column_size(e.alert_ids) + pg_column_size(e.fingerprints) AS bytes, e.fingerprints
		FROM monitoring.alert_evidence AS e
		WHERE e.at > evidence_left_out.at - interval '1 hour' AND e.at <= evidence_left_out.at
	), had AS MATERIALIZED (
		SELECT u.fingerprint FROM latest AS l CROSS JOIN LATERAL unnest(l.fingerprints) AS u (fingerprint) GROUP BY u.fingerprint HAVING count(*) >= 5
	)
	SELECT CASE
		WHEN (SELECT sum(l.bytes) FROM latest AS l) >= 1048576 THEN 'the evidence of the last hour takes a megabyte'
		WHEN NOT EXISTS (SELECT unnest(evidence_left_out.fingerprints) EXCEPT SELECT h.fingerprint FROM had AS h)
			THEN 'there is evidence of five times within the last hour that it fired' END
$$;
COMMENT ON FUNCTION monitoring.evidence_left_out(text[], timestamptz) IS 'Why no evidence is taken of alerts that fire at a time: each has that of five times within the hour, or all of the hour takes a megabyte; null: it is taken.';

CREATE FUNCTION monitoring.capture_evidence(transitions bigint[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
DECLARE
	fired bigint[];
	fingerprints text[];
	number bigint;
	reason text;
BEGIN
	SELECT array_agg(f.alert_id ORDER BY f.alert_id), array_agg(f.fingerprint ORDER BY f.alert_id), max(f.number) INTO fired, fingerprints, number
	FROM (SELECT h.alert_id, h.fingerprint, count(*) OVER () AS number
		FROM unnest(transitions) AS t (id)
		JOIN monitoring.alert_history AS h ON h.id = t.id
		WHERE h.at = capture_evidence.at AND h.to_state = 'firing'
		ORDER BY array_position('{critical,high,medium,low,info}', h.severity), h.id LIMIT 1000) AS f;
	IF fired IS NULL THEN
		RETURN;
	END IF;
	-- Evidence must not keep anybody from being told: what goes wrong with it is only noted.
	BEGIN
		PERFORM monitoring.note_settings(at);
	EXCEPTION WHEN OTHERS THEN
		IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
			RAISE;
		END IF;
		RAISE WARNING 'could not compare settings: %', SQLERRM;
	END;
	BEGIN
		PERFORM monitoring.ensure_partition('alert_evidence', at);
		reason := monitoring.evidence_left_out(fingerprints, at);
		INSERT INTO monitoring.alert_evidence (at, alert_ids, evidence, fingerprints)
		VALUES (capture_evidence.at, fired,
			CASE WHEN reason IS NULL THEN monitoring.take_evidence(at) ELSE jsonb_build_object('left_out', reason) END
				|| CASE WHEN number > 1000 THEN jsonb_build_object('alerts_left_out', number - 1000) ELSE '{}' END,
			CASE WHEN reason IS NULL THEN fingerprints ELSE '{}' END);
	EXCEPTION WHEN OTHERS THEN
		IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
			RAISE;
		END IF;
		RAISE WARNING 'could not take evidence for alerts: %', SQLERRM;
	END;
END $$;
COMMENT ON FUNCTION monitoring.capture_evidence(bigint[], timestamptz) IS 'Take evidence for the alerts that fired in these transitions (alert_history.id), all made at that time; of more than 1000 for those of the highest severities. An error in it becomes a warning.';

CREATE FUNCTION monitoring.evidence_of(alert_id bigint) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT jsonb_build_object('at', e.at)
		|| CASE WHEN k.known THEN e.evidence
			ELSE '{"left_out": "more than 1000 alerts fired at once, and evidence is kept of those of the highest severities"}' END
	FROM (SELECT min(h.at) AS at FROM monitoring.alert_history AS h
		WHERE h.alert_id = evidence_of.alert_id AND h.to_state = 'firing') AS f
	JOIN monitoring.alert_evidence AS e ON e.at = f.at
	CROSS JOIN LATERAL (SELECT evidence_of.alert_id = ANY (e.alert_ids) AS known) AS k
	WHERE k.known OR e.evidence ? 'alerts_left_out'
	ORDER BY k.known DESC
	LIMIT 1
$$;
COMMENT ON FUNCTION monitoring.evidence_of(bigint) IS 'What the server was doing when an alert (alerts.alert_id) fired; left_out says why that was not taken; null if it has not fired or the evidence is gone.';
