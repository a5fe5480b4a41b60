
-- grants: who may do what.  Roles are cluster-wide, so the extension makes
-- none; it grants plain privileges to roles you have.

CREATE TABLE monitoring.access_levels (
    level       text PRIMARY KEY,
    includes    text[] NOT NULL,
    views       text[] NOT NULL,
    functions   text[] NOT NULL,
    insertable  text[] NOT NULL,
    description text NOT NULL
);
COMMENT ON TABLE monitoring.access_levels IS 'What each level of grant_access() may read (views, and the partitioned tables that users read directly), call (functions, all signatures of a name) and insert into (views), on top of the levels it includes. An asterisk stands for all views or functions.';
COMMENT ON COLUMN monitoring.access_levels.level IS 'Name of the level, as given to grant_access().';
COMMENT ON COLUMN monitoring.access_levels.includes IS 'Levels whose rights it has too.';
COMMENT ON COLUMN monitoring.access_levels.views IS 'Names of views and partitioned tables it may read.';
COMMENT ON COLUMN monitoring.access_levels.functions IS 'Names of functions it may call.';
COMMENT ON COLUMN monitoring.access_levels.description IS 'What the level is for.';
COMMENT ON COLUMN monitoring.access_levels.insertable IS 'Names of views it may insert into.';

INSERT INTO monitoring.access_levels VALUES
('viewer', '{}',
 '{*,alert_history,alert_events,delivery_attempts,setting_changes,check_results,check_transitions}',
 '{value,percentile,percentiles,query,series_values,read_values,last_observed,anomalies,trend,forecast,crosses_at,capacity,rolling,top,compare,sketch_over,sketches,
   dashboard,threshold_status,sparkline,dashboard_health,dashboard_alerts,dashboard_sessions,dashboard_waits,dashboard_advice,dashboard_delivery,dashboard_workers,dashboard_statements,
   dashboard_objectives,dashboard_logins,dashboard_changes,dashboard_exposure,
   live_series,self_values,check_fn,partitions,
   sketch,merge,sketch_count,sketch_sum,sketch_avg,sketch_min,sketch_max,sketch_stddev,share_below,max_relative_error,
   to_otlp,from_otlp,to_prometheus,from_prometheus,from_buckets,from_cumulative_buckets,from_buckets_relative_error,
   statement_intervals,statement_sums,statements_over,slow_queries_over,slow_query_values,new_queries,regressed_queries,query_report,live_statements,statement_registry,compare_statements,
   statement_source_function,statement_source_columns,activity_samples,wait_samples,activity_buffer,session_waits,without_literals,duration_text,
   lock_conflicts,lock_object,blocking_tree_at,kill_advice_at,problem_sessions_at,connection_pool_at,wait_profile,statement_waits_over,
   error_counts,signal_counts,signal_buffer,worker_status,companion_status,fill_annotations,fill_text,fill_texts,alert_labels,short_number,
   time_range_end,time_range,time_matches,check_time_zone,check_time_interval,check_time_spec,silenced_alerts,
   alert_suppressions,suppressed_now,alert_timeline,correlated_alerts,alert_episodes,alert_statistics,flapping_alerts,
   who_is_on_call,on_call_shifts,on_call_gaps,slo_status,slo_history,sla_report,component_uptime,status_page,evidence_of,incident_timeline,incident_report,
   incident_report_markdown,incident_metrics,deployment_metrics,export_rules,export_prometheus_rules,prometheus_rule_file,list_packs,translate_promql,
   test_route,secret_problems,route_settings,matchers_text,explain_alert,
   health,health_score,health_deductions,health_status_at,health_uptime,health_periods,uptime,health_rank,shown_check_config,
   is_home,prometheus_exposition,labels_match,segment_entries,chunk_points}', '{}',
 'reads metrics, statements, alerts and the state of the extension'),
('writer', '{}', '{ingest}', '{record,increment,set_gauge,record_at,record_values,record_batch,record_json,mark_deployment,
   raise_alert,resolve_alert,send,report_heartbeat}', '{ingest}',
 'records metrics, raises alerts, sends messages'),
('responder', '{viewer}', '{}',
 '{resolve_error_issue,ignore_error_issue,reopen_error_issue,set_error_issue_state,
   advise,ignore_finding,reopen_finding,check_finding,set_finding_state,
   enable_alert_rule,test_receiver,preview_notification,simulate_alert,resend,cancel,
   acknowledge_alert,acknowledge_alerts,unacknowledge_alert,assign_alert,assign_alerts,note_alert,snooze_alert,snooze_alerts,
   unsnooze_alert,dismiss_alert,dismiss_alerts,undismiss_alert,close_alert,close_alerts,mark_false_positive,
   create_silence,extend_silence,expire_silence,override_schedule,drop_override,
   open_incident,update_incident,resolve_incident,acknowledge_incident,set_incident_role,note_incident,link_incident,attach_alert,
   write_post_mortem,mark_deployment,set_component_status,run_health_check,report_heartbeat}', '{}', 'works on alerts'),
('auditor', '{viewer}', '{}', '{}', '{}', 'reads everything that is recorded about use and access'),
('admin', '{viewer,writer,responder,auditor}', '{*}', '{*}', '{*}', 'configures everything');

-- The objects of a level and of all it includes.
CREATE FUNCTION monitoring.access_objects(level text)
RETURNS TABLE (privilege text, kind text, object text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM monitoring.access_levels l WHERE l.level = access_objects.level) THEN
        RAISE EXCEPTION 'unknown access level "%"', level
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Levels are viewer, writer, responder, auditor and admin.';
    END IF;
    RETURN QUERY
    WITH RECURSIVE levels AS (
        SELECT l.* FROM monitoring.access_levels l WHERE l.level = access_objects.level
        UNION
        SELECT i.* FROM levels JOIN monitoring.access_levels i ON i.level = ANY (levels.includes)
    )
    SELECT 'SELECT', 'TABLE', c.oid::regclass::text
    FROM pg_class c JOIN levels l ON c.relname = ANY (l.views) OR '*' = ANY (l.views) AND c.relkind = 'v'
    WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('v', 'p') AND NOT c.relispartition
    UNION
    SELECT 'INSERT', 'TABLE', c.oid::regclass::text
    FROM pg_class c JOIN levels l ON c.relname = ANY (l.insertable) OR '*' = ANY (l.insertable)
    WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind = 'v'
      AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid)
    UNION
    SELECT 'EXECUTE', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text
    FROM pg_proc p JOIN levels l ON p.proname = ANY (l.functions) OR '*' = ANY (l.functions)
    WHERE p.pronamespace = 'monitoring'::regnamespace;
END
$$;
COMMENT ON FUNCTION monitoring.access_objects(text) IS 'What an access level may do with which tables, views and functions.';

-- Changing the privileges of a table and attaching a partition to it both write
-- the table's row of pg_class: take the lock that makers of partitions take,
-- in the order in which they do.
CREATE FUNCTION monitoring.lock_for_grant(relation regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p') THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', relation);
    END IF;
END
$$;
COMMENT ON FUNCTION monitoring.lock_for_grant(regclass) IS 'Keep partitions from being attached to a table while its privileges are changed.';

CREATE FUNCTION monitoring.grant_access(role name, level text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o record;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA monitoring TO %I', role);
    FOR o IN SELECT * FROM monitoring.access_objects(level) ORDER BY kind, object, privilege LOOP
        IF o.kind = 'TABLE' THEN
            PERFORM monitoring.lock_for_grant(o.object::regclass);
        END IF;
        EXECUTE format('GRANT %s ON %s %s TO %I', o.privilege, o.kind, o.object, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION monitoring.grant_access(name, text) IS 'Let a role use the extension as viewer (reads), writer (records metrics), responder (works on alerts), auditor, or admin; several calls add up. It grants what exists now. Only the owner of the extension and superusers can. Errors: unknown level (22023), unknown role (42704).';

CREATE FUNCTION monitoring.revoke_access(role name) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o record;
BEGIN
    -- Only what it has: partitions come and go meanwhile.
    FOR o IN
        SELECT DISTINCT c.oid::regclass AS relation, c.oid::regclass::text AS name
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.relnamespace = 'monitoring'::regnamespace AND c.relkind IN ('r', 'p', 'v')
          AND a.grantee = quote_ident(role)::regrole
        ORDER BY 2
    LOOP
        PERFORM monitoring.lock_for_grant(o.relation);
        EXECUTE format('REVOKE ALL ON TABLE %s FROM %I', o.relation, role);
    END LOOP;
    EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA monitoring FROM %I', role);
    EXECUTE format('REVOKE ALL ON SCHEMA monitoring FROM %I', role);
END
$$;
COMMENT ON FUNCTION monitoring.revoke_access(name) IS 'Take from a role every privilege on the schema and what is in it. Error 42704 for an unknown role.';

REVOKE ALL ON ALL ROUTINES IN SCHEMA monitoring FROM PUBLIC;
SELECT monitoring.grant_access('pg_monitor', 'viewer');
