-- alerts, raised: alerts that applications raise and end themselves.
--
-- What they say is a queue at which nobody waits for anybody: a row for each call, in the caller's transaction. An
-- evaluation takes the rows that have been committed into raised_alerts, which is what rules of the kind "raised" see.

CREATE TABLE monitoring.raised_queue (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL,
	labels jsonb NOT NULL,
	raised boolean NOT NULL,
	severity text,
	summary text,
	description text,
	until timestamptz,
	caller name NOT NULL
);
COMMENT ON TABLE monitoring.raised_queue IS 'Calls of raise_alert and resolve_alert that no evaluation has taken yet.';
COMMENT ON COLUMN monitoring.raised_queue.id IS 'Order of the calls.';
COMMENT ON COLUMN monitoring.raised_queue.name IS 'Name of the alert.';
COMMENT ON COLUMN monitoring.raised_queue.labels IS 'Its labels.';
COMMENT ON COLUMN monitoring.raised_queue.raised IS 'Raised, or ended?';
COMMENT ON COLUMN monitoring.raised_queue.severity IS 'Severity of a rule that is made for it.';
COMMENT ON COLUMN monitoring.raised_queue.summary IS 'What happened.';
COMMENT ON COLUMN monitoring.raised_queue.description IS 'More about it.';
COMMENT ON COLUMN monitoring.raised_queue.until IS 'When it ends by itself; null: never.';
COMMENT ON COLUMN monitoring.raised_queue.caller IS 'Role that called.';

CREATE TABLE monitoring.raised_alerts (
	name text NOT NULL,
	fingerprint text NOT NULL,
	labels jsonb NOT NULL,
	details jsonb NOT NULL,
	until timestamptz,
	PRIMARY KEY (name, fingerprint)
);
CREATE INDEX ON monitoring.raised_alerts (until) WHERE until IS NOT NULL;
COMMENT ON TABLE monitoring.raised_alerts IS 'Alerts that applications have raised and not ended.';
COMMENT ON COLUMN monitoring.raised_alerts.name IS 'Name of the alert and of its rule.';
COMMENT ON COLUMN monitoring.raised_alerts.fingerprint IS 'Hash of the labels.';
COMMENT ON COLUMN monitoring.raised_alerts.labels IS 'Its labels.';
COMMENT ON COLUMN monitoring.raised_alerts.details IS 'summary, description, caller, and reading, which says in place of a value who raised it.';
COMMENT ON COLUMN monitoring.raised_alerts.until IS 'When it ends by itself; null: never.';

CREATE TRIGGER wake_worker AFTER INSERT ON monitoring.raised_queue
	FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.raised_queue IS 'What applications raise is evaluated at commit.';

----------------------------------------------------------------------------------------------------------------------
-- For applications
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_raised_alert(name text, labels jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	found_kind text;
BEGIN
	IF name IS NULL OR name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an alert''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT d.kind INTO found_kind FROM monitoring.alert_rule_defs AS d WHERE d.name = check_raised_alert.name;
	IF found_kind <> 'raised' THEN
		RAISE EXCEPTION 'alert "%" is not raised by applications', name
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is an alert rule of kind %s.', found_kind);
	END IF;
	RETURN monitoring.check_text_map(labels, 'labels', 4096);
END $$;
COMMENT ON FUNCTION monitoring.check_raised_alert(text, jsonb) IS 'The labels of an alert that an application may raise, as text; otherwise an error: 22023 for a bad name or labels, 55000 if a rule of another kind has the name.';

CREATE FUNCTION monitoring.raise_alert(name text, labels jsonb DEFAULT '{}', severity text DEFAULT 'high', summary text DEFAULT NULL,
	description text DEFAULT NULL, lasts interval DEFAULT NULL, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	labels := monitoring.check_raised_alert(name, labels);
	severity := monitoring.canonical_severity(severity);
	IF lasts <= '0' OR NOT isfinite(at) THEN
		RAISE EXCEPTION 'an alert must be raised at a finite time, for longer than nothing' USING ERRCODE = 'invalid_parameter_value';
	ELSIF octet_length(summary) > 4096 OR octet_length(description) > 16384 THEN
		RAISE EXCEPTION 'the text of an alert is too long'
			USING ERRCODE = 'program_limit_exceeded', DETAIL = 'A summary has at most 4096 bytes, a description 16384.';
	END IF;
	INSERT INTO monitoring.raised_queue (name, labels, raised, severity, summary, description, until, caller)
	VALUES (name, labels, true, severity, summary, description, at + lasts, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.raise_alert(text, jsonb, text, text, text, interval, timestamptz) IS 'Raise an alert, or keep it raised, when the transaction commits; no session waits for another one in it. It ends with resolve_alert(name, labels), or when it has lasted so long (lasts, from at on; null: never). The first call makes an alert rule of that name, of kind raised and with that severity; update_alert_rule gives it receivers, a runbook, pending_for and all that other rules have. The texts are its annotations summary and description, as they are when it fires. Errors: 22023 for a bad name, labels, severity or time, 54000 for texts that are too long, 55000 if a rule of another kind has the name.';

CREATE FUNCTION monitoring.resolve_alert(name text, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	labels := monitoring.check_raised_alert(name, labels);
	INSERT INTO monitoring.raised_queue (name, labels, raised, caller) VALUES (name, labels, false, monitoring.calling_role());
END $$;
COMMENT ON FUNCTION monitoring.resolve_alert(text, jsonb) IS 'End an alert that raise_alert raised with these labels, when the transaction commits; if there is none, nothing happens. Of calls that are committed together the last one counts. Errors as raise_alert().';

----------------------------------------------------------------------------------------------------------------------
-- For evaluations
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.raised_rule_values(at timestamptz, rule_ids bigint[])
RETURNS TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.id, r.labels, 1::float8, r.details, NULL::text
	FROM monitoring.alert_rule_defs AS d
	JOIN monitoring.raised_alerts AS r ON r.name = d.name
	WHERE d.id = ANY (raised_rule_values.rule_ids) AND coalesce(r.until > raised_rule_values.at, true)
	UNION ALL
	SELECT d.id, s.series_labels, 0, s.details, NULL
	FROM monitoring.alert_rule_defs AS d
	JOIN monitoring.alert_states AS s ON s.rule_id = d.id AND s.origin = 'value' AND s.state IN ('pending', 'firing')
	WHERE d.id = ANY (raised_rule_values.rule_ids) AND NOT EXISTS (
		SELECT FROM monitoring.raised_alerts AS r
		WHERE r.name = d.name AND r.fingerprint = md5(s.series_labels::text) AND coalesce(r.until > raised_rule_values.at, true))
$$;
COMMENT ON FUNCTION monitoring.raised_rule_values(timestamptz, bigint[]) IS 'Rule kind raised: 1 for what is raised, 0 for what was and is no more.';

CREATE FUNCTION monitoring.check_raised_rule(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_rule_params(rule, '{}');
	IF rule ->> 'metric' IS NOT NULL OR rule ->> 'fn' IS NOT NULL OR rule -> 'by_labels' <> '[]' OR rule -> 'selector' <> '{}' THEN
		RAISE EXCEPTION 'an alert rule of kind raised takes no metric, function or labels' USING ERRCODE = 'invalid_parameter_value';
	ELSIF NOT monitoring.alert_breach(rule ->> 'op', 1, (rule ->> 'threshold')::float8)
		OR monitoring.alert_breach(rule ->> 'op', 0, (rule ->> 'threshold')::float8) THEN
		RAISE EXCEPTION 'an alert rule of kind raised must compare so that 1 is a breach and 0 is none'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use the operator > and the threshold 0.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_raised_rule(jsonb) IS 'Raises 22023 for a rule with a metric, function, labels or params, or that does not compare with 0 and 1.';

INSERT INTO monitoring.alert_rule_kinds (kind, function, check_function, description, builtin) VALUES
	('raised', 'monitoring.raised_rule_values', 'monitoring.check_raised_rule', '1 while an application has raised the alert (raise_alert), otherwise 0.', true);

CREATE FUNCTION monitoring.take_raised_alerts(at timestamptz) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	names text[];
	found monitoring.raised_queue;
BEGIN
	-- A rule for each name that has none, as it was raised first.
	FOR found IN
		SELECT DISTINCT ON (q.name) q.* FROM monitoring.raised_queue AS q
		WHERE q.raised AND NOT EXISTS (SELECT FROM monitoring.alert_rule_defs AS d WHERE d.name = q.name)
		ORDER BY q.name, q.id
	LOOP
		PERFORM monitoring.create_alert_rule(found.name, NULL, NULL, '1 minute', '>', 0, severity => found.severity, kind => 'raised',
			annotations => '{"summary": "{{summary}}", "description": "{{description}}"}');
	END LOOP;

	WITH taken AS (
		DELETE FROM monitoring.raised_queue AS q RETURNING q.*
	), latest AS MATERIALIZED (
		SELECT DISTINCT ON (t.name, t.labels) t.*, md5(t.labels::text) AS fingerprint
		FROM taken AS t
		ORDER BY t.name, t.labels, t.id DESC
	), ended AS (
		DELETE FROM monitoring.raised_alerts AS r USING latest AS l
		WHERE r.name = l.name AND r.fingerprint = l.fingerprint AND NOT l.raised
	), raised AS (
		INSERT INTO monitoring.raised_alerts AS r (name, fingerprint, labels, details, until)
		SELECT l.name, l.fingerprint, l.labels,
			jsonb_build_object('summary', coalesce(l.summary, l.name), 'description', coalesce(l.description, ''), 'caller', l.caller,
				'reading', format('raised by %s', l.caller)), l.until
		FROM latest AS l WHERE l.raised
		ON CONFLICT (name, fingerprint) DO UPDATE SET details = excluded.details, until = excluded.until
	)
	SELECT array_agg(DISTINCT l.name) INTO names FROM latest AS l;

	WITH over AS (DELETE FROM monitoring.raised_alerts AS r WHERE r.until <= take_raised_alerts.at RETURNING r.name)
	SELECT array_cat(names, array_agg(o.name)) INTO names FROM over AS o;
	RETURN names;
END $$;
COMMENT ON FUNCTION monitoring.take_raised_alerts(timestamptz) IS 'Take what applications have raised and ended since the last evaluation, make rules for new names, end what has lasted long enough, and return the names concerned.';
