-- alerts, packs: ready-made rules, and rules as documents that can be exported and imported. The packs themselves are the
-- data files in packs/, in the format of export_rules(); make appends an INSERT for each to the install script.

CREATE TABLE monitoring.rule_packs (
	pack text PRIMARY KEY CHECK (pack ~ '^[a-z][a-z0-9_-]{0,62}$'),
	document jsonb NOT NULL,
	builtin boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE monitoring.rule_packs IS 'Packs of alert rules for install_rules(). Add your own with INSERT.';
COMMENT ON COLUMN monitoring.rule_packs.pack IS 'Name of the pack.';
COMMENT ON COLUMN monitoring.rule_packs.document IS 'The rules, as export_rules() writes them.';
COMMENT ON COLUMN monitoring.rule_packs.builtin IS 'True for packs that come with the extension; they are not dumped.';
SELECT pg_catalog.pg_extension_config_dump('monitoring.rule_packs', 'WHERE NOT builtin');

----------------------------------------------------------------------------------------------------------------------
-- Rules as documents
----------------------------------------------------------------------------------------------------------------------

-- What can stand in a rule's definition: the parameters of create_alert_rule.
CREATE FUNCTION monitoring.rule_parameters() RETURNS TABLE (key text, type regtype, default_value jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
DECLARE
	parameter record;
BEGIN
	FOR parameter IN
		SELECT a.name, p.proargtypes[a.n - 1] AS type, pg_get_function_arg_default(p.oid, a.n::integer) AS value
		FROM pg_proc AS p
		CROSS JOIN unnest(p.proargnames) WITH ORDINALITY AS a (name, n)
		WHERE p.pronamespace = 'monitoring'::regnamespace AND p.proname = 'create_alert_rule'
		ORDER BY a.n
	LOOP
		key := parameter.name;
		type := parameter.type;
		default_value := NULL;
		IF parameter.value IS NOT NULL THEN
			EXECUTE format('SELECT to_jsonb(%s)', parameter.value) INTO default_value;
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.rule_parameters() IS 'The parameters of create_alert_rule, which are the keys of a rule in a document: name, type and default.';

CREATE FUNCTION monitoring.rule_documents(names text[] DEFAULT NULL) RETURNS TABLE (id bigint, document jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres AS $$
	SELECT r.id, jsonb_object_agg(p.key, v.value)
	FROM monitoring.alert_rules AS r
	CROSS JOIN monitoring.rule_parameters() AS p
	CROSS JOIN LATERAL (SELECT to_jsonb(r) -> p.key AS value) AS v
	WHERE (names IS NULL OR r.name = ANY (names)) AND v.value IS DISTINCT FROM coalesce(p.default_value, 'null')
	GROUP BY r.id
$$;
COMMENT ON FUNCTION monitoring.rule_documents(text[]) IS 'The rules of these names (null: all) as they stand in a document: the parameters of create_alert_rule that are not at their defaults.';

CREATE FUNCTION monitoring.export_rules(names text[] DEFAULT NULL, pack text DEFAULT 'exported') RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('format', 'monitoring alert rules', 'version', 1, 'pack', export_rules.pack,
		'rules', coalesce(jsonb_agg(r.document ORDER BY r.id), '[]'))
	FROM monitoring.rule_documents(names) AS r
$$;
COMMENT ON FUNCTION monitoring.export_rules(text[], text) IS 'The rules of these names (null: all) as a JSON document that import_rules() takes, here or in another database. Defaults are left out, and so are state and owner; a disabled rule says so, and is imported disabled.';

CREATE FUNCTION monitoring.check_rules_document(document jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF document IS NULL OR jsonb_typeof(document) <> 'object' OR document ->> 'format' IS DISTINCT FROM 'monitoring alert rules' THEN
		RAISE EXCEPTION 'this is not a document of alert rules'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is an object as export_rules() writes it; Prometheus rule files are for import_prometheus_rules().';
	ELSIF document -> 'version' IS DISTINCT FROM '1' THEN
		RAISE EXCEPTION 'version % of documents of alert rules is not known', coalesce(document ->> 'version', 'null')
			USING ERRCODE = 'feature_not_supported', HINT = 'This version reads version 1.';
	ELSIF coalesce(jsonb_typeof(document -> 'rules'), '') <> 'array'
		OR jsonb_path_exists(document, '$.rules[*] ? (@.type() != "object")') THEN
		RAISE EXCEPTION '"rules" of a document of alert rules must be an array of objects'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_rules_document(jsonb) IS 'Raises 22023 for what is not a document of alert rules, 0A000 for one of a version that is not known.';

CREATE FUNCTION monitoring.create_rule_from(definition jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	unknown text;
	arguments text;
	rule_id bigint;
BEGIN
	SELECT min(k) INTO unknown FROM jsonb_object_keys(definition) AS k
	WHERE k NOT IN (SELECT p.key FROM monitoring.rule_parameters() AS p);
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" in the definition of an alert rule', unknown
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are the parameters of monitoring.create_alert_rule.';
	END IF;

	PERFORM monitoring.check_rule_types(definition);
	-- Required parameters are always given: create_alert_rule says what is wrong with a null.
	SELECT string_agg(format('%I => %s', p.key, CASE p.type
			WHEN 'jsonb'::regtype THEN format('nullif($1 -> %L, ''null'')', p.key)
			WHEN 'text[]'::regtype THEN format(
				'CASE WHEN jsonb_typeof($1 -> %1$L) <> ''null'' THEN ARRAY(SELECT jsonb_array_elements_text($1 -> %1$L)) END', p.key)
			ELSE format('($1 ->> %L)::%s', p.key, p.type) END), ', ')
	INTO arguments
	FROM monitoring.rule_parameters() AS p
	WHERE definition ? p.key OR p.default_value IS NULL AND p.key IN ('name', 'metric', 'fn', 'over', 'op', 'threshold');
	EXECUTE format('SELECT monitoring.create_alert_rule(%s)', arguments) INTO rule_id USING definition;
	RETURN rule_id;
END $$;
COMMENT ON FUNCTION monitoring.create_rule_from(jsonb) IS 'Create an alert rule from its definition in a document and return its id. Errors: as create_alert_rule, and 22023 for an unknown key.';

CREATE FUNCTION monitoring.change_rule_to(definition jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	name text := definition ->> 'name';
	before jsonb := (SELECT r.document FROM monitoring.rule_documents(ARRAY[name]) AS r);
	changes jsonb;
BEGIN
	IF coalesce(definition ->> 'kind', 'metric') <> coalesce(before ->> 'kind', 'metric') THEN
		RAISE EXCEPTION 'alert rule "%" is of kind %', name, coalesce(before ->> 'kind', 'metric')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Drop it first: a rule cannot change its kind.';
	END IF;
	SELECT coalesce(jsonb_object_agg(p.key, coalesce(p.default_value, 'null')), '{}') || (definition - '{name,kind}'::text[])
	INTO changes
	FROM monitoring.rule_parameters() AS p
	WHERE p.key NOT IN ('name', 'kind');
	PERFORM monitoring.update_alert_rule(name, changes);
	RETURN (SELECT r.document FROM monitoring.rule_documents(ARRAY[name]) AS r) <> before;
END $$;
COMMENT ON FUNCTION monitoring.change_rule_to(jsonb) IS 'Make the rule of this name what its definition says; parameters that it leaves out go back to their defaults. Returns whether anything changed. Errors: as update_alert_rule, and 22023 for a rule of another kind.';

CREATE FUNCTION monitoring.import_rules(document jsonb, replace boolean DEFAULT false)
RETURNS TABLE (rule text, outcome text, error text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	definition jsonb;
BEGIN
	PERFORM monitoring.check_rules_document(document);
	FOR definition IN SELECT d.value FROM jsonb_array_elements(document -> 'rules') AS d LOOP
		rule := definition ->> 'name';
		error := NULL;
		BEGIN
			IF NOT EXISTS (SELECT FROM monitoring.alert_rules AS r WHERE r.name = import_rules.rule) THEN
				PERFORM monitoring.create_rule_from(definition);
				outcome := 'created';
			ELSIF NOT replace THEN
				outcome := 'exists';
			ELSE
				outcome := CASE WHEN monitoring.change_rule_to(definition) THEN 'replaced' ELSE 'unchanged' END;
			END IF;
		EXCEPTION WHEN OTHERS THEN
			-- not what concerns the whole import: an intervention, a lost connection, a full disk
			IF left(SQLSTATE, 2) IN ('25', '40', '53', '57', '58') THEN
				RAISE;
			END IF;
			outcome := 'error';
			error := SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.import_rules(jsonb, boolean) IS 'Create the rules of a document that export_rules() wrote. One row a rule says what became of it: created; exists (a rule of that name is there and stays as it is); with replace => true replaced or unchanged; error, with the message: nothing of that rule was changed. Errors: 22023 for what is not such a document, 0A000 for one of a later version.';

----------------------------------------------------------------------------------------------------------------------
-- Packs
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.pack_document(pack text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	document jsonb;
BEGIN
	SELECT p.document INTO document FROM monitoring.rule_packs AS p WHERE p.pack = pack_document.pack;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no pack of alert rules named "%"', pack
			USING ERRCODE = 'undefined_object', HINT = 'monitoring.list_packs() lists them.';
	END IF;
	RETURN document;
END $$;
COMMENT ON FUNCTION monitoring.pack_document(text) IS 'The rules of a pack as a document. Error 42704 if there is no such pack.';

CREATE FUNCTION monitoring.install_rules(pack text) RETURNS TABLE (rule text, outcome text, error text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	FOR rule, outcome, error IN SELECT * FROM monitoring.import_rules(monitoring.pack_document(install_rules.pack)) LOOP
		IF outcome = 'created' THEN
			UPDATE monitoring.alert_rule_defs AS d SET pack = install_rules.pack WHERE d.name = install_rules.rule;
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.install_rules(text) IS 'Create the rules of a pack that are not there yet, owned by the caller, and say what became of each as import_rules() does. They are rules like any others: change, disable or drop them. Error 42704 if there is no such pack.';

CREATE FUNCTION monitoring.remove_rules(pack text) RETURNS TABLE (rule text, outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	edited boolean;
BEGIN
	FOR rule, edited IN
		SELECT d.name, d.edited FROM monitoring.alert_rule_defs AS d WHERE d.pack = remove_rules.pack ORDER BY d.id
	LOOP
		IF edited THEN
			UPDATE monitoring.alert_rule_defs AS d SET pack = NULL WHERE d.name = remove_rules.rule;
			outcome := 'kept';
		ELSE
			PERFORM monitoring.drop_alert_rule(rule);
			outcome := 'dropped';
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.remove_rules(text) IS 'Drop the rules that came with a pack and end their alerts. Rules that were edited since are kept, and belong to no pack from then on.';

CREATE FUNCTION monitoring.list_packs()
RETURNS TABLE (pack text, description text, rules bigint, installed bigint, edited bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT p.pack, p.document ->> 'description', jsonb_array_length(p.document -> 'rules'),
		count(d.id), count(d.id) FILTER (WHERE d.edited)
	FROM monitoring.rule_packs AS p
	LEFT JOIN monitoring.alert_rule_defs AS d ON d.pack = p.pack
	GROUP BY p.pack
	ORDER BY p.pack
$$;
COMMENT ON FUNCTION monitoring.list_packs() IS 'The packs of alert rules there are, with how many rules each has, how many of them are installed, and how many of those were edited.';
