
-- health, network: the kinds that look at things through the network, and what the prober calls. The prober makes the
-- requests in a separate program; here is decided what is asked, and what an answer means.

CREATE FUNCTION monitoring.check_url(definition jsonb, url jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	port text := substring(url #>> '{}' FROM '^https?://(?:\[[^]/?#]*\]|[^]:/?#\[]*)(:[^/?#]*)');
BEGIN
	IF coalesce(jsonb_typeof(url), '') <> 'string' OR (url #>> '{}') !~ '^https?://[^[:space:][:cntrl:]@/?#]+([/?#][^[:space:][:cntrl:]]*)?$' OR length(url #>> '{}') > 2000 THEN
		RAISE EXCEPTION 'a health check of kind % needs "url", an http or https url without credentials', definition ->> 'kind'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF port !~ '^:[0-9]{1,5}$' OR substr(port, 2)::integer NOT BETWEEN 1 AND 65535 THEN
		RAISE EXCEPTION 'the url of a health check has the port "%", which is none', substr(port, 2) USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_url(jsonb, jsonb) IS 'Raises 22023 unless it is text with a url that a check may have.';

CREATE FUNCTION monitoring.check_regex(definition jsonb, key text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	regex text := monitoring.check_config_text(definition, key);
BEGIN
	PERFORM regexp_match('', regex);
	-- what they match is from strangers
	IF regex ~ '\\[1-9]' THEN
		RAISE EXCEPTION 'key "%" of a health check must not have back references', key USING ERRCODE = 'invalid_regular_expression';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_regex(jsonb, text) IS 'Raises 22023 unless a key of the config, if there, is text, and 2201B unless it is a regular expression without back references.';

CREATE FUNCTION monitoring.check_config_boolean(definition jsonb, key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF jsonb_typeof(definition -> 'config' -> key) <> 'boolean' THEN
		RAISE EXCEPTION 'key "%" of a health check is true or false', key USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_config_boolean(jsonb, text) IS 'Raises 22023 if a key of a check''s config is there and neither true nor false.';

CREATE FUNCTION monitoring.check_config_tls(definition jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bad text;
BEGIN
	SELECT min(k) INTO bad FROM unnest('{ca_file,cert_file,key_file}'::text[]) AS k WHERE monitoring.check_config_text(definition, k) !~ '^/';
	IF bad IS NOT NULL THEN
		RAISE EXCEPTION 'key "%" of a health check is an absolute path', bad USING ERRCODE = 'invalid_parameter_value';
	ELSIF definition -> 'config' ? 'key_file' AND NOT definition -> 'config' ? 'cert_file' THEN
		RAISE EXCEPTION 'key "key_file" of a health check needs "cert_file"' USING ERRCODE = 'invalid_parameter_value';
	ELSIF monitoring.check_config_text(definition, 'min_tls') NOT IN ('1.2', '1.3') THEN
		RAISE EXCEPTION 'key "min_tls" of a health check is "1.2" or "1.3"' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_config_tls(jsonb) IS 'Raises 22023 unless what the config of a check says about TLS is valid: files are absolute paths, a key comes with a certificate, min_tls is 1.2 or 1.3.';

CREATE FUNCTION monitoring.check_http_step(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := definition -> 'config';
	method text := coalesce(monitoring.check_config_text(definition, 'method'), 'GET');
BEGIN
	PERFORM monitoring.check_url(definition, config -> 'url');
	PERFORM monitoring.check_config_number(definition, 'max_redirects', 0, 10);
	PERFORM monitoring.check_regex(definition, 'match');
	PERFORM monitoring.check_regex(definition, 'not_match');
	PERFORM monitoring.check_config_text(definition, 'body', max_length => 32768);
	PERFORM monitoring.check_config_boolean(definition, 'proxy');
	PERFORM monitoring.check_config_tls(definition);
	IF method !~ '^[A-Z]{3,10}$' THEN
		RAISE EXCEPTION 'key "method" of a health check is such as GET, HEAD or POST' USING ERRCODE = 'invalid_parameter_value';
	ELSIF coalesce(jsonb_typeof(config -> 'headers'), 'object') <> 'object' OR jsonb_path_exists(config -> 'headers', '$.* ? (@.type() != "string")') THEN
		RAISE EXCEPTION 'key "headers" of a health check is an object of text' USING ERRCODE = 'invalid_parameter_value';
	ELSIF EXISTS (SELECT FROM jsonb_each_text(config -> 'headers') AS h WHERE h.key !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]{1,200}$' OR h.value ~ '[[:cntrl:]]') THEN
		RAISE EXCEPTION 'a header of a health check has a name that is none, or a control character' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'expect_status' AND (jsonb_typeof(config -> 'expect_status') <> 'array' OR config -> 'expect_status' = '[]' OR EXISTS (
			SELECT FROM jsonb_array_elements_text(config -> 'expect_status') AS e
			WHERE coalesce(e, '') !~ '^[1-9][0-9]{2}(-[1-9][0-9]{2})?$' OR left(e, 3) > right(e, 3))) THEN
		RAISE EXCEPTION 'key "expect_status" of a health check is an array such as [200, "300-399"]' USING ERRCODE = 'invalid_parameter_value';
	ELSIF monitoring.check_config_text(definition, 'min_headers_grade') !~ '^[A-F]$' THEN
		RAISE EXCEPTION 'key "min_headers_grade" of a health check is A to F' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_http_step(jsonb) IS 'Raises 22023 for a check of kind http, or a step that is a request, with bad keys; 2201B for a bad regular expression.';

CREATE FUNCTION monitoring.check_host_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	host text := monitoring.check_config_text(definition, 'host', true, 253);
	port float8 := monitoring.check_config_number(definition, 'port', 1, 65535);
BEGIN
	IF host !~ '^([A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+)$' THEN
		RAISE EXCEPTION 'key "host" of a health check is a name or an address' USING ERRCODE = 'invalid_parameter_value';
	ELSIF port <> trunc(port) OR port IS NULL AND definition ->> 'kind' = 'tcp' THEN
		RAISE EXCEPTION 'a health check of kind % needs "port", 1 to 65535', definition ->> 'kind' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM monitoring.check_config_tls(definition);
END $$;
COMMENT ON FUNCTION monitoring.check_host_check(jsonb) IS 'Raises 22023 for a check of kind tcp, dns or tls without a host, without a port where it needs one, or with files that are no absolute paths.';

CREATE FUNCTION monitoring.check_dns_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_host_check(definition);
	IF definition -> 'config' ? 'expect' AND (jsonb_typeof(definition -> 'config' -> 'expect') <> 'array'
		OR jsonb_path_exists(definition -> 'config' -> 'expect', '$[*] ? (@.type() != "string")')) THEN
		RAISE EXCEPTION 'key "expect" of a health check is an array of addresses' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_dns_check(jsonb) IS 'Raises 22023 for a check of kind dns without a host, or with bad keys.';

CREATE FUNCTION monitoring.check_tcp_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_host_check(definition);
	PERFORM monitoring.check_regex(definition, 'match');
	PERFORM monitoring.check_regex(definition, 'not_match');
	PERFORM monitoring.check_config_text(definition, 'expect', max_length => 1000);
	PERFORM monitoring.check_config_boolean(definition, 'tls');
	IF monitoring.check_config_text(definition, 'send', max_length => 4000) IS NOT NULL AND definition -> 'config' ? 'send_hex' THEN
		RAISE EXCEPTION 'a health check has either "send" or "send_hex"' USING ERRCODE = 'invalid_parameter_value';
	ELSIF monitoring.check_config_text(definition, 'send_hex', max_length => 8000) !~* '^([0-9a-f]{2})+$' THEN
		RAISE EXCEPTION 'key "send_hex" of a health check is bytes in hexadecimal' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_tcp_check(jsonb) IS 'Raises 22023 for a check of kind tcp without host or port, or with bad keys; 2201B for a bad regular expression.';

----------------------------------------------------------------------------------------------------------------------
-- Answers
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.tls_options(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(config) AS c WHERE c.key IN ('ca_file', 'cert_file', 'key_file', 'min_tls')
$$;
COMMENT ON FUNCTION monitoring.tls_options(jsonb) IS 'What a config says about TLS, as options of a request.';

CREATE FUNCTION monitoring.host_request(sort text, config jsonb, port integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('request', jsonb_build_object('sort', sort, 'method', 'GET', 'url', format('%s://%s:%s/', CASE sort WHEN 's' THEN 'https' ELSE 'http' END,
			CASE WHEN config ->> 'host' LIKE '%:%' THEN format('[%s]', config ->> 'host') ELSE config ->> 'host' END, coalesce((config ->> 'port')::integer, host_request.port)),
		'options', monitoring.tls_options(config)))
$$;
COMMENT ON FUNCTION monitoring.host_request(text, jsonb, integer) IS 'What the prober is to do for a check with a host and a port: connect (t), do so with TLS (s), look the name up (d).';

CREATE FUNCTION monitoring.probe_details(answer jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('address', nullif(split_part(answer ->> 'addresses', ' ', -1), ''),
		'phases', jsonb_build_object('dns', answer -> 'dns', 'connect', answer -> 'connect', 'tls', answer -> 'tls', 'first_byte', answer -> 'first_byte', 'total', answer -> 'seconds')))
$$;
COMMENT ON FUNCTION monitoring.probe_details(jsonb) IS 'Of an answer: the address and the times of its phases in seconds.';

CREATE FUNCTION monitoring.certificate_days(certificates text, at timestamptz) RETURNS float8
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY' AS $$
BEGIN
	RETURN (SELECT extract(epoch FROM min(substr(l, 13)::timestamptz) - at) / 86400
		FROM regexp_split_to_table(certificates, E'\n') AS l WHERE l LIKE 'Expire date:%');
EXCEPTION WHEN data_exception THEN
	RETURN NULL; -- whatever a peer says
END $$;
COMMENT ON FUNCTION monitoring.certificate_days(text, timestamptz) IS 'Days until the first of the certificates that a peer showed expires; null if it is not known.';

CREATE FUNCTION monitoring.security_headers(headers text) RETURNS TABLE (header text, good boolean)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH h AS (
		SELECT lower(split_part(l, ':', 1)) AS name, lower(btrim(substr(l, position(':' IN l) + 1), E' \r\t')) AS value
		FROM regexp_split_to_table(security_headers.headers, E'\n') AS l WHERE position(':' IN l) > 1
	)
	SELECT w.header, EXISTS (SELECT FROM h WHERE h.name = ANY (w.names) AND h.value ~ w.wanted)
	FROM (VALUES ('strict-transport-security', '{strict-transport-security}'::text[], 'max-age="?([2-9][0-9]{7}|1[6-9][0-9]{6}|[0-9]{9,})'),
		('content-security-policy', '{content-security-policy}', 'default-src|script-src'),
		('x-content-type-options', '{x-content-type-options}', '^nosniff$'),
		('x-frame-options', '{x-frame-options,content-security-policy}', '^(deny|sameorigin)$|frame-ancestors'),
		('referrer-policy', '{referrer-policy}', '^(no-referrer|same-origin|strict-origin)'),
		('permissions-policy', '{permissions-policy}', '.')) AS w (header, names, wanted)
$$;
COMMENT ON FUNCTION monitoring.security_headers(text) IS 'Which of the headers by which a site protects its users a response has, with a value that does: HSTS for half a year, a policy for scripts, nosniff, no frames elsewhere, a referrer policy, a permissions policy.';

CREATE FUNCTION monitoring.judge_http(at timestamptz, config jsonb, answer jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	status integer := (answer ->> 'status')::integer;
	grade text;
	missing jsonb;
	details jsonb := monitoring.probe_details(answer);
	expected jsonb := coalesce(config -> 'expect_status', '["200-299"]');
	problem text;
	weak boolean := false;
BEGIN
	IF answer ->> 'kind' <> 'response' THEN
		RETURN jsonb_build_object('status', 'unhealthy', 'message', answer ->> 'error', 'details', details);
	END IF;
	SELECT substr('FFEDCBA', 1 + count(*) FILTER (WHERE s.good)::integer, 1), coalesce(jsonb_agg(s.header ORDER BY s.header) FILTER (WHERE NOT s.good), '[]')
	INTO grade, missing FROM monitoring.security_headers(answer ->> 'headers') AS s;
	weak := grade > (config ->> 'min_headers_grade');
	details := details || jsonb_strip_nulls(jsonb_build_object('http_status', status, 'protocol', answer -> 'protocol', 'redirects', answer -> 'redirects', 'bytes', answer -> 'bytes',
		'headers_grade', grade, 'headers_missing', missing, 'certificate_days', round(monitoring.certificate_days(answer ->> 'certificates', at)::numeric, 2)));
	problem := CASE
		WHEN NOT EXISTS (SELECT FROM jsonb_array_elements_text(expected) AS e
			WHERE status BETWEEN split_part(e, '-', 1)::integer AND coalesce(nullif(split_part(e, '-', 2), ''), split_part(e, '-', 1))::integer) THEN format('HTTP status %s', status)
		WHEN (answer ->> 'body') !~ (config ->> 'match') THEN 'the body does not match'
		WHEN (answer ->> 'body') ~ (config ->> 'not_match') THEN 'the body matches what it must not' END;
	RETURN jsonb_build_object('value', answer -> 'seconds', 'details', details,
		'status', CASE WHEN problem IS NOT NULL THEN 'unhealthy' WHEN weak THEN 'degraded' ELSE 'healthy' END,
		'message', coalesce(problem, CASE WHEN weak THEN format('security headers have grade %s: %s are missing', grade,
				(SELECT string_agg(m, ', ') FROM jsonb_array_elements_text(missing) AS m))
			ELSE format('HTTP status %s in %s s', status, round((answer ->> 'seconds')::numeric, 3)) END));
END $$;
COMMENT ON FUNCTION monitoring.judge_http(timestamptz, jsonb, jsonb) IS 'What the answer to a request means, as a result of a check.';

CREATE FUNCTION monitoring.http_request(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_build_object('sort', 'h', 'method', coalesce(config ->> 'method', 'GET'), 'url', config ->> 'url', 'body', coalesce(config ->> 'body', ''),
		'headers', CASE WHEN config ->> 'body' ~ '^\s*[\[{]' THEN '{"Content-Type": "application/json"}' ELSE '{}' END::jsonb
			|| coalesce(config -> 'headers', '{}'),
		'redirects', coalesce(config -> 'max_redirects', '0'), 'proxy', coalesce(config -> 'proxy', 'true'),
		'options', monitoring.tls_options(config))
$$;
COMMENT ON FUNCTION monitoring.http_request(jsonb) IS 'What the prober is to do for a check of kind http.';

CREATE FUNCTION monitoring.run_http_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN progress IS NULL THEN jsonb_build_object('request', monitoring.http_request(monitoring.fill_step(definition -> 'config', definition -> 'config' -> 'secrets')))
		ELSE monitoring.judge_http(run_http_check.at, definition -> 'config', progress -> 'answer') END
$$;
COMMENT ON FUNCTION monitoring.run_http_check(timestamptz, jsonb, jsonb) IS 'Kind http: a request; its value is the seconds that it took.';

CREATE FUNCTION monitoring.tcp_request(config jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT jsonb_set(r || jsonb_build_object('url', CASE WHEN (config -> 'tls')::boolean THEN 'https' ELSE 'http' END || substr(r ->> 'url', 5),
			'body', coalesce(monitoring.fill_values(config ->> 'send', coalesce(config -> 'secrets', '{}'), 'text'), '')),
		'{options}', (r -> 'options') || jsonb_strip_nulls(jsonb_build_object('send_hex', config -> 'send_hex',
			-- without anything that must come the first line is what the expressions look at
			'until', coalesce(config ->> 'expect', CASE WHEN config ?| '{match,not_match}' THEN E'\n' END))))
	FROM (SELECT monitoring.host_request('t', config, NULL) -> 'request') AS h (r)
$$;
COMMENT ON FUNCTION monitoring.tcp_request(jsonb) IS 'What the prober is to do for a check of kind tcp.';

CREATE FUNCTION monitoring.run_tcp_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN progress IS NULL THEN jsonb_build_object('request', monitoring.tcp_request(c))
		ELSE jsonb_build_object('status', CASE WHEN problem IS NULL THEN 'healthy' ELSE 'unhealthy' END,
			'value', CASE WHEN a ->> 'kind' <> 'response' THEN NULL
				WHEN talks THEN (a ->> 'seconds')::float8
				ELSE (a ->> 'dns')::float8 + (a ->> 'connect')::float8 + (a ->> 'tls')::float8 END,
			'message', coalesce(problem, CASE WHEN talks THEN format('answered in %s s', round((a ->> 'seconds')::numeric, 3)) ELSE 'connected' END),
			-- a peer may say again what it was told
			'details', monitoring.probe_details(a) || CASE WHEN a ->> 'body' <> '' AND NOT c ? 'secrets'
				THEN jsonb_build_object('answer', left(regexp_replace(a ->> 'body', '[[:cntrl:]]+', ' ', 'g'), 200)) ELSE '{}' END) END
	FROM (SELECT progress -> 'answer', definition -> 'config') AS p (a, c)
	CROSS JOIN LATERAL (SELECT c ?| '{send,send_hex,expect,match,not_match}',
		CASE WHEN a ->> 'kind' <> 'response' THEN a ->> 'error'
			WHEN position(c ->> 'expect' IN a ->> 'body') = 0 THEN 'what is expected is not in the answer'
			WHEN (a ->> 'body') !~ (c ->> 'match') THEN 'the answer does not match'
			WHEN (a ->> 'body') ~ (c ->> 'not_match') THEN 'the answer matches what it must not' END) AS j (talks, problem)
$$;
COMMENT ON FUNCTION monitoring.run_tcp_check(timestamptz, jsonb, jsonb) IS 'Kind tcp: a connection, and what is said and heard over it; its value is the seconds until there was one, or an answer.';

CREATE FUNCTION monitoring.run_dns_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN progress IS NULL THEN monitoring.host_request('d', definition -> 'config', 80)
		WHEN a ->> 'kind' <> 'response' THEN jsonb_build_object('status', 'unhealthy', 'message', a ->> 'error')
		ELSE jsonb_build_object('value', a -> 'dns', 'details', jsonb_build_object('addresses', to_jsonb(string_to_array(a ->> 'addresses', ' '))),
			'status', CASE WHEN missing IS NULL THEN 'healthy' ELSE 'unhealthy' END,
			'message', coalesce(missing || ' is not among ', '') || (a ->> 'addresses')) END
	FROM (SELECT progress -> 'answer') AS p (a)
	CROSS JOIN LATERAL (SELECT min(e) AS missing FROM jsonb_array_elements_text(definition -> 'config' -> 'expect') AS e
		WHERE e <> ALL (string_to_array(p.a ->> 'addresses', ' '))) AS m
$$;
COMMENT ON FUNCTION monitoring.run_dns_check(timestamptz, jsonb, jsonb) IS 'Kind dns: the addresses of a name, as the server''s resolver has them; its value is the seconds that it took.';

CREATE FUNCTION monitoring.run_tls_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN progress IS NULL THEN monitoring.host_request('s', definition -> 'config', 443)
		ELSE jsonb_strip_nulls(jsonb_build_object('value', round(days::numeric, 3), 'details', monitoring.probe_details(a)
				|| jsonb_build_object('certificates', array_to_json(regexp_split_to_array(btrim(a ->> 'certificates', E'\n'), E'\n\n+'))::jsonb),
			'status', CASE WHEN a ->> 'kind' <> 'response' OR a ->> 'certificate_error' <> '' THEN 'unhealthy' WHEN days IS NULL THEN 'unknown' ELSE 'healthy' END,
			'message', coalesce(nullif(a ->> 'certificate_error', ''), CASE WHEN a ->> 'kind' <> 'response' THEN a ->> 'error' END,
				format('%s days left', floor(days))))) END
	FROM (SELECT progress -> 'answer') AS p (a)
	CROSS JOIN LATERAL (SELECT monitoring.certificate_days(p.a ->> 'certificates', run_tls_check.at) AS days) AS d
$$;
COMMENT ON FUNCTION monitoring.run_tls_check(timestamptz, jsonb, jsonb) IS 'Kind tls: the certificate of a server; its value is the days until the first of its chain expires, also when it is not trusted.';

----------------------------------------------------------------------------------------------------------------------
-- Synthetic transactions
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.synthetic_step(definition jsonb, step jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN definition || jsonb_build_object('config', step - '{name,save,query}'::text[]);
COMMENT ON FUNCTION monitoring.synthetic_step(jsonb, jsonb) IS 'A step of a synthetic transaction as a check of its own.';

CREATE FUNCTION monitoring.check_synthetic_check(definition jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	steps jsonb := definition -> 'config' -> 'steps';
	step jsonb;
	bad text;
BEGIN
	IF coalesce(jsonb_typeof(steps), '') <> 'array' OR jsonb_array_length(steps) NOT BETWEEN 1 AND 20 OR jsonb_path_exists(steps, '$[*] ? (@.type() != "object")') THEN
		RAISE EXCEPTION 'a health check of kind synthetic needs "steps", an array of 1 to 20 objects' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR step IN SELECT s FROM jsonb_array_elements(steps) AS s LOOP
		SELECT min(k) INTO bad FROM jsonb_object_keys(step) AS k
		WHERE k <> ALL ('{name,url,query,save,method,headers,body,expect_status,match,not_match,max_redirects,ca_file,cert_file,key_file,min_tls,proxy}'::text[]);
		IF bad IS NOT NULL THEN
			RAISE EXCEPTION 'a step of a health check takes no key "%"', left(bad, 100) USING ERRCODE = 'invalid_parameter_value';
		ELSIF (step ? 'url') = (step ? 'query') THEN
			RAISE EXCEPTION 'a step of a health check has either a "url" or a "query"' USING ERRCODE = 'invalid_parameter_value';
		ELSIF step ? 'query' AND coalesce(jsonb_typeof(step -> 'query') <> 'string' OR length(step ->> 'query') > 32768, true) THEN
			RAISE EXCEPTION 'the "query" of a step is text of at most 32768 characters' USING ERRCODE = 'invalid_parameter_value';
		ELSIF step ? 'save' AND (jsonb_typeof(step -> 'save') <> 'object' OR EXISTS (
			SELECT FROM jsonb_each(step -> 'save') AS v WHERE v.key !~ '^[a-z][a-z0-9_]{0,62}$' OR jsonb_typeof(v.value) <> 'string'
				OR (v.value #>> '{}') !~ CASE WHEN step ? 'url' THEN '^(json:\$|header:.|match:.)' ELSE '^column:.' END)) THEN
			RAISE EXCEPTION 'the "save" of a step is an object of names and where their values are' USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Of a request: "json:$.path", "header:name" or "match:regular expression with one group"; of a query: "column:name".';
		END IF;
		IF step ? 'url' THEN
			PERFORM monitoring.check_http_step(jsonb_set(monitoring.synthetic_step(definition, step), '{config,url}', to_jsonb(regexp_replace(step ->> 'url', '\{\{[a-z0-9_]+\}\}', 'x', 'g'))));
		END IF;
		PERFORM CASE split_part(v.value, ':', 1) WHEN 'json' THEN substr(v.value, 6)::jsonpath::text WHEN 'match' THEN (regexp_match('', substr(v.value, 7)))[1] END
		FROM jsonb_each_text(step -> 'save') AS v;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_synthetic_check(jsonb) IS 'Raises 22023 for a check of kind synthetic whose steps are not valid, and what their regular expressions and JSON paths raise.';

-- Values are put in as what stands there takes them: none can become part of a query or of a url's structure, and what is put
-- in is not looked at again.
CREATE FUNCTION monitoring.escape_value(value text, style text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE style
		WHEN 'sql' THEN quote_literal(value)
		WHEN 'json' THEN substr(j, 2, length(j) - 2)
		WHEN 'url' THEN (SELECT coalesce(string_agg(CASE WHEN c ~ '^[A-Za-z0-9._~-]$' THEN c
				ELSE upper(regexp_replace(encode(convert_to(c, 'UTF8'), 'hex'), '(..)', '%\1', 'g')) END, '' ORDER BY n), '')
			FROM regexp_split_to_table(value, '') WITH ORDINALITY AS r (c, n))
		ELSE regexp_replace(value, '[[:cntrl:]]', '', 'g') END
	FROM (SELECT to_jsonb(value)::text) AS t (j)
$$;
COMMENT ON FUNCTION monitoring.escape_value(text, text) IS 'A value as a literal of SQL (sql), within a JSON string (json), percent-encoded (url), or as it is without control characters.';

CREATE FUNCTION monitoring.fill_values(template text, vars jsonb, style text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(p.part || CASE WHEN h.name IS NULL THEN '' WHEN vars ? h.name THEN monitoring.escape_value(vars ->> h.name, style) ELSE format('{{%s}}', h.name) END, '' ORDER BY p.n)
	FROM regexp_split_to_table(template, '\{\{[a-z][a-z0-9_]*\}\}') WITH ORDINALITY AS p (part, n)
	LEFT JOIN (SELECT m[1] AS name, n FROM regexp_matches(template, '\{\{([a-z][a-z0-9_]*)\}\}', 'g') WITH ORDINALITY AS r (m, n)) AS h USING (n)
$$;
COMMENT ON FUNCTION monitoring.fill_values(text, jsonb, text) IS 'A text with saved values, escaped in that style, in place of {{name}}; names that are not known stay.';

CREATE FUNCTION monitoring.fill_step(step jsonb, vars jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN vars IS NULL THEN step ELSE step || jsonb_strip_nulls(jsonb_build_object('url', monitoring.fill_values(step ->> 'url', vars, 'url'),
		'body', monitoring.fill_values(step ->> 'body', vars, CASE WHEN step ->> 'body' ~ '^\s*[\[{]' THEN 'json'
			WHEN step -> 'headers' ->> 'Content-Type' ~* 'urlencoded' THEN 'url' ELSE 'text' END),
		'headers', (SELECT jsonb_object_agg(h.key, monitoring.fill_values(h.value, vars, 'text')) FROM jsonb_each_text(step -> 'headers') AS h))) END
$$;
COMMENT ON FUNCTION monitoring.fill_step(jsonb, jsonb) IS 'A step, or a check, with the values that earlier ones saved, and with markers of secrets.';

CREATE FUNCTION monitoring.saved_values(save jsonb, answer jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	item record;
	found_value text;
	result jsonb := '{}';
BEGIN
	FOR item IN SELECT s.key, split_part(s.value, ':', 1) AS how, substr(s.value, position(':' IN s.value) + 1) AS what FROM jsonb_each_text(save) AS s LOOP
		found_value := CASE item.how
			WHEN 'json' THEN jsonb_path_query_first((answer ->> 'body')::jsonb, item.what::jsonpath, silent => true) #>> '{}'
			WHEN 'match' THEN (regexp_match(answer ->> 'body', item.what))[1]
			WHEN 'header' THEN (SELECT btrim(substr(l, position(':' IN l) + 1), E' \r\t') FROM regexp_split_to_table(answer ->> 'headers', E'\n') AS l
				WHERE lower(split_part(l, ':', 1)) = lower(item.what) LIMIT 1)
			ELSE answer -> 'row' ->> item.what END;
		IF found_value IS NULL THEN
			RETURN jsonb_build_object('missing', item.key);
		END IF;
		result := result || jsonb_build_object(item.key, left(found_value, 8192));
	END LOOP;
	RETURN jsonb_build_object('vars', result);
EXCEPTION WHEN invalid_text_representation OR untranslatable_character THEN
	RETURN jsonb_build_object('missing', item.key);
END $$;
COMMENT ON FUNCTION monitoring.saved_values(jsonb, jsonb) IS 'The values that a step saves, as vars; missing names the first that is not there.';

CREATE FUNCTION monitoring.run_synthetic_check(at timestamptz, definition jsonb, progress jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	steps jsonb := definition -> 'config' -> 'steps';
	n integer := coalesce((progress -> 'state' ->> 'step')::integer, 0);
	vars jsonb := coalesce(progress -> 'state' -> 'vars', '{}');
	done jsonb := coalesce(progress -> 'state' -> 'done', '[]');
	answer jsonb := progress -> 'answer';
	step jsonb;
	saved jsonb;
	verdict jsonb;
	began timestamptz;
	failure text;
	seconds float8;
BEGIN
	LOOP
		step := steps -> n;
		IF answer IS NULL AND step ? 'url' THEN
			RETURN jsonb_build_object('request', monitoring.http_request(monitoring.fill_step(step, vars || coalesce(definition -> 'config' -> 'secrets', '{}'))),
				'state', jsonb_build_object('step', n, 'vars', vars, 'done', done));
		ELSIF step ? 'url' THEN
			verdict := monitoring.judge_http(at, step, answer);
			failure := CASE WHEN verdict ->> 'status' = 'unhealthy' THEN verdict ->> 'message' END;
			seconds := (answer ->> 'seconds')::float8;
		ELSE
			began := clock_timestamp();
			SELECT q.error, jsonb_build_object('row', q.row) INTO failure, answer
			FROM monitoring.try_rule_query((definition ->> 'owner')::name, monitoring.fill_values(step ->> 'query', vars, 'sql'),
				least((definition ->> 'timeout')::interval, interval '10 seconds'), 100, true, run_synthetic_check.at) AS q LIMIT 1;
			failure := coalesce(failure, CASE WHEN answer IS NULL THEN 'the query gave no row'
				WHEN (SELECT e.value = 'false' FROM jsonb_each(answer -> 'row') AS e LIMIT 1) THEN 'the query gave false' END);
			seconds := extract(epoch FROM clock_timestamp() - began);
		END IF;
		IF failure IS NULL THEN
			saved := monitoring.saved_values(step -> 'save', answer);
			failure := format('"%s" is not in the answer', saved ->> 'missing');
			IF NOT saved ? 'missing' THEN
				failure := NULL;
				vars := vars || (saved -> 'vars');
			END IF;
		END IF;
		done := done || jsonb_build_object('step', coalesce(step ->> 'name', (n + 1)::text), 'seconds', round(seconds::numeric, 6));
		IF failure IS NOT NULL OR n + 1 >= jsonb_array_length(steps) THEN
			RETURN jsonb_build_object('value', (SELECT sum((d ->> 'seconds')::float8) FROM jsonb_array_elements(done) AS d), 'details', jsonb_build_object('steps', done),
				'status', CASE WHEN failure IS NULL THEN 'healthy' ELSE 'unhealthy' END,
				'message', CASE WHEN failure IS NULL THEN format('%s steps', n + 1) ELSE format('step %s: %s', coalesce(step ->> 'name', (n + 1)::text), failure) END);
		END IF;
		n := n + 1;
		answer := NULL;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.run_synthetic_check(timestamptz, jsonb, jsonb) IS 'Kind synthetic: requests and queries in order, which carry values from one to the next; the first that fails ends it. Its value is the seconds of all steps.';

INSERT INTO monitoring.health_check_kinds (kind, function, check_function, config_keys, network, op, degraded, unhealthy, description, builtin) VALUES
	('http', 'monitoring.run_http_check', 'monitoring.check_http_step',
		'{url,method,headers,body,expect_status,match,not_match,max_redirects,min_headers_grade,ca_file,cert_file,key_file,min_tls,proxy,secrets}', true, '>', NULL, NULL, 'a request to a web server', true),
	('tcp', 'monitoring.run_tcp_check', 'monitoring.check_tcp_check', '{host,port,send,send_hex,expect,match,not_match,tls,ca_file,cert_file,key_file,min_tls,secrets}', true, '>', NULL, NULL,
		'a connection to a port, and what is heard there', true),
	('dns', 'monitoring.run_dns_check', 'monitoring.check_dns_check', '{host,expect}', true, '>', NULL, NULL, 'the addresses of a name', true),
	('tls', 'monitoring.run_tls_check', 'monitoring.check_host_check', '{host,port,ca_file}', true, '<', 21, 7, 'the certificate of a server: days left', true),
	('synthetic', 'monitoring.run_synthetic_check', 'monitoring.check_synthetic_check', '{steps,secrets}', true, '>', NULL, NULL, 'requests and queries in order', true);

----------------------------------------------------------------------------------------------------------------------
-- For the prober
----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION monitoring.wake_prober() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mon_wake_prober';
COMMENT ON FUNCTION monitoring.wake_prober() IS 'Wake the prober of this database, or start it. Error 55000 unless the library is preloaded.';

-- Columns rather than JSON, so that the prober need not take it apart.
CREATE TYPE monitoring.probe AS (check_name text, state jsonb, began timestamptz, seconds float8, sort text, method text, url text, body text,
	header_names text[], header_values text[], option_names text[], option_values text[], redirects integer, proxy boolean,
	secret_keys text[], secret_markers text[], secret_sources text[], secret_values text[]);
COMMENT ON TYPE monitoring.probe IS 'What the prober is to do for a check, within so many seconds.';

-- A kind's function may be anybody's: it gets markers that stand for the secrets, new ones each time.
CREATE FUNCTION monitoring.marked_check(definition monitoring.health_check_defs) RETURNS monitoring.health_check_defs
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF definition.config ? 'secrets' THEN
		definition.config := jsonb_set(definition.config, '{secrets}', (
			SELECT coalesce(jsonb_object_agg(k, replace(gen_random_uuid()::text, '-', '')), '{}')
			FROM (SELECT jsonb_object_keys(definition.config -> 'secrets') UNION ALL
				SELECT 'basic_auth' WHERE definition.config -> 'secrets' ?& '{username,password}') AS s (k)));
	END IF;
	RETURN definition;
END $$;
COMMENT ON FUNCTION monitoring.marked_check(monitoring.health_check_defs) IS 'A check with markers in place of its secrets, and with basic_auth if they have a username and a password.';

CREATE FUNCTION monitoring.make_probe(definition monitoring.health_check_defs, outcome jsonb, began timestamptz, at timestamptz) RETURNS monitoring.probe
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ROW(definition.name, outcome -> 'state', began, extract(epoch FROM definition.timeout - (make_probe.at - began))::float8, r ->> 'sort', r ->> 'method', r ->> 'url', coalesce(r ->> 'body', ''),
		ARRAY(SELECT h.key FROM jsonb_each_text(r -> 'headers') AS h ORDER BY h.key), ARRAY(SELECT h.value FROM jsonb_each_text(r -> 'headers') AS h ORDER BY h.key),
		ARRAY(SELECT h.key FROM jsonb_each_text(r -> 'options') AS h ORDER BY h.key), ARRAY(SELECT h.value FROM jsonb_each_text(r -> 'options') AS h ORDER BY h.key),
		coalesce((r ->> 'redirects')::integer, 0), coalesce((r ->> 'proxy')::boolean, false), s.keys, s.markers, s.sources, s.values)::monitoring.probe
	FROM (SELECT outcome -> 'request') AS o (r)
	-- basic_auth is made of the others
	CROSS JOIN (SELECT array_agg(m.key ORDER BY m.key = 'basic_auth', m.key) AS keys, array_agg(m.value ORDER BY m.key = 'basic_auth', m.key) AS markers,
			array_agg(c.source ORDER BY m.key = 'basic_auth', m.key) AS sources, array_agg(c.value ORDER BY m.key = 'basic_auth', m.key) AS values
		FROM jsonb_each_text(definition.config -> 'secrets') AS m
		LEFT JOIN monitoring.check_secrets AS c ON c.check_name = definition.name AND c.key = m.key) AS s
$$;
COMMENT ON FUNCTION monitoring.make_probe(monitoring.health_check_defs, jsonb, timestamptz, timestamptz) IS 'The request that a kind''s function wants, as the prober takes it, for a check that has markers; with the secrets that they stand for.';

CREATE FUNCTION monitoring.begin_probes(at timestamptz, most integer) RETURNS SETOF monitoring.probe
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d monitoring.health_check_defs;
	outcome jsonb;
	n integer := 0;
	ran integer := 0;
BEGIN
	PERFORM monitoring.ensure_check_partitions(at);
	FOR d IN SELECT * FROM monitoring.due_health_checks(at, true) LOOP
		EXIT WHEN n >= most OR clock_timestamp() - at > interval '10 seconds';
		PERFORM FROM monitoring.health_check_states AS s WHERE s.check_name = d.name FOR UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		d := monitoring.marked_check(d);
		outcome := monitoring.call_health_kind(d, at, NULL);
		IF outcome ? 'request' THEN
			UPDATE monitoring.health_check_states AS s SET leased_until = begin_probes.at + d.timeout + interval '1 minute' WHERE s.check_name = d.name;
			RETURN NEXT monitoring.make_probe(d, outcome, at, at);
			n := n + 1;
		ELSE
			PERFORM monitoring.record_check_result(d.name, outcome, at, extract(epoch FROM clock_timestamp() - at)::float8, at);
			ran := ran + 1;
		END IF;
	END LOOP;
	IF ran > 0 THEN
		PERFORM monitoring.refresh_health_checks(at);
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.begin_probes(timestamptz, integer) IS 'For the prober: take the checks that are due, with a lease, and tell what is to be requested for each.';

CREATE FUNCTION monitoring.answer_probes(answers jsonb, at timestamptz) RETURNS SETOF monitoring.probe
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	d monitoring.health_check_defs;
	one jsonb;
	outcome jsonb;
	began timestamptz;
BEGIN
	PERFORM monitoring.ensure_check_partitions(at);
	FOR one IN SELECT a FROM jsonb_array_elements(answers) AS a LOOP
		SELECT * INTO d FROM monitoring.health_check_defs AS h WHERE h.name = one ->> 'check';
		CONTINUE WHEN NOT FOUND;
		d := monitoring.marked_check(d);
		began := (one ->> 'began')::timestamptz;
		outcome := CASE WHEN one -> 'answer' ->> 'kind' = 'lost' THEN jsonb_build_object('status', 'unknown', 'message', one -> 'answer' ->> 'error')
			ELSE monitoring.call_health_kind(d, at, one) END;
		IF outcome ? 'request' AND at - began < d.timeout THEN
			RETURN NEXT monitoring.make_probe(d, outcome, began, at);
			CONTINUE;
		ELSIF outcome ? 'request' THEN
			outcome := jsonb_build_object('status', 'unhealthy', 'message', format('not done within %s s', extract(epoch FROM d.timeout)::float8));
		END IF;
		PERFORM monitoring.record_check_result(d.name, outcome, began,
			coalesce(CASE WHEN one -> 'state' = 'null' THEN (one -> 'answer' ->> 'seconds')::float8 END, greatest(extract(epoch FROM at - began)::float8, 0)), at);
		PERFORM monitoring.set_gauge('certificate_expiry_timestamp_seconds', extract(epoch FROM at) + (outcome ->> 'value')::float8 * 86400,
			d.labels || jsonb_build_object('check', d.name)) WHERE d.kind = 'tls' AND outcome ? 'value';
	END LOOP;
	PERFORM monitoring.refresh_health_checks(at);
END $$;
COMMENT ON FUNCTION monitoring.answer_probes(jsonb, timestamptz) IS 'For the prober: take the answers to what begin_probes() wanted, record results, and tell what is to be requested next.';

CREATE FUNCTION monitoring.next_probe_in(at timestamptz) RETURNS float8
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	-- as due_health_checks() has it; greatest() knows no nulls
	SELECT CASE WHEN count(*) > 0 THEN greatest(extract(epoch FROM min(CASE WHEN s.next_at > next_probe_in.at + d.every THEN next_probe_in.at
			WHEN s.leased_until <= next_probe_in.at + interval '10 minutes' THEN greatest(s.next_at, s.leased_until) ELSE s.next_at END) - next_probe_in.at), 0)::float8 END
	FROM monitoring.health_check_states AS s
	JOIN monitoring.health_check_defs AS d ON d.name = s.check_name
	JOIN monitoring.health_check_kinds AS k ON k.kind = d.kind
	WHERE d.enabled AND k.network AND s.suppressed_by IS NULL
$$;
COMMENT ON FUNCTION monitoring.next_probe_in(timestamptz) IS 'Seconds until the next check of the prober is due; null if it has none.';
