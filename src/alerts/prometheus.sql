-- alerts, rule files of Prometheus: YAML to jsonb, expressions to conditions of ours, and rules from both.
--
-- A rule that cannot say the same here is not made: why not is in the answer.

CREATE FUNCTION monitoring.yaml_document(yaml text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS '$libdir/monitoring_yaml', 'mon_yaml_document';
COMMENT ON FUNCTION monitoring.yaml_document(text) IS 'A YAML document (JSON is one too) as jsonb. Scalars are texts as they stand there; what is empty, ~ or null is null. Error 22P02, with the line, for what is no YAML, longer than 4 MB, nested more than 32 deep, for a key that occurs twice, several documents, aliases and tags.';

CREATE FUNCTION monitoring.translate_promql(expr text) RETURNS jsonb
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_translate_promql';
COMMENT ON FUNCTION monitoring.translate_promql(text) IS 'The condition of a Prometheus alerting rule as parameters of create_alert_rule; or an object whose only member, reason, says why there is no such rule here, with the part of the expression at fault. Windows are as in the expression (5m).';

CREATE FUNCTION monitoring.prometheus_duration(duration text) RETURNS interval
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	part text := '([0-9]{1,9})';
	parts bigint[] := regexp_match(duration, replace('^(?:#y)?(?:#w)?(?:#d)?(?:#h)?(?:#m)?(?:#s)?(?:#ms)?$', '#', part));
	seconds numeric;
BEGIN
	SELECT sum(p * u) INTO seconds FROM unnest(parts, '{31536000,604800,86400,3600,60,1,0.001}'::numeric[]) AS n (p, u);
	IF duration = '0' THEN
		RETURN '0';
	ELSIF seconds IS NULL OR seconds > 315360000 THEN
		RAISE EXCEPTION 'invalid duration "%"', left(duration, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Durations are as in 1h30m, and at most ten years.';
	END IF;
	RETURN make_interval(secs => seconds::float8);
END $$;
COMMENT ON FUNCTION monitoring.prometheus_duration(text) IS 'A duration of Prometheus, such as 1h30m. Error 22023 for what is none, or longer than ten years.';

-- {{ $value | humanize }} and {{ printf "%.2f" $value }} become {{value}}: numbers are written for people anyway.
CREATE FUNCTION monitoring.prometheus_template(template text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(regexp_replace(template,
		'\{\{-?\s*(?:(?:humanize[0-9a-zA-Z]*|printf\s+"[^"]*")\s+)?(?:\$value|\.Value)\s*(?:\|\s*(?:humanize[0-9a-zA-Z]*|printf\s+"[^"]*")\s*)*-?\}\}', '{{value}}', 'g'),
		'\{\{-?\s*(?:\$labels|\.Labels)\.([a-zA-Z_][a-zA-Z0-9_]*)\s*-?\}\}', '{{\1}}', 'g')
$$;
COMMENT ON FUNCTION monitoring.prometheus_template(text) IS 'A text of a Prometheus rule with {{ $labels.name }} and {{ $value }} as ours: {{name}} and {{value}}. Other templates stay.';

CREATE FUNCTION monitoring.foreign_template(template text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT h.hole[1]
	FROM regexp_matches(template, '\{\{.*?\}\}', 'g') AS h (hole)
	WHERE h.hole[1] !~ '^\{\{[a-zA-Z_][a-zA-Z0-9_]*\}\}$'
	LIMIT 1
$$;
COMMENT ON FUNCTION monitoring.foreign_template(text) IS 'What is left in a text that is a template of Prometheus and none of ours; null: nothing.';

CREATE FUNCTION monitoring.prometheus_groups(document jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	groups jsonb := CASE WHEN document ->> 'kind' = 'PrometheusRule' THEN document -> 'spec' -> 'groups' ELSE document -> 'groups' END;
BEGIN
	IF jsonb_typeof(groups) IS DISTINCT FROM 'array' THEN
		RAISE EXCEPTION 'this is not a rule file of Prometheus'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Its member "groups" is a list of groups of rules.';
	ELSIF EXISTS (
		SELECT FROM jsonb_array_elements(groups) AS g (value)
		WHERE jsonb_typeof(g.value -> 'name') IS DISTINCT FROM 'string' OR coalesce(jsonb_typeof(g.value -> 'rules'), 'null') NOT IN ('array', 'null')
			OR jsonb_typeof(g.value -> 'rules') = 'array' AND jsonb_path_exists(g.value -> 'rules', '$[*] ? (@.type() != "object")')) THEN
		RAISE EXCEPTION 'a group of rules must have a name and a list of rules' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN groups;
END $$;
COMMENT ON FUNCTION monitoring.prometheus_groups(jsonb) IS 'The groups of a Prometheus rule file, or of a PrometheusRule of Kubernetes. Error 22023 for what is neither.';

-- An alert's name is its rule's here, and rules have different names: alerts of the same name are told apart by their
-- severities, or else by number.
CREATE FUNCTION monitoring.prometheus_rules(document jsonb)
RETURNS TABLE (place bigint, rule_group text, name text, rule jsonb, recorded boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT n.place, n.rule_group,
		CASE WHEN n.alert IS NULL THEN n.rule ->> 'record' WHEN n.alike = 1 THEN n.alert
			WHEN n.severity IS NOT NULL AND n.of_severity = 1 THEN format('%s (%s)', n.alert, n.severity)
			ELSE format('%s (%s)', n.alert, n.number) END,
		n.rule, n.alert IS NULL
	FROM (
		SELECT r.*, count(*) OVER (PARTITION BY r.alert) AS alike, count(*) OVER (PARTITION BY r.alert, r.severity) AS of_severity,
			row_number() OVER (PARTITION BY r.alert ORDER BY r.place) AS number
		FROM (
			SELECT row_number() OVER (ORDER BY g.ordinality, e.ordinality) AS place, g.value ->> 'name' AS rule_group,
				e.value ->> 'alert' AS alert, e.value -> 'labels' ->> 'severity' AS severity,
				e.value || jsonb_strip_nulls(jsonb_build_object('group labels', g.value -> 'labels', 'group interval', g.value -> 'interval',
					'group key', (SELECT min(k) FROM jsonb_object_keys(g.value) AS k
						WHERE k <> ALL ('{name,interval,limit,labels,rules,partial_response_strategy}')))) AS rule
			FROM jsonb_array_elements(monitoring.prometheus_groups(document)) WITH ORDINALITY AS g
			CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(g.value -> 'rules') WHEN 'array' THEN g.value -> 'rules' ELSE '[]' END)
				WITH ORDINALITY AS e
		) AS r
	) AS n
$$;
COMMENT ON FUNCTION monitoring.prometheus_rules(jsonb) IS 'The rules of a rule file in their order, with the name that each has here and, as members "group ...", what its group says. recorded: a recording rule.';

CREATE FUNCTION monitoring.prometheus_severity(severity text, severities jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN monitoring.canonical_severity(coalesce(severities ->> severity,
		CASE lower(severity) WHEN 'page' THEN 'critical' WHEN 'error' THEN 'high' WHEN 'major' THEN 'high' WHEN 'warn' THEN 'medium'
			WHEN 'minor' THEN 'low' WHEN 'notice' THEN 'info' WHEN 'information' THEN 'info' WHEN 'informational' THEN 'info'
			WHEN 'none' THEN 'info' ELSE severity END, 'medium'));
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE EXCEPTION 'severity "%" is not known; the parameter severities can say what it is', left(severity, 100)
		USING ERRCODE = 'feature_not_supported';
END $$;
COMMENT ON FUNCTION monitoring.prometheus_severity(text, jsonb) IS 'Our name for a severity in a rule file, by severities or by its usual meaning; medium without one. Error 0A000 for one that is not known.';

CREATE FUNCTION monitoring.check_prometheus_metric(metric text, fn text, recorded text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	problem text;
BEGIN
	IF metric = ANY (recorded) THEN
		problem := format('it reads %s, which a recording rule of the file makes', metric);
	ELSIF NOT EXISTS (SELECT FROM monitoring.metric_catalog AS m WHERE m.metric = check_prometheus_metric.metric) THEN
		problem := CASE WHEN metric ~ ':' THEN format('it reads %s, which recording rules make', metric)
			WHEN metric ~ '^(up|ALERTS|ALERTS_FOR_STATE|scrape_.*)$' THEN format('it reads %s, which Prometheus itself makes', metric) END;
	ELSIF fn IS NOT NULL THEN
		SELECT min(v.error) INTO problem
		FROM monitoring.read_values(ARRAY[ROW(metric, fn, '1 minute', '{}', '{}', NULL)::monitoring.value_request]) AS v;
	END IF;
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION '%', problem USING ERRCODE = 'feature_not_supported';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_prometheus_metric(text, text, text[]) IS 'Error 0A000 for a metric that nobody records here, or whose kind the function does not go with.';

CREATE FUNCTION monitoring.prometheus_condition(expr text, recorded text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	condition jsonb := monitoring.translate_promql(expr);
	over interval;
BEGIN
	IF condition ? 'reason' THEN
		RAISE EXCEPTION '%', condition ->> 'reason' USING ERRCODE = 'feature_not_supported';
	END IF;
	PERFORM monitoring.check_prometheus_metric(condition ->> 'metric', condition ->> 'fn', recorded);
	IF condition -> 'params' ? 'metric' THEN
		PERFORM monitoring.check_prometheus_metric(condition -> 'params' ->> 'metric', condition -> 'params' ->> 'fn', recorded);
	END IF;
	over := monitoring.prometheus_duration(condition ->> 'over');
	IF condition ->> 'kind' = 'absence' THEN
		RETURN condition || jsonb_build_object('op', '>=', 'threshold', date_part('epoch', over), 'over', 2 * over);
	END IF;
	RETURN condition || jsonb_build_object('over', over);
END $$;
COMMENT ON FUNCTION monitoring.prometheus_condition(text, text[]) IS 'What translate_promql gives, with intervals. Error 0A000, with the reason, if the expression cannot be translated or reads what is not recorded here.';

CREATE FUNCTION monitoring.rule_file_labels(labels jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	translated jsonb := (SELECT coalesce(jsonb_object_agg(l.key, monitoring.prometheus_template(l.value)), '{}')
		FROM jsonb_each_text(labels) AS l WHERE l.key <> 'severity');
	bad text := (SELECT min(l.key) FROM jsonb_each_text(translated) AS l
		WHERE monitoring.foreign_template(l.value) IS NOT NULL OR strpos(l.value, '{{value}}') > 0);
BEGIN
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'the template in label "%" is not translated', bad USING ERRCODE = 'feature_not_supported';
	END IF;
	RETURN translated;
END $$;
COMMENT ON FUNCTION monitoring.rule_file_labels(jsonb) IS 'Labels of a rule file''s rule as extra_labels. Error 0A000 for templates of other than labels.';

CREATE FUNCTION monitoring.prometheus_definition(name text, rule jsonb, severities jsonb, recorded text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	unknown text := (SELECT min(k) FROM jsonb_object_keys(rule) AS k WHERE k <> ALL (
		'{alert,expr,for,keep_firing_for,labels,annotations,group labels,group interval}'));
	labels jsonb := coalesce(rule -> 'group labels', '{}') || coalesce(nullif(rule -> 'labels', 'null'), '{}');
	annotations jsonb := coalesce(nullif(rule -> 'annotations', 'null'), '{}');
	runbook text := annotations ->> 'runbook_url';
BEGIN
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" is not translated', coalesce(rule ->> 'group key', unknown) USING ERRCODE = 'feature_not_supported';
	ELSIF coalesce(jsonb_typeof(rule -> 'expr'), '') <> 'string' THEN
		RAISE EXCEPTION 'there is no expression' USING ERRCODE = 'feature_not_supported';
	ELSIF jsonb_typeof(labels) <> 'object' OR jsonb_typeof(annotations) <> 'object' THEN
		RAISE EXCEPTION 'labels and annotations must be mappings' USING ERRCODE = 'feature_not_supported';
	END IF;
	-- a value that is not there ends a breach at once, as there; a metric has no more series in memory than that
	RETURN jsonb_strip_nulls(monitoring.prometheus_condition(rule ->> 'expr', recorded) || jsonb_build_object(
		'name', name, 'pending_for', monitoring.prometheus_duration(rule ->> 'for'),
		'keep_firing_for', monitoring.prometheus_duration(rule ->> 'keep_firing_for'),
		'every', monitoring.prometheus_duration(rule ->> 'group interval'),
		'severity', monitoring.prometheus_severity(labels ->> 'severity', severities),
		'extra_labels', monitoring.rule_file_labels(labels), 'max_age', '0', 'max_instances', 10000,
		'runbook_url', CASE WHEN runbook ~ '^https?://[^[:cntrl:][:space:]{}]+$' THEN runbook END,
		'annotations', (SELECT coalesce(jsonb_object_agg(a.key, monitoring.prometheus_template(a.value)), '{}')
			FROM jsonb_each_text(annotations) AS a
			WHERE a.key <> 'runbook_url' OR runbook !~ '^https?://[^[:cntrl:][:space:]{}]+$')));
END $$;
COMMENT ON FUNCTION monitoring.prometheus_definition(text, jsonb, jsonb, text[]) IS 'A rule of a rule file as a definition that import_rules() takes. Errors: 0A000, with the reason, for what cannot be translated; 22023 for a bad duration.';

CREATE FUNCTION monitoring.import_prometheus_rules(document text, replace boolean DEFAULT false, dry_run boolean DEFAULT false,
	severities jsonb DEFAULT '{}')
RETURNS TABLE (rule_group text, rule text, status text, reason text, definition jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rules jsonb := monitoring.yaml_document(document);
	recorded text[] := ARRAY(SELECT r.name FROM monitoring.prometheus_rules(rules) AS r WHERE r.recorded);
	source record;
BEGIN
	IF severities IS NULL OR jsonb_typeof(severities) <> 'object' THEN
		RAISE EXCEPTION 'severities must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"ticket": "low"}.';
	END IF;
	FOR source IN SELECT * FROM monitoring.prometheus_rules(rules) AS r ORDER BY r.place LOOP
		rule_group := source.rule_group;
		rule := source.name;
		reason := NULL;
		definition := NULL;
		BEGIN
			IF source.recorded THEN
				RAISE EXCEPTION 'it is a recording rule; reads need none' USING ERRCODE = 'feature_not_supported';
			END IF;
			definition := monitoring.prometheus_definition(source.name, source.rule, severities, recorded);
			SELECT format('%s is not filled in', monitoring.foreign_template(a.value)) INTO reason
			FROM jsonb_each_text(definition -> 'annotations') AS a
			WHERE monitoring.foreign_template(a.value) IS NOT NULL
			ORDER BY a.key LIMIT 1;
			IF NOT EXISTS (SELECT FROM monitoring.alert_rules AS r WHERE r.name = source.name) THEN
				PERFORM monitoring.create_rule_from(definition);
				status := 'imported';
			ELSIF NOT replace THEN
				status := 'exists';
			ELSE
				status := CASE WHEN monitoring.change_rule_to(definition) THEN 'updated' ELSE 'unchanged' END;
			END IF;
			IF dry_run THEN
				RAISE EXCEPTION 'end of the trial' USING ERRCODE = 'MON01';
			END IF;
		EXCEPTION
			WHEN SQLSTATE 'MON01' THEN
				NULL;
			WHEN feature_not_supported THEN
				status := 'not translatable';
				reason := SQLERRM;
			WHEN OTHERS THEN
				-- not what concerns the whole import: an intervention, a lost connection, a full disk
				IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
					RAISE;
				END IF;
				status := 'error';
				reason := SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.import_prometheus_rules(text, boolean, boolean, jsonb) IS 'Create alert rules from a rule file of Prometheus: YAML, or the same as JSON; a PrometheusRule of Kubernetes too. Only rules that say the same here are made. A row for each tells what became of it: imported; exists (a rule of that name is there and stays as it is); with replace => true updated or unchanged; not translatable, with the reason and the part of the expression; error, with the message. Of what is imported, reason names templates in annotations that are not filled in. definition is the rule as import_rules() takes it. dry_run: nothing is changed. severities: our names for severities of the file, such as {"ticket": "low"}. Alerts of the same name become rules whose names end with the severity or a number. Errors: 22P02 for what is no YAML, 22023 for what is no rule file.';
