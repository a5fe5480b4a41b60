-- alerts, on call: people, and who of them is on call when.
--
-- A schedule has layers, the higher ones before the lower; a layer's members take turns, each for the length of a rotation
-- that is counted in the local time of the schedule's time zone, so that hand-over stays at the same hour when clocks change.
-- An override puts somebody else in for a time. All is computed from these rows; nothing has to be written when turns change.

CREATE TABLE monitoring.contacts (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	receivers text[] NOT NULL,
	description text NOT NULL DEFAULT ''
);
COMMENT ON TABLE monitoring.contacts IS 'People, and how they are reached. Use set_contact and drop_contact to change them.';
COMMENT ON COLUMN monitoring.contacts.name IS 'Name of the person.';
COMMENT ON COLUMN monitoring.contacts.receivers IS 'Names of the receivers that reach this person.';
COMMENT ON COLUMN monitoring.contacts.description IS 'What others should know, such as a team.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.contacts', '');

CREATE TABLE monitoring.schedules (
	name text PRIMARY KEY CHECK (name ~ '^[^[:cntrl:]]{1,150}$'),
	time_zone text NOT NULL,
	description text NOT NULL DEFAULT ''
);
COMMENT ON TABLE monitoring.schedules IS 'On-call schedules. Use create_schedule and drop_schedule to change them.';
COMMENT ON COLUMN monitoring.schedules.name IS 'Name of the schedule.';
COMMENT ON COLUMN monitoring.schedules.time_zone IS 'Time zone in which its rotations are counted.';
COMMENT ON COLUMN monitoring.schedules.description IS 'What it is for.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedules', '');

-- No foreign keys: pg_restore -j fills the tables of an extension in any order.
CREATE TABLE monitoring.schedule_layers (
	schedule text NOT NULL,
	layer integer NOT NULL,
	members text[] NOT NULL CHECK (cardinality(members) > 0),
	starts_at timestamptz NOT NULL,
	ends_at timestamptz,
	rotation interval NOT NULL CHECK (rotation > '0'),
	active_times jsonb,
	PRIMARY KEY (schedule, layer)
);
COMMENT ON TABLE monitoring.schedule_layers IS 'Layers of on-call schedules. Use set_schedule_layer to change them.';
COMMENT ON COLUMN monitoring.schedule_layers.schedule IS 'The schedule.';
COMMENT ON COLUMN monitoring.schedule_layers.layer IS 'The highest layer in which somebody is on duty counts.';
COMMENT ON COLUMN monitoring.schedule_layers.members IS 'Names of contacts who take turns, in this order.';
COMMENT ON COLUMN monitoring.schedule_layers.starts_at IS 'When the first member''s first turn begins; its hour is that of every hand-over.';
COMMENT ON COLUMN monitoring.schedule_layers.ends_at IS 'When the layer ends; null: never.';
COMMENT ON COLUMN monitoring.schedule_layers.rotation IS 'Length of a turn, in local time.';
COMMENT ON COLUMN monitoring.schedule_layers.active_times IS 'Time intervals in which the layer is on duty, as check_time_spec returns them; null: always.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedule_layers', '');

CREATE SEQUENCE monitoring.schedule_overrides_id_seq;
COMMENT ON SEQUENCE monitoring.schedule_overrides_id_seq IS 'Ids of overrides.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedule_overrides_id_seq', '');

CREATE TABLE monitoring.schedule_overrides (
	id bigint PRIMARY KEY DEFAULT nextval('monitoring.schedule_overrides_id_seq'),
	schedule text NOT NULL,
	person text NOT NULL,
	starts_at timestamptz NOT NULL,
	ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
	created_by text NOT NULL
);
COMMENT ON TABLE monitoring.schedule_overrides IS 'Who stands in for whoever would be on call. Use override_schedule and drop_override to change them.';
COMMENT ON COLUMN monitoring.schedule_overrides.id IS 'Number of the override.';
COMMENT ON COLUMN monitoring.schedule_overrides.schedule IS 'The schedule.';
COMMENT ON COLUMN monitoring.schedule_overrides.person IS 'Who is on call instead.';
COMMENT ON COLUMN monitoring.schedule_overrides.starts_at IS 'From when.';
COMMENT ON COLUMN monitoring.schedule_overrides.ends_at IS 'Until when, excluded.';
COMMENT ON COLUMN monitoring.schedule_overrides.created_by IS 'Role that made it.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.schedule_overrides', '');
CREATE INDEX schedule_overrides_schedule ON monitoring.schedule_overrides (schedule, ends_at);

----------------------------------------------------------------------------------------------------------------------
-- Setting up
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.check_contacts(names text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	missing text;
BEGIN
	SELECT min(coalesce(n, 'null')) INTO missing FROM unnest(names) AS n
	WHERE NOT EXISTS (SELECT FROM monitoring.contacts AS c WHERE c.name = n);
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION 'contact "%" does not exist', missing
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.set_contact first.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_contacts(text[]) IS 'Raises 42704 unless all these contacts exist.';

CREATE FUNCTION monitoring.set_contact(name text, receivers text[], description text DEFAULT '') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	missing text;
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'a contact''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT min(coalesce(r, 'null')) INTO missing FROM unnest(receivers) AS r
	WHERE NOT EXISTS (SELECT FROM monitoring.receiver_defs AS d WHERE d.name = r);
	IF missing IS NOT NULL OR receivers IS NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', missing
			USING ERRCODE = 'undefined_object', HINT = 'Create it with monitoring.create_receiver first.';
	END IF;
	PERFORM monitoring.check_takes_alerts(receivers);
	INSERT INTO monitoring.contacts AS c VALUES (set_contact.name, set_contact.receivers, coalesce(set_contact.description, ''))
	ON CONFLICT ON CONSTRAINT contacts_pkey DO UPDATE SET receivers = excluded.receivers, description = excluded.description;
END $$;
COMMENT ON FUNCTION monitoring.set_contact(text, text[], text) IS 'Create or change a person: the receivers that reach them. Errors: 22023 for a bad name, 42704 for a receiver that does not exist, 42809 for a heartbeat.';

CREATE FUNCTION monitoring.drop_contact(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	used text;
BEGIN
	SELECT min(u.place) INTO used FROM (
		SELECT format('schedule "%s"', l.schedule) AS place FROM monitoring.schedule_layers AS l WHERE drop_contact.name = ANY (l.members)
		UNION ALL
		SELECT format('escalation policy "%s"', s.policy) FROM monitoring.escalation_steps AS s WHERE drop_contact.name = ANY (s.contacts)
	) AS u;
	IF used IS NOT NULL THEN
		RAISE EXCEPTION 'contact "%" is still needed', name
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('It is part of %s.', used);
	END IF;
	DELETE FROM monitoring.contacts AS c WHERE c.name = drop_contact.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'contact "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_contact(text) IS 'Drop a person. Errors: 42704 if there is none of this name, 2BP01 while a schedule or an escalation policy needs it.';

CREATE FUNCTION monitoring.create_schedule(name text, time_zone text DEFAULT 'UTC', description text DEFAULT '') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF coalesce(name, '') !~ '^[^[:cntrl:]]{1,150}$' THEN
		RAISE EXCEPTION 'a schedule''s name has 1 to 150 characters, none of them a control character'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_time_zone(coalesce(time_zone, ''));
	INSERT INTO monitoring.schedules VALUES (create_schedule.name, create_schedule.time_zone, coalesce(create_schedule.description, ''))
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.create_schedule(text, text, text) IS 'Create an on-call schedule without layers. Errors: 22023 for a bad name or an unknown time zone, 42710 if the name is taken.';

CREATE FUNCTION monitoring.drop_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	used text;
BEGIN
	SELECT min(s.policy) INTO used FROM monitoring.escalation_steps AS s WHERE drop_schedule.name = ANY (s.schedules);
	IF used IS NOT NULL THEN
		RAISE EXCEPTION 'schedule "%" is still needed', name
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = format('It is part of escalation policy "%s".', used);
	END IF;
	DELETE FROM monitoring.schedule_layers AS l WHERE l.schedule = drop_schedule.name;
	DELETE FROM monitoring.schedule_overrides AS o WHERE o.schedule = drop_schedule.name;
	DELETE FROM monitoring.schedules AS s WHERE s.name = drop_schedule.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_schedule(text) IS 'Drop an on-call schedule with its layers and overrides. Errors: 42704 if there is none of this name, 2BP01 while an escalation policy needs it.';

CREATE FUNCTION monitoring.set_schedule_layer(schedule text, layer integer, members text[], starts_at timestamptz,
	rotation interval DEFAULT '7 days', active_times jsonb DEFAULT NULL, ends_at timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.schedules AS s WHERE s.name = set_schedule_layer.schedule) THEN
		RAISE EXCEPTION 'schedule "%" does not exist', schedule USING ERRCODE = 'undefined_object';
	ELSIF members = '{}' THEN
		DELETE FROM monitoring.schedule_layers AS l
		WHERE l.schedule = set_schedule_layer.schedule AND l.layer = set_schedule_layer.layer;
		RETURN;
	ELSIF layer IS NULL OR members IS NULL OR array_ndims(members) > 1 OR starts_at IS NULL OR NOT isfinite(starts_at) OR ends_at <= starts_at THEN
		RAISE EXCEPTION 'a layer of a schedule has a number, members, and an end after its start' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rotation IS NULL OR rotation < '1 minute' OR rotation > '10 years' THEN
		RAISE EXCEPTION 'a turn lasts a minute to ten years' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_contacts(members);
	INSERT INTO monitoring.schedule_layers AS l
	VALUES (set_schedule_layer.schedule, set_schedule_layer.layer, set_schedule_layer.members, set_schedule_layer.starts_at,
		set_schedule_layer.ends_at, set_schedule_layer.rotation, monitoring.check_time_spec(set_schedule_layer.active_times))
	ON CONFLICT ON CONSTRAINT schedule_layers_pkey
	DO UPDATE SET members = excluded.members, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
		rotation = excluded.rotation, active_times = excluded.active_times;
END $$;
COMMENT ON FUNCTION monitoring.set_schedule_layer(text, integer, text[], timestamptz, interval, jsonb, timestamptz) IS 'Create or change a layer of a schedule: from starts_at on its members take turns of length rotation, within active_times (null: always); no members remove it. In a higher layer that is on duty nobody looks at the lower ones. Errors: 42704 for an unknown schedule or contact, 22023 for anything else that is not valid.';

CREATE FUNCTION monitoring.override_schedule(schedule text, person text, starts_at timestamptz, ends_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	other monitoring.schedule_overrides;
	new_id bigint;
BEGIN
	-- two at once must see each other
	PERFORM FROM monitoring.schedules AS s WHERE s.name = override_schedule.schedule FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" does not exist', schedule USING ERRCODE = 'undefined_object';
	ELSIF (starts_at < ends_at AND isfinite(starts_at) AND isfinite(ends_at)) IS NOT TRUE THEN
		RAISE EXCEPTION 'an override must end after it starts' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_contacts(ARRAY[person]);
	SELECT o.* INTO other FROM monitoring.schedule_overrides AS o
	WHERE o.schedule = override_schedule.schedule AND o.starts_at < override_schedule.ends_at AND o.ends_at > override_schedule.starts_at
	ORDER BY o.starts_at LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'the override overlaps another one'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = format('"%s" stands in from %s to %s.', other.person, other.starts_at, other.ends_at),
				HINT = format('Remove that with monitoring.drop_override(%s).', other.id);
	END IF;
	INSERT INTO monitoring.schedule_overrides (schedule, person, starts_at, ends_at, created_by)
	VALUES (override_schedule.schedule, override_schedule.person, override_schedule.starts_at, override_schedule.ends_at, monitoring.calling_role())
	RETURNING id INTO new_id;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.override_schedule(text, text, timestamptz, timestamptz) IS 'Put somebody on call for a time, whoever else would be, and return the number of the override. Errors: 42704 for an unknown schedule or contact, 22023 for an override that ends before it starts or overlaps another.';

CREATE FUNCTION monitoring.drop_override(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	DELETE FROM monitoring.schedule_overrides AS o WHERE o.id = drop_override.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'override % does not exist', id USING ERRCODE = 'undefined_object';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.drop_override(bigint) IS 'Remove an override. Error 42704 if it does not exist.';

----------------------------------------------------------------------------------------------------------------------
-- Who is on call
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.who_is_on_call(schedule text, at timestamptz DEFAULT clock_timestamp()) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	zone text;
	person text;
BEGIN
	SELECT s.time_zone INTO zone FROM monitoring.schedules AS s WHERE s.name = who_is_on_call.schedule;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schedule "%" does not exist', schedule USING ERRCODE = 'undefined_object';
	END IF;
	-- somebody must be on call even where the server does not know the time zone any more
	BEGIN
		PERFORM at AT TIME ZONE zone;
	EXCEPTION WHEN invalid_parameter_value THEN
		zone := 'UTC';
	END;
	SELECT o.person INTO person FROM monitoring.schedule_overrides AS o
	WHERE o.schedule = who_is_on_call.schedule AND o.starts_at <= at AND o.ends_at > at;
	IF person IS NULL THEN
		-- Turns are counted on the local clock; a rotation of months counts with 30 days each, as extract() has it.
		SELECT l.members[1 + mod(floor(extract(epoch FROM (at AT TIME ZONE zone) - (l.starts_at AT TIME ZONE zone))
				/ extract(epoch FROM l.rotation))::bigint, cardinality(l.members))] INTO person
		FROM monitoring.schedule_layers AS l
		WHERE l.schedule = who_is_on_call.schedule AND l.starts_at <= at AND coalesce(l.ends_at > at, true)
			AND coalesce(monitoring.time_matches(l.active_times, at, true), true)
		ORDER BY l.layer DESC
		LIMIT 1;
	END IF;
	RETURN person;
END $$;
COMMENT ON FUNCTION monitoring.who_is_on_call(text, timestamptz) IS 'Who is on call in a schedule at a time: an override, or else whose turn it is in the highest layer that is on duty; null: nobody. A time zone that the server does not know any more counts as UTC. Error 42704 if the schedule does not exist.';

CREATE FUNCTION monitoring.on_call_shifts(schedule text, since timestamptz DEFAULT clock_timestamp(), until timestamptz DEFAULT NULL)
RETURNS TABLE (person text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	until := coalesce(until, since + interval '28 days');
	IF (since < until AND until - since <= interval '400 days') IS NOT TRUE THEN
		RAISE EXCEPTION 'shifts are shown for at most 400 days' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- Whoever is on call changes at a quarter of an hour, as intervals of time zones and hand-overs do, or with an override.
	RETURN QUERY
	WITH moment AS (
		SELECT t FROM generate_series(date_trunc('hour', since), until, interval '15 minutes') AS t WHERE t > since AND t < until
		UNION SELECT since
		UNION SELECT b.t FROM monitoring.schedule_overrides AS o CROSS JOIN LATERAL (VALUES (o.starts_at), (o.ends_at)) AS b (t)
			WHERE o.schedule = on_call_shifts.schedule AND b.t > since AND b.t < until
	), changed AS (
		SELECT m.t, m.who, lag(m.who) OVER w IS NOT DISTINCT FROM m.who AND row_number() OVER w > 1 AS same
		FROM (SELECT i.t, monitoring.who_is_on_call(on_call_shifts.schedule, i.t) AS who FROM moment AS i) AS m
		WINDOW w AS (ORDER BY m.t)
	)
	SELECT c.who, c.t, coalesce(lead(c.t) OVER (ORDER BY c.t), until) FROM changed AS c WHERE NOT c.same ORDER BY c.t;
END $$;
COMMENT ON FUNCTION monitoring.on_call_shifts(text, timestamptz, timestamptz) IS 'The shifts of a schedule between two times (28 days from now), to a quarter of an hour; a shift of nobody (null) is a gap. At most 400 days (22023). Error 42704 if the schedule does not exist.';

CREATE FUNCTION monitoring.on_call_gaps(since timestamptz DEFAULT clock_timestamp(), until timestamptz DEFAULT NULL)
RETURNS TABLE (schedule text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT s.name, f.starts_at, f.ends_at
	FROM monitoring.schedules AS s
	CROSS JOIN LATERAL monitoring.on_call_shifts(s.name, on_call_gaps.since, on_call_gaps.until) AS f
	WHERE f.person IS NULL
	ORDER BY 1, 2
$$;
COMMENT ON FUNCTION monitoring.on_call_gaps(timestamptz, timestamptz) IS 'When nobody is on call, for every schedule, between two times (28 days from now).';
