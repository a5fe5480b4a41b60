-- templates: what people read of a notification, before it is put into the format of a receiver.
--
-- message() turns the payload of a notification into texts, as they are; escape_text() makes a text harmless for a format and
-- bounds it. Title and text can be templates of the receiver: what is filled into them is escaped for the format first,
-- so that no label or annotation can be markup, and shortened until the whole fits.

----------------------------------------------------------------------------------------------------------------------
-- Escaping
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.escape_text(t text, style text, max_length integer, one_line boolean DEFAULT false) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_escape_text';
COMMENT ON FUNCTION monitoring.escape_text(text, text, integer, boolean) IS 'Text escaped for a format (slack, discord, teams, html; text escapes nothing), without control characters but line ends and tabs (one_line: without these too), cut to so many UTF-16 units after escaping; what is cut ends with an ellipsis. Error 22023 for an unknown style.';

CREATE FUNCTION monitoring.text_units(t text) RETURNS integer
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mon_text_units';
COMMENT ON FUNCTION monitoring.text_units(text) IS 'Length of a text in UTF-16 units, as most receivers count.';

CREATE FUNCTION monitoring.safe_link(url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN url ~ '^https?://[!-~]+$' AND pg_catalog.length(url) <= 1000 AND url !~ '["<>\\`|{}''^]'
	THEN pg_catalog.replace(pg_catalog.replace(url, '(', '%28'), ')', '%29') END;
COMMENT ON FUNCTION monitoring.safe_link(text) IS 'The url if it is one of http or https that can be put into a link of any format, otherwise null.';

CREATE FUNCTION monitoring.markup(style text, element text, content text, url text DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE element
	WHEN 'bold' THEN CASE style WHEN 'slack' THEN '*' || content || '*' WHEN 'html' THEN '<b>' || content || '</b>'
		WHEN 'text' THEN content ELSE '**' || content || '**' END
	WHEN 'link' THEN CASE style WHEN 'slack' THEN '<' || pg_catalog.replace(url, '&', '&amp;') || '|' || content || '>'
		WHEN 'html' THEN '<a href="' || pg_catalog.replace(url, '&', '&amp;') || '">' || content || '</a>'
		WHEN 'text' THEN content || ': ' || url ELSE '[' || content || '](' || url || ')' END
END;
COMMENT ON FUNCTION monitoring.markup(text, text, text, text) IS 'Escaped text as bold or as link to a safe_link() in the markup of a style.';

----------------------------------------------------------------------------------------------------------------------
-- Messages
----------------------------------------------------------------------------------------------------------------------

CREATE TABLE monitoring.severity_colours (
	severity text PRIMARY KEY,
	rank integer NOT NULL,
	colour integer NOT NULL CHECK (colour BETWEEN 0 AND 16777215)
);
COMMENT ON TABLE monitoring.severity_colours IS 'Colours of messages: of the gravest alert that fires, or of resolved.';
COMMENT ON COLUMN monitoring.severity_colours.severity IS 'Severity, or resolved.';
COMMENT ON COLUMN monitoring.severity_colours.rank IS 'The gravest is 1.';
COMMENT ON COLUMN monitoring.severity_colours.colour IS 'Red, green and blue, as in 16711680 (0xFF0000) for red.';
INSERT INTO monitoring.severity_colours VALUES ('critical', 1, 11674146), ('high', 2, 15094016), ('medium', 3, 16361509),
	('low', 4, 1402304), ('info', 5, 5533306), ('resolved', 6, 3046706);

CREATE FUNCTION monitoring.plain_pairs(pairs jsonb, separator text, skipped text[] DEFAULT '{}') RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(p.key || separator || left(p.value, 2000), ', ' ORDER BY p.key COLLATE "C")
	FROM (SELECT e.key, e.value FROM jsonb_each_text(CASE WHEN jsonb_typeof(pairs) = 'object' THEN pairs ELSE '{}' END) AS e
		WHERE e.key <> ALL (skipped) ORDER BY e.key COLLATE "C" LIMIT 50) AS p
$$;
COMMENT ON FUNCTION monitoring.plain_pairs(jsonb, text, text[]) IS 'Members of an object for people to read, as in a=1, b=2; the first fifty.';

CREATE FUNCTION monitoring.bounded_pairs(pairs jsonb, max_length integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(p.key, left(p.value, max_length)), '{}')
	FROM jsonb_each_text(CASE WHEN jsonb_typeof(pairs) = 'object' THEN pairs ELSE '{}' END) AS p
$$;
COMMENT ON FUNCTION monitoring.bounded_pairs(jsonb, integer) IS 'An object of texts, each cut to so many characters; what is not an object is an empty one.';

CREATE FUNCTION monitoring.short_evidence(alert_id bigint) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(format('%s: %s', replace(k.name, '_', ' '), p.pairs), E'\n' ORDER BY k.n)
	FROM monitoring.evidence_of(alert_id) AS e (evidence)
	CROSS JOIN unnest('{blockers,slow_statements,errors,deployments}'::text[]) WITH ORDINALITY AS k (name, n)
	CROSS JOIN LATERAL (
		SELECT string_agg(m.key || ' ' || left(regexp_replace(m.value, '\s+', ' ', 'g'), 120), ', ' ORDER BY length(m.value), m.key) AS pairs
		FROM jsonb_each_text(CASE WHEN jsonb_typeof(e.evidence -> k.name -> 0) = 'object' THEN e.evidence -> k.name -> 0 END) AS m
		WHERE m.value IS NOT NULL) AS p
	WHERE p.pairs IS NOT NULL
$$;
COMMENT ON FUNCTION monitoring.short_evidence(bigint) IS 'The first of each sort of evidence of an alert, a line each.';

CREATE FUNCTION monitoring.message_alert(alert jsonb, external_url text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- more than any message shows
	labels jsonb := monitoring.bounded_pairs(alert -> 'labels', 1000);
	notes jsonb := monitoring.bounded_pairs(alert -> 'annotations', 5000);
	console text := external_url || '/#/alerts/' || (alert ->> 'alert_id');
	runbook text := monitoring.safe_link(coalesce(alert ->> 'runbook_url', notes ->> 'runbook_url'));
	silence text := external_url || '/#/silences/new?alert=' || (alert ->> 'alert_id');
BEGIN
	RETURN jsonb_build_object(
		'status', coalesce(alert ->> 'status', 'firing'),
		'severity', labels ->> 'severity',
		'alertname', labels ->> 'alertname',
		'summary', coalesce(notes ->> 'summary', notes ->> 'description', labels ->> 'alertname'),
		'description', CASE WHEN notes ? 'summary' THEN notes ->> 'description' END,
		'value', alert ->> 'value', 'threshold', alert ->> 'threshold', 'op', alert ->> 'op',
		'reading', coalesce(left(alert ->> 'reading', 1000), CASE WHEN alert ->> 'value' IS NOT NULL THEN concat_ws(' ', 'value', alert ->> 'value',
			'(threshold ' || (alert ->> 'op') || ' ' || (alert ->> 'threshold') || ')') END),
		'impact', CASE jsonb_typeof(alert -> 'impact') WHEN 'object' THEN monitoring.plain_pairs(alert -> 'impact', ' ')
			ELSE left(alert ->> 'impact', 2000) END,
		'labels', monitoring.plain_pairs(labels, '=', '{alertname}'),
		'startsAt', alert ->> 'startsAt',
		'endsAt', CASE WHEN alert ->> 'status' = 'resolved' THEN alert ->> 'endsAt' END,
		'fingerprint', alert ->> 'fingerprint', 'alert_id', alert ->> 'alert_id',
		'acknowledged_by', alert -> 'acknowledged' ->> 'by',
		'runbook_url', runbook, 'console_url', console, 'silence_url', silence,
		'label_map', labels, 'annotation_map', notes,
		'links', (SELECT coalesce(jsonb_agg(jsonb_build_object('text', l.text, 'url', l.url) ORDER BY l.n), '[]')
			FROM (SELECT 1, 'Runbook', runbook UNION ALL SELECT 2, 'Console', console
				UNION ALL SELECT 3, 'Silence', silence WHERE alert ->> 'status' IS DISTINCT FROM 'resolved'
				UNION ALL (SELECT 4, m.value ->> 'text', monitoring.safe_link(m.value ->> 'url')
					FROM jsonb_array_elements(CASE jsonb_typeof(alert -> 'links') WHEN 'array' THEN alert -> 'links' ELSE '[]' END) AS m LIMIT 5)
				) AS l (n, text, url) WHERE l.url IS NOT NULL AND l.text IS NOT NULL));
END $$;
COMMENT ON FUNCTION monitoring.message_alert(jsonb, text) IS 'An alert of a notification as texts for people, not yet escaped.';

CREATE FUNCTION monitoring.message(notification jsonb, max_alerts integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	external_url text := rtrim(nullif(current_setting('monitoring.external_url', true), ''), '/');
	alerts jsonb := CASE jsonb_typeof(notification -> 'alerts') WHEN 'array' THEN notification -> 'alerts' ELSE '[]' END;
	firing bigint := (SELECT count(*) FROM jsonb_array_elements(alerts) AS a WHERE a.value ->> 'status' = 'firing');
	more bigint := coalesce((notification ->> 'truncatedAlerts')::bigint, 0);
	total bigint := jsonb_array_length(alerts) + more;
	status text := coalesce(notification ->> 'status', 'firing');
	gravest text := (SELECT s.severity FROM jsonb_array_elements(alerts) AS a
		JOIN monitoring.severity_colours AS s ON s.severity = a.value -> 'labels' ->> 'severity'
		WHERE a.value ->> 'status' = status OR firing = 0 ORDER BY s.rank LIMIT 1);
	name text := coalesce(notification -> 'groupLabels' ->> 'alertname', 'digest of ' || (notification -> 'digest' ->> 'route'),
		notification -> 'commonLabels' ->> 'alertname', nullif(monitoring.labels_text(notification -> 'groupLabels'), '{}'), 'alerts');
	shown jsonb := (SELECT coalesce(jsonb_agg(monitoring.message_alert(a.value, external_url) ORDER BY a.ordinality), '[]')
		FROM jsonb_array_elements(alerts) WITH ORDINALITY AS a WHERE a.ordinality <= max_alerts);
BEGIN
	-- an application's message has its title for its name and its text for its description
	IF notification ->> 'reason' = 'message' THEN
		shown := (SELECT coalesce(jsonb_agg(a.value || jsonb_build_object('summary', coalesce(a.value ->> 'description', a.value ->> 'summary'), 'description', NULL)
				ORDER BY a.ordinality), '[]')
			FROM jsonb_array_elements(shown) WITH ORDINALITY AS a);
	END IF;
	RETURN jsonb_build_object(
		'status', status, 'severity', gravest, 'name', name,
		'title', coalesce(left(notification ->> 'title', 1000), CASE WHEN notification ->> 'reason' = 'message' THEN name END, format('[%s] %s', upper(CASE WHEN notification ->> 'reason' = 'acknowledged' THEN 'acknowledged'
			ELSE status END) || CASE WHEN total > 1 THEN ':' || total ELSE '' END, name)),
		'text', left(notification ->> 'text', 100000),
		'colour', (SELECT s.colour FROM monitoring.severity_colours AS s
			WHERE s.severity = CASE WHEN status = 'resolved' THEN 'resolved' ELSE coalesce(gravest, 'info') END),
		'count', total, 'firing', firing, 'resolved', jsonb_array_length(alerts) - firing,
		'group', monitoring.labels_text(coalesce(notification -> 'groupLabels', '{}')),
		'receiver', notification ->> 'receiver', 'reason', notification ->> 'reason', 'external_url', external_url,
		'evidence', monitoring.short_evidence((SELECT (a.value ->> 'alert_id')::bigint FROM jsonb_array_elements(alerts) WITH ORDINALITY AS a
			WHERE a.value ->> 'status' = 'firing' AND a.value ->> 'alert_id' ~ '^[0-9]{1,18}$' ORDER BY a.ordinality LIMIT 1)),
		'alerts', shown, 'more', total - jsonb_array_length(shown));
END $$;
COMMENT ON FUNCTION monitoring.message(jsonb, integer) IS 'A notification as texts for people, not yet escaped: title, text, status, severity, colour, counts, evidence of the first alert, so many alerts as message_alert() gives them, and how many more there are.';

----------------------------------------------------------------------------------------------------------------------
-- Templates
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.template_holes(template text) RETURNS TABLE (hole text, name text, of_label boolean)
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT h.m[1], regexp_replace(btrim(h.m[1], '{} '), '^\$(labels\.)?', ''), btrim(h.m[1], '{} ') ~ '^\$?(labels|annotations)\..'
	FROM regexp_matches(template, '\{\{(.*?)\}\}', 'g') AS h (m)
$$;
COMMENT ON FUNCTION monitoring.template_holes(text) IS 'What a template has to be filled in: the text between the braces, the name that fill_text() looks up, and whether it is a label or an annotation by its own name.';

CREATE FUNCTION monitoring.template_variables() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '{acknowledged_by,alert_id,alertname,console_url,count,description,endsAt,evidence,external_url,fingerprint,firing,group,impact,labels,op,reading,reason,receiver,resolved,runbook_url,severity,silence_url,startsAt,status,summary,threshold,title,value}'::text[];
COMMENT ON FUNCTION monitoring.template_variables() IS 'What title, text and html of a receiver may name, besides {{labels.name}} and {{annotations.name}}.';

CREATE FUNCTION monitoring.check_template(key text, template jsonb, max_length integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	t text := template #>> '{}';
	unknown text;
BEGIN
	IF jsonb_typeof(template) <> 'string' OR t = '' OR length(t) > max_length OR t ~ '[\x01-\x08\x0b-\x1f\x7f]'
		OR key = 'title' AND t ~ '[\n\t]' THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config must be a text of 1 to % characters without control characters', key, max_length
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(h.hole) INTO unknown FROM monitoring.template_holes(t) AS h
	WHERE NOT h.of_label AND h.name <> ALL (monitoring.template_variables());
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'unknown variable "{{%}}" in key "%" of the receiver''s config', left(unknown, 100), key
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Variables are '
				|| array_to_string(monitoring.template_variables(), ', ') || ', labels.NAME and annotations.NAME.';
	END IF;
	-- fill_text() takes the first }} for the end of a hole
	IF regexp_replace(t, '\{\{.*?\}\}', '', 'g') ~ '\{\{|\}\}' THEN
		RAISE EXCEPTION 'unbalanced braces in key "%" of the receiver''s config', key
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Variables are written as in {{summary}}.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_template(text, jsonb, integer) IS 'Raises 22023 unless a key of a config is a template that names known variables only.';

CREATE FUNCTION monitoring.fill_template(template text, vars jsonb, style text, max_length integer, one_line boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- {{labels.a}}, {{$labels.a}} and {{$value}}: as fill_text() looks them up
	raw jsonb := (SELECT coalesce(jsonb_object_agg(h.name, coalesce(
			CASE WHEN h.name ~ '^labels\.' THEN vars -> 'label_map' ->> substr(h.name, 8)
				WHEN h.name ~ '^annotations\.' THEN vars -> 'annotation_map' ->> substr(h.name, 13)
				WHEN h.hole ~ '^ *\$labels\.' THEN vars -> 'label_map' ->> h.name
				ELSE vars ->> h.name END, '')), '{}')
		FROM monitoring.template_holes(template) AS h);
	room integer := max_length;
	filled text;
BEGIN
	LOOP
		filled := monitoring.fill_text(template, (SELECT coalesce(jsonb_object_agg(r.key, monitoring.escape_text(r.value, style, room, one_line)), '{}')
			FROM jsonb_each_text(raw) AS r));
		EXIT WHEN room <= 1 OR monitoring.text_units(filled) <= max_length;
		room := room / 2;
	END LOOP;
	filled := CASE WHEN one_line THEN btrim(filled) ELSE filled END;
	-- only a template that is too long itself
	RETURN CASE WHEN monitoring.text_units(filled) <= max_length THEN filled ELSE monitoring.escape_text(filled, 'text', max_length, one_line) END;
END $$;
COMMENT ON FUNCTION monitoring.fill_template(text, jsonb, text, integer, boolean) IS 'A template filled from a message or one of its alerts, the values escaped for the style and cut until all of it has at most that length.';

CREATE FUNCTION monitoring.message_title(config jsonb, message jsonb, style text, max_length integer) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- no target takes an empty one
	SELECT coalesce(
		CASE WHEN config ? 'title' THEN nullif(monitoring.fill_template(config ->> 'title',
			coalesce(message -> 'alerts' -> 0, '{}') || jsonb_strip_nulls(message), style, max_length, true), '') END,
		nullif(btrim(monitoring.escape_text(message ->> 'title', style, max_length, true)), ''), 'alert')
$$;
COMMENT ON FUNCTION monitoring.message_title(jsonb, jsonb, text, integer) IS 'Title of a message in a style: the receiver''s template, or the default if that comes out empty. What belongs to an alert is the first alert''s.';

CREATE FUNCTION monitoring.alert_text(config jsonb, message jsonb, alert jsonb, style text, max_length integer) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	room integer := least(max_length, 1000);
	lines text;
	links text;
BEGIN
	IF config ? 'text' THEN
		RETURN monitoring.fill_template(config ->> 'text', jsonb_strip_nulls(message - 'severity' - 'status') || alert, style, max_length);
	END IF;
	SELECT string_agg(monitoring.markup(style, 'link', l.value ->> 'text', l.value ->> 'url'),
		CASE style WHEN 'text' THEN E'\n' ELSE ' | ' END ORDER BY l.ordinality) INTO links
	FROM jsonb_array_elements(alert -> 'links') WITH ORDINALITY AS l;
	-- The summary has most of the room; what does not fit is cut, links go last as they cannot be.
	LOOP
		lines := concat_ws(E'\n',
			monitoring.markup(style, 'bold', nullif(monitoring.escape_text(alert ->> 'summary'
				|| CASE WHEN alert ->> 'status' <> message ->> 'status' THEN format(' (%s)', alert ->> 'status') ELSE '' END, style, room), '')),
			monitoring.escape_text(alert ->> 'reading', style, least(room, 200)),
			monitoring.escape_text(alert ->> 'description', style, room),
			monitoring.escape_text('impact: ' || (alert ->> 'impact'), style, least(room, 300)),
			monitoring.escape_text('acknowledged by ' || (alert ->> 'acknowledged_by'), style, least(room, 100)),
			monitoring.escape_text(alert ->> 'labels', style, room));
		IF monitoring.text_units(lines) + coalesce(monitoring.text_units(links) + 1, 0) <= max_length THEN
			RETURN concat_ws(E'\n', lines, links);
		END IF;
		EXIT WHEN room <= 8;
		room := room / 2;
	END LOOP;
	RETURN CASE WHEN monitoring.text_units(lines) <= max_length THEN lines ELSE '' END;
END $$;
COMMENT ON FUNCTION monitoring.alert_text(jsonb, jsonb, jsonb, text, integer) IS 'What is said of an alert of a message in a style: the receiver''s template, or summary, value and threshold, description, impact, labels and links.';

CREATE FUNCTION monitoring.message_texts(config jsonb, message jsonb, style text, max_each integer, max_total integer) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	-- room for the line that says that something is missing
	room integer := max_total - 40;
	more bigint := (message ->> 'more')::bigint;
	texts text[] := '{}';
	alert jsonb;
	t text;
BEGIN
	t := monitoring.escape_text(nullif(message ->> 'text', ''), style, least(max_each, room));
	IF t IS NOT NULL THEN
		texts := texts || t;
		room := room - monitoring.text_units(t) - 2;
	END IF;
	FOR alert IN SELECT a.value FROM jsonb_array_elements(message -> 'alerts') WITH ORDINALITY AS a ORDER BY a.ordinality LOOP
		t := CASE WHEN room >= 50 THEN monitoring.alert_text(config, message, alert, style, least(max_each, room)) ELSE '' END;
		IF t = '' THEN
			more := more + 1;
		ELSE
			texts := texts || t;
			room := room - monitoring.text_units(t) - 2;
		END IF;
	END LOOP;
	IF message ->> 'evidence' IS NOT NULL AND room >= 100 THEN
		t := monitoring.escape_text('evidence' || E'\n' || (message ->> 'evidence'), style, least(max_each, room, 1000));
		texts := texts || t;
	END IF;
	RETURN CASE WHEN more > 0 THEN texts || format('and %s more', more) ELSE texts END;
END $$;
COMMENT ON FUNCTION monitoring.message_texts(jsonb, jsonb, text, integer, integer) IS 'The body of a message in a style, one text for each alert, each and all together bounded; what is left out is counted in the last one.';
