-- The outbox on virtual time: enqueueing, claiming, outcomes. Everything is rolled back, so that no notifier sees it.
\pset format unaligned
\set VERBOSITY terse
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
UPDATE monitoring.receiver_defs SET enabled = false;
DELETE FROM monitoring.routing_queue;
DELETE FROM monitoring.alert_groups;
DELETE FROM monitoring.alert_group_members;
DELETE FROM monitoring.alert_group_receivers;

CREATE TEMP TABLE start AS SELECT nextval('monitoring.outbox_id_seq') AS base, clock_timestamp() AS t;
CREATE FUNCTION pg_temp.claim(at timestamptz, max_rows integer DEFAULT 100, per_receiver integer DEFAULT 100)
RETURNS TABLE (id bigint, receiver text, attempt integer) LANGUAGE sql AS $$
	SELECT c.id - (SELECT base FROM pg_temp.start), c.receiver ->> 'name', c.attempt
	FROM monitoring.notify_claim(at, max_rows, per_receiver) AS c ORDER BY c.id
$$;
CREATE FUNCTION pg_temp.outcome(at timestamptz, outcomes jsonb) RETURNS void LANGUAGE sql AS $$
	SELECT monitoring.notify_record(outcome.at, jsonb_agg(to_jsonb(o) - 'n' || jsonb_build_object('created_at', b.created_at, 'id', b.id)))
	FROM jsonb_to_recordset(outcomes) AS o (n bigint, attempt integer, outcome text, http_status integer, latency float8, retry_after float8, error text)
	JOIN monitoring.outbox AS b ON b.id = o.n + (SELECT base FROM pg_temp.start)
$$;
CREATE VIEW pg_temp.state AS SELECT id - (SELECT base FROM pg_temp.start) AS id, receiver, status, state, attempts, http_status, error
	FROM monitoring.notifications WHERE id > (SELECT base FROM pg_temp.start);

SELECT monitoring.create_receiver('a', 'webhook', 'https://a.example.com/');
SELECT monitoring.create_receiver('b', 'webhook', 'https://b.example.com/', '{"max_attempts": 2, "send_resolved": false, "max_age_seconds": 600}');
SELECT monitoring.create_receiver('c', 'webhook', 'https://c.example.com/');

INSERT INTO monitoring.alert_rule_defs (name, metric, fn, over, op, threshold, owner, receivers)
VALUES ('everybody', 'm', 'avg', '1 minute', '>', 1, current_user, '{a,b,c}'), ('only c', 'm', 'avg', '1 minute', '>', 1, current_user, '{c,nobody}');
SELECT monitoring.ensure_partition('alert_history', '2026-02-03') IS NOT NULL AS made;

-- Transitions of alerts of one rule and of the other, each told at once as the rules name receivers; pending ones are
-- nobody's business.
CREATE FUNCTION pg_temp.transitions(rule text, from_state text, to_state text, first integer, last integer) RETURNS integer LANGUAGE sql AS $$
	WITH h AS (
		INSERT INTO monitoring.alert_history (at, alert_id, rule_id, rule_name, severity, series_labels, labels, from_state, to_state,
			reason, value, threshold, op, annotations, active_at, fired_at, fingerprint)
		SELECT '2026-02-03', n, d.id, d.name, 'low', '{}', jsonb_build_object('n', n::text), from_state, to_state, 'breach', n, 1, '>', '{}',
			'2026-02-03', '2026-02-03', rule || n
		FROM monitoring.alert_rule_defs AS d CROSS JOIN generate_series(first, last) AS n WHERE d.name = rule RETURNING id)
	SELECT count(*)::integer FROM h CROSS JOIN LATERAL monitoring.queue_transitions(ARRAY[h.id], '2026-02-03')
$$;
CREATE FUNCTION pg_temp.route() RETURNS integer LANGUAGE sql AS $$ SELECT monitoring.route_alerts('{}', '2026-02-03') $$;
SELECT pg_temp.transitions('everybody', 'inactive', 'pending', 1, 1), pg_temp.route();
SELECT pg_temp.transitions('everybody', 'pending', 'inactive', 1, 1), pg_temp.route();
SELECT pg_temp.transitions('everybody', 'pending', 'firing', 1, 30), pg_temp.route();
SELECT pg_temp.transitions('everybody', 'pending', 'firing', 31, 60), pg_temp.route();
SELECT pg_temp.transitions('everybody', 'firing', 'resolved', 1, 1), pg_temp.route();
SELECT pg_temp.transitions('only c', 'pending', 'firing', 1, 1), pg_temp.route();
SELECT monitoring.route_alerts('{}', '2026-02-03'), monitoring.route_alerts(NULL, '2026-02-03');
SELECT n.id - s.base AS id, n.receiver, n.alert, n.status, n.reason, n.state, cardinality(n.alert_ids) AS alerts
FROM monitoring.notifications AS n CROSS JOIN pg_temp.start AS s WHERE n.id > s.base ORDER BY n.id;
SELECT count(DISTINCT idempotency_key) AS keys FROM monitoring.notifications AS n CROSS JOIN pg_temp.start AS s WHERE n.id > s.base;

-- however long it took to get here; as digests, of which a later one does not stand for an earlier one
UPDATE monitoring.outbox AS o SET next_attempt_at = s.t, payload = o.payload || '{"digest": {}}' FROM pg_temp.start AS s WHERE o.id > s.base;
-- Of each group only the first; bounds hold.
SELECT monitoring.notify_has_work(t - interval '1 second') AS early, monitoring.notify_has_work(t + interval '1 second') AS due FROM pg_temp.start;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t - interval '1 second') AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '1 second', max_rows => 1) AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '1 second', per_receiver => 1) AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '1 second') AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '1 second') AS c;

-- Outcomes: 2xx is sent, 503 is tried again, 404 is not; a late outcome of another attempt changes nothing.
SELECT pg_temp.outcome(t + interval '2 seconds', '[{"n": 1, "attempt": 1, "outcome": "response", "http_status": 204, "latency": 0.01},
	{"n": 2, "attempt": 1, "outcome": "response", "http_status": 503, "error": "HTTP status 503"},
	{"n": 3, "attempt": 1, "outcome": "response", "http_status": 404, "error": "HTTP status 404"},
	{"n": 8, "attempt": 7, "outcome": "response", "http_status": 200}]') FROM pg_temp.start;
SELECT * FROM pg_temp.state ORDER BY id;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '4 seconds') AS c;

-- A second failure ends b's two attempts; refusals and formatter errors are final; Retry-After is kept, by all that goes to that receiver.
SELECT pg_temp.outcome(t + interval '5 seconds', '[{"n": 2, "attempt": 2, "outcome": "network", "error": "no response"},
	{"n": 4, "attempt": 1, "outcome": "refused", "error": "no"}, {"n": 6, "attempt": 1, "outcome": "response", "http_status": 429, "retry_after": 100, "error": "HTTP status 429"},
	{"n": 8, "attempt": 1, "outcome": "response", "http_status": 429, "retry_after": 9999, "error": "HTTP status 429"}]') FROM pg_temp.start;
SELECT * FROM pg_temp.state WHERE id IN (2, 4, 6, 8) ORDER BY id;
SELECT o.next_attempt_at - t AS waits FROM monitoring.outbox AS o, pg_temp.start WHERE o.id = base + 6;

-- A lease ends a minute after the timeout: the same row and key, one attempt more.
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '10 seconds') AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '84 seconds') AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '86 seconds') AS c;

-- A new notifier takes back what the last one had claimed; what is too old is given up.
SELECT monitoring.notify_release(t + interval '90 seconds') FROM pg_temp.start;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '90 seconds') AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '100 seconds') AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '2 hours') AS c;
SELECT * FROM pg_temp.state ORDER BY id;
SELECT monitoring.notify_has_work(t + interval '2 hours') FROM pg_temp.start;
SELECT a.notification_id - base AS id, a.attempt, a.outcome, a.http_status, a.latency, a.error
FROM monitoring.delivery_attempts AS a, pg_temp.start WHERE a.notification_id > base ORDER BY 1, 2;

-- Receivers take turns when there is not room for all, those with the least under way first; what was lost or postponed
-- may be tried beyond max_attempts, what failed may not; a formatter that may work the next time is tried again.
SELECT monitoring.create_receiver('busy', 'webhook', 'https://d.example.com/', '{"max_attempts": 1}'),
	monitoring.create_receiver('calm', 'webhook', 'https://e.example.com/', '{"max_attempts": 1}');
SELECT count(monitoring.test_receiver('busy')) FROM generate_series(1, 6);
SELECT count(monitoring.test_receiver('calm')) FROM generate_series(1, 2);
UPDATE pg_temp.start SET base = currval('monitoring.outbox_id_seq') - 8, t = clock_timestamp();
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '1 second', max_rows => 3) AS c;
SELECT c.* FROM pg_temp.start, pg_temp.claim(t + interval '1 second', max_rows => 2) AS c;
SELECT pg_temp.outcome(t + interval '2 seconds', '[{"n": 1, "attempt": 1, "outcome": "lost", "error": "lost"}, {"n": 2, "attempt": 1, "outcome": "postponed", "error": "postponed"},
	{"n": 7, "attempt": 1, "outcome": "unformatted", "error": "too slow"}, {"n": 8, "attempt": 1, "outcome": "unformattable", "error": "broken"}]') FROM pg_temp.start;
SELECT id, receiver, state, attempts, error FROM pg_temp.state WHERE error IS NOT NULL ORDER BY id;
-- A test of what keeps open what it is told of is over a minute later; the end waits for the beginning.
SELECT monitoring.create_receiver('pages', 'pagerduty', config => '{"routing_key": "k"}');
SELECT monitoring.create_receiver('genie', 'opsgenie', config => '{"api_key": "k"}');
SELECT monitoring.create_receiver('am', 'alertmanager', 'http://am.example.com/');
SELECT monitoring.create_receiver('hooked', 'webhook', 'http://hook.example.com/');
SELECT count(monitoring.test_receiver(n)) FROM unnest('{pages,genie,am,hooked}'::text[]) AS n;
SELECT o.receiver, o.status, o.payload ->> 'status' AS payload, o.next_attempt_at - o.created_at AS after, o.expires_at - o.created_at AS expires,
	substring(f ->> 'url' FROM '/(close).identifierType') AS closes, f -> 'body' #>> '{}' ~ '"event_action": "resolve"' AS resolves,
	count(*) OVER (PARTITION BY o.group_key) AS of_group
FROM monitoring.outbox AS o
JOIN monitoring.receiver_defs AS r ON r.name = o.receiver
JOIN monitoring.receiver_kinds AS k ON k.kind = r.kind
CROSS JOIN LATERAL monitoring.run_formatter(k.function, k.owner, monitoring.redacted_receiver(r.name), o.payload) AS f
WHERE o.receiver IN ('pages', 'genie', 'am', 'hooked') ORDER BY o.id;
SELECT count(*) FROM monitoring.notify_claim(clock_timestamp() + interval '2 minutes', 100, 100) AS c WHERE c.receiver ->> 'name' = 'pages';
-- The clock steps back by an hour: what was enqueued before is due all the same, and what is being sent is not sent twice.
CREATE TEMP TABLE stepped AS SELECT monitoring.test_receiver('hooked') AS id, clock_timestamp() - interval '1 hour' AS at;
SELECT monitoring.notify_has_work(s.at) FROM pg_temp.stepped AS s;
SELECT count(*) FROM pg_temp.stepped AS s CROSS JOIN LATERAL monitoring.notify_claim(s.at, 100, 100) AS c WHERE c.id = s.id;
SELECT count(*) FROM pg_temp.stepped AS s CROSS JOIN LATERAL monitoring.notify_claim(s.at, 100, 100) AS c WHERE c.id = s.id;
ROLLBACK;
