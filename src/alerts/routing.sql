-- alerts, routing: the tree of routes, as Alertmanager has it, and which of them an alert takes. groups.sql and
-- dispatch.sql, which follow, group what the routes let through and decide when to send.
--
-- A route that leaves a setting null takes its parent's. Nothing here is kept ready: the tree is a few hundred rows at most,
-- and is read when an alert fires or a group is due.

----------------------------------------------------------------------------------------------------------------------
-- Routes
----------------------------------------------------------------------------------------------------------------------

CREATE SEQUENCE monitoring.routes_id_seq;
COMMENT ON SEQUENCE monitoring.routes_id_seq IS 'Ids of routes.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routes_id_seq', '');

-- No foreign key to the parent: a dump brings the rows in any order. Rows that hang on nothing are never reached.
CREATE TABLE monitoring.routes (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.routes_id_seq'),
	parent_id bigint,
	position integer NOT NULL,
	name text NOT NULL UNIQUE,
	matchers jsonb NOT NULL DEFAULT '{}',
	receivers text[],
	group_by text[],
	group_wait interval CHECK (group_wait >= '0'),
	group_interval interval CHECK (group_interval > '0'),
	repeat_interval interval CHECK (repeat_interval > '0'),
	continue_matching boolean NOT NULL DEFAULT false,
	mute_times text[] NOT NULL DEFAULT '{}',
	active_times text[] NOT NULL DEFAULT '{}',
	escalation_policy text,
	digest interval CHECK (digest >= '0'),
	enabled boolean NOT NULL DEFAULT true,
	builtin boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX routes_root ON monitoring.routes ((parent_id IS NULL)) WHERE parent_id IS NULL;
COMMENT ON TABLE monitoring.routes IS 'Routes of alerts as stored. Use create_route, update_route, move_route and drop_route to change them, and the view route_tree to read them.';
COMMENT ON COLUMN monitoring.routes.id IS 'Number of the route.';
COMMENT ON COLUMN monitoring.routes.parent_id IS 'The route above it; null for the root.';
COMMENT ON COLUMN monitoring.routes.position IS 'Place among the routes with the same parent, which are tried in this order.';
COMMENT ON COLUMN monitoring.routes.name IS 'Name of the route.';
COMMENT ON COLUMN monitoring.routes.matchers IS 'What the labels of an alert must be to take the route, as for labels_match; alertname and severity are labels too.';
COMMENT ON COLUMN monitoring.routes.receivers IS 'Names of the receivers; an asterisk stands for every enabled one. Empty: nobody. Null: the parent''s, for the root every enabled one.';
COMMENT ON COLUMN monitoring.routes.group_by IS 'Labels by which alerts are grouped into one notification; {...} stands for all labels. Empty: one group. Null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.group_wait IS 'How long a new group waits for further alerts before it is sent; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.group_interval IS 'Least time between two notifications of a group; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.repeat_interval IS 'When a group that has not changed is sent again; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.continue_matching IS 'True: an alert that takes this route is offered to the following ones with the same parent too.';
COMMENT ON COLUMN monitoring.routes.mute_times IS 'Time intervals (time_intervals.name) in which nothing is sent. Not inherited.';
COMMENT ON COLUMN monitoring.routes.active_times IS 'Time intervals (time_intervals.name) outside which nothing is sent. Empty: always active. Not inherited.';
COMMENT ON COLUMN monitoring.routes.escalation_policy IS 'Escalation policy of its alerts; an empty text: none; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.digest IS 'Instead of groups, one message every so often with what has fired and ended; 0: no digest; null: the parent''s.';
COMMENT ON COLUMN monitoring.routes.enabled IS 'False: this route and those below it are passed over.';
COMMENT ON COLUMN monitoring.routes.builtin IS 'True for the routes that CREATE EXTENSION made; a dump that is restored takes their place.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.routes', '');

INSERT INTO monitoring.routes (parent_id, position, name, matchers, receivers, group_by, group_wait, group_interval,
	repeat_interval, escalation_policy, digest, builtin)
VALUES (NULL, 1, 'root', '{}', NULL, '{alertname}', '30 seconds', '5 minutes', '4 hours', NULL, NULL, true);
INSERT INTO monitoring.routes (parent_id, position, name, matchers, receivers, group_wait, group_interval, escalation_policy,
	digest, builtin)
SELECT r.id, s.position, s.severity, jsonb_build_object('severity', s.severity), s.receivers, s.group_wait, s.group_interval,
	s.escalation_policy, s.digest, true
FROM monitoring.routes AS r
CROSS JOIN (VALUES
	(1, 'critical', NULL::text[], interval '0', interval '1 minute', 'critical', NULL::interval),
	(2, 'high', '{team-lead}', '5 minutes', NULL, NULL, NULL),
	(3, 'medium', NULL, '15 minutes', NULL, NULL, NULL),
	(4, 'low', NULL, NULL, NULL, NULL, '1 hour'),
	(5, 'info', NULL, NULL, NULL, NULL, '1 day')
) AS s (position, severity, receivers, group_wait, group_interval, escalation_policy, digest)
ORDER BY s.position;

CREATE TRIGGER restore BEFORE INSERT ON monitoring.routes
	FOR EACH ROW WHEN (pg_catalog.current_setting('check_function_bodies') = 'off')
	EXECUTE FUNCTION monitoring.replace_builtin();
COMMENT ON TRIGGER restore ON monitoring.routes IS 'When a dump is restored its routes replace those of the extension.';

CREATE FUNCTION monitoring.matchers_text(matchers jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT '{' || coalesce(string_agg(
		CASE WHEN o.key = 'exists' THEN m.key || CASE WHEN o.value::boolean THEN ' exists' ELSE ' is missing' END
			ELSE m.key || o.key || to_json(o.value)::text END, ',' ORDER BY m.key COLLATE "C", o.key COLLATE "C"), '') || '}'
	FROM jsonb_each(matchers) AS m
	CROSS JOIN LATERAL jsonb_each_text(CASE jsonb_typeof(m.value) WHEN 'object' THEN m.value
		ELSE jsonb_build_object('=', m.value) END) AS o
$$;
COMMENT ON FUNCTION monitoring.matchers_text(jsonb) IS 'Conditions on labels (labels_match) for people to read, as in {route="/cart",status!~"2.."}.';

CREATE FUNCTION monitoring.route_settings()
RETURNS TABLE (id bigint, name text, parent_id bigint, depth integer, place bigint[], enabled boolean, matchers jsonb,
	continue_matching boolean, receivers text[], group_by text[], group_wait interval, group_interval interval,
	repeat_interval interval, digest interval, escalation_policy text, mute_times text[], active_times text[], route_key text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE tree AS (
		SELECT r.id, r.name, r.parent_id, 0 AS depth, '{}'::bigint[] AS place, r.enabled, r.matchers, r.continue_matching,
			coalesce(r.receivers, '{*}') AS receivers, coalesce(r.group_by, '{}') AS group_by,
			coalesce(r.group_wait, '30 seconds') AS group_wait, coalesce(r.group_interval, '5 minutes') AS group_interval,
			coalesce(r.repeat_interval, '4 hours') AS repeat_interval, coalesce(r.digest, '0') AS digest,
			coalesce(r.escalation_policy, '') AS escalation_policy, r.mute_times, r.active_times, '{}' AS route_key
		FROM monitoring.routes AS r
		WHERE r.parent_id IS NULL
		UNION ALL
		SELECT r.id, r.name, r.parent_id, t.depth + 1, t.place || ARRAY[r.position, r.id], t.enabled AND r.enabled, r.matchers,
			r.continue_matching, coalesce(r.receivers, t.receivers), coalesce(r.group_by, t.group_by),
			coalesce(r.group_wait, t.group_wait), coalesce(r.group_interval, t.group_interval),
			coalesce(r.repeat_interval, t.repeat_interval), coalesce(r.digest, t.digest),
			coalesce(r.escalation_policy, t.escalation_policy), r.mute_times, r.active_times,
			t.route_key || '/' || monitoring.matchers_text(r.matchers)
		FROM tree AS t
		JOIN monitoring.routes AS r ON r.parent_id = t.id
	)
	SELECT t.id, t.name, t.parent_id, t.depth, t.place, t.enabled, t.matchers, t.continue_matching, t.receivers, t.group_by,
		t.group_wait, t.group_interval, t.repeat_interval, nullif(t.digest, '0'), nullif(t.escalation_policy, ''), t.mute_times,
		t.active_times, t.route_key
	FROM tree AS t
$$;
COMMENT ON FUNCTION monitoring.route_settings() IS 'All routes with the settings that are in force, inherited ones included. place orders them as alerts try them.';

CREATE VIEW monitoring.route_tree AS
	SELECT pg_catalog.repeat('    ', s.depth) OPERATOR(pg_catalog.||) s.name AS route, monitoring.matchers_text(s.matchers) AS matchers,
		s.receivers, s.group_by, s.group_wait, s.group_interval, s.repeat_interval, s.digest, s.escalation_policy, s.mute_times,
		s.active_times, s.continue_matching, s.enabled, s.name, s.depth, s.id, s.parent_id
	FROM monitoring.route_settings() AS s
	ORDER BY s.place;
COMMENT ON VIEW monitoring.route_tree IS 'The tree of routes in the order in which alerts try them, with the settings that are in force, inherited ones included.';
COMMENT ON COLUMN monitoring.route_tree.route IS 'Name of the route, set in by its depth.';
COMMENT ON COLUMN monitoring.route_tree.matchers IS 'What the labels of an alert must be.';
COMMENT ON COLUMN monitoring.route_tree.receivers IS 'Who is notified; an asterisk stands for every enabled receiver. When none of those named exists, every enabled one is.';
COMMENT ON COLUMN monitoring.route_tree.group_by IS 'Labels by which alerts are grouped.';
COMMENT ON COLUMN monitoring.route_tree.group_wait IS 'How long a new group waits.';
COMMENT ON COLUMN monitoring.route_tree.group_interval IS 'Least time between two notifications of a group.';
COMMENT ON COLUMN monitoring.route_tree.repeat_interval IS 'When a group that has not changed is sent again.';
COMMENT ON COLUMN monitoring.route_tree.digest IS 'Time between two digests; null: no digest.';
COMMENT ON COLUMN monitoring.route_tree.escalation_policy IS 'Escalation policy; null: none.';
COMMENT ON COLUMN monitoring.route_tree.mute_times IS 'Time intervals in which nothing is sent.';
COMMENT ON COLUMN monitoring.route_tree.active_times IS 'Time intervals outside which nothing is sent.';
COMMENT ON COLUMN monitoring.route_tree.continue_matching IS 'Whether the following routes are tried too.';
COMMENT ON COLUMN monitoring.route_tree.enabled IS 'Whether the route and all above it are enabled.';
COMMENT ON COLUMN monitoring.route_tree.name IS 'Name of the route.';
COMMENT ON COLUMN monitoring.route_tree.depth IS 'Number of routes above it.';
COMMENT ON COLUMN monitoring.route_tree.id IS 'Number of the route.';
COMMENT ON COLUMN monitoring.route_tree.parent_id IS 'Number of the route above it; null for the root.';

----------------------------------------------------------------------------------------------------------------------
-- Creating and changing routes
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_route_matchers(matchers jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	PERFORM monitoring.check_matchers(matchers, 'a route''s matchers');
	SELECT min(m.key) INTO bad
	FROM jsonb_each(matchers) AS m
	WHERE jsonb_typeof(m.value) IN ('array', 'null') OR m.value = '{}' OR m.key = '' OR m.key ~ '[[:cntrl:]]';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'matcher "%" of a route is not valid', regexp_replace(left(bad, 100), '[[:cntrl:]]', '?', 'g')
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A matcher is a value, or an object of conditions such as {"!=": "web"}; operators are =, !=, =~, !~ and exists.';
	END IF;
	-- As in Alertmanager, a label that is missing is an empty one.
	RETURN (SELECT coalesce(jsonb_object_agg(m.key, CASE WHEN jsonb_typeof(m.value) = 'object' THEN m.value
			WHEN m.value = '""' THEN '{"=": ""}' ELSE to_jsonb(m.value #>> '{}') END), '{}')
		FROM jsonb_each(matchers) AS m);
END $$;
COMMENT ON FUNCTION monitoring.check_route_matchers(jsonb) IS 'Matchers in the form in which a route stores them. Errors: 22023 for what is not valid, 2201B or 54000 for a bad or too complex regular expression.';

CREATE FUNCTION monitoring.check_route_times(route monitoring.routes) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	SELECT min(d.name) INTO bad
	FROM (VALUES ('group_wait', route.group_wait, interval '0'), ('group_interval', route.group_interval, '1 millisecond'),
		('repeat_interval', route.repeat_interval, '1 millisecond'), ('digest', nullif(route.digest, '0'), '1 minute')) AS d (name, duration, least)
	WHERE d.duration NOT BETWEEN d.least AND interval '400 days' OR extract(month FROM d.duration) <> 0 OR extract(year FROM d.duration) <> 0;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'a route''s % is out of range', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Durations are at most 400 days, without months; group_interval and repeat_interval are longer than zero, a digest''s is at least a minute, and 0 for no digest.';
	END IF;
	SELECT min(n) INTO bad
	FROM unnest(route.mute_times || route.active_times) AS n
	WHERE NOT EXISTS (SELECT FROM monitoring.time_intervals AS t WHERE t.name = n);
	IF bad IS NOT NULL OR array_position(route.mute_times || route.active_times, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'time interval "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.set_time_interval first.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_route_times(monitoring.routes) IS 'Raises 22023 for durations that are out of range, 42704 for a time interval that does not exist.';

CREATE FUNCTION monitoring.check_takes_alerts(receivers text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	SELECT min(r.name) INTO bad FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
	WHERE r.name = ANY (receivers) AND NOT k.takes_alerts;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'receiver "%" takes no alerts', bad
			USING ERRCODE = 'wrong_object_type', HINT = 'It is a heartbeat, or of another kind that sends nothing else.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_takes_alerts(text[]) IS 'Raises 42809 if one of these receivers takes no alerts (receiver_kinds.takes_alerts).';

CREATE FUNCTION monitoring.who_names_receiver(name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT min(n.place) FROM (
		SELECT format('route "%s"', r.name) AS place FROM monitoring.routes AS r WHERE who_names_receiver.name = ANY (r.receivers)
		UNION ALL
		SELECT format('alert rule "%s"', r.name) FROM monitoring.alert_rule_defs AS r WHERE who_names_receiver.name = ANY (r.receivers)) AS n
$$;
COMMENT ON FUNCTION monitoring.who_names_receiver(text) IS 'A route or alert rule that names a receiver, whether there is one of that name or not; null: none.';

CREATE FUNCTION monitoring.check_route(route monitoring.routes, old_receivers text[] DEFAULT '{}') RETURNS monitoring.routes
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	IF route.name IS NULL OR route.name !~ '^[^[:cntrl:]]{1,200}$' THEN
		RAISE EXCEPTION 'a route''s name has 1 to 200 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	route.matchers := monitoring.check_route_matchers(route.matchers);
	route.mute_times := coalesce(route.mute_times, '{}');
	route.active_times := coalesce(route.active_times, '{}');
	route.continue_matching := coalesce(route.continue_matching, false);
	route.enabled := coalesce(route.enabled, true);
	PERFORM monitoring.check_route_times(route);

	IF array_ndims(route.group_by) > 1 OR cardinality(route.group_by) > 64 OR ('...' = ANY (route.group_by) AND cardinality(route.group_by) > 1)
		OR EXISTS (SELECT FROM unnest(route.group_by) AS l WHERE l IS NULL OR l = '' OR l ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'a route''s group_by must be a list of at most 64 names of labels, or {...}' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	route.group_by := CASE WHEN route.group_by IS NOT NULL THEN ARRAY(SELECT DISTINCT l FROM unnest(route.group_by) AS l ORDER BY l) END;

	SELECT min(n) INTO bad
	FROM unnest(route.receivers) AS n
	WHERE n <> ALL (coalesce(old_receivers, '{}') || '*'::text) AND NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.name = n);
	IF bad IS NOT NULL OR array_position(route.receivers, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', bad
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	ELSIF route.escalation_policy <> '' AND NOT EXISTS (
		SELECT FROM monitoring.escalation_policies AS p WHERE p.name = route.escalation_policy) THEN
		RAISE EXCEPTION 'escalation policy "%" does not exist', route.escalation_policy
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.set_escalation_policy first; an empty text is none.';
	END IF;
	PERFORM monitoring.check_takes_alerts(ARRAY(SELECT n FROM unnest(route.receivers) AS n WHERE n <> ALL (coalesce(old_receivers, '{}'))));

	IF route.parent_id IS NULL AND (route.matchers <> '{}' OR route.continue_matching OR NOT route.enabled
		OR route.mute_times <> '{}' OR route.active_times <> '{}') THEN
		RAISE EXCEPTION 'the root of the routes takes every alert at any time' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give matchers and times to a route below it.';
	END IF;
	RETURN route;
END $$;
COMMENT ON FUNCTION monitoring.check_route(monitoring.routes, text[]) IS 'A route in the form in which it is stored, after all checks; receivers that it named before need not exist. Errors: 22023 for anything that is not valid, 42704 for a receiver, a time interval or an escalation policy that does not exist, 42809 for a heartbeat, 2201B or 54000 for a bad or too complex regular expression.';

-- Whoever changes the tree changes it alone: positions and parents are checked against all of it.
CREATE FUNCTION monitoring.lock_route(name text) RETURNS monitoring.routes
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route monitoring.routes;
BEGIN
	LOCK TABLE monitoring.routes IN SHARE ROW EXCLUSIVE MODE;
	SELECT r.* INTO route FROM monitoring.routes AS r WHERE r.name = lock_route.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'route "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'See the view monitoring.route_tree.';
	END IF;
	RETURN route;
END $$;
COMMENT ON FUNCTION monitoring.lock_route(text) IS 'The route of this name, with the tree locked for an edit. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.place_route(route_id bigint, parent_id bigint, place integer) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- the route at its place among the others, all numbered anew
	UPDATE monitoring.routes AS r
	SET position = n.position, parent_id = place_route.parent_id
	FROM (
		SELECT o.id, row_number() OVER (ORDER BY o.place, o.id = place_route.route_id DESC) AS position
		FROM (SELECT s.id, row_number() OVER (ORDER BY s.position, s.id) AS place
			FROM monitoring.routes AS s
			WHERE s.parent_id = place_route.parent_id AND s.id <> place_route.route_id
			UNION ALL
			SELECT place_route.route_id, coalesce(place_route.place, 2147483647)) AS o
	) AS n
	WHERE r.id = n.id AND (r.position, r.parent_id) IS DISTINCT FROM (n.position, place_route.parent_id)
$$;
COMMENT ON FUNCTION monitoring.place_route(bigint, bigint, integer) IS 'Put a route below a parent, at this place from 1 on among the parent''s routes; null: the last.';

CREATE FUNCTION monitoring.create_route(name text, matchers jsonb DEFAULT '{}', parent text DEFAULT NULL, receivers text[] DEFAULT NULL,
	group_by text[] DEFAULT NULL, group_wait interval DEFAULT NULL, group_interval interval DEFAULT NULL,
	repeat_interval interval DEFAULT NULL, continue_matching boolean DEFAULT false, mute_times text[] DEFAULT '{}',
	active_times text[] DEFAULT '{}', escalation_policy text DEFAULT NULL, digest interval DEFAULT NULL, place integer DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	parent_route monitoring.routes := monitoring.lock_route(coalesce(parent, (SELECT r.name FROM monitoring.routes AS r WHERE r.parent_id IS NULL)));
	route monitoring.routes;
BEGIN
	route.name := create_route.name;
	route.parent_id := parent_route.id;
	route.matchers := create_route.matchers;
	route.receivers := create_route.receivers;
	route.group_by := create_route.group_by;
	route.group_wait := create_route.group_wait;
	route.group_interval := create_route.group_interval;
	route.repeat_interval := create_route.repeat_interval;
	route.continue_matching := create_route.continue_matching;
	route.mute_times := create_route.mute_times;
	route.active_times := create_route.active_times;
	route.escalation_policy := create_route.escalation_policy;
	route.digest := create_route.digest;
	route := monitoring.check_route(route);
	IF array_length((SELECT s.place FROM monitoring.route_settings() AS s WHERE s.id = parent_route.id), 1) >= 2 * 15 THEN
		RAISE EXCEPTION 'routes are at most 15 deep' USING ERRCODE = 'program_limit_exceeded';
	END IF;

	route.id := nextval('monitoring.routes_id_seq');
	route.position := 0;
	route.builtin := false;
	INSERT INTO monitoring.routes SELECT route.* ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'route "%" already exists', route.name
			USING ERRCODE = 'duplicate_object', HINT = 'Change it with monitoring.update_route.';
	END IF;
	PERFORM monitoring.place_route(route.id, parent_route.id, create_route.place);
	PERFORM monitoring.request_routing('reroute');
	RETURN route.id;
END $$;
COMMENT ON FUNCTION monitoring.create_route(text, jsonb, text, text[], text[], interval, interval, interval, boolean, text[], text[], text, interval, integer) IS 'Create a route below another (default: the root) and return its id. An alert takes a route when its labels match (labels_match; alertname and severity are labels too): the routes below are tried in order, the first that matches takes the alert, and the following ones too if it has continue_matching; when none below matches, the alert is the route''s own. place is its place among its neighbours, from 1; null: the last. What is null is taken from the parent. Alerts that are firing are routed anew. Errors: 22023 for anything that is not valid, 42704 for an unknown parent, receiver, time interval or escalation policy, 42710 if the name is taken, 54000 beyond 15 levels.';

CREATE FUNCTION monitoring.update_route(name text, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	changeable CONSTANT text[] := '{name,matchers,receivers,group_by,group_wait,group_interval,repeat_interval,continue_matching,mute_times,active_times,escalation_policy,digest,enabled}';
	old_route monitoring.routes := monitoring.lock_route(name);
	route monitoring.routes;
	bad text;
BEGIN
	IF changes IS NULL OR jsonb_typeof(changes) <> 'object' THEN
		RAISE EXCEPTION 'changes must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give the parameters of create_route that change, as in {"group_wait": "1 minute", "receivers": ["ops"]}.';
	END IF;
	SELECT min(k) INTO bad FROM jsonb_object_keys(changes) AS k WHERE k <> ALL (changeable);
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION '"%" is nothing that can change in a route', bad USING ERRCODE = 'invalid_parameter_value',
			HINT = 'These can: ' || array_to_string(changeable, ', ') || '. Use monitoring.move_route for its place.';
	END IF;
	route := monitoring.check_route(jsonb_populate_record(old_route, changes), old_route.receivers);
	IF route.name <> old_route.name AND EXISTS (SELECT FROM monitoring.routes AS r WHERE r.name = route.name) THEN
		RAISE EXCEPTION 'route "%" already exists', route.name USING ERRCODE = 'duplicate_object';
	END IF;
	UPDATE monitoring.routes AS r
	SET (name, matchers, receivers, group_by, group_wait, group_interval, repeat_interval, continue_matching, mute_times,
		active_times, escalation_policy, digest, enabled)
		= (SELECT route.name, route.matchers, route.receivers, route.group_by, route.group_wait, route.group_interval,
			route.repeat_interval, route.continue_matching, route.mute_times, route.active_times, route.escalation_policy,
			route.digest, route.enabled)
	WHERE r.id = route.id;
	PERFORM monitoring.request_routing('reroute');
END $$;
COMMENT ON FUNCTION monitoring.update_route(text, jsonb) IS 'Change a route: changes is a JSON object of parameters of create_route (all but parent and place) and "enabled", such as {"group_wait": "1 minute", "receivers": null}; what it lacks stays. A route that is disabled is passed over with all below it. Alerts that are firing are routed anew at the next evaluation. Errors: 42704 if there is no such route, 42710 if the new name is taken, otherwise as create_route.';

CREATE FUNCTION monitoring.move_route(name text, parent text DEFAULT NULL, place integer DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route monitoring.routes := monitoring.lock_route(name);
	parent_route monitoring.routes;
	levels integer;
BEGIN
	IF route.parent_id IS NULL THEN
		RAISE EXCEPTION 'the root of the routes cannot be moved' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	parent_route := monitoring.lock_route(coalesce(parent, (SELECT r.name FROM monitoring.routes AS r WHERE r.id = route.parent_id)));

	WITH RECURSIVE below AS (
		SELECT route.id AS id, 1 AS levels
		UNION ALL
		SELECT r.id, b.levels + 1 FROM below AS b JOIN monitoring.routes AS r ON r.parent_id = b.id
	)
	SELECT CASE WHEN bool_or(b.id = parent_route.id) THEN NULL ELSE max(b.levels) END INTO levels FROM below AS b;
	IF levels IS NULL THEN
		RAISE EXCEPTION 'route "%" cannot be moved below itself', route.name USING ERRCODE = 'invalid_parameter_value';
	ELSIF levels + (SELECT s.depth FROM monitoring.route_settings() AS s WHERE s.id = parent_route.id) > 15 THEN
		RAISE EXCEPTION 'routes are at most 15 deep' USING ERRCODE = 'program_limit_exceeded';
	END IF;
	PERFORM monitoring.place_route(route.id, parent_route.id, move_route.place);
	PERFORM monitoring.request_routing('reroute');
END $$;
COMMENT ON FUNCTION monitoring.move_route(text, text, integer) IS 'Put a route, with all below it, below another parent (null: the same) and at a place among its routes, from 1 on (null: the last). Errors: 42704 for an unknown route, 22023 for the root and for a parent below the route itself, 54000 beyond 15 levels.';

CREATE FUNCTION monitoring.drop_route(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	route monitoring.routes := monitoring.lock_route(name);
BEGIN
	IF route.parent_id IS NULL THEN
		RAISE EXCEPTION 'the root of the routes cannot be dropped' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Change it with monitoring.update_route.';
	ELSIF EXISTS (SELECT FROM monitoring.routes AS r WHERE r.parent_id = route.id) THEN
		RAISE EXCEPTION 'there are routes below route "%"', route.name
			USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Drop or move them first, or disable the route.';
	END IF;
	DELETE FROM monitoring.routes AS r WHERE r.id = route.id;
	PERFORM monitoring.request_routing('reroute');
END $$;
COMMENT ON FUNCTION monitoring.drop_route(text) IS 'Drop a route without routes below it. Alerts that are firing are routed anew; whoever was told of them through it is still told when they end. Errors: 42704 if there is no such route, 22023 for the root, 2BP01 while there are routes below it.';

----------------------------------------------------------------------------------------------------------------------
-- Which routes an alert takes
----------------------------------------------------------------------------------------------------------------------

-- Set-based down the levels of the tree. Two things keep it from comparing every alert with every route: alerts that agree in
-- all labels that any route asks for are one, and a route that asks for a label's value is found by that pair.
CREATE FUNCTION monitoring.match_routes(label_sets jsonb[]) RETURNS TABLE (n bigint, route_id bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off AS $$
BEGIN
	RETURN QUERY
	WITH RECURSIVE asked AS MATERIALIZED (
		SELECT coalesce(array_agg(DISTINCT k.label), '{}') AS names
		FROM monitoring.routes AS r CROSS JOIN LATERAL jsonb_object_keys(r.matchers) AS k (label) WHERE r.enabled
	), alike AS MATERIALIZED (
		SELECT row_number() OVER () AS alike, p.places,
			(SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each_text(p.labels) AS e WHERE e.value IS NOT NULL) AS labels
		FROM (
			SELECT s.labels, array_agg(s.n) AS places
			FROM (
				SELECT u.n, monitoring.pick_labels(coalesce(u.labels, '{}'), (SELECT a.names FROM asked AS a)) AS labels
				FROM unnest(label_sets) WITH ORDINALITY AS u (labels, n)) AS s
			GROUP BY s.labels) AS p
	), children AS MATERIALIZED (
		SELECT r.id, r.parent_id, r.position, r.continue_matching, r.matchers, coalesce(e.key, '') AS label, coalesce(e.value, '') AS value
		FROM monitoring.routes AS r
		LEFT JOIN LATERAL (
			SELECT m.key, m.value #>> '{}' AS value FROM jsonb_each(r.matchers) AS m
			WHERE jsonb_typeof(m.value) = 'string' ORDER BY m.key LIMIT 1) AS e ON true
		WHERE r.enabled AND r.parent_id IS NOT NULL
	), walk AS (
		SELECT a.alike, a.labels, r.id AS route_id, NULL::bigint AS parent_id
		FROM alike AS a CROSS JOIN monitoring.routes AS r
		WHERE r.parent_id IS NULL
		UNION ALL
		SELECT t.alike, t.labels, t.id, t.parent_id
		FROM (
			SELECT w.alike, w.labels, c.id, c.parent_id,
				count(*) FILTER (WHERE NOT c.continue_matching) OVER (PARTITION BY w.alike, c.parent_id
					ORDER BY c.position, c.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS taken
			-- OFFSET: the pairs first, then the routes that ask for them
			FROM (SELECT h.alike, h.labels, h.route_id, p.key, p.value
				FROM walk AS h
				CROSS JOIN LATERAL (SELECT e.key, e.value FROM jsonb_each_text(h.labels) AS e UNION ALL SELECT '', '') AS p
				OFFSET 0) AS w
			JOIN children AS c ON c.parent_id = w.route_id AND c.label = w.key AND c.value = w.value
			WHERE monitoring.labels_match(w.labels, c.matchers)) AS t
		WHERE t.taken = 0
	)
	SELECT unnest(a.places), w.route_id
	FROM walk AS w
	JOIN alike AS a ON a.alike = w.alike
	WHERE NOT EXISTS (SELECT FROM walk AS d WHERE d.alike = w.alike AND d.parent_id = w.route_id);
END $$;
COMMENT ON FUNCTION monitoring.match_routes(jsonb[]) IS 'The routes that alerts with these labels take: one row per place n in the array and route.';

CREATE FUNCTION monitoring.routing_labels() RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN bool_or('...' = ANY (s.group_by)) IS NOT TRUE THEN
		ARRAY(SELECT jsonb_object_keys(r.matchers) FROM monitoring.routes AS r WHERE r.enabled UNION SELECT unnest(r.group_by) FROM monitoring.routes AS r) END
	FROM monitoring.route_settings() AS s
$$;
COMMENT ON FUNCTION monitoring.routing_labels() IS 'Names of the labels that decide which routes an alert takes and into which of their groups it comes; null: all do.';

CREATE FUNCTION monitoring.labels_text(labels jsonb) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT '{' || coalesce(string_agg(l.key || '=' || to_json(l.value)::text, ', ' ORDER BY l.key COLLATE "C"), '') || '}'
	FROM jsonb_each_text(labels) AS l
$$;
COMMENT ON FUNCTION monitoring.labels_text(jsonb) IS 'Labels as Alertmanager writes them, as in {alertname="slow", route="/cart"}.';

CREATE FUNCTION monitoring.receivers_told(names text[], strict boolean) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(array_agg(r.name ORDER BY r.name), '{}')
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.takes_alerts
	WHERE r.enabled AND (r.name = ANY (names) OR '*' = ANY (names)
		OR NOT strict AND names <> '{}' AND NOT EXISTS (SELECT FROM monitoring.receiver_defs AS o WHERE o.name = ANY (names)))
$$;
COMMENT ON FUNCTION monitoring.receivers_told(text[], boolean) IS 'The enabled receivers among those named that take alerts; an asterisk stands for all. When none of those named exists, all are, unless strict.';

CREATE FUNCTION monitoring.muted_by(mute_times text[], active_times text[], at timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN bool_or(m.matches AND m.name = ANY (mute_times)) THEN 'mute_time'
		WHEN NOT bool_or(coalesce(m.matches, true)) FILTER (WHERE m.name = ANY (active_times)) THEN 'active_time' END
	FROM (SELECT t.name, monitoring.time_matches(t.spec, at, NULL) AS matches
		FROM monitoring.time_intervals AS t
		WHERE t.name = ANY (mute_times || active_times)) AS m
$$;
COMMENT ON FUNCTION monitoring.muted_by(text[], text[], timestamptz) IS 'Why a route with these times sends nothing at that time: mute_time or active_time; null: it sends. Time intervals that do not exist are passed over, and those that cannot be read mute nothing.';

CREATE FUNCTION monitoring.test_route(labels jsonb, at timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (route text, verdict text, why text, receivers text[], group_key text, group_wait interval, group_interval interval,
	repeat_interval interval, digest interval, escalation_policy text, muted_by text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH tree AS MATERIALIZED (
		SELECT s.*, p.route_id IS NOT NULL AS taken, p.group_key, monitoring.labels_match(test_route.labels, s.matchers) AS fits
		FROM monitoring.route_settings() AS s
		LEFT JOIN monitoring.alert_places(ARRAY[NULL::bigint], ARRAY[test_route.labels]) AS p ON p.route_id = s.id
	), judged AS (
		SELECT t.*, CASE
				WHEN t.taken THEN 'taken'
				WHEN EXISTS (SELECT FROM tree AS b WHERE b.taken AND b.place[:cardinality(t.place)] = t.place) THEN 'passed on'
				WHEN NOT t.enabled THEN 'disabled'
				WHEN t.fits THEN 'not reached'
				ELSE 'no match' END AS verdict
		FROM tree AS t
	)
	SELECT repeat('    ', j.depth) || j.name, j.verdict,
		CASE j.verdict
			WHEN 'taken' THEN monitoring.matchers_text(j.matchers) || ' fits' ||
				CASE WHEN EXISTS (SELECT FROM tree AS c WHERE c.parent_id = j.id) THEN ' and no route below does' ELSE '' END
			WHEN 'passed on' THEN monitoring.matchers_text(j.matchers) || ' fits and a route below takes it'
			WHEN 'not reached' THEN 'a route before it takes the alert'
			WHEN 'no match' THEN (
				SELECT string_agg(m.key || coalesce(' is ' || to_json(test_route.labels ->> m.key)::text, ' is missing'), ', ' ORDER BY m.key)
				FROM jsonb_each(j.matchers) AS m
				WHERE NOT monitoring.labels_match(test_route.labels, jsonb_build_object(m.key, m.value))) END,
		CASE WHEN j.taken THEN monitoring.receivers_told(j.receivers, false) END,
		CASE WHEN j.digest IS NULL THEN j.group_key END, CASE WHEN j.taken AND j.digest IS NULL THEN j.group_wait END, CASE WHEN j.taken AND j.digest IS NULL THEN j.group_interval END,
		CASE WHEN j.taken AND j.digest IS NULL THEN j.repeat_interval END, CASE WHEN j.taken THEN j.digest END,
		CASE WHEN j.taken THEN j.escalation_policy END,
		CASE WHEN j.taken THEN monitoring.muted_by(j.mute_times, j.active_times, test_route.at) END
	FROM judged AS j
	-- what lies below a route that does not match is never tried
	WHERE j.parent_id IS NULL OR EXISTS (SELECT FROM judged AS p WHERE p.id = j.parent_id AND p.verdict IN ('taken', 'passed on'))
	ORDER BY j.place
$$;
COMMENT ON FUNCTION monitoring.test_route(jsonb, timestamptz) IS 'Which routes an alert with these labels (alertname and severity among them) takes and why, one row per route that is tried: taken, passed on (to a route below), no match, not reached (one before it took the alert), disabled. For routes taken: the receivers that would be notified now, the group and its times, and muted_by: whether mute_time or active_time keeps the route quiet at that time. Rules with receivers of their own do not use the routes.';
