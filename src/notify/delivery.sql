-- delivery: what the notifier worker (notifier.c) calls. It claims rows of the outbox, lets the receiver kind's function
-- turn each into a request, sends it through the sender program, and records the outcome. All decisions (what is due,
-- what is tried again and when, what is given up) are made here.

CREATE FUNCTION monitoring.notify_has_work(at timestamptz, running boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			CROSS JOIN LATERAL (
				SELECT FROM monitoring.outbox AS o
				WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_has_work.at
					AND o.created_at > notify_has_work.at - interval '2 days'
					AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
						WHERE e.receiver = o.receiver AND e.group_key = o.group_key AND e.id < o.id
							AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_has_work.at - interval '2 days')
				LIMIT 1) AS due
			WHERE r.enabled)
		OR EXISTS (
			SELECT FROM monitoring.outbox AS o
			WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_has_work.at AND coalesce(o.lease_until <= notify_has_work.at, true))
		OR (NOT running AND EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			JOIN monitoring.outbox AS o ON o.receiver = r.name
			WHERE o.state = 'sending'));
END $$;
COMMENT ON FUNCTION monitoring.notify_has_work(timestamptz, boolean) IS 'Is a notification due, or too old, at that time? When no notifier is running, what is marked as being sent is work too: its notifier is gone.';

CREATE FUNCTION monitoring.notify_claim(at timestamptz, max_rows integer, per_receiver integer)
RETURNS TABLE (created_at timestamptz, id bigint, attempt integer, format_function oid, format_owner name,
	receiver jsonb, notification jsonb, connect_timeout float8, total_timeout float8)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	UPDATE monitoring.outbox AS o
	SET state = 'dead', lease_until = NULL,
		error = coalesce(o.error || '; ', '') || format('given up, too old (attempts: %s)', o.attempts)
	WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_claim.at
		AND coalesce(o.lease_until <= notify_claim.at, true);

	-- Nothing lives for more than a day (max_age_seconds): two days of partitions hold all that is unfinished. The
	-- receivers take turns, so that those whose requests hang do not keep the others from what is left of max_rows.
	RETURN QUERY
	WITH due AS MATERIALIZED (
		SELECT d.created_at, d.id, r.name, r.kind, r.url, r.config
		FROM monitoring.receiver_defs AS r
		CROSS JOIN LATERAL (
			SELECT count(*) AS sending FROM monitoring.outbox AS s
			WHERE s.receiver = r.name AND s.state = 'sending' AND s.lease_until > notify_claim.at
				AND s.created_at > notify_claim.at - interval '2 days') AS busy
		CROSS JOIN LATERAL (
			SELECT o.created_at, o.id FROM monitoring.outbox AS o
			WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed') AND o.next_attempt_at <= notify_claim.at
				AND o.created_at > notify_claim.at - interval '2 days'
				AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
					WHERE e.receiver = o.receiver AND e.group_key = o.group_key AND e.id < o.id
						AND e.state IN ('queued', 'sending', 'failed') AND e.created_at > notify_claim.at - interval '2 days')
			ORDER BY o.id
			LIMIT greatest(per_receiver - busy.sending, 0)
			FOR UPDATE OF o SKIP LOCKED) AS d
		WHERE r.enabled
		ORDER BY busy.sending + row_number() OVER (PARTITION BY r.name ORDER BY d.id), d.id
		LIMIT max_rows
	), timed AS (
		SELECT d.*, coalesce((d.config ->> 'connect_timeout_seconds')::float8, 5) AS connect_timeout,
			coalesce((d.config ->> 'timeout_seconds')::float8, 15) AS total_timeout
		FROM due AS d
	)
	UPDATE monitoring.outbox AS o
	SET state = 'sending', attempts = o.attempts + 1,
		lease_until = notify_claim.at + make_interval(secs => t.total_timeout + 60),
		next_attempt_at = notify_claim.at + make_interval(secs => t.total_timeout + 60)
	FROM timed AS t
	JOIN monitoring.receiver_kinds AS k ON k.kind = t.kind
	WHERE o.created_at = t.created_at AND o.id = t.id
	RETURNING o.created_at, o.id, o.attempts, to_regprocedure(k.function || '(jsonb,jsonb)')::oid, k.owner,
		jsonb_build_object('name', t.name, 'kind', t.kind, 'url', t.url, 'config', t.config),
		o.payload || jsonb_build_object('idempotencyKey', o.idempotency_key, 'id', o.id),
		t.connect_timeout, t.total_timeout;
END $$;
COMMENT ON FUNCTION monitoring.notify_claim(timestamptz, integer, integer) IS 'Mark as dead what is too old; claim due notifications, at most max_rows in all and so many that per_receiver are under way to each receiver, skipping any with an unfinished earlier one in its group. The claim ends with the lease, a minute after the timeout.';

CREATE FUNCTION monitoring.notify_record(at timestamptz, outcomes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.ensure_partition('delivery_attempts', at);

	WITH outcome AS (
		SELECT b.created_at, b.id, b.receiver, b.attempts, b.expires_at, x.outcome, x.http_status, x.latency, x.error,
			coalesce((r.config ->> 'max_attempts')::integer, 10) AS max_attempts,
			CASE
				WHEN x.outcome = 'response' AND x.http_status BETWEEN 200 AND 299 OR x.outcome = 'nothing' THEN 'sent'
				WHEN x.outcome IN ('network', 'unformatted', 'postponed', 'lost') OR x.http_status IN (408, 425, 429) OR x.http_status >= 500 THEN 'failed'
				ELSE 'dead'
			END AS verdict,
			-- Full jitter spreads receivers that failed together; Retry-After is a floor.
			notify_record.at + make_interval(secs => greatest(x.retry_after,
				random() * least(300, 2 ^ least(b.attempts - 1, 20)))) AS next_at
		FROM jsonb_to_recordset(outcomes) AS x (created_at timestamptz, id bigint, attempt integer, outcome text,
			http_status integer, latency float8, retry_after float8, error text)
		JOIN monitoring.outbox AS b ON b.created_at = x.created_at AND b.id = x.id
			AND b.state = 'sending' AND b.attempts = x.attempt
		LEFT JOIN monitoring.receiver_defs AS r ON r.name = b.receiver
	), decided AS (
		-- What was lost or postponed may be another notification's fault: only its age ends that.
		SELECT o.*, o.verdict = 'failed' AND o.attempts >= o.max_attempts AND o.outcome NOT IN ('lost', 'postponed') AS exhausted,
			o.verdict = 'failed' AND o.next_at >= o.expires_at AS too_late
		FROM outcome AS o
	), changed AS (
		UPDATE monitoring.outbox AS b
		SET state = CASE WHEN d.exhausted OR d.too_late THEN 'dead' ELSE d.verdict END,
			lease_until = NULL, next_attempt_at = d.next_at, http_status = d.http_status, latency = d.latency,
			sent_at = CASE WHEN d.verdict = 'sent' THEN notify_record.at END,
			error = CASE
				WHEN d.exhausted THEN d.error || format('; given up (attempts: %s)', d.attempts)
				WHEN d.too_late THEN d.error || format('; given up, too old (attempts: %s)', d.attempts)
				ELSE d.error END
		FROM decided AS d
		WHERE b.created_at = d.created_at AND b.id = d.id
	)
	INSERT INTO monitoring.delivery_attempts (at, notification_id, receiver, attempt, outcome, http_status, latency, error)
	SELECT notify_record.at, d.id, d.receiver, d.attempts, d.outcome, d.http_status, d.latency, d.error FROM decided AS d;
END $$;
COMMENT ON FUNCTION monitoring.notify_record(timestamptz, jsonb) IS 'Record outcomes of attempts: 2xx is sent, as is what the formatter makes nothing of; no response, 408, 425, 429 and 5xx are tried again after a random delay that doubles up to 300 s and is at least what Retry-After asks, as is what could not be formatted for now or was lost; anything else is dead. Outcomes of claims that have ended are ignored.';

CREATE FUNCTION monitoring.notify_release(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	claims jsonb;
BEGIN
	SELECT jsonb_agg(jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', o.attempts, 'outcome', 'lost',
		'error', 'the notifier ended before the outcome was known'))
	INTO claims
	FROM monitoring.outbox AS o WHERE o.state = 'sending';
	IF claims IS NOT NULL THEN
		PERFORM monitoring.notify_record(at, claims);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.notify_release(timestamptz) IS 'Record what a notifier that is gone had claimed as lost, to be tried again with the usual delay; a database has one notifier at a time, so a new one calls this first.';

CREATE FUNCTION monitoring.notify_dispatch(at timestamptz) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_notify_dispatch';
COMMENT ON FUNCTION monitoring.notify_dispatch(timestamptz) IS 'Start this database''s notifier, or wake it, if a notification is due at that time. A periodic job.';

INSERT INTO monitoring.jobs (name, function, setting, priority, run_on_wake)
VALUES ('dispatch', 'monitoring.notify_dispatch', 'monitoring.evaluation_interval', 60, true);

CREATE TRIGGER wake_worker AFTER INSERT ON monitoring.outbox
	FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.outbox IS 'New notifications are dispatched at commit.';
