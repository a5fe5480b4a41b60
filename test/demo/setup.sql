-- What a user writes once: metrics recorded where the work happens, a receiver, alert rules.
-- psql variables: receiver (url), scale.

CREATE EXTENSION pg_stat_statements;
CREATE EXTENSION monitoring;

-- Every transfer, however it gets there, is counted with its amount.
CREATE FUNCTION public.observe_transfer() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM monitoring.increment('transfers_total', 1, jsonb_build_object('branch', NEW.bid));
	PERFORM monitoring.record('transfer_amount', abs(NEW.delta), jsonb_build_object('branch', NEW.bid));
	RETURN NULL;
END
$$;
CREATE TRIGGER observe_transfer AFTER INSERT ON public.pgbench_history
	FOR EACH ROW EXECUTE FUNCTION public.observe_transfer();

-- The application: release 2 looks the account up by something that has no index.
CREATE TABLE public.deployment (release integer NOT NULL);
INSERT INTO public.deployment VALUES (1);

CREATE FUNCTION public.transfer(account integer, teller integer, branch integer, amount integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF (SELECT release FROM public.deployment) = 2 THEN
		PERFORM count(*) FROM public.pgbench_accounts WHERE md5(aid::text) = md5(account::text);
	END IF;
	UPDATE public.pgbench_accounts SET abalance = abalance + amount WHERE aid = account;
	UPDATE public.pgbench_tellers SET tbalance = tbalance + amount WHERE tid = teller;
	UPDATE public.pgbench_branches SET bbalance = bbalance + amount WHERE bid = branch;
	INSERT INTO public.pgbench_history (tid, bid, aid, delta, mtime)
	VALUES (teller, branch, account, amount, CURRENT_TIMESTAMP);
END
$$;

-- Who is told.
SELECT monitoring.create_receiver('local', 'webhook', :'receiver');

-- When. Rules that name receivers are told at once, without the waiting of the routes.
SELECT monitoring.create_alert_rule(
	name => 'transfers_slow', metric => 'transfer_duration_seconds', fn => 'p95', over => '10 seconds',
	op => '>', threshold => 0.05, pending_for => '3 seconds', severity => 'high', receivers => '{local}',
	labels => '{"service": "payments"}',
	annotations => '{"summary": "95 % of transfers take less than {{value}} s; {{threshold}} s is the limit"}');

SELECT monitoring.create_slow_query_rule('statement_slow', over => '30 seconds', receivers => '{local}');
