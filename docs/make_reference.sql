-- make_reference.sql: prints docs/reference.md from the catalog of a database
-- that has the extension.  `make reference` runs it in a private server;
-- test/run proves that the committed page is what it prints.
--
-- A topic lists what users call and read, in the order of the page: functions
-- by name, or as name(first argument's type where a name has several meanings.
-- What no topic lists goes to the internals.  A view must be in a topic.

\set QUIET on
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
SET client_min_messages = warning;
SET search_path = pg_catalog, pg_temp;

CREATE TEMP TABLE topics (position int GENERATED ALWAYS AS IDENTITY, title text, intro text, objects text[]);
INSERT INTO topics (title, intro, objects) VALUES
('Recording metrics', 'Guide: [howto.md](howto.md#record-metrics). Names: [metrics.md](metrics.md).',
	'{record,increment,set_gauge,record_at,record_values,record_batch,record_json,ingest,define_metric,flush}'),
('Reading metrics', 'Guide: [howto.md](howto.md#dashboards).',
	'{value,percentile(text,query,series_values,read_values,last_observed,rolling,top,compare,sketch_over,sketches,labels_match,check_fn,gaps,metrics,series,live_series}'),
('Sketches', 'A sketch is the distribution of many values. Guide: [howto.md](howto.md#percentiles-of-your-own-tables).',
	'{sketch,merge,percentile(sketch,percentiles,sketch_count,sketch_sum,sketch_avg,sketch_min,sketch_max,sketch_stddev,share_below,max_relative_error}'),
('Interchange', 'Guide: [interchange.md](interchange.md).',
	'{to_otlp,from_otlp,to_prometheus,from_prometheus,from_buckets,from_cumulative_buckets,from_buckets_relative_error}'),
('Statements', 'Guide: [statements.md](statements.md).',
	'{statements_over,slow_queries,slow_queries_over,slow_executions,slow_execution_totals,new_queries,regressed_queries,query_report,statements,statement_live,statement_history,statement_hourly,statement_clock,statement_queries,statement_source,compare_statements,snapshot_statements,slow_query_values}'),
('Sessions and waits', 'Guide: [activity.md](activity.md).',
	'{active_session_history,waits,wait_profile,statement_waits,statement_waits_over,wait_history,wait_live,session_waits,activity_source,activity_buffer,roll_up_waits,blocking_tree,blocking_tree_at,kill_advice,kill_advice_at,kill_rules,problem_sessions,problem_sessions_at,session_limits,xmin_holders,connection_pool,connection_pool_at}'),
('Advice', 'Guide: [advisor.md](advisor.md).',
	'{advice,findings,advise,check_finding,ignore_finding,reopen_finding,advisor_status,advisors,table_bloat,index_bloat}'),
('Errors and changes', 'Guide: [errors.md](errors.md).',
	'{recent_errors,error_issues,error_counts,error_totals,resolve_error_issue,ignore_error_issue,reopen_error_issue,logins,changes,drain_signals,signal_buffer}'),
('Collectors', 'Guide: [collectors.md](collectors.md).',
	'{collector_status,create_collector,change_collector,drop_collector,collect,collectors,prometheus_exposition,host_readings}'),
('Alerts', 'Guide: [alerts.md](alerts.md).',
	'{create_alert_rule,raise_alert,resolve_alert,create_slow_query_rule,create_anomaly_rule,create_forecast_rule,update_alert_rule,enable_alert_rule,drop_alert_rule,preview_rule,backtest_rule,evaluate_alerts,alerts,alert_history,alert_rules,alert_rule_kinds}'),
('Working on alerts', 'Guide: [alerts.md](alerts.md#working-on-alerts).',
	'{acknowledge_alert,acknowledge_alerts,unacknowledge_alert,assign_alert,assign_alerts,note_alert,snooze_alert,snooze_alerts,unsnooze_alert,dismiss_alert,dismiss_alerts,undismiss_alert,close_alert,close_alerts,mark_false_positive,alert_timeline,correlated_alerts,alert_counts,alert_statistics,flapping_alerts,alert_episodes,alert_events}'),
('Silences and inhibition', 'Guide: [alerts.md](alerts.md#silences).',
	'{create_silence,extend_silence,expire_silence,silences,create_inhibition_rule,enable_inhibition_rule,drop_inhibition_rule,inhibition_rules,set_time_interval,drop_time_interval,mute_times,check_time_spec,time_matches,alert_suppressions}'),
('On call and escalation', 'Guide: [alerts.md](alerts.md#escalation).',
	'{set_contact,drop_contact,create_schedule,drop_schedule,set_schedule_layer,override_schedule,drop_override,who_is_on_call,on_call_shifts,on_call_gaps,set_escalation_policy,drop_escalation_policy,contacts,schedules,schedule_layers,schedule_overrides,escalation_policies,escalation_steps}'),
('Packs and files of rules', 'Guide: [alerts.md](alerts.md#packs-export-and-import).',
	'{list_packs,install_rules,remove_rules,export_rules,import_rules,import_prometheus_rules,export_prometheus_rules,prometheus_rule_file,translate_promql,rule_packs}'),
('Incidents and evidence', 'Guide: [incidents.md](incidents.md).',
	'{open_incident,update_incident,acknowledge_incident,resolve_incident,set_incident_role,note_incident,link_incident,attach_alert,write_post_mortem,incidents,incident_timeline,incident_report,incident_report_markdown,incident_metrics,set_incident_policy,drop_incident_policy,incident_policies,mark_deployment,deployment_metrics,deployments,setting_changes,evidence_of,take_evidence,evidence_kinds}'),
('Objectives and the status page', 'Guide: [objectives.md](objectives.md).',
	'{create_slo,update_slo,drop_slo,slos,slo_status,slo_history,sla_report,create_component,drop_component,set_component_status,status_page,component_uptime,component_status_kinds}'),
('Health checks', 'Guide: [health.md](health.md).',
	'{create_health_check,alter_health_check,drop_health_check,set_check_secret,health_check_secrets,run_health_check,run_health_checks,report_heartbeat,health,health_score,health_deductions,health_status,health_checks,check_results,check_transitions,uptime,health_uptime,health_periods,health_weights,health_check_kinds}'),
('Anomalies and forecasts', 'Guide: [alerts.md](alerts.md#anomaly-not-as-usual-at-this-time).',
	'{anomalies,trend,forecast,crosses_at,capacity,capacity_resources}'),
('Routing of alerts', 'Guide: [alerts.md](alerts.md#routing).',
	'{create_route,update_route,move_route,drop_route,route_tree,test_route,notification_groups,explain_alert,simulate_alert}'),
('Notifications', 'Guides: [howto.md](howto.md#notifications), [receivers.md](receivers.md).',
	'{create_receiver,alter_receiver,set_receiver_secret,drop_receiver_secret,secrets,enable_receiver,drop_receiver,test_receiver,preview_notification,receiver_health,create_heartbeat,enable_heartbeat,drop_heartbeat,heartbeats,emergencies,cancel,resend,receivers,notifications,delivery_attempts,receiver_kinds}'),
('Dashboards', 'Guide: [dashboards.md](dashboards.md).',
	'{overview,dashboard_operations,dashboard_database,dashboard_security,dashboard,dashboard_panels,set_dashboard_panel,drop_dashboard_panel,sparkline,threshold_status}'),
('Workers and the extension itself', 'What to do when something is wrong: [runbook.md](runbook.md).',
	'{status,self,jobs,worker_status,companion_status,self_values,wake_worker}'),
('Retention', 'Tables that grow are partitioned by time.',
	'{storage_usage,check_storage,reset,delete_series,compact,retention_policies,apply_retention,partitions,ensure_partition,drop_partition}'),
('Access', 'Guide: [howto.md](howto.md#who-may-do-what).',
	'{grant_access,revoke_access,access_levels,access_objects}');

-- Text for Markdown: nothing in a comment is markup but backquotes.
CREATE FUNCTION pg_temp.md(t text) RETURNS text LANGUAGE sql AS $$
	SELECT replace(replace(replace(replace(t, '\', '\\'), '<', '&lt;'), '*', '\*'), '|', '\|')
$$;

CREATE FUNCTION pg_temp.short_types(t text) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(replace(replace(replace(t,
			'timestamp with time zone', 'timestamptz'), 'double precision', 'float8'), 'monitoring.', ''),
		'(''|NULL)::[a-z0-9]+(\[\])?', '\1', 'g')
$$;

CREATE TEMP TABLE levels AS
	SELECT DISTINCT o.object, l.position, l.rank, l.level
	FROM (VALUES (1, 1, 'viewer'), (2, 1, 'writer'), (3, 2, 'responder'), (4, 2, 'auditor'), (5, 3, 'admin')) AS l (position, rank, level)
	CROSS JOIN LATERAL monitoring.access_objects(l.level) AS o;
CREATE INDEX ON levels (object);

-- The least levels that may use an object.
CREATE FUNCTION pg_temp.access(object text, acl aclitem[]) RETURNS text LANGUAGE sql AS $$
	SELECT CASE
		WHEN EXISTS (SELECT FROM aclexplode(acl) AS a WHERE a.grantee = 0) THEN 'everybody'
		ELSE coalesce((SELECT string_agg(l.level, ', ' ORDER BY l.position)
			FROM (SELECT l.*, min(l.rank) OVER () AS least FROM levels AS l WHERE l.object = access.object) AS l
			WHERE l.rank = l.least), 'owner of the extension')
	END
$$;

CREATE TEMP TABLE functions AS
	SELECT p.oid, p.proname AS name, p.proname || '(' || replace(format_type(p.proargtypes[0], NULL), 'monitoring.', '') AS first_type,
		pg_temp.short_types(format('%s(%s) → %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid))) AS signature,
		p.prokind, obj_description(p.oid, 'pg_proc') AS comment,
		pg_temp.access(p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))) AS access
	FROM pg_proc AS p
	JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'monitoring';

CREATE TEMP TABLE relations AS
	SELECT c.oid, c.relname AS name, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END AS kind, c.relkind = 'v' AS is_view,
		obj_description(c.oid, 'pg_class') AS comment, pg_temp.access(c.oid::regclass::text, c.relacl) AS access
	FROM pg_class AS c
	JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'monitoring'
	WHERE c.relkind IN ('r', 'p', 'v');

CREATE FUNCTION pg_temp.columns(relation oid) RETURNS text LANGUAGE sql AS $$
	SELECT E'\n| column | type | meaning |\n|---|---|---|\n'
		|| string_agg(format('| `%s` | %s | %s |', a.attname,
			pg_temp.short_types(format_type(a.atttypid, a.atttypmod)),
			coalesce(pg_temp.md(col_description(a.attrelid, a.attnum)), '')), E'\n' ORDER BY a.attnum)
	FROM pg_attribute AS a
	WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- Every object of a topic, in order; a function's name stands for all its signatures.
CREATE TEMP TABLE listed AS
	SELECT t.position AS topic, o.ordinality AS position, o.name AS object,
		split_part(o.name, '(', 1) AS name, f.oids AS functions, r.oid AS relation
	FROM topics AS t
	CROSS JOIN LATERAL unnest(t.objects) WITH ORDINALITY AS o (name, ordinality)
	LEFT JOIN LATERAL (SELECT array_agg(f.oid ORDER BY f.oid) AS oids FROM functions AS f
		WHERE o.name IN (f.name, f.first_type)) AS f ON true
	LEFT JOIN relations AS r ON r.name = o.name;

DO $$
DECLARE
	wrong text;
BEGIN
	SELECT string_agg(l.object, ', ') INTO wrong FROM listed AS l WHERE l.functions IS NULL AND l.relation IS NULL;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'topics of make_reference.sql list what does not exist: %', wrong;
	END IF;
	SELECT string_agg(r.name, ', ') INTO wrong FROM relations AS r
	WHERE r.is_view AND r.oid NOT IN (SELECT l.relation FROM listed AS l WHERE l.relation IS NOT NULL);
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'views in no topic of make_reference.sql: %', wrong;
	END IF;
END $$;

\qecho '# Reference'
\qecho
\qecho 'Every function, view, table and setting, from the comments in the catalog. Made by `make reference`; edit the comments in'
\qecho '`src/*/*.sql`, not this page. Everything is in the schema `monitoring`. Units are seconds, bytes and ratios 0..1. *Access*'
\qecho 'names the levels of [grant_access()](#grant_access) that include the object.'
\qecho

SELECT format('- [%s](#%s): ', t.title, lower(replace(t.title, ' ', '-')))
	|| string_agg(format('[%s](#%s)', l.name || CASE WHEN l.functions IS NULL THEN '' ELSE '()' END,
		l.name || CASE WHEN l.functions IS NULL THEN '-' || r.kind ELSE '' END
			-- the second heading of a name gets a number
			|| CASE WHEN EXISTS (SELECT FROM listed AS e WHERE e.name = l.name AND e.functions IS NOT NULL
				AND l.functions IS NOT NULL AND (e.topic, e.position) < (l.topic, l.position)) THEN '-1' ELSE '' END),
		', ' ORDER BY l.position)
FROM topics AS t JOIN listed AS l ON l.topic = t.position LEFT JOIN relations AS r ON r.oid = l.relation
GROUP BY t.position, t.title
ORDER BY t.position;
\qecho '- [Settings](#settings)'
\qecho '- [What comes with the extension](#what-comes-with-the-extension)'
\qecho '- [Internals](#internals)'

SELECT text
FROM (
	SELECT t.position AS topic, 0 AS position, format(E'\n## %s\n\n%s', t.title, t.intro) AS text FROM topics AS t
	UNION ALL
	SELECT l.topic, l.position, CASE WHEN l.relation IS NOT NULL THEN
		(SELECT format(E'\n### %s (%s)\n\n%s\n\nAccess: %s.\n%s', r.name, r.kind, pg_temp.md(r.comment), r.access, pg_temp.columns(r.oid))
			FROM relations AS r WHERE r.oid = l.relation)
		ELSE format(E'\n### %s()', l.name) || (SELECT string_agg(format(E'\n\n```\n%s%s\n```\n\n%s\n\nAccess: %s.',
				CASE f.prokind WHEN 'a' THEN 'aggregate ' ELSE '' END, f.signature, pg_temp.md(f.comment), f.access), '' ORDER BY f.oid)
			FROM functions AS f WHERE f.oid = ANY (l.functions)) END
	FROM listed AS l
	UNION ALL
	SELECT t.position, 1000, format(E'\n### sketch (type)\n\n%s', pg_temp.md(obj_description('monitoring.sketch'::regtype, 'pg_type')))
	FROM topics AS t WHERE t.title = 'Sketches'
) AS page
ORDER BY topic, position;

\qecho
\qecho '## Settings'
\qecho
\qecho '| setting | default | range | changed by | meaning |'
\qecho '|---|---|---|---|---|'
SELECT format('| `%s` | %s | %s | %s | %s |', s.name,
	CASE WHEN s.vartype = 'string' THEN coalesce(nullif(s.boot_val, ''), 'empty') WHEN s.unit = 'ms' THEN format('%s s', s.boot_val::float8 / 1000)
		WHEN s.unit = 'kB' THEN pg_size_pretty(s.boot_val::bigint * 1024) ELSE s.boot_val END,
	CASE WHEN s.vartype = 'bool' THEN 'on, off' WHEN s.vartype = 'string' THEN 'text'
		WHEN s.unit = 'ms' THEN format('%s s to %s s', s.min_val::float8 / 1000, s.max_val::float8 / 1000)
		WHEN s.unit = 'kB' THEN format('%s to %s', pg_size_pretty(s.min_val::bigint * 1024), pg_size_pretty(s.max_val::bigint * 1024))
		ELSE format('%s to %s', s.min_val, s.max_val) END,
	CASE s.context WHEN 'postmaster' THEN 'restart' WHEN 'sighup' THEN 'reload' WHEN 'superuser' THEN 'superuser' ELSE 'anyone' END,
	pg_temp.md(concat_ws(' ', s.short_desc, s.extra_desc)))
FROM pg_settings AS s
WHERE s.name LIKE 'monitoring.%'
ORDER BY s.name COLLATE "C";

\qecho
\qecho '## What comes with the extension'
\qecho
\qecho 'Rows of `retention_policies`:'
\qecho
\qecho '| relation | partition_step | keep |'
\qecho '|---|---|---|'
SELECT format('| %s | %s | %s |', r.relation, r.partition_step, r.keep) FROM monitoring.retention_policies AS r ORDER BY r.relation COLLATE "C";
\qecho
\qecho 'Rows of `jobs`:'
\qecho
\qecho '| name | every | timeout | what it does |'
\qecho '|---|---|---|---|'
SELECT format('| %s | %s | %s | %s |', j.name, coalesce(j.every::text, '`' || j.setting || '`'), j.timeout,
	pg_temp.md(obj_description(to_regprocedure(j.function || '(timestamptz)'), 'pg_proc')))
FROM monitoring.jobs AS j ORDER BY j.priority, j.name COLLATE "C";
\qecho
\qecho 'Rows of `alert_rule_kinds` and `receiver_kinds`:'
\qecho
\qecho '| table | kind | meaning |'
\qecho '|---|---|---|'
SELECT format('| alert_rule_kinds | %s | %s |', k.kind, pg_temp.md(k.description)) FROM monitoring.alert_rule_kinds AS k ORDER BY k.kind COLLATE "C";
SELECT format('| receiver_kinds | %s | %s |', k.kind, pg_temp.md(k.description)) FROM monitoring.receiver_kinds AS k ORDER BY k.kind COLLATE "C";

\qecho
\qecho '## Internals'
\qecho
\qecho 'For those who read or extend the code. Nothing here is promised to stay.'
\qecho
\qecho '| function | what it does |'
\qecho '|---|---|'
SELECT format('| `%s` | %s |', replace(f.signature, '|', '\|'), pg_temp.md(f.comment))
FROM functions AS f
WHERE NOT EXISTS (SELECT FROM listed AS l WHERE f.oid = ANY (l.functions))
ORDER BY f.name COLLATE "C", f.signature COLLATE "C";
SELECT format(E'\n### %s (%s)\n\n%s\n%s', r.name, r.kind, pg_temp.md(r.comment), pg_temp.columns(r.oid))
FROM relations AS r
WHERE NOT EXISTS (SELECT FROM listed AS l WHERE l.relation = r.oid)
ORDER BY r.name COLLATE "C";
