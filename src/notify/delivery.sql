-- delivery: what the notifier worker (notifier.c) calls. It claims rows of the outbox, lets the receiver kind's function
-- turn each into a request, sends it through the sender program, and records the outcome. All decisions (what is due,
-- what is tried again and when, what is given up, handed on or no longer worth sending) are made here.
--
-- The notifier never waits for rows of the outbox: somebody may cancel, or drop a receiver, in a transaction that stays
-- open. What is locked is left for the next time.

----------------------------------------------------------------------------------------------------------------------
-- How receivers fare
----------------------------------------------------------------------------------------------------------------------

-- No foreign key: it would lock the receiver's row, and whoever drops a receiver in a transaction that stays open would keep
-- the notifier waiting.
CREATE TABLE monitoring.receiver_states (
	receiver text,
	changed_at timestamptz,
	successes integer NOT NULL DEFAULT 0,
	failures integer NOT NULL DEFAULT 0,
	failing_since timestamptz,
	trials integer NOT NULL DEFAULT 0,
	paused_until timestamptz,
	lost_id bigint,
	lost_at timestamptz,
	tokens float8,
	refilled_at timestamptz,
	PRIMARY KEY (receiver, changed_at)
) WITH (fillfactor = 50);
COMMENT ON TABLE monitoring.receiver_states IS 'How delivery to each receiver fares: the circuit breaker and the token bucket. Written by the notifier alone.';
COMMENT ON COLUMN monitoring.receiver_states.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_states.changed_at IS 'Which receiver of that name, and since which change (receiver_defs.changed_at): what was known before does not count.';
COMMENT ON COLUMN monitoring.receiver_states.successes IS 'Responses since the last failure, up to 64: so much more is sent to it at once.';
COMMENT ON COLUMN monitoring.receiver_states.failures IS 'Failures since the last response.';
COMMENT ON COLUMN monitoring.receiver_states.failing_since IS 'The first of these failures.';
COMMENT ON COLUMN monitoring.receiver_states.trials IS 'How often the breaker has opened since the last response: each time for twice as long.';
COMMENT ON COLUMN monitoring.receiver_states.paused_until IS 'Nothing is sent to it before this time: it asked for that, or the breaker is open.';
COMMENT ON COLUMN monitoring.receiver_states.lost_id IS 'The notification (notifications.id) that was given up last, no fallback getting it; null: one has arrived since.';
COMMENT ON COLUMN monitoring.receiver_states.lost_at IS 'When it was given up.';
COMMENT ON COLUMN monitoring.receiver_states.tokens IS 'What rate_per_second still allowed at refilled_at.';
COMMENT ON COLUMN monitoring.receiver_states.refilled_at IS 'When the tokens were counted.';

CREATE FUNCTION monitoring.breaker_failures(config jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce((config ->> 'breaker_failures')::integer, 5);
COMMENT ON FUNCTION monitoring.breaker_failures(jsonb) IS 'After how many failures in a row a receiver with this config is paused; 0: never.';

CREATE FUNCTION monitoring.receiver_allowances(at timestamptz, per_receiver integer, with_sender boolean DEFAULT true)
RETURNS TABLE (receiver text, sending bigint, allowed bigint, tokens float8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
	-- notify_claim, which calls it, goes without
	SET enable_hashjoin = on AS $$
	SELECT r.name, b.sending, greatest(least(coalesce(floor(k.tokens)::bigint, per_receiver), n.most - b.sending), 0), k.tokens
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.receiver_states AS s ON s.receiver = r.name AND s.changed_at = r.changed_at
	LEFT JOIN (
		SELECT o.receiver, count(*) AS sending FROM monitoring.outbox AS o
		WHERE o.state = 'sending' AND o.lease_until > receiver_allowances.at AND o.created_at > receiver_allowances.at - interval '2 days'
		GROUP BY o.receiver) AS w ON w.receiver = r.name
	CROSS JOIN LATERAL (SELECT coalesce(w.sending, 0) AS sending) AS b
	-- One at a time tries a receiver that failed; one that answers gets more and more.
	CROSS JOIN LATERAL (
		SELECT CASE WHEN s.failures >= nullif(monitoring.breaker_failures(r.config), 0) THEN 1
			ELSE least(per_receiver, 8 + coalesce(s.successes, 0)) END AS most) AS n
	CROSS JOIN LATERAL (
		SELECT least(coalesce((r.config ->> 'burst')::float8, greatest((r.config ->> 'rate_per_second')::float8, 1)),
			CASE WHEN s.refilled_at <= receiver_allowances.at THEN s.tokens
				+ (r.config ->> 'rate_per_second')::float8 * extract(epoch FROM receiver_allowances.at - s.refilled_at)::float8 END) AS full_or_less) AS t
	CROSS JOIN LATERAL (SELECT CASE WHEN r.config ? 'rate_per_second' THEN t.full_or_less END AS tokens) AS k
	-- No pause is longer than an hour, whatever the clock does.
	WHERE r.enabled AND coalesce(s.paused_until NOT BETWEEN receiver_allowances.at AND receiver_allowances.at + interval '1 hour', true)
		AND (with_sender OR NOT (SELECT i.needs_sender FROM monitoring.receiver_kinds AS i WHERE i.kind = r.kind))
$$;
COMMENT ON FUNCTION monitoring.receiver_allowances(timestamptz, integer, boolean) IS 'The enabled receivers that are not paused at that time, and without a sender of kinds that need none: how many notifications are being sent to each, how many more may be (at most per_receiver at once, as its answers so far and its rate allow), and its tokens; null: its config has no rate_per_second.';

CREATE VIEW monitoring.receiver_health AS
	SELECT r.name AS receiver,
		CASE WHEN NOT r.enabled THEN 'disabled'
			WHEN s.failures >= nullif(coalesce((r.config ->> 'breaker_failures')::integer, 5), 0) THEN 'broken'
			WHEN s.paused_until > clock_timestamp() THEN 'paused'
			WHEN s.failures > 0 THEN 'failing'
			ELSE 'ok' END AS state,
		coalesce(s.failures, 0) AS failures, s.failing_since,
		CASE WHEN s.paused_until > clock_timestamp() THEN s.paused_until END AS paused_until,
		w.waiting, w.waiting_since, r.config ->> 'fallback' AS fallback, s.lost_id, s.lost_at, p.problem
	FROM monitoring.receiver_defs AS r
	LEFT JOIN monitoring.receiver_states AS s ON s.receiver = r.name AND s.changed_at = r.changed_at
	CROSS JOIN LATERAL (
		SELECT count(*) AS waiting, min(o.created_at) AS waiting_since FROM monitoring.outbox AS o
		WHERE o.receiver = r.name AND o.state IN ('queued', 'sending', 'failed')) AS w
	LEFT JOIN (SELECT q.name, min(q.problem) AS problem FROM monitoring.secret_problems() AS q GROUP BY q.name) AS p ON p.name = r.name;
COMMENT ON VIEW monitoring.receiver_health IS 'How delivery to each receiver fares.';
COMMENT ON COLUMN monitoring.receiver_health.receiver IS 'Name of the receiver.';
COMMENT ON COLUMN monitoring.receiver_health.state IS 'ok; failing; broken (breaker_failures failures in a row: it is tried with one notification after ever longer pauses); paused (it asked for that by Retry-After); disabled.';
COMMENT ON COLUMN monitoring.receiver_health.failures IS 'Failures since the last response.';
COMMENT ON COLUMN monitoring.receiver_health.failing_since IS 'The first of these failures.';
COMMENT ON COLUMN monitoring.receiver_health.paused_until IS 'Nothing is sent before this time.';
COMMENT ON COLUMN monitoring.receiver_health.waiting IS 'Notifications that are not finished.';
COMMENT ON COLUMN monitoring.receiver_health.waiting_since IS 'When the oldest of them was enqueued.';
COMMENT ON COLUMN monitoring.receiver_health.fallback IS 'Receiver that is told instead.';
COMMENT ON COLUMN monitoring.receiver_health.lost_id IS 'The notification (notifications.id) that was given up last, no fallback getting it; null: none, or one has arrived since. Heartbeats stop for it.';
COMMENT ON COLUMN monitoring.receiver_health.lost_at IS 'When it was given up.';
COMMENT ON COLUMN monitoring.receiver_health.problem IS 'Why nothing can be sent to it now, such as a secret that is not set or whose file cannot be read; null: nothing is known to be missing.';

CREATE FUNCTION monitoring.note_receiver_outcomes(at timestamptz, receivers text[], answered bigint[], arrived bigint[], failed bigint[], pauses float8[])
RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	-- The breaker opens for a second after its failures, then twice as long each time, up to five minutes; the jitter keeps
	-- receivers that broke together from being tried together. What fails while it is open was under way before. No outcome
	-- shortens a pause: what it is of may have begun before the pause did.
	WITH noted AS (
		SELECT r.name, r.changed_at, n.answered, n.pause, monitoring.breaker_failures(r.config) AS threshold,
			least(s.successes, 64) AS successes, CASE WHEN n.answered > 0 THEN 0 ELSE coalesce(s.failures, 0) + n.failed END AS failures,
			CASE WHEN n.answered = 0 AND n.failed > 0 THEN coalesce(s.failing_since, note_receiver_outcomes.at) END AS failing_since,
			CASE WHEN n.answered > 0 THEN 0 ELSE coalesce(s.trials, 0) END AS trials,
			CASE WHEN n.arrived = 0 THEN s.lost_id END AS lost_id, CASE WHEN n.arrived = 0 THEN s.lost_at END AS lost_at,
			CASE WHEN s.paused_until BETWEEN note_receiver_outcomes.at AND note_receiver_outcomes.at + interval '1 hour' THEN s.paused_until END AS paused_until
		FROM unnest(receivers, answered, arrived, failed, pauses) AS n (receiver, answered, arrived, failed, pause)
		JOIN monitoring.receiver_defs AS r ON r.name = n.receiver
		LEFT JOIN monitoring.receiver_states AS s ON s.receiver = r.name AND s.changed_at = r.changed_at
		WHERE n.answered > 0 OR n.failed > 0 OR n.pause > 0
	), decided AS (
		SELECT n.name, n.changed_at, CASE WHEN n.failures > 0 THEN 0 ELSE least(coalesce(n.successes, 0) + n.answered, 64) END AS successes,
			n.failures, n.failing_since, n.trials + o.opens::integer AS trials, n.lost_id, n.lost_at,
			greatest(n.paused_until, note_receiver_outcomes.at + make_interval(secs => greatest(CASE WHEN n.pause > 0 THEN least(n.pause, 3600) END,
				CASE WHEN o.opens THEN (1 + random()) / 2 * least(300, 2 ^ least(n.trials, 20)) END))) AS paused_until
		FROM noted AS n
		CROSS JOIN LATERAL (SELECT n.threshold > 0 AND n.failures >= n.threshold AND (n.trials = 0 OR n.paused_until IS NULL) AS opens) AS o
	)
	INSERT INTO monitoring.receiver_states AS s (receiver, changed_at, successes, failures, failing_since, trials, paused_until, lost_id, lost_at)
	SELECT d.name, d.changed_at, d.successes, d.failures, d.failing_since, d.trials, d.paused_until, d.lost_id, d.lost_at FROM decided AS d
	ON CONFLICT (receiver, changed_at) DO UPDATE
	SET successes = excluded.successes, failures = excluded.failures, failing_since = excluded.failing_since, trials = excluded.trials,
		paused_until = excluded.paused_until, lost_id = excluded.lost_id, lost_at = excluded.lost_at
	WHERE (s.successes, s.failures, s.failing_since, s.trials, s.paused_until, s.lost_id)
		IS DISTINCT FROM (excluded.successes, excluded.failures, excluded.failing_since, excluded.trials, excluded.paused_until, excluded.lost_id)
$$;
COMMENT ON FUNCTION monitoring.note_receiver_outcomes(timestamptz, text[], bigint[], bigint[], bigint[], float8[]) IS 'Take note, for each receiver named, how many attempts it answered, how many notifications arrived, how many attempts failed on its side and for how many seconds it asked to be left alone (at most an hour counts), and open or close its breaker.';

----------------------------------------------------------------------------------------------------------------------
-- What need not be sent, and what is handed on
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.notify_collapse(at timestamptz, days timestamptz[], firsts bigint[]) RETURNS TABLE (created_at timestamptz, id bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	-- A notification lists all that is firing in its group, so the last one stands for all that wait, but for the end of
	-- alerts that only an earlier one tells of. Of a group that the receiver has never heard of, alerts that are over
	-- already are nobody's business.
	RETURN QUERY
	WITH held AS MATERIALIZED (
		SELECT o.id
		FROM unnest(days, firsts) AS k (created_at, id)
		JOIN monitoring.outbox AS f ON f.created_at = k.created_at AND f.id = k.id
		JOIN monitoring.outbox AS o ON o.receiver || E'\n' || o.group_key = f.receiver || E'\n' || f.group_key AND o.id >= f.id
			AND monitoring.is_unfinished(o.state, o.created_at, notify_collapse.at)
		FOR NO KEY UPDATE OF o SKIP LOCKED
	), crowds AS MATERIALIZED (
		SELECT o.receiver, o.group_key, array_agg(o.id ORDER BY o.id) AS ids, max(o.id) AS last_id,
			bool_and(o.attempts = 0) AND (array_agg(o.payload ->> 'reason' ORDER BY o.id))[1] = 'first notification' AS unheard
		FROM unnest(days, firsts) AS k (created_at, id)
		JOIN monitoring.outbox AS f ON f.created_at = k.created_at AND f.id = k.id
		JOIN monitoring.outbox AS o ON o.receiver || E'\n' || o.group_key = f.receiver || E'\n' || f.group_key AND o.id >= f.id
			AND monitoring.is_unfinished(o.state, o.created_at, notify_collapse.at)
		GROUP BY o.receiver, o.group_key
		HAVING count(*) > 1 AND bool_and(o.status IN ('firing', 'resolved') AND NOT o.payload ?| '{digest,escalation}'::text[]
			AND o.id IN (SELECT h.id FROM held AS h))
	), mentions AS MATERIALIZED (
		SELECT o.id, c.last_id, c.unheard, a.ordinality, a.value AS document,
			first_value(a.value ->> 'status') OVER (PARTITION BY c.last_id, a.value ->> 'fingerprint' ORDER BY o.id) AS first_status,
			row_number() OVER (PARTITION BY c.last_id, a.value ->> 'fingerprint' ORDER BY o.id DESC) AS from_last
		FROM crowds AS c
		JOIN monitoring.outbox AS o ON o.receiver || E'\n' || o.group_key = c.receiver || E'\n' || c.group_key AND o.id = ANY (c.ids)
			AND monitoring.is_unfinished(o.state, o.created_at, notify_collapse.at)
		CROSS JOIN LATERAL jsonb_array_elements(o.payload -> 'alerts') WITH ORDINALITY AS a
	), kept AS (
		SELECT m.last_id, count(*) FILTER (WHERE m.document ->> 'status' = 'firing') AS firing,
			jsonb_agg(m.document ORDER BY m.document ->> 'status', m.id DESC, m.ordinality) AS alerts
		FROM mentions AS m
		WHERE m.from_last = 1 AND CASE WHEN m.document ->> 'status' = 'firing' THEN m.id = m.last_id
			ELSE NOT (m.unheard AND m.first_status = 'firing') END
		GROUP BY m.last_id
	), superseded AS (
		UPDATE monitoring.outbox AS o
		SET state = 'superseded', lease_until = NULL, error = format('superseded by notification %s', c.last_id)
		FROM crowds AS c
		WHERE o.receiver || E'\n' || o.group_key = c.receiver || E'\n' || c.group_key AND o.id = ANY (c.ids) AND o.id <> c.last_id
			AND monitoring.is_unfinished(o.state, o.created_at, notify_collapse.at)
	), merged AS (
		UPDATE monitoring.outbox AS o
		SET state = CASE WHEN k.alerts IS NULL THEN 'superseded' ELSE o.state END,
			error = CASE WHEN k.alerts IS NULL THEN 'all of it was over before any of it could be sent' ELSE o.error END,
			status = CASE WHEN k.firing > 0 THEN 'firing' ELSE 'resolved' END,
			payload = monitoring.make_payload(o.receiver, o.group_key, CASE WHEN k.firing > 0 THEN 'firing' ELSE 'resolved' END,
				o.payload -> 'groupLabels', coalesce(k.alerts, '[]'),
				o.payload - '{receiver,groupKey,status,groupLabels,commonLabels,commonAnnotations,alerts}'::text[]),
			alert_ids = (SELECT coalesce(array_agg(DISTINCT i ORDER BY i), '{}')
				FROM monitoring.outbox AS e CROSS JOIN LATERAL unnest(e.alert_ids) AS i
				WHERE e.receiver || E'\n' || e.group_key = c.receiver || E'\n' || c.group_key AND e.id = ANY (c.ids)
					AND monitoring.is_unfinished(e.state, e.created_at, notify_collapse.at))
		FROM crowds AS c
		LEFT JOIN kept AS k ON k.last_id = c.last_id
		WHERE o.receiver || E'\n' || o.group_key = c.receiver || E'\n' || c.group_key AND o.id = c.last_id
			AND monitoring.is_unfinished(o.state, o.created_at, notify_collapse.at)
		RETURNING o.created_at, o.id, o.state
	)
	SELECT m.created_at, m.id FROM merged AS m WHERE m.state <> 'superseded'
	UNION ALL
	SELECT k.created_at, k.id FROM unnest(days, firsts) AS k (created_at, id)
	WHERE NOT EXISTS (SELECT FROM crowds AS c WHERE k.id = ANY (c.ids));
END $$;
COMMENT ON FUNCTION monitoring.notify_collapse(timestamptz, timestamptz[], bigint[]) IS 'Of groups whose first unfinished notifications are named, by when they were enqueued and number, make one of all that wait, and return the rows to be sent in place of the first ones. What is no longer worth sending becomes superseded. Digests, tests, messages, acknowledgements and escalations stay as they are, and so does all that waits with one of them, or with one that somebody is about to cancel.';

CREATE FUNCTION monitoring.notify_fall_back(at timestamptz, days timestamptz[], ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
BEGIN
	PERFORM monitoring.ensure_partition('outbox', at);
	WITH dead AS MATERIALIZED (
		SELECT o.id, o.at, o.receiver, o.group_key, o.alert, o.status, o.alert_ids, o.payload, r.changed_at, k.takes_alerts,
			f.name AS fallback, f.config AS fallback_config
		FROM unnest(days, ids) AS n (created_at, id)
		JOIN monitoring.outbox AS o ON o.created_at = n.created_at AND o.id = n.id
		JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
		LEFT JOIN monitoring.receiver_defs AS f ON f.name = r.config ->> 'fallback' AND f.enabled AND f.name <> o.receiver
			AND o.status NOT IN ('test', 'still firing', 'also resolved') AND NOT coalesce(o.payload -> 'fallbackFrom', '[]') ? f.name
	), handed_on AS (
		INSERT INTO monitoring.outbox (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
		SELECT notify_fall_back.at, d.at, d.fallback, d.group_key, d.alert, d.status, d.alert_ids,
			d.payload || jsonb_build_object('receiver', d.fallback, 'fallbackFrom', coalesce(d.payload -> 'fallbackFrom', '[]') || to_jsonb(d.receiver)),
			notify_fall_back.at, notify_fall_back.at + monitoring.max_age(d.fallback_config)
		FROM dead AS d WHERE d.fallback IS NOT NULL
		ORDER BY d.id
	)
	INSERT INTO monitoring.receiver_states AS s (receiver, changed_at, lost_id, lost_at)
	SELECT d.receiver, d.changed_at, max(d.id), notify_fall_back.at FROM dead AS d
	WHERE d.fallback IS NULL AND d.takes_alerts AND d.status <> 'test'
	GROUP BY d.receiver, d.changed_at
	ON CONFLICT (receiver, changed_at) DO UPDATE SET lost_id = excluded.lost_id, lost_at = excluded.lost_at;
END $$;
COMMENT ON FUNCTION monitoring.notify_fall_back(timestamptz, timestamptz[], bigint[]) IS 'Enqueue what could not be delivered for the fallback receivers of its receivers, if those are enabled and have not failed with it before. Take note of what is lost: what nobody else gets, but for tests and heartbeats.';

----------------------------------------------------------------------------------------------------------------------
-- Claims and outcomes
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.notify_has_work(at timestamptz, running boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- mostly there is nothing, however many receivers there are
	RETURN EXISTS (
			SELECT FROM monitoring.outbox AS o
			WHERE monitoring.is_unfinished(o.state, o.created_at, notify_has_work.at))
		AND EXISTS (
			SELECT FROM monitoring.receiver_allowances(notify_has_work.at, 64) AS r
			CROSS JOIN LATERAL (
				SELECT FROM monitoring.outbox AS o
				WHERE o.receiver = r.receiver AND monitoring.is_due(o.state, o.created_at, o.next_attempt_at, notify_has_work.at)
					AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
						WHERE e.receiver || E'\n' || e.group_key = o.receiver || E'\n' || o.group_key AND e.id < o.id
							AND monitoring.is_unfinished(e.state, e.created_at, notify_has_work.at) OFFSET 0)
				LIMIT 1) AS due
			WHERE r.allowed > 0)
		OR EXISTS (
			SELECT FROM monitoring.outbox AS o
			WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_has_work.at AND coalesce(o.lease_until <= notify_has_work.at, true))
		OR (NOT running AND EXISTS (
			SELECT FROM monitoring.receiver_defs AS r
			JOIN monitoring.outbox AS o ON o.receiver = r.name
			WHERE o.state = 'sending'))
		-- It keeps messages ready.
		OR (NOT running AND EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.enabled AND r.config -> 'emergency' = 'true'));
END $$;
COMMENT ON FUNCTION monitoring.notify_has_work(timestamptz, boolean) IS 'Is a notification due, or too old, at that time? When no notifier is running, what is marked as being sent is work too: its notifier is gone; and so are receivers that are to be told of emergencies.';

CREATE FUNCTION monitoring.notify_give_up(at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
DECLARE
	days timestamptz[];
	ids bigint[];
BEGIN
	WITH old AS MATERIALIZED (
		SELECT o.created_at, o.id FROM monitoring.outbox AS o
		WHERE o.state IN ('queued', 'sending', 'failed') AND o.expires_at <= notify_give_up.at
			AND coalesce(o.lease_until <= notify_give_up.at, true)
		FOR NO KEY UPDATE OF o SKIP LOCKED
	), ambiguous AS MATERIALIZED (
		SELECT o.created_at, o.id FROM monitoring.outbox AS o
		JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind AND k.ambiguous = 'never'
		WHERE o.state = 'sending' AND o.lease_until <= notify_give_up.at AND o.expires_at > notify_give_up.at
		FOR NO KEY UPDATE OF o SKIP LOCKED
	), broken AS MATERIALIZED (
		SELECT o.created_at, o.id, f.name AS fallback
		FROM monitoring.receiver_states AS s
		JOIN monitoring.receiver_defs AS r ON r.name = s.receiver AND r.changed_at = s.changed_at
		JOIN monitoring.receiver_defs AS f ON f.name = r.config ->> 'fallback' AND f.enabled
		JOIN monitoring.outbox AS o ON o.receiver = r.name
		WHERE s.failures >= nullif(monitoring.breaker_failures(r.config), 0)
			AND s.failing_since <= notify_give_up.at - make_interval(secs => coalesce((r.config ->> 'fallback_after_seconds')::float8, 300))
			AND o.state IN ('queued', 'failed') AND o.status NOT IN ('test', 'still firing', 'also resolved') AND o.expires_at > notify_give_up.at
			AND f.name <> o.receiver AND NOT coalesce(o.payload -> 'fallbackFrom', '[]') ? f.name
		FOR NO KEY UPDATE OF o SKIP LOCKED
	), gone AS (
		UPDATE monitoring.outbox AS o
		SET state = 'dead', lease_until = NULL,
			error = coalesce(o.error || '; ', '') || format('given up, too old (attempts: %s)', o.attempts)
		FROM old AS x WHERE o.created_at = x.created_at AND o.id = x.id
		RETURNING o.created_at, o.id
	), unknown AS (
		UPDATE monitoring.outbox AS o
		SET state = 'dead', lease_until = NULL, error = 'the outcome was never known: it may have arrived, and is not repeated'
		FROM ambiguous AS x WHERE o.created_at = x.created_at AND o.id = x.id
	), handed_on AS (
		UPDATE monitoring.outbox AS o
		SET state = 'dead', error = coalesce(o.error || '; ', '') || format('handed to receiver "%s"', x.fallback)
		FROM broken AS x WHERE o.created_at = x.created_at AND o.id = x.id
		RETURNING o.created_at, o.id
	)
	SELECT array_agg(u.created_at), array_agg(u.id) INTO days, ids FROM (SELECT * FROM gone UNION ALL SELECT * FROM handed_on) AS u;
	IF ids IS NOT NULL THEN
		PERFORM monitoring.notify_fall_back(at, days, ids);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.notify_give_up(timestamptz) IS 'Mark as dead what is too old, what may have arrived at a receiver that must not be told twice, and what waits for a receiver that has been failing for fallback_after_seconds and has a fallback, which gets it.';

CREATE FUNCTION monitoring.notify_claim(at timestamptz, max_rows integer, per_receiver integer, with_sender boolean DEFAULT true)
RETURNS TABLE (created_at timestamptz, id bigint, attempt integer, format_function oid, format_owner name,
	receiver jsonb, notification jsonb, connect_timeout float8, total_timeout float8, receiver_owner name, receiver_name text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	days timestamptz[];
	ids bigint[];
	crowded_days timestamptz[];
	crowded_ids bigint[];
	limited jsonb;
BEGIN
	PERFORM monitoring.notify_give_up(at);

	-- The receivers take turns, so that those whose requests hang do not keep the others from what is left of max_rows.
	-- OFFSET 0 keeps the planner from joining a backlog with itself when it does not know how long that is.
	WITH due AS MATERIALIZED (
		SELECT r.receiver, r.tokens, d.created_at, d.id, d.crowded
		FROM (
			-- of thousands of receivers some, so that not a row of each is locked for the few that get something
			SELECT a.* FROM monitoring.receiver_allowances(notify_claim.at, per_receiver, with_sender) AS a
			WHERE a.allowed > 0 AND EXISTS (SELECT FROM monitoring.outbox AS f
				WHERE f.receiver = a.receiver AND monitoring.is_due(f.state, f.created_at, f.next_attempt_at, notify_claim.at) OFFSET 0)
			ORDER BY a.sending, random()
			LIMIT greatest(max_rows, 500)) AS r
		CROSS JOIN LATERAL (
			SELECT o.created_at, o.id, EXISTS (SELECT FROM monitoring.outbox AS l
					WHERE l.receiver || E'\n' || l.group_key = o.receiver || E'\n' || o.group_key AND l.id > o.id
						AND monitoring.is_unfinished(l.state, l.created_at, notify_claim.at)) AS crowded
			FROM monitoring.outbox AS o
			WHERE o.receiver = r.receiver AND monitoring.is_due(o.state, o.created_at, o.next_attempt_at, notify_claim.at)
				AND NOT EXISTS (SELECT FROM monitoring.outbox AS e
					WHERE e.receiver || E'\n' || e.group_key = o.receiver || E'\n' || o.group_key AND e.id < o.id
						AND monitoring.is_unfinished(e.state, e.created_at, notify_claim.at) OFFSET 0)
			ORDER BY o.id
			LIMIT r.allowed
			FOR UPDATE OF o SKIP LOCKED) AS d
		ORDER BY r.sending + row_number() OVER (PARTITION BY r.receiver ORDER BY d.id), d.id
		LIMIT max_rows
	)
	SELECT array_agg(d.created_at) FILTER (WHERE NOT d.crowded), array_agg(d.id) FILTER (WHERE NOT d.crowded),
		array_agg(d.created_at) FILTER (WHERE d.crowded), array_agg(d.id) FILTER (WHERE d.crowded),
		(SELECT jsonb_object_agg(t.receiver, t.tokens) FROM (SELECT DISTINCT i.receiver, i.tokens FROM due AS i WHERE i.tokens IS NOT NULL) AS t)
	INTO days, ids, crowded_days, crowded_ids, limited FROM due AS d;
	IF crowded_ids IS NOT NULL THEN
		SELECT days || array_agg(c.created_at), ids || array_agg(c.id) INTO days, ids
		FROM monitoring.notify_collapse(at, crowded_days, crowded_ids) AS c;
	END IF;

	IF limited IS NOT NULL THEN
		INSERT INTO monitoring.receiver_states AS s (receiver, changed_at, tokens, refilled_at)
		SELECT r.name, r.changed_at, (limited ->> r.name)::float8 - count(*), notify_claim.at
		FROM unnest(days, ids) AS k (created_at, id)
		JOIN monitoring.outbox AS o ON o.created_at = k.created_at AND o.id = k.id
		JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
		WHERE limited ? r.name
		GROUP BY r.name, r.changed_at
		ON CONFLICT (receiver, changed_at) DO UPDATE SET tokens = excluded.tokens, refilled_at = excluded.refilled_at;
	END IF;

	RETURN QUERY
	WITH timed AS (
		SELECT o.created_at, o.id, r.name, r.kind, r.url, r.config, r.owner, k.function, k.owner AS format_owner,
			coalesce((r.config ->> 'connect_timeout_seconds')::float8, 5) AS connect_timeout,
			coalesce((r.config ->> 'timeout_seconds')::float8, k.timeout_seconds) AS total_timeout
		FROM unnest(days, ids) AS c (created_at, id)
		JOIN monitoring.outbox AS o ON o.created_at = c.created_at AND o.id = c.id
		JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
		JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
	)
	UPDATE monitoring.outbox AS o
	SET state = 'sending', attempts = o.attempts + 1,
		lease_until = notify_claim.at + make_interval(secs => t.total_timeout + 60),
		next_attempt_at = notify_claim.at + make_interval(secs => t.total_timeout + 60)
	FROM timed AS t
	WHERE o.created_at = t.created_at AND o.id = t.id
	RETURNING o.created_at, o.id, o.attempts, to_regprocedure(t.function || '(jsonb,jsonb)')::oid, t.format_owner,
		jsonb_build_object('name', t.name, 'kind', t.kind, 'url', t.url, 'config', t.config),
		o.payload || jsonb_build_object('idempotencyKey', o.idempotency_key, 'id', o.id),
		t.connect_timeout, t.total_timeout, t.owner, t.name;
END $$;
COMMENT ON FUNCTION monitoring.notify_claim(timestamptz, integer, integer, boolean) IS 'Give up what is to be given up (notify_give_up); claim due notifications, at most max_rows in all and to each receiver so many as receiver_allowances says, skipping any with an unfinished earlier one in its group. Where more wait behind one of them, all of these become one. Without a sender only kinds are claimed that need none. The claim ends with the lease, a minute after the timeout.';

CREATE FUNCTION monitoring.notify_hold(created_at timestamptz, id bigint, attempt integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
	PERFORM FROM monitoring.outbox AS o
	WHERE o.created_at = notify_hold.created_at AND o.id = notify_hold.id AND o.state = 'sending' AND o.attempts = notify_hold.attempt
	FOR NO KEY UPDATE SKIP LOCKED;
	RETURN FOUND;
END $$;
COMMENT ON FUNCTION monitoring.notify_hold(timestamptz, bigint, integer) IS 'Is this attempt still claimed, and locked by nobody? If so nobody else can end it before this transaction does.';

CREATE FUNCTION monitoring.notify_record(at timestamptz, outcomes jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
	SET enable_material = off SET jit = off AS $$
DECLARE
	receivers text[];
	answered bigint[];
	arrived bigint[];
	failed bigint[];
	pauses float8[];
	recorded bigint[];
	dead_days timestamptz[];
	dead_ids bigint[];
BEGIN
	PERFORM monitoring.ensure_partition('delivery_attempts', at);

	WITH outcome AS (
		SELECT b.created_at, b.id, b.receiver, b.attempts, b.expires_at, x.outcome, x.http_status, x.latency, x.retry_after, x.error,
			x.bytes, x.protocol,
			coalesce((r.config ->> 'max_attempts')::integer, 10) AS max_attempts,
			x.outcome IN ('network', 'lost') AND coalesce(x.connected, true) AND k.ambiguous = 'never' AS ambiguous,
			CASE
				WHEN x.outcome = 'response' AND x.http_status BETWEEN 200 AND 299 OR x.outcome IN ('nothing', 'delivered') THEN 'sent'
				WHEN x.outcome IN ('network', 'raised', 'unformatted', 'postponed', 'lost') THEN 'failed'
				-- A mail server's 4xx is for now and its 5xx for good.
				WHEN x.protocol = 'SMTP' THEN CASE WHEN x.http_status BETWEEN 400 AND 499 THEN 'failed' ELSE 'dead' END
				WHEN x.http_status IN (408, 425, 429) OR x.http_status >= 500 THEN 'failed'
				ELSE 'dead'
			END AS verdict,
			-- Full jitter spreads receivers that failed together; Retry-After is a floor.
			notify_record.at + make_interval(secs => greatest(x.retry_after,
				random() * least(300, 2 ^ least(b.attempts - 1, 20)))) AS next_at
		FROM jsonb_to_recordset(outcomes) AS x (created_at timestamptz, id bigint, attempt integer, outcome text,
			http_status integer, latency float8, retry_after float8, connected boolean, error text,
			bytes bigint, protocol text)
		JOIN monitoring.outbox AS b ON b.created_at = x.created_at AND b.id = x.id
			AND b.state = 'sending' AND b.attempts = x.attempt
		LEFT JOIN monitoring.receiver_defs AS r ON r.name = b.receiver
		LEFT JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
		FOR NO KEY UPDATE OF b SKIP LOCKED
	), decided AS (
		-- What was lost or postponed may be another notification's fault: only its age ends that.
		SELECT o.*, o.verdict = 'failed' AND o.attempts >= o.max_attempts AND o.outcome NOT IN ('lost', 'postponed') AS exhausted,
			o.verdict = 'failed' AND o.next_at >= o.expires_at AS too_late
		FROM outcome AS o
	), changed AS (
		UPDATE monitoring.outbox AS b
		SET state = CASE WHEN d.exhausted OR d.too_late OR d.ambiguous THEN 'dead' ELSE d.verdict END,
			lease_until = NULL, next_attempt_at = d.next_at, http_status = d.http_status, latency = d.latency,
			sent_at = CASE WHEN d.verdict = 'sent' THEN notify_record.at END,
			error = CASE
				WHEN d.ambiguous THEN d.error || '; it may have arrived, and is not repeated'
				WHEN d.exhausted THEN d.error || format('; given up (attempts: %s)', d.attempts)
				WHEN d.too_late THEN d.error || format('; given up, too old (attempts: %s)', d.attempts)
				ELSE d.error END
		FROM decided AS d
		WHERE b.created_at = d.created_at AND b.id = d.id
		RETURNING b.created_at, b.id, b.state, d.ambiguous
	), attempted AS (
		INSERT INTO monitoring.delivery_attempts (at, notification_id, receiver, attempt, outcome, http_status, latency, error, bytes, protocol)
		SELECT notify_record.at, d.id, d.receiver, d.attempts, d.outcome, d.http_status, d.latency, d.error, d.bytes, d.protocol FROM decided AS d
	), by_receiver AS (
		SELECT d.receiver, count(*) FILTER (WHERE d.outcome IN ('response', 'delivered', 'rejected') AND d.verdict <> 'failed') AS answered,
			count(*) FILTER (WHERE d.outcome IN ('response', 'delivered') AND d.verdict = 'sent') AS arrived,
			count(*) FILTER (WHERE d.outcome IN ('response', 'network', 'raised') AND d.verdict = 'failed') AS failed, max(d.retry_after) AS pause
		FROM decided AS d
		GROUP BY d.receiver
	)
	SELECT r.receivers, r.answered, r.arrived, r.failed, r.pauses, c.all_ids, c.days, c.ids
	INTO receivers, answered, arrived, failed, pauses, recorded, dead_days, dead_ids
	FROM (SELECT array_agg(b.receiver) AS receivers, array_agg(b.answered) AS answered, array_agg(b.arrived) AS arrived,
			array_agg(b.failed) AS failed, array_agg(b.pause) AS pauses FROM by_receiver AS b) AS r
	CROSS JOIN (SELECT array_agg(c.id) AS all_ids, array_agg(c.created_at) FILTER (WHERE c.state = 'dead' AND NOT c.ambiguous) AS days,
			array_agg(c.id) FILTER (WHERE c.state = 'dead' AND NOT c.ambiguous) AS ids FROM changed AS c) AS c;

	PERFORM monitoring.note_receiver_outcomes(at, receivers, answered, arrived, failed, pauses);
	IF dead_ids IS NOT NULL THEN
		PERFORM monitoring.notify_fall_back(at, dead_days, dead_ids);
	END IF;
	IF coalesce(cardinality(recorded), 0) = jsonb_array_length(outcomes) THEN
		RETURN NULL;
	END IF;
	RETURN (SELECT jsonb_agg(o.value)
		FROM jsonb_array_elements(outcomes) AS o
		CROSS JOIN LATERAL jsonb_to_record(o.value) AS x (created_at timestamptz, id bigint, attempt integer)
		JOIN monitoring.outbox AS b ON b.created_at = x.created_at AND b.id = x.id AND b.state = 'sending' AND b.attempts = x.attempt
		WHERE b.id <> ALL (coalesce(recorded, '{}')));
END $$;
COMMENT ON FUNCTION monitoring.notify_record(timestamptz, jsonb) IS 'Record outcomes of attempts: 2xx is sent, and so is what was delivered in the database or the formatter makes nothing of; no response, a function that raised, 408, 425, 429, 5xx, and 4xx of mail servers, are tried again after a random delay that doubles up to 300 s and is at least what Retry-After asks, as is what could not be formatted for now or was lost; anything else is dead, and goes to the receiver''s fallback. What may have arrived at a receiver whose kind forbids repeats is dead. Outcomes of claims that have ended are ignored. Returned are those of notifications that somebody has locked, to be recorded later; null: none.';

CREATE FUNCTION monitoring.notify_release(at timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	claims jsonb;
BEGIN
	SELECT jsonb_agg(jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', o.attempts, 'outcome', 'lost',
		'error', 'the notifier ended before the outcome was known'))
	INTO claims
	FROM monitoring.outbox AS o WHERE o.state = 'sending';
	DELETE FROM monitoring.receiver_states AS s
	WHERE NOT EXISTS (SELECT FROM monitoring.receiver_defs AS r WHERE r.name = s.receiver AND r.changed_at = s.changed_at);
	RETURN CASE WHEN claims IS NOT NULL THEN monitoring.notify_record(at, claims) END;
END $$;
COMMENT ON FUNCTION monitoring.notify_release(timestamptz) IS 'Forget how receivers fared that are gone or others now, and record what a notifier that is gone had claimed as lost, to be tried again with the usual delay; a database has one notifier at a time, so a new one calls this first. Returns what notify_record returns.';

CREATE FUNCTION monitoring.notify_dispatch(at timestamptz) RETURNS void
LANGUAGE C AS 'MODULE_PATHNAME', 'mon_notify_dispatch';
COMMENT ON FUNCTION monitoring.notify_dispatch(timestamptz) IS 'Start this database''s notifier, or wake it, if a notification is due at that time. A periodic job.';

INSERT INTO monitoring.jobs (name, function, setting, priority, run_on_wake)
VALUES ('dispatch', 'monitoring.notify_dispatch', 'monitoring.evaluation_interval', 60, true);

CREATE TRIGGER wake_worker AFTER INSERT ON monitoring.outbox
	FOR EACH STATEMENT EXECUTE FUNCTION monitoring.wake_worker();
COMMENT ON TRIGGER wake_worker ON monitoring.outbox IS 'New notifications are dispatched at commit.';

----------------------------------------------------------------------------------------------------------------------
-- By hand
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.cancel(notification bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	found_state text;
BEGIN
	UPDATE monitoring.outbox AS o
	SET state = 'cancelled', lease_until = NULL, error = coalesce(o.error || '; ', '') || format('cancelled by %s', monitoring.calling_role())
	WHERE o.id = cancel.notification AND o.state IN ('queued', 'failed');
	IF NOT FOUND THEN
		SELECT o.state INTO found_state FROM monitoring.outbox AS o WHERE o.id = cancel.notification;
		IF found_state IS NULL THEN
			RAISE EXCEPTION 'notification % does not exist', notification
				USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.notifications lists them.';
		END IF;
		RAISE EXCEPTION 'notification % cannot be cancelled', notification
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', found_state);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.cancel(bigint) IS 'Cancel a notification that waits to be sent or to be tried again. The next one of its group says again what is firing then. Errors: 42704 if there is no such notification, 55000 if it is being sent or finished.';

CREATE FUNCTION monitoring.resend(notification bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	old monitoring.outbox;
	now_at timestamptz := clock_timestamp();
	new_id bigint;
BEGIN
	SELECT * INTO old FROM monitoring.outbox AS o WHERE o.id = resend.notification;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'notification % does not exist', notification
			USING ERRCODE = 'undefined_object', HINT = 'The view monitoring.notifications lists them.';
	ELSIF old.state IN ('queued', 'sending', 'failed') THEN
		RAISE EXCEPTION 'notification % is not finished', notification
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('It is %s.', old.state);
	END IF;
	PERFORM monitoring.ensure_partition('outbox', now_at);
	INSERT INTO monitoring.outbox AS o (created_at, at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT now_at, old.at, r.name, old.group_key, old.alert, old.status, old.alert_ids, old.payload,
		now_at, now_at + monitoring.max_age(r.config)
	FROM monitoring.receiver_defs AS r WHERE r.name = old.receiver
	RETURNING o.id INTO new_id;
	IF new_id IS NULL THEN
		RAISE EXCEPTION 'receiver "%" does not exist', old.receiver
			USING ERRCODE = 'undefined_object', DETAIL = format('Notification %s was for it.', notification);
	END IF;
	RETURN new_id;
END $$;
COMMENT ON FUNCTION monitoring.resend(bigint) IS 'Enqueue a finished notification again, as it was, with a new number and idempotency key, and return the number. Errors: 42704 if it or its receiver does not exist, 55000 if it is not finished.';
