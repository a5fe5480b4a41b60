-- Delivery on virtual time: what waits becomes one, rates, broken receivers, fallbacks, what may not be repeated, and what
-- people do by hand. Everything is rolled back, so that no notifier sees it.
\pset format unaligned
\pset tuples_only on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
UPDATE monitoring.receiver_defs SET enabled = false;
CREATE TEMP TABLE start AS SELECT nextval('monitoring.outbox_id_seq') AS base, clock_timestamp() AS t;
SELECT monitoring.ensure_partition('outbox', t) IS NOT NULL FROM start;

-- A notification of alerts given as name:status, made as routing makes it.
CREATE FUNCTION pg_temp.tell(receiver text, alerts text[], grp text DEFAULT 'g', reason text DEFAULT 'new alerts added', after float8 DEFAULT 0)
RETURNS bigint LANGUAGE sql AS $$
	WITH doc AS (
		SELECT jsonb_agg(jsonb_build_object('status', split_part(a, ':', 2), 'fingerprint', split_part(a, ':', 1),
				'labels', jsonb_build_object('alertname', split_part(a, ':', 1)), 'annotations', '{}'::jsonb)) AS alerts,
			CASE WHEN bool_or(a LIKE '%:firing') THEN 'firing' ELSE 'resolved' END AS status
		FROM unnest(tell.alerts) AS a)
	INSERT INTO monitoring.outbox (created_at, receiver, group_key, alert, status, alert_ids, payload, next_attempt_at, expires_at)
	SELECT t, tell.receiver, grp, 'rule', d.status, ARRAY(SELECT ascii(a) FROM unnest(tell.alerts) AS a),
		monitoring.make_payload(receiver, grp, d.status, '{"alertname": "rule"}', d.alerts, jsonb_build_object('reason', reason)),
		t + after * interval '1 s', t + interval '1 hour'
	FROM pg_temp.start, doc AS d RETURNING id - (SELECT base FROM pg_temp.start)
$$;
CREATE FUNCTION pg_temp.claim(seconds float8, per_receiver integer DEFAULT 64) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT c.receiver ->> 'name' || ' ' || c.id - (SELECT base FROM pg_temp.start) || ' ' || (c.notification ->> 'status') || ' '
		|| (SELECT string_agg((a ->> 'fingerprint') || ':' || (a ->> 'status'), ',') FROM jsonb_array_elements(c.notification -> 'alerts') AS a)
	FROM monitoring.notify_claim((SELECT t FROM pg_temp.start) + seconds * interval '1 s', 256, per_receiver) AS c ORDER BY c.id
$$;
-- The same outcome of all that is being sent to a receiver.
CREATE FUNCTION pg_temp.outcome(seconds float8, receiver text, what jsonb) RETURNS bigint LANGUAGE sql AS $$
	WITH s AS (SELECT jsonb_agg(what || jsonb_build_object('created_at', o.created_at, 'id', o.id, 'attempt', o.attempts)) AS outcomes, count(*) AS n
		FROM monitoring.outbox AS o WHERE o.receiver = outcome.receiver AND o.state = 'sending')
	SELECT s.n FROM s CROSS JOIN LATERAL monitoring.notify_record((SELECT t FROM pg_temp.start) + seconds * interval '1 s', s.outcomes)
$$;
CREATE FUNCTION pg_temp.states(receiver text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', o.id - s.base, o.state, o.attempts,
		'(' || regexp_replace(regexp_replace(o.error, 'notification \d+', 'notification N'), 'attempts: \d+', 'attempts') || ')')
	FROM monitoring.outbox AS o, pg_temp.start AS s WHERE o.receiver = states.receiver AND o.id > s.base ORDER BY o.id
$$;
CREATE FUNCTION pg_temp.health(name text, seconds numeric) RETURNS text LANGUAGE sql AS $$
	SELECT format('failures %s, since %s, paused for %s', s.failures, date_trunc('second', s.failing_since - t),
		CASE WHEN p.pause > 0 THEN CASE
			WHEN p.pause BETWEEN 0.5 AND 1 THEN '0.5-1 s' WHEN p.pause BETWEEN 1 AND 2 THEN '1-2 s' WHEN p.pause BETWEEN 2 AND 4 THEN '2-4 s'
			WHEN p.pause BETWEEN 150 AND 300 THEN '150-300 s' ELSE p.pause::text END ELSE '-' END)
	FROM monitoring.receiver_states AS s JOIN monitoring.receiver_defs AS d ON d.name = s.receiver AND d.changed_at = s.changed_at, pg_temp.start,
		LATERAL (SELECT extract(epoch FROM s.paused_until - t) - seconds AS pause) AS p WHERE s.receiver = health.name
$$;
CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, '')), 'otification \d+', 'otification N', 'g');
END $$;

-- What waits of a group becomes one when its turn comes: the last state of each alert, the end of those that only an
-- earlier one tells of, nothing of what stopped firing without a word (it is silenced, or in a group that is no more).
SELECT monitoring.create_receiver('one', 'webhook', 'https://one.example.com/');
SELECT pg_temp.tell('one', '{a:firing,b:firing}'), pg_temp.tell('one', '{a:resolved,b:firing,c:firing}'), pg_temp.tell('one', '{c:firing,d:firing}'),
	pg_temp.tell('one', '{x:firing}', 'other');
SELECT pg_temp.claim(1);
SELECT alert_ids FROM monitoring.outbox, start WHERE id = base + 3;
-- the one under way is not touched
SELECT pg_temp.tell('one', '{c:resolved,d:firing}'), pg_temp.tell('one', '{d:firing,e:firing}');
SELECT pg_temp.claim(2);
SELECT pg_temp.outcome(3, 'one', '{"outcome": "response", "http_status": 200}');
SELECT pg_temp.claim(4);
SELECT pg_temp.outcome(5, 'one', '{"outcome": "network", "error": "no route"}');
-- what failed stands behind what came since
SELECT pg_temp.tell('one', '{d:resolved,e:resolved}');
SELECT pg_temp.claim(60);
SELECT pg_temp.outcome(60, 'one', '{"outcome": "response", "http_status": 200}');
SELECT pg_temp.states('one');
-- It came and went before the receiver ever heard of the group: nothing to tell, or only the rest. After an attempt it may have heard.
SELECT monitoring.create_receiver('flap', 'webhook', 'https://flap.example.com/');
SELECT pg_temp.tell('flap', '{a:firing}', 'f1', 'first notification'), pg_temp.tell('flap', '{a:resolved}', 'f1'),
	pg_temp.tell('flap', '{a:firing}', 'f2', 'first notification'), pg_temp.tell('flap', '{a:resolved,b:firing}', 'f2'),
	pg_temp.tell('flap', '{a:firing}', 'f3', 'repeat interval elapsed'), pg_temp.tell('flap', '{a:resolved}', 'f3'),
	pg_temp.tell('flap', '{a:firing}', 'f4', 'first notification');
SELECT pg_temp.claim(61);
SELECT pg_temp.outcome(62, 'flap', '{"outcome": "network", "error": "no answer"}');
SELECT pg_temp.tell('flap', '{a:resolved}', 'f4');
SELECT pg_temp.claim(90);
SELECT pg_temp.outcome(90, 'flap', '{"outcome": "response", "http_status": 200}');
SELECT pg_temp.states('flap');
-- Digests, tests, simulated alerts and escalations, which list what is due and not what fires, are each sent.
SELECT pg_temp.tell('flap', '{a:firing}', 'e'), pg_temp.tell('flap', '{b:firing}', 'e');
UPDATE monitoring.outbox AS o SET payload = o.payload || '{"escalation": {"step": 1}}' WHERE group_key = 'e';
SELECT pg_temp.tell('flap', '{a:firing}', 'd'), pg_temp.tell('flap', '{b:firing}', 'd');
UPDATE monitoring.outbox AS o SET payload = o.payload || '{"digest": {"route": "low"}}' WHERE group_key = 'd';
SELECT pg_temp.tell('flap', '{a:firing}', 't'), pg_temp.tell('flap', '{a:resolved}', 't');
UPDATE monitoring.outbox AS o SET status = 'test' WHERE group_key = 't';
SELECT pg_temp.claim(91);
SELECT pg_temp.outcome(91, 'flap', '{"outcome": "response", "http_status": 200}');
SELECT pg_temp.claim(92);
UPDATE monitoring.receiver_defs SET enabled = false;

-- A rate: a second's worth at once, then as time passes, and no more than the burst after a rest.
SELECT monitoring.create_receiver('slow', 'webhook', 'https://slow.example.com/', '{"rate_per_second": 2, "burst": 3}');
SELECT count(pg_temp.tell('slow', '{a:firing}', 's' || i, after => -5000)) FROM generate_series(1, 15) AS i;
SELECT count(*) FROM pg_temp.claim(100);
SELECT monitoring.notify_has_work(t + interval '100.1 seconds') FROM start;
SELECT count(*) FROM pg_temp.claim(100.4);
SELECT monitoring.notify_has_work(t + interval '101 seconds') FROM start;
SELECT count(*) FROM pg_temp.claim(101);
SELECT count(*) FROM pg_temp.claim(160);
-- the clock is set back: a burst, and on from there
SELECT pg_temp.outcome(160, 'slow', '{"outcome": "response", "http_status": 200}');
SELECT count(*) FROM pg_temp.claim(-4000);
SELECT count(*) FROM pg_temp.claim(-3999);
UPDATE monitoring.receiver_defs SET enabled = false;

-- A receiver that answers gets more at once; one that fails is tried with one after ever longer pauses.
SELECT monitoring.create_receiver('hung', 'webhook', 'https://hung.example.com/', '{"breaker_failures": 3, "max_attempts": 100}');
SELECT count(pg_temp.tell('hung', '{a:firing}', 'h' || i)) FROM generate_series(1, 300) AS i;
SELECT count(*) FROM pg_temp.claim(200);
SELECT pg_temp.outcome(201, 'hung', '{"outcome": "response", "http_status": 200}');
SELECT count(*) FROM pg_temp.claim(202);
SELECT pg_temp.outcome(203, 'hung', '{"outcome": "response", "http_status": 404, "error": "HTTP status 404"}');
SELECT count(*) FROM pg_temp.claim(204);
SELECT pg_temp.outcome(205, 'hung', '{"outcome": "response", "http_status": 200}');
SELECT count(*) FROM pg_temp.claim(206);
SELECT pg_temp.outcome(206, 'hung', '{"outcome": "unformattable", "error": "broken"}'), pg_temp.health('hung', 206);
SELECT count(*) FROM pg_temp.claim(207);
-- what was under way at once is one failure more, when it comes together and when it comes while it is paused already
UPDATE monitoring.outbox SET state = 'queued', attempts = 0 WHERE id IN (SELECT id FROM monitoring.outbox WHERE receiver = 'hung' AND state = 'sending' ORDER BY id LIMIT 1);
SELECT pg_temp.outcome(207, 'hung', '{"outcome": "network", "error": "no response"}'), pg_temp.health('hung', 207);
UPDATE monitoring.outbox SET state = 'sending', attempts = 1 WHERE receiver = 'hung' AND state = 'queued' AND id IN (SELECT min(id) FROM monitoring.outbox WHERE receiver = 'hung' AND state = 'queued');
SELECT pg_temp.outcome(207.1, 'hung', '{"outcome": "network", "error": "no response"}'), pg_temp.health('hung', 207);
SELECT count(*) FROM pg_temp.claim(207.4);
SELECT monitoring.notify_has_work(t + interval '207.4 seconds') FROM start;
SELECT count(*) FROM pg_temp.claim(300);
SELECT pg_temp.outcome(300, 'hung', '{"outcome": "network", "error": "no response"}'), pg_temp.health('hung', 300);
SELECT count(*) FROM pg_temp.claim(302);
SELECT pg_temp.outcome(302, 'hung', '{"outcome": "response", "http_status": 429, "retry_after": 20, "error": "HTTP status 429"}'), pg_temp.health('hung', 302) LIKE '% paused for 20.0%';
SELECT count(*) FROM pg_temp.claim(321);
SELECT count(*) FROM pg_temp.claim(322.5);
SELECT pg_temp.outcome(322.5, 'hung', '{"outcome": "response", "http_status": 200}'), pg_temp.health('hung', 322.5);
SELECT count(*) FROM pg_temp.claim(323);
SELECT pg_temp.outcome(823, 'hung', '{"outcome": "response", "http_status": 200}');
UPDATE monitoring.receiver_defs SET enabled = false;
SELECT monitoring.create_receiver('brk', 'webhook', 'https://brk.example.com/', '{"breaker_failures": 3, "max_attempts": 100}');
SELECT count(pg_temp.tell('brk', '{a:firing}', 'b' || i)) FROM generate_series(1, 3) AS i;
SELECT count(*) FROM pg_temp.claim(830, 2);
SELECT pg_temp.outcome(830, 'brk', '{"outcome": "response", "http_status": 500, "error": "HTTP status 500"}'), pg_temp.health('brk', 830);
SELECT count(*) FROM pg_temp.claim(830.001, 1);
SELECT pg_temp.outcome(831, 'brk', '{"outcome": "network", "error": "no response"}'), pg_temp.health('brk', 831);
SELECT receiver, state, failures, waiting FROM monitoring.receiver_health WHERE receiver = 'brk';
SELECT count(*) FROM pg_temp.claim(833);
SELECT pg_temp.outcome(834, 'brk', '{"outcome": "network", "error": "no response"}'), pg_temp.health('brk', 834);
UPDATE monitoring.outbox SET next_attempt_at = t FROM start WHERE receiver = 'brk';
SELECT count(*) FROM pg_temp.claim(837);
SELECT pg_temp.outcome(838, 'brk', '{"outcome": "network", "error": "no response"}'), pg_temp.health('brk', 838);
-- Who changes or enables a receiver need not wait.
SELECT count(*) FROM pg_temp.claim(838.1);
SELECT monitoring.alter_receiver('brk', '{"max_attempts": 99}');
SELECT receiver, state, failures, waiting FROM monitoring.receiver_health WHERE receiver = 'brk';
UPDATE monitoring.outbox SET next_attempt_at = t FROM start WHERE receiver = 'brk';
SELECT count(*) FROM pg_temp.claim(838.1);
SELECT pg_temp.outcome(838.1, 'brk', '{"outcome": "network", "error": "no response"}'), pg_temp.health('brk', 838.1);
UPDATE monitoring.outbox SET next_attempt_at = t FROM start WHERE receiver = 'brk';
SELECT count(*) FROM pg_temp.claim(838.2);
SELECT monitoring.enable_receiver('brk');
SELECT count(*) FROM pg_temp.claim(838.2);
-- Retry-After holds for the receiver, and for an hour at most; what was sent before and is answered does not end it.
UPDATE monitoring.outbox SET next_attempt_at = t, expires_at = t + interval '1 day' FROM start WHERE receiver = 'brk';
SELECT count(*) FROM pg_temp.claim(860);
UPDATE monitoring.outbox SET state = 'queued' WHERE id IN (SELECT max(id) FROM monitoring.outbox WHERE receiver = 'brk');
SELECT pg_temp.outcome(861, 'brk', '{"outcome": "response", "http_status": 503, "retry_after": 100000, "error": "HTTP status 503"}'), pg_temp.health('brk', 861);
UPDATE monitoring.outbox SET state = 'sending' WHERE id IN (SELECT max(id) FROM monitoring.outbox WHERE receiver = 'brk');
SELECT pg_temp.outcome(861, 'brk', '{"outcome": "response", "http_status": 200}'), pg_temp.health('brk', 861);
UPDATE monitoring.receiver_defs SET enabled = false;

-- A fallback gets what cannot be delivered, and all that waits once its receiver has been broken for a while; never in a circle.
SELECT monitoring.create_receiver('second', 'webhook', 'https://second.example.com/');
SELECT monitoring.create_receiver('first', 'webhook', 'https://first.example.com/', '{"fallback": "second", "fallback_after_seconds": 60, "breaker_failures": 1}');
SELECT monitoring.alter_receiver('second', '{"fallback": "first"}');
SELECT pg_temp.tell('first', '{a:firing}', 'w1', after => 900);
SELECT pg_temp.claim(900);
SELECT pg_temp.outcome(900, 'first', '{"outcome": "response", "http_status": 401, "error": "HTTP status 401"}');
SELECT pg_temp.claim(901);
SELECT pg_temp.outcome(901, 'second', '{"outcome": "refused", "error": "not allowed"}');
SELECT pg_temp.claim(902);
SELECT pg_temp.tell('first', '{b:firing}', 'w2', after => 902), pg_temp.tell('first', '{c:firing}', 'w3', after => 902);
SELECT pg_temp.claim(903);
SELECT pg_temp.outcome(903, 'first', '{"outcome": "network", "error": "no route"}');
SELECT monitoring.test_receiver('first') > 0;
SELECT pg_temp.claim(940);
SELECT pg_temp.outcome(941, 'first', '{"outcome": "network", "error": "no route"}');
SELECT pg_temp.claim(964);
SELECT pg_temp.states('first');
SELECT state, payload ->> 'receiver', payload -> 'fallbackFrom' FROM monitoring.outbox, start WHERE receiver = 'second' AND id > base ORDER BY id;
SELECT pg_temp.try($$SELECT monitoring.alter_receiver('first', '{"fallback": "nobody"}')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_receiver('first', '{"fallback": 1}')$$);
SELECT pg_temp.try($$SELECT monitoring.alter_receiver('first', '{"breaker_failures": 1.5}')$$);
UPDATE monitoring.receiver_defs SET enabled = false;

-- What may have arrived is not repeated where the kind forbids it; what cannot have arrived is.
INSERT INTO monitoring.receiver_kinds (kind, function, ambiguous) VALUES ('once', 'monitoring.format_webhook', 'never');
SELECT monitoring.create_receiver('sms', 'once', 'https://sms.example.com/', '{"fallback": "second"}');
SELECT pg_temp.tell('sms', '{a:firing}', 'm1', after => 1000);
SELECT pg_temp.claim(1000);
SELECT pg_temp.outcome(1001, 'sms', '{"outcome": "network", "connected": false, "error": "connection refused"}');
SELECT pg_temp.claim(1010);
SELECT pg_temp.outcome(1011, 'sms', '{"outcome": "network", "connected": true, "error": "no response"}');
SELECT pg_temp.tell('sms', '{b:firing}', 'm2', after => 1012);
SELECT pg_temp.claim(1012);
SELECT monitoring.notify_release(t + interval '1013 seconds') FROM start;
SELECT pg_temp.tell('sms', '{c:firing}', 'm3', after => 1014);
SELECT pg_temp.claim(1014);
SELECT pg_temp.claim(1200);
SELECT pg_temp.states('sms');
-- Nothing to send is sent.
SELECT pg_temp.tell('sms', '{d:firing}', 'm4', after => 1300);
SELECT pg_temp.claim(1300);
SELECT pg_temp.outcome(1301, 'sms', '{"outcome": "nothing"}');
SELECT pg_temp.states('sms') OFFSET 3;
UPDATE monitoring.receiver_defs SET enabled = false;

-- What is done in the database: delivered is sent, what a function raises is tried again and counts against the receiver,
-- what will not be otherwise the next time is given up. An attempt that has ended cannot be held.
SELECT monitoring.create_receiver('here', 'notify', config => '{"channel": "regress"}');
SELECT pg_temp.tell('here', '{a:firing}', 'here 1', after => 1310), pg_temp.tell('here', '{b:firing}', 'here 2', after => 1320), pg_temp.tell('here', '{c:firing}', 'here 3', after => 1330);
SELECT pg_temp.claim(1310);
SELECT monitoring.notify_hold(o.created_at, o.id, 1), monitoring.notify_hold(o.created_at, o.id, 2) FROM monitoring.outbox AS o WHERE o.group_key = 'here 1';
SELECT pg_temp.outcome(1311, 'here', '{"outcome": "raised", "error": "the function failed with SQLSTATE P0001", "protocol": "SQL", "latency": 0.1}');
SELECT monitoring.notify_hold(o.created_at, o.id, 1) FROM monitoring.outbox AS o WHERE o.group_key = 'here 1';
SELECT pg_temp.health('here', 1311);
SELECT pg_temp.claim(1320);
SELECT pg_temp.outcome(1321, 'here', '{"outcome": "rejected", "error": "the function failed with SQLSTATE 22012", "protocol": "SQL"}');
SELECT pg_temp.health('here', 1321);
SELECT pg_temp.claim(1330);
SELECT pg_temp.outcome(1331, 'here', '{"outcome": "delivered", "protocol": "NOTIFY"}');
SELECT pg_temp.states('here');
-- a kind says how long its attempts may take, a receiver more exactly
SELECT k.kind, k.timeout_seconds FROM monitoring.receiver_kinds AS k WHERE k.kind IN ('sql', 'webhook') ORDER BY k.kind;
UPDATE monitoring.receiver_kinds SET timeout_seconds = 7 WHERE kind = 'notify';
SELECT pg_temp.tell('here', '{d:firing}', 'here 4', after => 1340), pg_temp.tell('here', '{d:firing}', 'here 5', after => 1341);
SELECT c.total_timeout FROM monitoring.notify_claim((SELECT t FROM pg_temp.start) + interval '1340 s', 256, 64) AS c;
SELECT monitoring.alter_receiver('here', '{"timeout_seconds": 9}');
SELECT c.total_timeout, c.receiver_owner = current_user FROM monitoring.notify_claim((SELECT t FROM pg_temp.start) + interval '1341 s', 256, 64) AS c;
UPDATE monitoring.receiver_defs SET enabled = false;

-- By hand.
SELECT monitoring.create_receiver('hand', 'webhook', 'https://hand.example.com/');
SELECT pg_temp.tell('hand', '{a:firing}', 'x1', after => 1400), pg_temp.tell('hand', '{b:firing}', 'x2', after => 1400) \gset
SELECT id AS x1 FROM monitoring.outbox WHERE group_key = 'x1' \gset
SELECT id AS x2 FROM monitoring.outbox WHERE group_key = 'x2' \gset
SELECT monitoring.cancel(:x1);
SELECT pg_temp.try(format('SELECT monitoring.cancel(%s)', :x1));
SELECT pg_temp.try('SELECT monitoring.cancel(-1)');
SELECT pg_temp.try(format('SELECT monitoring.resend(%s)', :x2));
SELECT pg_temp.try('SELECT monitoring.resend(-1)');
SELECT pg_temp.claim(1401);
SELECT pg_temp.try(format('SELECT monitoring.cancel(%s)', :x2));
SELECT pg_temp.outcome(1402, 'hand', '{"outcome": "response", "http_status": 400, "error": "HTTP status 400"}');
SELECT monitoring.resend(:x2) > :x2, monitoring.resend(:x1) > :x1;
SELECT pg_temp.claim(1500);
SELECT pg_temp.outcome(1501, 'hand', '{"outcome": "response", "http_status": 200}');
SELECT regexp_replace(pg_temp.states('hand'), 'by .*\)', 'by me)');
SELECT count(DISTINCT idempotency_key) FROM monitoring.outbox WHERE receiver = 'hand';
SELECT pg_temp.tell('hand', '{a:firing}', 'x3', after => 1510) > 0;
SELECT pg_temp.claim(1510);
SELECT pg_temp.outcome(1511, 'hand', '{"outcome": "network", "error": "no answer"}');
SELECT monitoring.drop_receiver('hand');
SELECT pg_temp.try(format('SELECT monitoring.resend(%s)', :x2));
-- one of the same name is another one
SELECT monitoring.create_receiver('hand', 'webhook', 'https://hand.example.com/');
SELECT receiver, state, failures, waiting FROM monitoring.receiver_health WHERE receiver = 'hand';
SELECT count(*) FROM monitoring.receiver_states WHERE receiver = 'hand';
SELECT monitoring.notify_release(t + interval '1520 seconds') FROM start;
SELECT count(*) FROM monitoring.receiver_states WHERE receiver = 'hand';
UPDATE monitoring.receiver_defs SET enabled = false;

-- Without a sender: what needs none.
SELECT monitoring.create_receiver('far', 'webhook', 'https://far.example.com/'), monitoring.enable_receiver('here');
SELECT pg_temp.tell('far', '{a:firing}', 'far', after => 1600) > 0, pg_temp.tell('here', '{a:firing}', 'near', after => 1600) > 0;
SELECT c.receiver_name FROM monitoring.notify_claim((SELECT t FROM pg_temp.start) + interval '1600 s', 256, 64, false) AS c;
SELECT c.receiver_name FROM monitoring.notify_claim((SELECT t FROM pg_temp.start) + interval '1600 s', 256, 64, true) AS c;
SELECT monitoring.enable_receiver('here', false);

-- What is given up is lost until something arrives there; but a test, what a fallback gets and what may have arrived are not.
CREATE FUNCTION pg_temp.lost(name text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN h.lost_id IS NOT NULL THEN 'lost: ' || o.group_key || ' at ' || extract(epoch FROM h.lost_at - t)::int ELSE 'nothing' END
	FROM pg_temp.start, monitoring.receiver_health AS h LEFT JOIN monitoring.outbox AS o ON o.id = h.lost_id WHERE h.receiver = lost.name
$$;
SELECT pg_temp.outcome(1601, 'far', '{"outcome": "response", "http_status": 404, "error": "HTTP status 404"}'), pg_temp.lost('far');
SELECT pg_temp.tell('far', '{a:firing}', 'far 2', after => 1602) > 0;
SELECT count(*) FROM pg_temp.claim(1602);
SELECT pg_temp.outcome(1602, 'far', '{"outcome": "network", "error": "no answer"}'), pg_temp.lost('far');
UPDATE monitoring.outbox SET expires_at = t + interval '2000 seconds' FROM start WHERE group_key = 'far 2';
SELECT pg_temp.claim(2000);
SELECT pg_temp.lost('far');
SELECT monitoring.test_receiver('far') > 0;
SELECT count(*) FROM pg_temp.claim(2001, 1);
SELECT pg_temp.outcome(2002, 'far', '{"outcome": "response", "http_status": 200}'), pg_temp.lost('far');
SELECT monitoring.test_receiver('far') > 0;
SELECT count(*) FROM pg_temp.claim(2003, 1);
SELECT pg_temp.outcome(2003, 'far', '{"outcome": "refused", "error": "no"}'), pg_temp.lost('far');
SELECT monitoring.enable_receiver('second'), monitoring.alter_receiver('far', '{"fallback": "second"}');
UPDATE monitoring.outbox SET expires_at = created_at WHERE receiver = 'second';
SELECT pg_temp.tell('far', '{a:firing}', 'far 3', after => 1604) > 0;
SELECT count(*) FROM pg_temp.claim(2004, 1);
SELECT pg_temp.outcome(2004, 'far', '{"outcome": "rejected", "error": "no"}'), pg_temp.lost('far');
SELECT pg_temp.claim(2005);
SELECT pg_temp.outcome(2005, 'second', '{"outcome": "refused", "error": "no"}'), pg_temp.lost('far'), pg_temp.lost('second');
SELECT pg_temp.lost('sms');
ROLLBACK;
