-- alerts: rules, their kinds, and the tables in which the state of every alert lives. evaluate.sql, which follows, turns
-- rules into alerts.
--
-- A rule row is locked FOR UPDATE by whoever edits it, and FOR SHARE SKIP LOCKED by an evaluation that is about to change
-- one of its alerts: an edit in a transaction that stays open puts off its own rule only.

----------------------------------------------------------------------------------------------------------------------
-- Rules
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.alert_rule_kinds (
	kind text PRIMARY KEY CHECK (kind ~ '^[a-z][a-z0-9_]{0,62}$'),
	function text NOT NULL,
	check_function text,
	description text NOT NULL DEFAULT '',
	builtin boolean NOT NULL DEFAULT false,
	evaluation_order integer NOT NULL DEFAULT 0,
	every interval CHECK (every > '0')
);
COMMENT ON TABLE monitoring.alert_rule_kinds IS 'Kinds of alert rules. Each names a function(at timestamptz, rule_ids bigint[]) returning TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text) that gives the current values of all those rules in one statement; a row with an error says that its rule cannot be evaluated now. A text "reading" in details is shown to people in place of value, operator and threshold. Add a kind with CREATE FUNCTION and INSERT; a function that does not belong to the owner of the extension must be SECURITY DEFINER.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.kind IS 'Name of the kind, as given to create_alert_rule.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.function IS 'Schema-qualified name of the function that gives the values; one row per rule and label set.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.check_function IS 'Schema-qualified name of a function(rule jsonb) returning void that raises an error for a rule that the kind cannot evaluate; null: nothing to check.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.description IS 'What the kind compares with the threshold.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.builtin IS 'True for kinds that come with the extension; they are not dumped.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.evaluation_order IS 'Kinds with lower numbers are evaluated first; a kind that reads other rules'' alerts needs a higher number than theirs.';
COMMENT ON COLUMN monitoring.alert_rule_kinds.every IS 'How often rules of the kind are evaluated that do not say so themselves; null: at every evaluation.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_kinds', 'WHERE NOT builtin');

CREATE SEQUENCE monitoring.alert_rule_defs_id_seq;
COMMENT ON SEQUENCE monitoring.alert_rule_defs_id_seq IS 'Ids of alert rules.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_defs_id_seq', '');

CREATE TABLE monitoring.alert_rule_defs (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.alert_rule_defs_id_seq'),
	name text NOT NULL UNIQUE,
	kind text NOT NULL DEFAULT 'metric',
	metric text,
	fn text,
	over interval NOT NULL CHECK (over > '0'),
	op text NOT NULL CHECK (op IN ('>', '>=', '<', '<=', '=', '<>')),
	threshold float8 NOT NULL CHECK (threshold > '-Infinity' AND threshold < 'Infinity'),
	resolve_threshold float8 CHECK (resolve_threshold > '-Infinity' AND resolve_threshold < 'Infinity'),
	pending_for interval NOT NULL DEFAULT '0' CHECK (pending_for >= '0'),
	keep_firing_for interval NOT NULL DEFAULT '0' CHECK (keep_firing_for >= '0'),
	max_age interval NOT NULL DEFAULT '5 minutes' CHECK (max_age >= '0'),
	severity text NOT NULL DEFAULT 'medium' CHECK (severity IN ('critical', 'high', 'medium', 'low', 'info')),
	selector jsonb NOT NULL DEFAULT '{}',
	by_labels text[] NOT NULL DEFAULT '{}',
	extra_labels jsonb NOT NULL DEFAULT '{}',
	annotations jsonb NOT NULL DEFAULT '{}',
	receivers text[],
	enabled boolean NOT NULL DEFAULT true,
	owner text NOT NULL,
	version integer NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_error text,
	last_error_at timestamptz,
	params jsonb NOT NULL DEFAULT '{}',
	every interval CHECK (every > '0'),
	repeat_every interval CHECK (repeat_every > '0'),
	no_data text NOT NULL DEFAULT 'ok' CHECK (no_data IN ('ok', 'alerting', 'keep', 'alert')),
	on_error text NOT NULL DEFAULT 'keep' CHECK (on_error IN ('keep', 'ok', 'alerting', 'alert')),
	max_instances integer NOT NULL DEFAULT 1000 CHECK (max_instances > 0),
	runbook_url text,
	impact_sql text,
	active_times jsonb,
	parent text,
	threshold_sql text,
	slo text,
	pack text,
	edited boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.alert_rule_defs IS 'Alert rules as stored. Use create_alert_rule, update_alert_rule and drop_alert_rule to change them, and the view alert_rules to read them.';
COMMENT ON COLUMN monitoring.alert_rule_defs.id IS 'Number of the rule.';
COMMENT ON COLUMN monitoring.alert_rule_defs.name IS 'Name of the rule; part of the fingerprint of its alerts, so it never changes.';
COMMENT ON COLUMN monitoring.alert_rule_defs.kind IS 'What is evaluated, one of alert_rule_kinds.';
COMMENT ON COLUMN monitoring.alert_rule_defs.metric IS 'Metric that is read; null for kinds that read none.';
COMMENT ON COLUMN monitoring.alert_rule_defs.fn IS 'Function of the metric''s values in the window, as for value().';
COMMENT ON COLUMN monitoring.alert_rule_defs.over IS 'Length of the window that ends at the time of the evaluation.';
COMMENT ON COLUMN monitoring.alert_rule_defs.op IS 'How the value is compared with the threshold: >, >=, <, <=, = or <>.';
COMMENT ON COLUMN monitoring.alert_rule_defs.threshold IS 'The alert is raised while value op threshold holds.';
COMMENT ON COLUMN monitoring.alert_rule_defs.resolve_threshold IS 'A firing alert stays while value op resolve_threshold holds; null: the threshold itself.';
COMMENT ON COLUMN monitoring.alert_rule_defs.pending_for IS 'How long the breach must last before the alert fires; 0: at once.';
COMMENT ON COLUMN monitoring.alert_rule_defs.keep_firing_for IS 'How long a firing alert must be clear before it is resolved; 0: at once.';
COMMENT ON COLUMN monitoring.alert_rule_defs.max_age IS 'How long an alert keeps its state without data; then it ends with reason no_data.';
COMMENT ON COLUMN monitoring.alert_rule_defs.severity IS 'critical, high, medium, low or info.';
COMMENT ON COLUMN monitoring.alert_rule_defs.selector IS 'Labels that a series must have to be read.';
COMMENT ON COLUMN monitoring.alert_rule_defs.by_labels IS 'Labels to group by: one alert per combination of their values. Empty: one alert.';
COMMENT ON COLUMN monitoring.alert_rule_defs.extra_labels IS 'Labels attached to the rule''s alerts; {{label}}, {{severity}} and {{alertname}} are filled in.';
COMMENT ON COLUMN monitoring.alert_rule_defs.annotations IS 'Texts for people; {{value}}, {{threshold}}, {{severity}}, {{alertname}} and {{label}} are filled in.';
COMMENT ON COLUMN monitoring.alert_rule_defs.receivers IS 'Names of the receivers that are notified, at once and past the routes; null: as the routes say. Empty: nobody.';
COMMENT ON COLUMN monitoring.alert_rule_defs.enabled IS 'False: not evaluated.';
COMMENT ON COLUMN monitoring.alert_rule_defs.owner IS 'Role that created the rule.';
COMMENT ON COLUMN monitoring.alert_rule_defs.version IS 'Grows with every change of the definition, and when somebody ends an alert of the rule by hand: what an evaluation has read before is out of date.';
COMMENT ON COLUMN monitoring.alert_rule_defs.created_at IS 'When the rule was created.';
COMMENT ON COLUMN monitoring.alert_rule_defs.updated_at IS 'When the definition last changed.';
COMMENT ON COLUMN monitoring.alert_rule_defs.last_error IS 'Why the rule cannot be evaluated; null: it can.';
COMMENT ON COLUMN monitoring.alert_rule_defs.last_error_at IS 'Time of the evaluation at which last_error appeared.';
COMMENT ON COLUMN monitoring.alert_rule_defs.params IS 'What the kind needs besides metric, fn, over, selector and by_labels.';
COMMENT ON COLUMN monitoring.alert_rule_defs.every IS 'How often the rule is evaluated; null: at every evaluation.';
COMMENT ON COLUMN monitoring.alert_rule_defs.repeat_every IS 'Least time between two notifications about the same alert; null: as its route says.';
COMMENT ON COLUMN monitoring.alert_rule_defs.no_data IS 'What becomes of an alert without data for max_age: ok (it ends), alerting (it counts as a breach), keep (it stays), alert (it stays, and an alert with the label reason="no_data" is raised beside it).';
COMMENT ON COLUMN monitoring.alert_rule_defs.on_error IS 'What becomes of the alerts while the rule cannot be evaluated: keep (they stay), ok (they end), alerting (they count as breaches), alert (they stay, and an alert with the label reason="rule_error" is raised beside them).';
COMMENT ON COLUMN monitoring.alert_rule_defs.max_instances IS 'More label sets than this in one evaluation are an error of the rule; its alerts stay.';
COMMENT ON COLUMN monitoring.alert_rule_defs.runbook_url IS 'Where it is written what to do.';
COMMENT ON COLUMN monitoring.alert_rule_defs.impact_sql IS 'Query of one row that tells what an alert costs, run as the owner when it fires; its columns become details.impact.';
COMMENT ON COLUMN monitoring.alert_rule_defs.active_times IS 'Time intervals in which the rule is evaluated; outside them its alerts end. Null: always.';
COMMENT ON COLUMN monitoring.alert_rule_defs.parent IS 'Name of a rule; while it fires, alerts of this one are not notified.';
COMMENT ON COLUMN monitoring.alert_rule_defs.threshold_sql IS 'Query that gives thresholds by labels, run as the owner; an alert that no row fits takes threshold. Null: threshold for all.';
COMMENT ON COLUMN monitoring.alert_rule_defs.slo IS 'Objective that the rule watches; null: none.';
COMMENT ON COLUMN monitoring.alert_rule_defs.pack IS 'Pack that the rule came with; null: none.';
COMMENT ON COLUMN monitoring.alert_rule_defs.edited IS 'Whether the definition has changed since the rule was created: the pack or the objective that it came with leaves it alone.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_rule_defs', '');

----------------------------------------------------------------------------------------------------------------------
-- State and history
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.alert_id_seq;
COMMENT ON SEQUENCE monitoring.alert_id_seq IS 'Ids of alerts.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_id_seq', '');

CREATE TABLE monitoring.alert_states (
	rule_id bigint NOT NULL,
	fingerprint text COLLATE "C" NOT NULL,
	series_labels jsonb NOT NULL,
	alert_id bigint NOT NULL UNIQUE,
	state text NOT NULL CHECK (state IN ('pending', 'firing', 'resolved')),
	value float8,
	details jsonb,
	active_at timestamptz NOT NULL,
	fired_at timestamptz,
	resolved_at timestamptz,
	clear_since timestamptz,
	missing_since timestamptz,
	updated_at timestamptz NOT NULL,
	threshold float8 NOT NULL,
	origin text NOT NULL DEFAULT 'value' CHECK (origin IN ('value', 'no_data', 'rule_error')),
	-- not series_labels: labels can be longer than an index entry
	PRIMARY KEY (rule_id, fingerprint)
) WITH (fillfactor = 50); -- room for a change of all rows of a page, which then touches no index
COMMENT ON TABLE monitoring.alert_states IS 'State of every alert that is pending, firing or lately resolved. A row is written when something about it changes, not at every evaluation.';
COMMENT ON COLUMN monitoring.alert_states.rule_id IS 'The rule (alert_rules.id).';
COMMENT ON COLUMN monitoring.alert_states.fingerprint IS 'Hash of the rule''s name, series_labels and, for alerts that tell of missing data or an error, origin; the same in every episode.';
COMMENT ON COLUMN monitoring.alert_states.series_labels IS 'Labels that tell this alert from the rule''s others.';
COMMENT ON COLUMN monitoring.alert_states.alert_id IS 'Number of the episode, from breach to end; a new one when the alert comes back.';
COMMENT ON COLUMN monitoring.alert_states.state IS 'pending, firing or resolved.';
COMMENT ON COLUMN monitoring.alert_states.value IS 'Value at the last change.';
COMMENT ON COLUMN monitoring.alert_states.details IS 'What the rule kind told about the value at the last change.';
COMMENT ON COLUMN monitoring.alert_states.active_at IS 'When the breach began.';
COMMENT ON COLUMN monitoring.alert_states.fired_at IS 'When it fired; null while pending.';
COMMENT ON COLUMN monitoring.alert_states.resolved_at IS 'When it was resolved; null before.';
COMMENT ON COLUMN monitoring.alert_states.clear_since IS 'While keep_firing_for runs: when the breach ended.';
COMMENT ON COLUMN monitoring.alert_states.missing_since IS 'While max_age runs: when data ended.';
COMMENT ON COLUMN monitoring.alert_states.updated_at IS 'Time of the evaluation that last changed the row.';
COMMENT ON COLUMN monitoring.alert_states.threshold IS 'What the value was compared with at the last change.';
COMMENT ON COLUMN monitoring.alert_states.origin IS 'value, or which policy of the rule raised the alert: no_data or rule_error.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_states', '');

CREATE TABLE monitoring.evaluation_state (
	only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
	evaluated_at timestamptz NOT NULL
);
COMMENT ON TABLE monitoring.evaluation_state IS 'When alert rules were last evaluated, to the minute: after an outage timers of alerts start over. No row before the first evaluation.';
COMMENT ON COLUMN monitoring.evaluation_state.only_row IS 'Always true.';
COMMENT ON COLUMN monitoring.evaluation_state.evaluated_at IS 'Time of an evaluation that is at most a minute older than the last one.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.evaluation_state', '');

CREATE SEQUENCE monitoring.alert_history_id_seq;
COMMENT ON SEQUENCE monitoring.alert_history_id_seq IS 'Ids of transitions.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.alert_history_id_seq', '');

CREATE TABLE monitoring.alert_history (
	id bigint NOT NULL DEFAULT nextval('monitoring.alert_history_id_seq'),
	at timestamptz NOT NULL,
	alert_id bigint NOT NULL,
	rule_id bigint NOT NULL,
	rule_name text NOT NULL,
	severity text NOT NULL,
	series_labels jsonb NOT NULL,
	labels jsonb NOT NULL,
	from_state text NOT NULL,
	to_state text NOT NULL,
	reason text NOT NULL,
	value float8,
	op text NOT NULL,
	threshold float8 NOT NULL,
	annotations jsonb NOT NULL,
	details jsonb,
	active_at timestamptz NOT NULL,
	fired_at timestamptz,
	fingerprint text COLLATE "C" NOT NULL
) PARTITION BY RANGE (at);
COMMENT ON TABLE monitoring.alert_history IS 'Every transition of every alert, kept as long as retention_policies says (90 days).';
COMMENT ON COLUMN monitoring.alert_history.id IS 'Number of the transition.';
COMMENT ON COLUMN monitoring.alert_history.at IS 'Time of the evaluation that made it.';
COMMENT ON COLUMN monitoring.alert_history.alert_id IS 'Number of the episode (alerts.alert_id).';
COMMENT ON COLUMN monitoring.alert_history.rule_id IS 'The rule (alert_rules.id), which may have been dropped since.';
COMMENT ON COLUMN monitoring.alert_history.rule_name IS 'Name of the rule.';
COMMENT ON COLUMN monitoring.alert_history.severity IS 'Severity at that time.';
COMMENT ON COLUMN monitoring.alert_history.series_labels IS 'Labels that tell this alert from the rule''s others.';
COMMENT ON COLUMN monitoring.alert_history.labels IS 'All labels: the rule''s selector, its extra labels and series_labels.';
COMMENT ON COLUMN monitoring.alert_history.from_state IS 'inactive, pending or firing.';
COMMENT ON COLUMN monitoring.alert_history.to_state IS 'pending, firing, resolved, or inactive for a pending alert that did not fire.';
COMMENT ON COLUMN monitoring.alert_history.reason IS 'breach, clear, no_data, rule_error, inactive_hours, rule_changed, rule_disabled, rule_dropped or manual.';
COMMENT ON COLUMN monitoring.alert_history.value IS 'Value at that time; the last known one when there is no data.';
COMMENT ON COLUMN monitoring.alert_history.op IS 'The rule''s operator at that time.';
COMMENT ON COLUMN monitoring.alert_history.threshold IS 'What the value was compared with: the rule''s threshold at that time, or the one that its threshold_sql gave.';
COMMENT ON COLUMN monitoring.alert_history.annotations IS 'The rule''s annotations, filled in.';
COMMENT ON COLUMN monitoring.alert_history.details IS 'What the rule kind told about the value.';
COMMENT ON COLUMN monitoring.alert_history.active_at IS 'When the episode''s breach began.';
COMMENT ON COLUMN monitoring.alert_history.fired_at IS 'When the episode fired; null if it did not.';
COMMENT ON COLUMN monitoring.alert_history.fingerprint IS 'Hash of the rule''s name and series_labels.';

INSERT INTO monitoring.retention_policies (relation, partition_step, premake, keep, indexes)
VALUES ('alert_history', '1 day', 2, '90 days', '{"PRIMARY KEY (at, id)",(alert_id)}');

----------------------------------------------------------------------------------------------------------------------
-- Checks
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.calling_role() RETURNS name
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mon_calling_role';
COMMENT ON FUNCTION monitoring.calling_role() IS 'The role that a session acts as, also within functions that run with their owner''s rights. Error 42501 where the server runs somebody else''s code in the session: in maintenance commands and below the actions of foreign keys.';

CREATE FUNCTION monitoring.check_period(since timestamptz, until timestamptz) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until) OR since >= until THEN
		RAISE EXCEPTION 'a period must be finite and end after it began' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_period(timestamptz, timestamptz) IS 'Raises 22023 unless both times are finite and the second is later.';

CREATE FUNCTION monitoring.canonical_severity(severity text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	canonical text;
BEGIN
	SELECT s.severity INTO canonical
	FROM (VALUES ('critical', '{p0}'::text[]), ('high', '{p1}'), ('medium', '{p2,warning}'), ('low', '{p3}'),
		('info', '{p4}')) AS s (severity, aliases)
	WHERE lower(canonical_severity.severity) = s.severity OR lower(canonical_severity.severity) = ANY (s.aliases);
	IF canonical IS NULL THEN
		RAISE EXCEPTION 'unknown severity "%"', severity
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Severities are critical, high, medium, low and info; P0 to P4 and warning are understood too.';
	END IF;
	RETURN canonical;
END $$;
COMMENT ON FUNCTION monitoring.canonical_severity(text) IS 'A severity''s own name: critical, high, medium, low or info. Takes P0 to P4 and warning (medium) too, in any case. Error 22023 for others.';

CREATE FUNCTION monitoring.check_text_map(map jsonb, what text, max_bytes integer, allowed_control text DEFAULT '')
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	IF map IS NULL OR jsonb_typeof(map) <> 'object' THEN
		RAISE EXCEPTION '% must be a JSON object', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Its values are text, numbers or booleans, such as {"route": "/cart", "status": 200}.';
	ELSIF octet_length(map::text) > max_bytes THEN
		RAISE EXCEPTION '% must not take more than % bytes', what, max_bytes
			USING ERRCODE = 'program_limit_exceeded';
	END IF;
	SELECT min(e.key) INTO bad
	FROM jsonb_each(map) AS e
	WHERE jsonb_typeof(e.value) IN ('object', 'array') OR e.key = '' OR e.key ~ '[[:cntrl:]]'
		OR translate(e.value #>> '{}', allowed_control, '') ~ '[[:cntrl:]]';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in % is not valid', regexp_replace(left(bad, 100), '[[:cntrl:]]', '?', 'g'), what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Values are text, numbers or booleans; neither keys nor values hold control characters.';
	END IF;
	RETURN (SELECT coalesce(jsonb_object_agg(e.key, e.value #>> '{}') FILTER (WHERE jsonb_typeof(e.value) <> 'null'), '{}')
		FROM jsonb_each(map) AS e);
END $$;
COMMENT ON FUNCTION monitoring.check_text_map(jsonb, text, integer, text) IS 'A JSON object of scalars with every value turned into text, nulls left out, as labels are stored. Control characters are refused but for those in allowed_control. Errors: 22023, or 54000 beyond max_bytes; both name it as what.';

CREATE FUNCTION monitoring.check_alert_rule(rule monitoring.alert_rule_defs, old_receivers text[] DEFAULT '{}')
RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ops CONSTANT jsonb := '{">": ">", ">=": ">=", "<": "<", "<=": "<=", "=": "=", "==": "=", "<>": "<>", "!=": "<>"}';
	check_function text;
	bad text;
BEGIN
	IF rule.name IS NULL OR rule.name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'an alert rule''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT k.check_function INTO check_function FROM monitoring.alert_rule_kinds AS k WHERE k.kind = rule.kind;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'unknown alert rule kind "%"', rule.kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Known kinds: ' || (SELECT string_agg(k.kind, ', ' ORDER BY k.kind) FROM monitoring.alert_rule_kinds AS k) || '.';
	END IF;

	IF rule.op IS NULL OR NOT ops ? rule.op THEN
		RAISE EXCEPTION 'unknown operator "%"', rule.op
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Operators are >, >=, <, <=, = and <>.';
	END IF;
	rule.op := ops ->> rule.op;

	IF rule.threshold IS NULL OR rule.threshold IN ('NaN', 'Infinity', '-Infinity')
		OR rule.resolve_threshold IN ('NaN', 'Infinity', '-Infinity') THEN
		RAISE EXCEPTION 'an alert rule''s threshold must be a finite number' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.op IN ('=', '<>') AND rule.resolve_threshold IS NOT NULL THEN
		RAISE EXCEPTION 'operator % takes no resolve threshold', rule.op USING ERRCODE = 'invalid_parameter_value';
	ELSIF (rule.op IN ('>', '>=') AND rule.resolve_threshold > rule.threshold)
		OR (rule.op IN ('<', '<=') AND rule.resolve_threshold < rule.threshold) THEN
		RAISE EXCEPTION 'resolve threshold % is on the wrong side of threshold %', rule.resolve_threshold, rule.threshold
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It must be easier to stay firing than to fire: not above the threshold for > and >=, not below it for < and <=.';
	END IF;

	IF rule.over IS NULL OR rule.over <= '0' THEN
		RAISE EXCEPTION 'an alert rule''s window must be longer than zero'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a window such as ''5 minutes''.';
	ELSIF rule.pending_for IS NULL OR rule.pending_for < '0' THEN
		RAISE EXCEPTION 'pending_for must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.keep_firing_for IS NULL OR rule.keep_firing_for < '0' THEN
		RAISE EXCEPTION 'keep_firing_for must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.max_age IS NULL OR rule.max_age < '0' THEN
		RAISE EXCEPTION 'max_age must not be negative' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.every <= '0' OR rule.repeat_every <= '0' THEN
		RAISE EXCEPTION '"every" and repeat_every must be longer than zero'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave them out to evaluate at every evaluation, and to repeat as the route says.';
	ELSIF greatest(rule.over, rule.pending_for, rule.keep_firing_for, rule.max_age, rule.every, rule.repeat_every) > '100 years' THEN
		RAISE EXCEPTION 'an alert rule''s window, times and intervals are at most 100 years' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.no_data IS NULL OR rule.no_data NOT IN ('ok', 'alerting', 'keep', 'alert') THEN
		RAISE EXCEPTION 'unknown policy "%" for no data', rule.no_data
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Policies are ok, alerting, keep and alert.';
	ELSIF rule.on_error IS NULL OR rule.on_error NOT IN ('keep', 'ok', 'alerting', 'alert') THEN
		RAISE EXCEPTION 'unknown policy "%" for errors', rule.on_error
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Policies are keep, ok, alerting and alert.';
	ELSIF rule.max_instances IS NULL OR rule.max_instances NOT BETWEEN 1 AND 1000000 THEN
		RAISE EXCEPTION 'max_instances must be between 1 and 1000000' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.runbook_url !~ '^https?://[^[:cntrl:][:space:]]+$' OR octet_length(rule.runbook_url) > 2000 THEN
		RAISE EXCEPTION 'an alert rule''s runbook_url must start with http:// or https://, hold no spaces and not take more than 2000 bytes'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule.params IS NULL OR jsonb_typeof(rule.params) <> 'object' THEN
		RAISE EXCEPTION 'an alert rule''s params must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	ELSIF greatest(octet_length(rule.params::text), octet_length(rule.impact_sql), octet_length(rule.threshold_sql)) > 65536 THEN
		RAISE EXCEPTION 'an alert rule''s params and queries must not take more than 65536 bytes each'
			USING ERRCODE = 'program_limit_exceeded';
	END IF;
	IF rule.active_times IS NOT NULL THEN
		rule.active_times := monitoring.check_time_spec(rule.active_times);
	END IF;
	IF rule.threshold_sql IS NOT NULL THEN
		PERFORM monitoring.check_rule_query(rule.owner::name, rule.threshold_sql);
	END IF;
	IF rule.impact_sql IS NOT NULL THEN
		PERFORM monitoring.check_rule_query(rule.owner::name, rule.impact_sql, any_columns => true);
	END IF;

	rule.severity := monitoring.canonical_severity(rule.severity);
	rule.selector := monitoring.check_text_map(rule.selector, 'labels', 4096);
	rule.extra_labels := monitoring.check_text_map(rule.extra_labels, 'extra labels', 4096);
	rule.annotations := monitoring.check_text_map(rule.annotations, 'annotations', 16384, E'\n\t');
	rule.enabled := coalesce(rule.enabled, true);
	IF rule.extra_labels ?| '{alertname,severity}' THEN
		RAISE EXCEPTION 'the labels alertname and severity of an alert are the name and the severity of its rule'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave them out of the extra labels.';
	END IF;

	IF rule.by_labels IS NULL OR array_ndims(rule.by_labels) > 1
		OR EXISTS (SELECT FROM unnest(rule.by_labels) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'an alert rule''s "by" must be a list of names of labels'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Give them as in ''{route,method}''.';
	END IF;
	-- sorted and without repeats: rules that read the same share one reading
	rule.by_labels := ARRAY(SELECT DISTINCT l FROM unnest(rule.by_labels) AS l ORDER BY l);

	SELECT min(n) INTO bad
	FROM unnest(rule.receivers) AS n
	WHERE n <> ALL (coalesce(old_receivers, '{}')) AND NOT EXISTS (SELECT FROM monitoring.receivers AS r WHERE r.name = n);
	IF bad IS NOT NULL OR array_position(rule.receivers, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	END IF;
	PERFORM monitoring.check_takes_alerts(ARRAY(SELECT n FROM unnest(rule.receivers) AS n WHERE n <> ALL (coalesce(old_receivers, '{}'))));

	IF check_function IS NOT NULL THEN
		EXECUTE format('SELECT %s($1)', monitoring.kind_function('an alert rule kind', check_function, 'jsonb')) USING to_jsonb(rule);
	END IF;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.check_alert_rule(monitoring.alert_rule_defs, text[]) IS 'A rule in the form in which it is stored, after all checks; receivers that it named before need not exist. Errors: 22023 for anything that is not valid, 54000 for labels or annotations that are too long, 42704 for a receiver that does not exist, 42809 for a heartbeat.';

-- Rules on the way up are locked, so that two edits cannot close a circle together.
CREATE FUNCTION monitoring.check_rule_parent(rule monitoring.alert_rule_defs) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	ancestor text := rule.parent;
	seen text[] := ARRAY[rule.name];
	next_one text;
BEGIN
	WHILE ancestor IS NOT NULL LOOP
		IF ancestor = ANY (seen) THEN
			RAISE EXCEPTION 'alert rule "%" cannot have the parent "%"', rule.name, rule.parent
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = 'The parents go in a circle: ' || array_to_string(seen || ancestor, ', ') || '.';
		END IF;
		SELECT d.parent INTO next_one FROM monitoring.alert_rule_defs AS d WHERE d.name = ancestor FOR SHARE;
		IF NOT FOUND THEN
			IF ancestor = rule.parent THEN
				RAISE EXCEPTION 'parent "%" of alert rule "%" does not exist', rule.parent, rule.name
					USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
			END IF;
			RETURN;
		END IF;
		seen := seen || ancestor;
		ancestor := next_one;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_parent(monitoring.alert_rule_defs) IS 'Raises 42704 if the rule''s parent does not exist, 22023 if the rule would be its own ancestor.';

CREATE FUNCTION monitoring.alert_fingerprint(rule_name text, series_labels jsonb, origin text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN left(encode(sha256(monitoring.utf8_bytes(rule_name || E'\n' || series_labels::text
	|| CASE origin WHEN 'value' THEN '' ELSE E'\n' || origin END)), 'hex'), 16);
COMMENT ON FUNCTION monitoring.alert_fingerprint(text, jsonb, text) IS 'What tells an alert from all others, the same in every episode: a hash of the rule''s name, the labels and, for alerts that a policy raises, origin.';

CREATE FUNCTION monitoring.alert_rule_kind_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (
		SELECT FROM pg_proc AS p
		WHERE p.oid = to_regprocedure(monitoring.kind_function('an alert rule kind', NEW.function, 'timestamptz, bigint[]') || '(timestamptz, bigint[])')
			AND p.proargnames[3:] = '{rule_id,series_labels,value,details,error}'
			AND p.proallargtypes[3:] = '{bigint,jsonb,float8,jsonb,text}'::regtype[]::oid[]
	) THEN
		RAISE EXCEPTION 'function % of an alert rule kind does not return the right columns', NEW.function
			USING ERRCODE = 'invalid_function_definition',
				HINT = 'It must return TABLE (rule_id bigint, series_labels jsonb, value float8, details jsonb, error text).';
	END IF;
	IF NEW.check_function IS NOT NULL THEN
		PERFORM monitoring.kind_function('an alert rule kind', NEW.check_function, 'jsonb');
	END IF;
	RETURN NEW;
END $$;
COMMENT ON FUNCTION monitoring.alert_rule_kind_check() IS 'Trigger of alert_rule_kinds: the functions must exist (42883), run with their owner''s rights (42501) and return what an evaluation reads (42P13).';

CREATE TRIGGER alert_rule_kind_check BEFORE INSERT OR UPDATE ON monitoring.alert_rule_kinds
	FOR EACH ROW EXECUTE FUNCTION monitoring.alert_rule_kind_check();
COMMENT ON TRIGGER alert_rule_kind_check ON monitoring.alert_rule_kinds IS 'Checks the functions that a kind names.';

CREATE TRIGGER keep_what_is_used BEFORE DELETE OR UPDATE OF kind ON monitoring.alert_rule_kinds
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') <> 'off')
	EXECUTE FUNCTION monitoring.keep_what_is_used('kind', 'alert_rule_defs');
COMMENT ON TRIGGER keep_what_is_used ON monitoring.alert_rule_kinds IS 'Refuses to take away what rows of alert_rule_defs name, unless a dump is being restored.';

----------------------------------------------------------------------------------------------------------------------
-- Creating and changing rules
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_alert_rule(name text, metric text, fn text, over interval, op text, threshold float8,
	pending_for interval DEFAULT '0', severity text DEFAULT 'medium', labels jsonb DEFAULT '{}', by text[] DEFAULT '{}',
	annotations jsonb DEFAULT '{}', resolve_threshold float8 DEFAULT NULL, keep_firing_for interval DEFAULT '0',
	receivers text[] DEFAULT NULL, kind text DEFAULT 'metric', max_age interval DEFAULT '5 minutes',
	extra_labels jsonb DEFAULT '{}', params jsonb DEFAULT '{}', every interval DEFAULT NULL, repeat_every interval DEFAULT NULL,
	no_data text DEFAULT 'ok', on_error text DEFAULT 'keep', max_instances integer DEFAULT 1000, runbook_url text DEFAULT NULL,
	impact_sql text DEFAULT NULL, active_times jsonb DEFAULT NULL, parent text DEFAULT NULL, threshold_sql text DEFAULT NULL,
	slo text DEFAULT NULL, pack text DEFAULT NULL, enabled boolean DEFAULT true)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs;
BEGIN
	rule.name := create_alert_rule.name;
	rule.kind := create_alert_rule.kind;
	rule.metric := create_alert_rule.metric;
	rule.fn := create_alert_rule.fn;
	rule.over := create_alert_rule.over;
	rule.op := create_alert_rule.op;
	rule.threshold := create_alert_rule.threshold;
	rule.resolve_threshold := create_alert_rule.resolve_threshold;
	rule.pending_for := create_alert_rule.pending_for;
	rule.keep_firing_for := create_alert_rule.keep_firing_for;
	rule.max_age := create_alert_rule.max_age;
	rule.severity := create_alert_rule.severity;
	rule.selector := create_alert_rule.labels;
	rule.by_labels := create_alert_rule.by;
	rule.extra_labels := create_alert_rule.extra_labels;
	rule.annotations := create_alert_rule.annotations;
	rule.receivers := create_alert_rule.receivers;
	rule.params := create_alert_rule.params;
	rule.every := create_alert_rule.every;
	rule.repeat_every := create_alert_rule.repeat_every;
	rule.no_data := create_alert_rule.no_data;
	rule.on_error := create_alert_rule.on_error;
	rule.max_instances := create_alert_rule.max_instances;
	rule.runbook_url := create_alert_rule.runbook_url;
	rule.impact_sql := create_alert_rule.impact_sql;
	rule.active_times := create_alert_rule.active_times;
	rule.parent := create_alert_rule.parent;
	rule.threshold_sql := create_alert_rule.threshold_sql;
	rule.slo := create_alert_rule.slo;
	rule.pack := create_alert_rule.pack;
	rule.enabled := create_alert_rule.enabled;
	rule.owner := monitoring.calling_role();
	-- it stays until we have committed
	PERFORM FROM monitoring.alert_rule_kinds AS k WHERE k.kind = rule.kind FOR KEY SHARE;
	rule := monitoring.check_alert_rule(rule);
	PERFORM monitoring.check_rule_parent(rule), monitoring.check_rule_slo(rule);

	rule.id := nextval('monitoring.alert_rule_defs_id_seq');
	rule.version := 1;
	rule.edited := false;
	rule.created_at := clock_timestamp();
	rule.updated_at := rule.created_at;
	INSERT INTO monitoring.alert_rule_defs SELECT rule.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" already exists', rule.name
			USING ERRCODE = 'duplicate_object', HINT = 'Change it with monitoring.update_alert_rule.';
	END IF;
	RETURN rule.id;
END $$;
COMMENT ON FUNCTION monitoring.create_alert_rule IS 'Create an alert rule and return its id. The alert is raised while fn of the metric''s values in the window `over` compares with op (>, >=, <, <=, =, <>) to threshold, and fires once that has lasted pending_for. labels choose the series, by gives one alert per combination of those labels'' values. annotations are texts with {{label}} and {{value}}. resolve_threshold and keep_firing_for make it stay firing longer. receivers: who is notified, at once; null: as the routes say (route_tree), empty: nobody. extra_labels are attached to the alerts and may use {{label}}. kind is one of alert_rule_kinds; other kinds than metric may take no metric and fn, and take what else they need from params. every: how often it is evaluated, if not at every evaluation. repeat_every: least time between two notifications of an alert. max_age is how long an alert keeps its state without data; then no_data decides: ok (it ends), alerting (a breach), keep (it stays), alert (it stays, beside an alert with the label reason="no_data"); alerting and alert raise an alert too when the rule finds nothing at all for that long. on_error decides while the rule cannot be evaluated: keep, ok, alerting, or alert (reason="rule_error"). max_instances: more label sets are an error. runbook_url is added to the annotations. impact_sql: a query whose row tells what the alert costs. active_times: intervals outside which the rule is not evaluated. parent: a rule that mutes this one''s alerts while it fires. threshold_sql: a query that gives thresholds by labels. slo, pack: where the rule belongs. Errors: 22023 for anything that is not valid, 42602 for a bad metric name, 54000 for labels, annotations or queries that are too long, 42704 for an unknown receiver, parent or objective, 42809 for a receiver that takes no alerts, 42710 if the name is taken.';

CREATE FUNCTION monitoring.create_slow_query_rule(name text, threshold interval DEFAULT NULL, over interval DEFAULT '10 minutes',
	severity text DEFAULT 'medium', pending_for interval DEFAULT '0', labels jsonb DEFAULT '{}', annotations jsonb DEFAULT NULL,
	keep_firing_for interval DEFAULT '0', receivers text[] DEFAULT NULL, extra_labels jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.create_alert_rule(
		name, NULL, NULL, over, '>=',
		extract(epoch FROM coalesce(threshold, current_setting('monitoring.slow_query_threshold')::interval))::float8,
		pending_for, severity, labels, '{}',
		coalesce(annotations, jsonb_build_object(
			'summary', 'A statement in database {{database}} took {{value}} seconds.',
			'query', '{{query}}')),
		NULL, keep_firing_for, receivers, 'slow_query', '0', extra_labels)
$$;
COMMENT ON FUNCTION monitoring.create_slow_query_rule(text, interval, interval, text, interval, jsonb, jsonb, interval, text[], jsonb) IS 'Create a rule that raises an alert for each statement of which an execution within the window `over` took as long as the threshold or longer (default: monitoring.slow_query_threshold as it is now), and return its id. Alerts carry the labels database and queryid; labels such as {"database": "shop"} choose among them. Annotations may use {{query}} and {{calls}}. An alert ends when there was no slow execution within the window any more. Errors as create_alert_rule.';

CREATE FUNCTION monitoring.lock_alert_rule(name text) RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs;
BEGIN
	SELECT d.* INTO rule FROM monitoring.alert_rule_defs AS d WHERE d.name = lock_alert_rule.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alert rule "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.alert_rules.';
	END IF;
	RETURN rule;
END $$;
COMMENT ON FUNCTION monitoring.lock_alert_rule(text) IS 'The rule of this name, locked for an edit. Error 42704 if it does not exist.';

-- JSON that is cast would say what is wrong with it, but not where.
CREATE FUNCTION monitoring.check_rule_types(definition jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	given record;
	fits boolean;
BEGIN
	FOR given IN
		SELECT p.key, p.type, d.value, jsonb_typeof(d.value) AS json_type
		FROM monitoring.rule_parameters() AS p
		JOIN jsonb_each(definition) AS d ON d.key = p.key AND d.value <> 'null' AND p.type <> 'jsonb'::regtype
	LOOP
		BEGIN
			fits := CASE given.type
				WHEN 'text[]'::regtype THEN given.json_type = 'array' AND NOT jsonb_path_exists(given.value, '$[*] ? (@.type() != "string")')
				WHEN 'boolean'::regtype THEN given.json_type = 'boolean'
				ELSE given.json_type IN ('string', 'number') END;
			IF fits AND given.type NOT IN ('text'::regtype, 'text[]', 'boolean') THEN
				EXECUTE format('SELECT ($1 #>> ''{}'')::%s', given.type) USING given.value;
			END IF;
		EXCEPTION WHEN data_exception THEN
			fits := false;
		END;
		IF NOT fits THEN
			RAISE EXCEPTION 'parameter "%" of an alert rule must be %', given.key,
				CASE given.type WHEN 'text[]'::regtype THEN 'a list of texts' WHEN 'boolean'::regtype THEN 'true or false'
					WHEN 'float8'::regtype THEN 'a number' WHEN 'integer'::regtype THEN 'a whole number'
					WHEN 'interval'::regtype THEN 'an interval such as "5 minutes"' ELSE 'a text' END
				USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is %s.', left(given.value::text, 100));
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_types(jsonb) IS 'Raises 22023 for parameters of create_alert_rule in a JSON object that are not of their type.';

CREATE FUNCTION monitoring.check_rule_slo(rule monitoring.alert_rule_defs) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF rule.slo IS NOT NULL THEN
		PERFORM monitoring.slo_of(rule.slo);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_rule_slo(monitoring.alert_rule_defs) IS 'Raises 42704 if the rule names an objective that does not exist.';

CREATE FUNCTION monitoring.change_rule(rule monitoring.alert_rule_defs, changes jsonb, fixed text[] DEFAULT '{}')
RETURNS monitoring.alert_rule_defs
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- parameters of create_alert_rule whose columns are called otherwise
	renamed CONSTANT jsonb := '{"labels": "selector", "by": "by_labels"}';
	changeable CONSTANT text[] := '{kind,metric,fn,over,op,threshold,resolve_threshold,pending_for,keep_firing_for,max_age,severity,
		labels,by,extra_labels,annotations,receivers,params,every,repeat_every,no_data,on_error,max_instances,runbook_url,
		impact_sql,active_times,parent,threshold_sql,slo,pack,enabled}';
	bad text;
BEGIN
	IF changes IS NULL OR jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'changes must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give the parameters of create_alert_rule that change, as in {"threshold": 0.5, "severity": "high"}.';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k WHERE k <> ALL (changeable) OR k = ANY (fixed);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION '"%" is nothing that can change in an alert rule', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'These can: ' || (SELECT string_agg(c, ', ' ORDER BY c) FROM unnest(changeable) AS c WHERE c <> ALL (fixed)) || '.';
	END IF;
	PERFORM monitoring.check_rule_types(changes);
	RETURN jsonb_populate_record(rule,
		(SELECT coalesce(jsonb_object_agg(coalesce(renamed ->> e.key, e.key), e.value), '{}') FROM jsonb_each(changes) AS e));
END $$;
COMMENT ON FUNCTION monitoring.change_rule(monitoring.alert_rule_defs, jsonb, text[]) IS 'The rule with some parameters of create_alert_rule changed, not checked yet. Error 22023 for what is no such parameter or among the fixed ones.';

CREATE FUNCTION monitoring.update_alert_rule(name text, changes jsonb, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old_rule monitoring.alert_rule_defs := monitoring.lock_alert_rule(name);
	rule monitoring.alert_rule_defs := monitoring.change_rule(old_rule, changes, '{kind}');
BEGIN
	-- whose query it is, his rights it runs with
	IF (rule.params, rule.impact_sql, rule.threshold_sql)
		IS DISTINCT FROM (old_rule.params, old_rule.impact_sql, old_rule.threshold_sql) THEN
		rule.owner := monitoring.calling_role();
	END IF;
	-- What it names may be gone by now, and its owner too: that must not keep anybody from disabling it.
	IF rule.enabled IS DISTINCT FROM false OR changes - 'enabled' <> '{}' THEN
		rule := monitoring.check_alert_rule(rule, old_rule.receivers);
	END IF;
	IF rule = old_rule THEN
		RETURN;
	END IF;
	IF rule.parent IS DISTINCT FROM old_rule.parent THEN
		PERFORM monitoring.check_rule_parent(rule);
	END IF;
	IF rule.slo IS DISTINCT FROM old_rule.slo THEN
		PERFORM monitoring.check_rule_slo(rule);
	END IF;
	IF rule.receivers IS DISTINCT FROM old_rule.receivers THEN
		PERFORM monitoring.request_routing('reroute', rule.id);
	END IF;

	UPDATE monitoring.alert_rule_defs AS d
	SET (metric, fn, over, op, threshold, resolve_threshold, pending_for, keep_firing_for, max_age, severity, selector,
		by_labels, extra_labels, annotations, receivers, enabled, params, every, repeat_every, no_data, on_error, max_instances,
		runbook_url, impact_sql, active_times, parent, threshold_sql, slo, pack, owner, version, edited, updated_at, last_error, last_error_at)
		= (SELECT rule.metric, rule.fn, rule.over, rule.op, rule.threshold, rule.resolve_threshold, rule.pending_for,
			rule.keep_firing_for, rule.max_age, rule.severity, rule.selector, rule.by_labels, rule.extra_labels,
			rule.annotations, rule.receivers, rule.enabled, rule.params, rule.every, rule.repeat_every, rule.no_data, rule.on_error,
			rule.max_instances, rule.runbook_url, rule.impact_sql, rule.active_times, rule.parent, rule.threshold_sql, rule.slo,
			rule.pack, rule.owner, old_rule.version + 1, true, clock_timestamp(), NULL::text, NULL::timestamptz)
	WHERE d.id = rule.id;

	IF NOT rule.enabled THEN
		PERFORM monitoring.end_alerts(old_rule, 'rule_disabled', at);
	ELSIF (rule.metric, rule.fn, rule.selector, rule.by_labels, rule.params)
		IS DISTINCT FROM (old_rule.metric, old_rule.fn, old_rule.selector, old_rule.by_labels, old_rule.params) THEN
		PERFORM monitoring.end_alerts(old_rule, 'rule_changed', at);
	ELSIF rule.pending_for > old_rule.pending_for THEN
		PERFORM monitoring.demote_alerts(rule, at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.update_alert_rule(text, jsonb, timestamptz) IS 'Change a rule: changes is a JSON object of parameters of create_alert_rule (all but name and kind), such as {"threshold": 0.5, "over": "10 minutes", "receivers": null}; what it lacks stays. Disabling a rule ends its alerts, and so does a change of metric, fn, labels, by or params, since they tell of something else; other changes leave alerts and their timers alone, but that a longer pending_for takes a firing alert back to pending until its breach has lasted that long. Who changes params, impact_sql or threshold_sql becomes the rule''s owner. Errors: 42704 if there is no such rule, otherwise as create_alert_rule.';

CREATE FUNCTION monitoring.enable_alert_rule(name text, enabled boolean DEFAULT true, at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT monitoring.update_alert_rule(name, jsonb_build_object('enabled', enabled), at)
$$;
COMMENT ON FUNCTION monitoring.enable_alert_rule(text, boolean, timestamptz) IS 'Enable or disable a rule. Disabling ends its alerts. Error 42704 if there is no such rule.';

CREATE FUNCTION monitoring.drop_alert_rule(name text, at timestamptz DEFAULT clock_timestamp()) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rule monitoring.alert_rule_defs := monitoring.lock_alert_rule(name);
BEGIN
	PERFORM monitoring.end_alerts(rule, 'rule_dropped', at);
	DELETE FROM monitoring.alert_rule_defs AS d WHERE d.id = rule.id;
END $$;
COMMENT ON FUNCTION monitoring.drop_alert_rule(text, timestamptz) IS 'Drop a rule; its alerts end. History stays. Error 42704 if there is no such rule.';

----------------------------------------------------------------------------------------------------------------------
-- Views
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.fill_text(template text, vars jsonb) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_fill_text';
COMMENT ON FUNCTION monitoring.fill_text(text, jsonb) IS 'The template with every {{name}} replaced by that member of vars; {{ $labels.name }} and {{ $value }} work too. Names that vars lacks stay as they are. Nothing is evaluated, and what is filled in is not read again. Of what is filled in beyond 64 kB, ... is left. Error 22023 if vars is not a JSON object.';

CREATE FUNCTION monitoring.fill_texts(texts jsonb, vars jsonb) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_fill_texts';
COMMENT ON FUNCTION monitoring.fill_texts(jsonb, jsonb) IS 'A JSON object with fill_text done to each of its texts; the 64 kB count for all of them together.';

CREATE FUNCTION monitoring.alert_labels(rule monitoring.alert_rule_defs, series_labels jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN rule.selector
	|| CASE WHEN rule.extra_labels = '{}' OR strpos(rule.extra_labels::text, '{{') = 0 THEN rule.extra_labels
		ELSE monitoring.fill_texts(rule.extra_labels,
			rule.selector || series_labels || jsonb_build_object('alertname', rule.name, 'severity', rule.severity)) END
	|| series_labels;
COMMENT ON FUNCTION monitoring.alert_labels(monitoring.alert_rule_defs, jsonb) IS 'All labels of an alert: the rule''s selector, its extra labels with {{label}} filled in, and those that tell the alert from the rule''s others.';

CREATE FUNCTION monitoring.pick_labels(labels jsonb, names text[]) RETURNS jsonb
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_pick_labels';
COMMENT ON FUNCTION monitoring.pick_labels(jsonb, text[]) IS 'Those of the labels that have these names; all of them when names is null. Errors: 22023 if labels is not a JSON object, 22004 for a name that is null.';

CREATE FUNCTION monitoring.short_number(value float8) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN abs(value) BETWEEN 1e-6 AND 1e9
	THEN trim_scale(round(value::numeric, greatest(0, 3 - floor(log(abs(value)))::int)))::text
	ELSE value::text END;
COMMENT ON FUNCTION monitoring.short_number(float8) IS 'A number for people to read: at least four significant digits, no more decimals than these need.';

CREATE FUNCTION monitoring.alert_reading(value jsonb, op text, threshold jsonb, details jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(details -> 'reading') = 'string' THEN jsonb_build_object('reading', details -> 'reading')
	ELSE jsonb_build_object('value', value, 'op', op, 'threshold', threshold) END;
COMMENT ON FUNCTION monitoring.alert_reading(jsonb, text, jsonb, jsonb) IS 'What an alert measured, as members of an object: value, op and threshold, or the text that its kind has in place of them (details.reading).';

CREATE FUNCTION monitoring.fill_annotations(rule monitoring.alert_rule_defs, state monitoring.alert_states) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN rule.runbook_url IS NULL THEN '{}' ELSE jsonb_build_object('runbook_url', rule.runbook_url) END
	|| CASE WHEN rule.annotations = '{}' THEN '{}'
		ELSE monitoring.fill_texts(rule.annotations,
			coalesce(state.details, '{}')
			|| CASE WHEN jsonb_typeof(state.details -> 'impact') = 'object' THEN state.details -> 'impact' ELSE '{}' END
			|| monitoring.alert_labels(rule, state.series_labels)
			-- half the time of jsonb_build_object
			|| jsonb_object('{value,threshold,severity,alertname}', ARRAY[coalesce(monitoring.short_number(state.value), 'no value'),
				monitoring.short_number(state.threshold), rule.severity, rule.name])) END
	|| CASE state.origin WHEN 'value' THEN '{}'
		WHEN 'no_data' THEN jsonb_build_object('summary', format('Rule "%s" finds no data.', rule.name))
		ELSE jsonb_build_object('summary', format('Rule "%s" cannot be evaluated: %s', rule.name, state.details ->> 'error')) END;
COMMENT ON FUNCTION monitoring.fill_annotations(monitoring.alert_rule_defs, monitoring.alert_states) IS 'A rule''s annotations filled in for one of its alerts, with its runbook_url; an alert that a policy raised has a summary that says so.';

CREATE VIEW monitoring.alert_rules AS
	SELECT d.id, d.name, d.kind, d.metric, d.fn, d.over, d.op, d.threshold, d.resolve_threshold, d.pending_for,
		d.keep_firing_for, d.max_age, d.severity, d.selector AS labels, d.by_labels AS by, d.extra_labels, d.annotations,
		d.receivers, d.params, d.every, d.repeat_every, d.no_data, d.on_error, d.max_instances, d.runbook_url, d.impact_sql,
		d.active_times, d.parent, d.threshold_sql, d.slo, d.pack, d.enabled, d.owner,
		CASE WHEN NOT d.enabled THEN 'disabled' WHEN d.last_error IS NOT NULL THEN 'error' WHEN s.firing > 0 THEN 'firing'
			WHEN s.pending > 0 THEN 'pending' ELSE 'ok' END AS state,
		coalesce(s.pending, 0) AS pending, coalesce(s.firing, 0) AS firing, d.last_error, d.last_error_at, d.created_at,
		d.updated_at
	FROM monitoring.alert_rule_defs AS d
	LEFT JOIN (
		SELECT a.rule_id, pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'pending') AS pending,
			pg_catalog.count(*) FILTER (WHERE a.state OPERATOR(pg_catalog.=) 'firing') AS firing
		FROM monitoring.alert_states AS a
		GROUP BY a.rule_id
	) AS s ON s.rule_id OPERATOR(pg_catalog.=) d.id;
COMMENT ON VIEW monitoring.alert_rules IS 'Alert rules and how many alerts of each are pending and firing.';
COMMENT ON COLUMN monitoring.alert_rules.labels IS 'Labels that a series must have to be read.';
COMMENT ON COLUMN monitoring.alert_rules.by IS 'Labels to group by.';
COMMENT ON COLUMN monitoring.alert_rules.annotations IS 'Texts for people, not filled in.';
COMMENT ON COLUMN monitoring.alert_rules.no_data IS 'What becomes of an alert without data for max_age: ok, alerting, keep or alert.';
COMMENT ON COLUMN monitoring.alert_rules.on_error IS 'What becomes of the alerts while the rule cannot be evaluated: keep, ok, alerting or alert.';
COMMENT ON COLUMN monitoring.alert_rules.max_instances IS 'More label sets than this are an error of the rule.';
COMMENT ON COLUMN monitoring.alert_rules.impact_sql IS 'Query that tells what an alert costs.';
COMMENT ON COLUMN monitoring.alert_rules.active_times IS 'Time intervals in which the rule is evaluated; null: always.';
COMMENT ON COLUMN monitoring.alert_rules.parent IS 'Name of a rule that mutes this one''s alerts while it fires.';
COMMENT ON COLUMN monitoring.alert_rules.state IS 'disabled, error, firing, pending or ok.';
COMMENT ON COLUMN monitoring.alert_rules.pending IS 'Number of pending alerts.';
COMMENT ON COLUMN monitoring.alert_rules.firing IS 'Number of firing alerts.';
SELECT monitoring.inherit_comments('monitoring.alert_rules', 'monitoring.alert_rule_defs');
