-- alerts, rule files for Prometheus: rules of ours as alerting rules that say the same there.
--
-- A condition that has no equal in PromQL is not written, and the answer says why. What is left out besides, such as a
-- threshold for the end of an alert, is named.

CREATE FUNCTION monitoring.promql_duration(span interval) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT d.ms / u.ms || u.name
	FROM (SELECT round(extract(epoch FROM span) * 1000)::bigint AS ms) AS d
	JOIN (VALUES (86400000, 'd'), (3600000, 'h'), (60000, 'm'), (1000, 's'), (1, 'ms')) AS u (ms, name) ON d.ms % u.ms = 0
	ORDER BY d.ms = 0 AND u.name <> 's', u.ms DESC
	LIMIT 1
$$;
COMMENT ON FUNCTION monitoring.promql_duration(interval) IS 'An interval as Prometheus writes durations, in the largest unit that goes into it, such as 90s or 5m.';

CREATE FUNCTION monitoring.promql_selector(metric text, selector jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	matchers text[] := '{}';
	m record;
BEGIN
	FOR m IN
		SELECT l.key AS label, c.key AS op, c.value
		FROM jsonb_each(selector) AS l
		CROSS JOIN LATERAL jsonb_each_text(CASE jsonb_typeof(l.value) WHEN 'object' THEN l.value ELSE jsonb_build_object('=', l.value) END) AS c
		ORDER BY l.key COLLATE "C", c.key COLLATE "C"
	LOOP
		IF m.label !~ '^[a-zA-Z_][a-zA-Z0-9_]*$' THEN
			RAISE EXCEPTION 'Prometheus has no label with the name "%"', m.label USING ERRCODE = 'feature_not_supported';
		-- escapes with letters, look-ahead, options and collating elements are not the same in RE2
		ELSIF m.op IN ('=~', '!~') AND m.value ~ '\\[a-zA-Z0-9]|\(\?|\[[.=]|[*+?}][*+]' THEN
			RAISE EXCEPTION 'the regular expression "%" may mean something else in Prometheus', m.value USING ERRCODE = 'feature_not_supported';
		ELSIF m.op = 'exists' THEN
			matchers := matchers || format('%s%s""', m.label, CASE WHEN m.value::boolean THEN '!=' ELSE '=' END);
		ELSE
			matchers := matchers || format('%s%s%s', m.label, m.op, to_json(m.value));
		END IF;
	END LOOP;
	RETURN metric || CASE WHEN matchers = '{}' THEN '' ELSE '{' || array_to_string(matchers, ',') || '}' END;
END $$;
COMMENT ON FUNCTION monitoring.promql_selector(text, jsonb) IS 'A metric with conditions on labels as in PromQL. Error 0A000, with the reason, for what PromQL does not have.';

CREATE FUNCTION monitoring.promql_kind(metric text, fn text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	kind text := (SELECT (ARRAY['counter', 'gauge', 'distribution'])[m.kind] FROM monitoring.metric_catalog AS m WHERE m.metric = promql_kind.metric);
BEGIN
	-- not recorded yet
	kind := coalesce(kind, CASE WHEN fn ~ '^p[0-9.]+$' THEN 'distribution' WHEN metric ~ '_total$' THEN 'counter' WHEN fn IN ('last', 'delta') THEN 'gauge' END);
	IF kind IS NULL THEN
		RAISE EXCEPTION '% has not been recorded: whether it is a counter, a gauge or a distribution is not known', metric
			USING ERRCODE = 'feature_not_supported';
	END IF;
	RETURN kind;
END $$;
COMMENT ON FUNCTION monitoring.promql_kind(text, text) IS 'counter, gauge or distribution: what a metric is, or must be to go with fn. Error 0A000 if neither tells.';

CREATE FUNCTION monitoring.promql_grouped(operator text, inner_one text, by text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN by = '{...}' THEN inner_one WHEN by = '{}' THEN format('%s(%s)', operator, inner_one)
		ELSE format('%s by (%s) (%s)', operator, array_to_string(by, ', '), inner_one) END
$$;
COMMENT ON FUNCTION monitoring.promql_grouped(text, text, text[]) IS 'An aggregation of PromQL; none for {...}, which is each series by itself.';

CREATE FUNCTION monitoring.promql_reading(metric text, fn text, over interval, selector jsonb, by text[], across text DEFAULT NULL,
	last_of text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	metric_kind text := monitoring.promql_kind(metric, fn);
	span text := format('[%s]', monitoring.promql_duration(over));
	plain text := monitoring.promql_selector(metric, selector);
	counted text := monitoring.promql_selector(metric || '_count', selector) || span;
	summed text := monitoring.promql_selector(metric || '_sum', selector) || span;
	buckets text := format('rate(%s%s)', monitoring.promql_selector(metric || '_bucket', selector), span);
	-- of each series, how a group of series is read, and a second term by which the first is divided
	one text;
	together text;
	divisor text;
BEGIN
	IF EXISTS (SELECT FROM unnest(by) AS l WHERE l <> '...' AND l !~ '^[a-zA-Z_][a-zA-Z0-9_]*$') THEN
		RAISE EXCEPTION 'Prometheus has no labels with such names: %', array_to_string(by, ', ') USING ERRCODE = 'feature_not_supported';
	END IF;
	IF metric_kind = 'distribution' AND fn ~ '^p[0-9.]+$' THEN
		IF across IS NULL AND by <> '{...}' THEN
			RETURN format('histogram_quantile(%s, %s)', trim_scale(substr(fn, 2)::numeric / 100), monitoring.promql_grouped('sum', buckets, ARRAY['le'] || by));
		END IF;
		one := format('histogram_quantile(%s, %s)', trim_scale(substr(fn, 2)::numeric / 100), buckets);
	ELSE
		SELECT f.one, f.together, f.divisor INTO one, together, divisor
		FROM (VALUES
			('counter', 'rate', format('rate(%s%s)', plain, span), 'sum', NULL),
			('counter', 'increase', format('increase(%s%s)', plain, span), 'sum', NULL),
			('counter', 'sum', format('increase(%s%s)', plain, span), 'sum', NULL),
			('distribution', 'rate', format('rate(%s)', counted), 'sum', NULL),
			('distribution', 'increase', format('increase(%s)', counted), 'sum', NULL),
			('distribution', 'count', format('increase(%s)', counted), 'sum', NULL),
			('distribution', 'sum', format('increase(%s)', summed), 'sum', NULL),
			('distribution', 'avg', format('rate(%s)', summed), 'sum', format('rate(%s)', counted)),
			('gauge', 'last', CASE WHEN over = '5 minutes' THEN plain ELSE format('last_over_time(%s%s)', plain, span) END, last_of, NULL),
			('gauge', 'delta', format('delta(%s%s)', plain, span), NULL, NULL),
			('gauge', 'min', format('min_over_time(%s%s)', plain, span), 'min', NULL),
			('gauge', 'max', format('max_over_time(%s%s)', plain, span), 'max', NULL),
			('gauge', 'sum', format('sum_over_time(%s%s)', plain, span), 'sum', NULL),
			('gauge', 'count', format('count_over_time(%s%s)', plain, span), 'sum', NULL),
			('gauge', 'avg', format('avg_over_time(%s%s)', plain, span), CASE WHEN across IS NULL AND by <> '{...}' THEN 'sum' END, NULL)
		) AS f (kind, fn, one, together, divisor)
		WHERE f.kind = metric_kind AND f.fn = promql_reading.fn;
		IF one IS NULL THEN
			RAISE EXCEPTION '"%" of a % has no equal in PromQL', fn, metric_kind USING ERRCODE = 'feature_not_supported';
		END IF;
		IF metric_kind = 'gauge' AND fn = 'avg' AND together IS NOT NULL THEN
			one := format('sum_over_time(%s%s)', plain, span);
			divisor := format('count_over_time(%s%s)', plain, span);
		END IF;
	END IF;
	IF across IS NOT NULL THEN
		RETURN monitoring.promql_grouped(across, concat_ws(' / ', one, divisor), by);
	ELSIF together IS NULL AND by <> '{...}' THEN
		RAISE EXCEPTION '"%" of several series taken together has no equal in PromQL', fn USING ERRCODE = 'feature_not_supported',
			HINT = 'With by {...} there is one alert per series; the parameter across says how they add up.';
	END IF;
	RETURN concat_ws(' / ', monitoring.promql_grouped(coalesce(together, ''), one, by), monitoring.promql_grouped(together, divisor, by));
END $$;
COMMENT ON FUNCTION monitoring.promql_reading(text, text, interval, jsonb, text[], text, text) IS 'A reading of a metric, as value() has it, in PromQL; a distribution is a histogram there. last_of: which value of several series stands for the latest, max or min. Error 0A000, with the reason, for what PromQL cannot say.';

CREATE FUNCTION monitoring.promql_expression(rule monitoring.alert_rule_defs) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $$
DECLARE
	params CONSTANT jsonb := rule.params;
	selector CONSTANT jsonb := rule.selector || coalesce(params -> 'where', '{}');
	comparison CONSTANT text := format('%s %s', CASE rule.op WHEN '=' THEN '==' WHEN '<>' THEN '!=' ELSE rule.op END, rule.threshold);
	-- A counter that does not grow is a series there. One that was never recorded is none, and no success is zero of all.
	silence CONSTANT boolean := monitoring.counts_events(rule.fn) AND monitoring.alert_breach(rule.op, monitoring.scaled(0, params), rule.threshold);
	reading text;
	divisor text;
BEGIN
	IF rule.threshold_sql IS NOT NULL THEN
		RAISE EXCEPTION 'its thresholds come from a query' USING ERRCODE = 'feature_not_supported';
	ELSIF rule.kind = 'absence' AND rule.by_labels = '{}' THEN
		RETURN format('absent_over_time(%s[%s])', monitoring.promql_selector(
			CASE monitoring.promql_kind(rule.metric, NULL) WHEN 'distribution' THEN rule.metric || '_count' ELSE rule.metric END, selector),
			monitoring.promql_duration(make_interval(secs => rule.threshold)));
	ELSIF rule.kind = 'metric' THEN
		reading := monitoring.promql_reading(rule.metric, rule.fn, rule.over, selector, rule.by_labels, params ->> 'across',
			CASE WHEN rule.op IN ('>', '>=') THEN 'max' WHEN rule.op IN ('<', '<=') THEN 'min' END);
	ELSIF rule.kind = 'ratio' THEN
		reading := monitoring.promql_reading(rule.metric, rule.fn, rule.over, selector, rule.by_labels);
		divisor := monitoring.promql_reading(coalesce(params ->> 'metric', rule.metric), coalesce(params ->> 'fn', rule.fn), rule.over,
			coalesce(params -> 'labels', '{}'), rule.by_labels);
		IF strpos(divisor, ' / ') > 0 THEN
			divisor := format('(%s)', divisor);
		END IF;
		reading := CASE WHEN silence THEN format('(%s or 0 * %s) / %s', reading, divisor, divisor) ELSE format('%s / %s', reading, divisor) END;
	ELSE
		RAISE EXCEPTION 'rules of kind % have no equal in PromQL', CASE rule.kind WHEN 'absence' THEN 'absence with groups' ELSE rule.kind END
			USING ERRCODE = 'feature_not_supported';
	END IF;
	IF params ? 'multiply' THEN
		reading := format('%s * %s', (params ->> 'multiply')::float8, CASE WHEN strpos(reading, ' / ') > 0 THEN format('(%s)', reading) ELSE reading END);
	END IF;
	reading := concat_ws(' + ', reading, (params ->> 'add')::float8);
	RETURN format('%s %s', reading, comparison) || CASE
		WHEN divisor IS NULL THEN ''
		WHEN coalesce((params ->> 'min_denominator')::float8, 0) > 0 THEN format(' and %s >= %s', divisor, (params ->> 'min_denominator')::float8)
		ELSE format(' and %s > 0', divisor) END;
END $$;
COMMENT ON FUNCTION monitoring.promql_expression(monitoring.alert_rule_defs) IS 'The condition of a rule in PromQL. Error 0A000, with the reason, for what PromQL cannot say.';

CREATE FUNCTION monitoring.promql_template(template text, rule monitoring.alert_rule_defs) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT regexp_replace(
		replace(replace(replace(replace(template, '{{value}}', '{{ $value }}'), '{{threshold}}', monitoring.short_number(rule.threshold)),
			'{{severity}}', rule.severity), '{{alertname}}', rule.name),
		'\{\{([a-zA-Z_][a-zA-Z0-9_]*)\}\}', '{{ $labels.\1 }}', 'g')
$$;
COMMENT ON FUNCTION monitoring.promql_template(text, monitoring.alert_rule_defs) IS 'A text of a rule with {{label}} and {{value}} as in rule files of Prometheus.';

CREATE FUNCTION monitoring.export_prometheus_rules(names text[] DEFAULT NULL)
RETURNS TABLE (rule text, status text, reason text, definition jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	source monitoring.alert_rule_defs;
BEGIN
	FOR source IN SELECT d.* FROM monitoring.alert_rule_defs AS d WHERE names IS NULL OR d.name = ANY (names) ORDER BY d.id LOOP
		rule := source.name;
		definition := NULL;
		BEGIN
			definition := jsonb_strip_nulls(jsonb_build_object('alert', source.name, 'expr', monitoring.promql_expression(source),
				'for', monitoring.promql_duration(nullif(source.pending_for, '0')),
				'keep_firing_for', monitoring.promql_duration(nullif(source.keep_firing_for, '0')),
				'labels', (SELECT jsonb_object_agg(l.key, monitoring.promql_template(l.value, source))
					FROM jsonb_each_text(source.selector || source.extra_labels || jsonb_build_object('severity', source.severity)) AS l
					WHERE l.key ~ '^[a-zA-Z_][a-zA-Z0-9_]*$'),
				'annotations', (SELECT jsonb_object_agg(a.key, monitoring.promql_template(a.value, source))
					FROM jsonb_each_text(source.annotations
						|| CASE WHEN source.runbook_url IS NULL THEN '{}' ELSE jsonb_build_object('runbook_url', source.runbook_url) END) AS a
					WHERE a.key ~ '^[a-zA-Z_][a-zA-Z0-9_]*$')));
			status := CASE WHEN source.enabled THEN 'exported' ELSE 'disabled' END;
			reason := concat_ws('; ', CASE WHEN source.kind = 'metric' AND source.fn = 'last' AND source.by_labels <> '{...}' AND NOT source.params ? 'across'
					THEN 'of several series in a group the ' || CASE WHEN source.op ~ '>' THEN 'highest' ELSE 'lowest' END || ' counts, not the latest' END,
				(SELECT 'without ' || string_agg(o.name, ', ' ORDER BY o.n)
				FROM (VALUES (1, 'resolve_threshold', source.resolve_threshold IS NOT NULL), (2, 'active_times', source.active_times IS NOT NULL),
					(3, 'parent', source.parent IS NOT NULL), (4, 'impact_sql', source.impact_sql IS NOT NULL), (5, 'receivers', source.receivers IS NOT NULL),
					(6, 'repeat_every', source.repeat_every IS NOT NULL), (7, 'no_data', source.no_data <> 'ok'), (8, 'on_error', source.on_error <> 'keep')
				) AS o (n, name, given)
				WHERE o.given));
			reason := nullif(reason, '');
		EXCEPTION WHEN feature_not_supported THEN
			status := 'not translatable';
			reason := SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.export_prometheus_rules(text[]) IS 'The rules of these names (null: all) as alerting rules of Prometheus. A row for each says what becomes of it: exported, with what is left out as the reason; disabled, which the file does not have; or not translatable, with the reason. definition is the rule as it stands in a rule file. prometheus_rule_file() is the file.';

CREATE FUNCTION monitoring.prometheus_rule_file(names text[] DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_pretty(jsonb_build_object('groups', coalesce(jsonb_agg(g.rules ORDER BY g.every NULLS FIRST), '[]')))
	FROM (
		SELECT d.every, jsonb_strip_nulls(jsonb_build_object('name', concat_ws(' every ', 'monitoring', monitoring.promql_duration(d.every)),
			'interval', monitoring.promql_duration(d.every), 'rules', jsonb_agg(e.definition ORDER BY d.id))) AS rules
		FROM monitoring.export_prometheus_rules(names) AS e
		JOIN monitoring.alert_rule_defs AS d ON d.name = e.rule
		WHERE e.status = 'exported'
		GROUP BY d.every
	) AS g
$$;
COMMENT ON FUNCTION monitoring.prometheus_rule_file(text[]) IS 'A rule file for Prometheus with those of the rules of these names (null: all) that can be translated. It is JSON, which is YAML too. export_prometheus_rules() tells of each rule what became of it.';
