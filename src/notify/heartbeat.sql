-- heartbeat: a sign of life for a service outside, which pages when it stops coming. It is sent only while alert rules are
-- evaluated and notifications get through: what is silent here is loud there. A notification that was given up has not got
-- through, so it counts until another one has.
--
-- A heartbeat is a receiver of a kind that takes no alerts, and each sign a notification to it. So urls, secrets and where it
-- may go are as for any receiver, and a sign that comes out has been all the way that an alert would go.

-- No foreign key, as for receiver_states.
CREATE TABLE monitoring.heartbeat_states (
	receiver text,
	created_at timestamptz,
	due_at timestamptz NOT NULL,
	lagging text,
	lagging_since timestamptz,
	failed_at timestamptz,
	ping_created_at timestamptz,
	ping_id bigint,
	sent_at timestamptz,
	PRIMARY KEY (receiver, created_at)
) WITH (fillfactor = 50);
COMMENT ON TABLE monitoring.heartbeat_states IS 'How far heartbeats are. Written by the job heartbeat alone.';
COMMENT ON COLUMN monitoring.heartbeat_states.receiver IS 'Name of the heartbeat.';
COMMENT ON COLUMN monitoring.heartbeat_states.created_at IS 'Which one of that name (receiver_defs.created_at).';
COMMENT ON COLUMN monitoring.heartbeat_states.due_at IS 'When the next sign of life is due.';
COMMENT ON COLUMN monitoring.heartbeat_states.lagging IS 'Why none is sent; null: all is well.';
COMMENT ON COLUMN monitoring.heartbeat_states.lagging_since IS 'Since when.';
COMMENT ON COLUMN monitoring.heartbeat_states.failed_at IS 'When fail_url was last told.';
COMMENT ON COLUMN monitoring.heartbeat_states.ping_created_at IS 'The latest sign (outbox.created_at).';
COMMENT ON COLUMN monitoring.heartbeat_states.ping_id IS 'The latest sign (outbox.id).';
COMMENT ON COLUMN monitoring.heartbeat_states.sent_at IS 'When the last one before that arrived.';

----------------------------------------------------------------------------------------------------------------------
-- The kind
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.heartbeat_seconds(config jsonb, key text) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((config ->> key)::float8,
	coalesce((config ->> 'every_seconds')::float8, 60) * CASE key WHEN 'every_seconds' THEN 1 ELSE 3 END);
COMMENT ON FUNCTION monitoring.heartbeat_seconds(jsonb, text) IS 'A time in the config of a heartbeat in seconds: every_seconds (60), or max_evaluation_lag_seconds and max_delivery_lag_seconds, which are three times that.';

CREATE FUNCTION monitoring.check_heartbeat(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	SELECT min(b.key) INTO bad
	FROM (VALUES ('every_seconds', 10), ('max_evaluation_lag_seconds', 10), ('max_delivery_lag_seconds', 10)) AS b (key, low)
	WHERE config ? b.key AND CASE WHEN jsonb_typeof(config -> b.key) = 'number'
		THEN (config -> b.key)::numeric NOT BETWEEN b.low AND 86400 ELSE true END;
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" in the receiver''s config is out of range', bad
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It takes 10 to 86400 seconds.';
	ELSIF config ? 'method' AND (config -> 'method') NOT IN ('"GET"', '"POST"') THEN
		RAISE EXCEPTION 'key "method" in the receiver''s config must be "GET" or "POST"' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_heartbeat(jsonb) IS 'Check of a config of the kind heartbeat.';

CREATE FUNCTION monitoring.format_heartbeat(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	lagging text := notification ->> 'lagging';
	how text := coalesce(config ->> 'method', 'POST');
BEGIN
	-- Anything else that gets here, such as a test, would be a sign of life.
	IF notification ->> 'status' = 'heartbeat' THEN
		RETURN QUERY SELECT how, t.url, monitoring.request_headers(receiver, notification, CASE how WHEN 'POST' THEN '{"Content-Type": "text/plain; charset=utf-8"}' ELSE '{}' END::jsonb),
			CASE how WHEN 'POST' THEN coalesce(lagging, 'ok') ELSE '' END
		FROM (SELECT CASE WHEN lagging IS NULL THEN receiver ->> 'url' ELSE config ->> 'fail_url' END) AS t (url)
		WHERE t.url IS NOT NULL;
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.format_heartbeat(jsonb, jsonb) IS 'Formatter of the kind heartbeat: a request without content that counts; nothing for any notification but a heartbeat''s.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, config_check, takes_alerts, description, builtin) VALUES
	('heartbeat', 'monitoring.format_heartbeat', '{every_seconds,max_evaluation_lag_seconds,max_delivery_lag_seconds,method}', '{fail_url}',
		'monitoring.check_heartbeat', false, 'sign of life for a service that pages when it stops; see create_heartbeat', true);

----------------------------------------------------------------------------------------------------------------------
-- For people
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.create_heartbeat(name text, url text, every interval DEFAULT '1 minute', max_evaluation_lag interval DEFAULT NULL,
	max_delivery_lag interval DEFAULT NULL, fail_url text DEFAULT NULL, config jsonb DEFAULT '{}')
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.hide_statement();
	IF every IS NULL THEN
		RAISE EXCEPTION 'a heartbeat needs an interval' USING ERRCODE = 'invalid_parameter_value';
	ELSIF jsonb_typeof(config) IS DISTINCT FROM 'object' THEN
		RAISE EXCEPTION 'a receiver''s config must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	-- A sign that could not be sent is followed by the next, so there is nothing to pause for.
	RETURN monitoring.create_receiver(name, 'heartbeat', url, '{"breaker_failures": 0}' || config || jsonb_strip_nulls(jsonb_build_object(
		'every_seconds', extract(epoch FROM every), 'max_evaluation_lag_seconds', extract(epoch FROM max_evaluation_lag),
		'max_delivery_lag_seconds', extract(epoch FROM max_delivery_lag), 'fail_url', fail_url)));
END $$;
COMMENT ON FUNCTION monitoring.create_heartbeat(text, text, interval, interval, interval, text, jsonb) IS 'Send a sign of life to a url at this interval, 10 seconds to a day, and return the heartbeat''s name. The service there must page somebody when it stops. It is not sent while the last evaluation of alert rules is longer ago than max_evaluation_lag, or a notification for an enabled receiver has been waiting longer than max_delivery_lag (each three intervals, 10 seconds to a day), nor while the last thing that an enabled receiver should have got was given up and no fallback got it (until something arrives there, or the receiver is changed, enabled or disabled; a test that fails is none of it), nor when the server, the worker or the notifier is down. With fail_url that url is told why, once an interval, as far as that is possible. The request is a POST with the text ok, or with why not; config may say {"method": "GET"}, and takes what create_receiver takes for every kind, also {"url": {"file": path}} in place of the url. A heartbeat is a receiver to which no alerts go: alter_receiver changes it, its name is taken among receivers. Errors: 22023 for a bad name, url, time or config, 42809 if a route or an alert rule names a receiver of that name, 42710 if the name is taken.';

CREATE FUNCTION monitoring.check_is_heartbeat(name text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.name = check_is_heartbeat.name AND r.kind = 'heartbeat') THEN
		RAISE EXCEPTION 'heartbeat "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.heartbeats lists them.';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_is_heartbeat(text) IS 'Raises 42704 unless there is such a heartbeat.';

CREATE FUNCTION monitoring.enable_heartbeat(name text, enabled boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_is_heartbeat(name);
	PERFORM monitoring.enable_receiver(name, enabled);
END $$;
COMMENT ON FUNCTION monitoring.enable_heartbeat(text, boolean) IS 'Enable or disable a heartbeat. The service there pages when a disabled one stays away, unless it is told to pause. Error 42704 if it does not exist.';

CREATE FUNCTION monitoring.drop_heartbeat(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_is_heartbeat(name);
	PERFORM monitoring.drop_receiver(name);
END $$;
COMMENT ON FUNCTION monitoring.drop_heartbeat(text) IS 'Drop a heartbeat. Error 42704 if it does not exist.';

CREATE VIEW monitoring.heartbeats AS
	SELECT r.name,
		CASE WHEN r.config ? 'url' THEN '***'
			ELSE substring(r.url FROM '^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]+(?=[/?#]|$)') || '/...' END AS url,
		make_interval(secs => coalesce((r.config ->> 'every_seconds')::float8, 60)) AS every,
		CASE WHEN pg_is_in_recovery() THEN 'standby'
			WHEN NOT r.enabled THEN 'disabled'
			WHEN s.lagging IS NOT NULL THEN 'lagging'
			WHEN o.state IN ('failed', 'dead', 'superseded') OR o.state = 'sending' AND o.attempts > 1 THEN 'failing'
			WHEN o.state = 'sent' OR s.sent_at IS NOT NULL THEN 'ok'
			ELSE 'new' END AS state,
		s.lagging, s.lagging_since, coalesce(o.sent_at, s.sent_at) AS last_sent, o.http_status AS last_status, o.error AS last_error,
		CASE WHEN r.enabled AND s.lagging IS NULL THEN s.due_at END AS next_at,
		make_interval(secs => coalesce((r.config ->> 'max_evaluation_lag_seconds')::float8, (r.config ->> 'every_seconds')::float8 * 3, 180)) AS max_evaluation_lag,
		make_interval(secs => coalesce((r.config ->> 'max_delivery_lag_seconds')::float8, (r.config ->> 'every_seconds')::float8 * 3, 180)) AS max_delivery_lag,
		r.config ? 'fail_url' AS tells_why, r.enabled
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.heartbeat_states AS s ON s.receiver = r.name AND s.created_at = r.created_at
	LEFT JOIN monitoring.outbox AS o ON o.created_at = s.ping_created_at AND o.id = s.ping_id
	WHERE r.kind = 'heartbeat';
COMMENT ON VIEW monitoring.heartbeats IS 'Signs of life for services outside. They are sent by the primary alone: after a promotion the new one goes on.';
COMMENT ON COLUMN monitoring.heartbeats.name IS 'Name of the heartbeat.';
COMMENT ON COLUMN monitoring.heartbeats.url IS 'Scheme and host; *** if all of it is a secret.';
COMMENT ON COLUMN monitoring.heartbeats.every IS 'Time between two signs.';
COMMENT ON COLUMN monitoring.heartbeats.state IS 'ok; new (none has been sent yet); lagging (none is sent: lagging says why); failing (the last one has not arrived: last_error says why); disabled; standby (the primary sends it).';
COMMENT ON COLUMN monitoring.heartbeats.lagging IS 'Why no sign is sent; null: all is well.';
COMMENT ON COLUMN monitoring.heartbeats.lagging_since IS 'Since when.';
COMMENT ON COLUMN monitoring.heartbeats.last_sent IS 'When the last sign, or word of a failure, arrived.';
COMMENT ON COLUMN monitoring.heartbeats.last_status IS 'HTTP status of the last response; null if none came.';
COMMENT ON COLUMN monitoring.heartbeats.last_error IS 'Why the latest sign has not arrived yet; holds no secrets.';
COMMENT ON COLUMN monitoring.heartbeats.next_at IS 'When the next sign is due.';
COMMENT ON COLUMN monitoring.heartbeats.max_evaluation_lag IS 'No sign is sent when the last evaluation of alert rules is longer ago.';
COMMENT ON COLUMN monitoring.heartbeats.max_delivery_lag IS 'No sign is sent when a notification has been waiting longer.';
COMMENT ON COLUMN monitoring.heartbeats.tells_why IS 'Whether there is a fail_url.';
COMMENT ON COLUMN monitoring.heartbeats.enabled IS 'False: none is sent.';

----------------------------------------------------------------------------------------------------------------------
-- The job
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.last_evaluation(at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- The table has it to the minute, the worker's memory exactly, of real time.
	SELECT greatest((SELECT e.evaluated_at FROM monitoring.evaluation_state AS e),
		(SELECT max(w.last_run) FROM monitoring.worker_status() AS w
		WHERE w.datid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
			AND w.job = 'evaluate_alerts' AND w.job_state = 'ok' AND w.last_run <= last_evaluation.at))
$$;
COMMENT ON FUNCTION monitoring.last_evaluation(timestamptz) IS 'When alert rules were last evaluated, as known at that time; null: never.';

CREATE FUNCTION monitoring.heartbeat_lag(config jsonb, at timestamptz) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	evaluated timestamptz := monitoring.last_evaluation(at);
	waiting record;
	lost record;
BEGIN
	-- what is to come was noted before the clock stepped back
	IF coalesce(at - evaluated > make_interval(secs => monitoring.heartbeat_seconds(heartbeat_lag.config, 'max_evaluation_lag_seconds')), true) THEN
		RETURN CASE WHEN evaluated IS NULL THEN 'alert rules have never been evaluated'
			ELSE format('alert rules were last evaluated at %s', monitoring.format_time(evaluated)) END;
	END IF;
	SELECT o.receiver, o.created_at INTO waiting
	FROM monitoring.receiver_defs AS r
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.takes_alerts
	CROSS JOIN LATERAL (
		SELECT o.receiver, o.created_at FROM monitoring.outbox AS o
		WHERE o.receiver = r.name AND monitoring.is_unfinished(o.state, o.created_at, heartbeat_lag.at) AND o.status <> 'test'
		ORDER BY o.id LIMIT 1) AS o
	WHERE r.enabled AND heartbeat_lag.at - o.created_at > make_interval(secs => monitoring.heartbeat_seconds(heartbeat_lag.config, 'max_delivery_lag_seconds'))
	ORDER BY o.created_at, o.receiver LIMIT 1;
	IF FOUND THEN
		RETURN format('a notification for receiver "%s" has been waiting since %s', waiting.receiver, monitoring.format_time(waiting.created_at));
	END IF;
	-- Waiting ends when a notification is given up, but it has not got through.
	SELECT s.receiver, s.lost_id, s.lost_at INTO lost
	FROM monitoring.receiver_states AS s
	JOIN monitoring.receiver_defs AS r ON r.name = s.receiver AND r.changed_at = s.changed_at
	JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.takes_alerts
	WHERE r.enabled AND s.lost_id IS NOT NULL
	ORDER BY s.lost_at, s.receiver LIMIT 1;
	IF FOUND THEN
		RETURN format('notification %s for receiver "%s" was given up at %s', lost.lost_id, lost.receiver, monitoring.format_time(lost.lost_at));
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION monitoring.heartbeat_lag(jsonb, timestamptz) IS 'Why a heartbeat with this config is not to be sent at that time; null: all is well.';

CREATE FUNCTION monitoring.enqueue_heartbeat(heartbeat text, lagging text, at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	s monitoring.heartbeat_states;
	latest monitoring.outbox;
	key text := format('heartbeat:%s', heartbeat);
	now_at timestamptz := clock_timestamp();
	new_id bigint;
BEGIN
	SELECT * INTO s FROM monitoring.heartbeat_states AS h WHERE h.receiver = heartbeat;
	SELECT * INTO latest FROM monitoring.outbox AS o WHERE o.created_at = s.ping_created_at AND o.id = s.ping_id;
	-- A late sign would say that all is well now. Of those that arrived only the last is worth keeping.
	WITH late AS MATERIALIZED (
		SELECT o.created_at, o.id FROM monitoring.outbox AS o
		WHERE o.receiver = heartbeat AND monitoring.is_unfinished(o.state, o.created_at, now_at)
		FOR NO KEY UPDATE OF o SKIP LOCKED
	)
	UPDATE monitoring.outbox AS o SET state = 'superseded', lease_until = NULL, error = coalesce(o.error || '; ', '') || 'superseded by the next one'
	FROM late AS l WHERE o.created_at = l.created_at AND o.id = l.id;
	IF latest.state = 'sent' THEN
		DELETE FROM monitoring.outbox AS o WHERE o.created_at = latest.created_at AND o.id = latest.id;
		DELETE FROM monitoring.delivery_attempts AS a WHERE a.notification_id = latest.id AND a.at >= latest.created_at;
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox AS o (created_at, at, receiver, group_key, alert, status, payload, next_attempt_at, expires_at)
	SELECT now_at, enqueue_heartbeat.at, r.name, key, r.name, 'heartbeat',
		monitoring.make_payload(r.name, key, 'heartbeat', '{}', '[]', jsonb_strip_nulls(jsonb_build_object('reason', 'heartbeat', 'lagging', lagging))),
		now_at, now_at + make_interval(secs => monitoring.heartbeat_seconds(r.config, 'every_seconds'))
	FROM monitoring.receiver_defs AS r WHERE r.name = heartbeat
	RETURNING o.id INTO new_id;
	UPDATE monitoring.heartbeat_states AS h
	SET ping_created_at = now_at, ping_id = new_id, sent_at = coalesce(latest.sent_at, h.sent_at)
	WHERE h.receiver = heartbeat;
END $$;
COMMENT ON FUNCTION monitoring.enqueue_heartbeat(text, text, timestamptz) IS 'Enqueue a sign of life, or why there is none, in place of any that has not been sent.';

CREATE FUNCTION monitoring.send_heartbeats(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	due record;
	lag text;
	every interval;
BEGIN
	DELETE FROM monitoring.heartbeat_states AS s
	WHERE NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.name = s.receiver AND r.created_at = s.created_at);
	FOR due IN
		SELECT r.name, r.created_at, r.config, s.receiver IS NULL AS is_new, s.due_at, s.lagging, s.lagging_since, s.failed_at
		FROM monitoring.receiver_defs AS r
		LEFT JOIN monitoring.heartbeat_states AS s ON s.receiver = r.name AND s.created_at = r.created_at
		WHERE r.kind = 'heartbeat' AND r.enabled
			-- one that is due later than it can be was made before the clock stepped back, or has a shorter interval now
			AND coalesce(s.due_at <= send_heartbeats.at
				OR s.due_at > send_heartbeats.at + make_interval(secs => monitoring.heartbeat_seconds(r.config, 'every_seconds')), true)
		ORDER BY r.name
	LOOP
		every := make_interval(secs => monitoring.heartbeat_seconds(due.config, 'every_seconds'));
		lag := monitoring.heartbeat_lag(due.config, at);
		IF due.is_new THEN
			INSERT INTO monitoring.heartbeat_states (receiver, created_at, due_at) VALUES (due.name, due.created_at, at);
		END IF;
		IF lag IS NULL THEN
			PERFORM monitoring.enqueue_heartbeat(due.name, NULL, at);
			UPDATE monitoring.heartbeat_states AS s
			SET lagging = NULL, lagging_since = NULL, failed_at = NULL,
				due_at = CASE WHEN s.due_at BETWEEN send_heartbeats.at - every / 2 AND send_heartbeats.at THEN s.due_at ELSE send_heartbeats.at END + every
			WHERE s.receiver = due.name;
		-- Right after a start an evaluation may be about to come: it fails when it still lags at the next look.
		ELSIF due.lagging IS NOT NULL AND due.config ? 'fail_url' AND coalesce(due.failed_at NOT BETWEEN at - every AND at, true) THEN
			PERFORM monitoring.enqueue_heartbeat(due.name, lag, at);
			UPDATE monitoring.heartbeat_states AS s SET lagging = lag, failed_at = send_heartbeats.at WHERE s.receiver = due.name;
		ELSIF due.lagging IS DISTINCT FROM lag THEN
			UPDATE monitoring.heartbeat_states AS s SET lagging = lag, lagging_since = coalesce(s.lagging_since, send_heartbeats.at)
			WHERE s.receiver = due.name;
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.send_heartbeats(timestamptz) IS 'Enqueue the signs of life that are due at that time, or take note why not. A periodic job.';

-- after evaluations, before dispatch
INSERT INTO monitoring.jobs (name, function, every, priority) VALUES ('heartbeat', 'monitoring.send_heartbeats', '5 seconds', 55);
