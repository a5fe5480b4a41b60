-- formatters, mail: messages as RFC 5322 and MIME have them.
--
-- Nothing of an alert is in a header but the subject, which is an encoded word unless it is plain ASCII; the parts are
-- base64. So no text can end a header, forge a part or end the message.

CREATE FUNCTION monitoring.parse_mailboxes(list text) RETURNS TABLE (display text, address text)
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	rest text := btrim(list);
	n integer := 0;
	m text[];
BEGIN
	-- a hundred addresses, each with a name
	IF octet_length(list) > 65536 THEN
		RAISE EXCEPTION 'a list of e-mail addresses must not take more than 65536 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF list ~ '[\x01-\x1f\x7f]' THEN
		RAISE EXCEPTION 'a list of e-mail addresses holds a control character' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	LOOP
		-- "quoted name" <address>, name <address>, or the address alone
		m := regexp_match(rest, '^("(?:[^"\\]|\\.)*"|[^",<>@;:\\()\[\]]*)\s*<\s*([^<>\s]*)\s*>\s*(,|$)(.*)$');
		IF m IS NULL THEN
			m := regexp_match(rest, '^()([^<>",;:\s()\\]+)\s*(,|$)(.*)$');
		END IF;
		IF m IS NULL THEN
			RAISE EXCEPTION 'not a list of e-mail addresses: "%"', left(rest, 100)
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Write them as in ops@example.com, "Doe, Ann" <ann@example.com>; a name with commas or other special characters needs quotes.';
		ELSIF m[2] !~ '^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$'
			OR m[2] ~ '(^\.|\.\.|\.@)' OR length(m[2]) > 254 THEN
			RAISE EXCEPTION '"%" is not an e-mail address', left(m[2], 100)
				USING ERRCODE = 'invalid_parameter_value', HINT = CASE WHEN m[2] ~ '[^ -~]'
					THEN 'Addresses are ASCII; write the domain in its xn-- form. Names before the address may be of any script.' ELSE 'Write it as in ops@example.com.' END;
		END IF;
		display := btrim(m[1]);
		IF display ~ '^"' THEN
			display := regexp_replace(substr(display, 2, length(display) - 2), '\\(.)', '\1', 'g');
		END IF;
		address := m[2];
		n := n + 1;
		IF n > 100 THEN
			RAISE EXCEPTION 'a list has more than 100 e-mail addresses' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		RETURN NEXT;
		EXIT WHEN m[3] = '';
		rest := btrim(m[4]);
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.parse_mailboxes(text) IS 'E-mail addresses separated by commas, each alone or as name <address> or "name" <address>; the name is as it is read. Error 22023 for anything else.';

CREATE FUNCTION monitoring.config_mailboxes(config jsonb, key text) RETURNS TABLE (display text, address text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT b.display, b.address
	FROM jsonb_array_elements_text(CASE jsonb_typeof(config -> key) WHEN 'array' THEN config -> key WHEN 'string' THEN jsonb_build_array(config -> key) ELSE '[]' END)
		WITH ORDINALITY AS l (list, n)
	CROSS JOIN LATERAL monitoring.parse_mailboxes(l.list) AS b
	ORDER BY l.n
$$;
COMMENT ON FUNCTION monitoring.config_mailboxes(jsonb, text) IS 'The e-mail addresses that a key of a config holds, as text or array of texts.';

CREATE FUNCTION monitoring.encode_words(t text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	bytes bytea := monitoring.utf8_bytes(t);
	words text[] := '{}';
	first integer := 1;
	past integer;
BEGIN
	-- An encoded word has at most 75 characters, and whole characters only; a line of a header at most 78.
	IF t ~ '^[ -~]*$' AND t !~ '=\?|^ | $' AND length(t) <= 60 THEN
		RETURN t;
	END IF;
	WHILE first <= length(bytes) LOOP
		past := least(first + 36, length(bytes) + 1);
		WHILE past <= length(bytes) AND get_byte(bytes, past - 1) BETWEEN 128 AND 191 LOOP
			past := past - 1;
		END LOOP;
		words := words || ('=?UTF-8?B?' || encode(substring(bytes FROM first FOR past - first), 'base64') || '?=');
		first := past;
	END LOOP;
	RETURN array_to_string(words, E'\r\n ');
END $$;
COMMENT ON FUNCTION monitoring.encode_words(text) IS 'Text for a header: as it is if that is short ASCII, otherwise encoded words (RFC 2047), folded.';

CREATE FUNCTION monitoring.mail_addresses(config jsonb, key text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT string_agg(CASE WHEN b.display = '' THEN b.address
		WHEN b.display ~ '^[ -~]*$' AND length(b.display) <= 60 AND b.display !~ '=\?' THEN '"' || regexp_replace(b.display, '(["\\])', '\\\1', 'g') || '" <' || b.address || '>'
		ELSE monitoring.encode_words(b.display) || E'\r\n <' || b.address || '>' END, E',\r\n ')
	FROM monitoring.config_mailboxes(config, key) AS b
$$;
COMMENT ON FUNCTION monitoring.mail_addresses(jsonb, text) IS 'Addresses of a config as the value of a header, one a line; null: there are none.';

CREATE FUNCTION monitoring.mail_part(content_type text, content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'Content-Type: ' || content_type || E'; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n'
	|| pg_catalog.replace(pg_catalog.encode(monitoring.utf8_bytes(pg_catalog.replace(content, E'\n', E'\r\n')), 'base64'), E'\n', E'\r\n') || E'\r\n';
COMMENT ON FUNCTION monitoring.mail_part(text, text) IS 'A part of a message of several parts.';

CREATE FUNCTION monitoring.mail_html(config jsonb, message jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT '<!DOCTYPE html><html><head><meta charset="utf-8"></head><body style="font-family:sans-serif;font-size:14px;color:#202124">'
		|| '<div style="border-left:6px solid ' || monitoring.hex_colour((message ->> 'colour')::integer) || ';padding-left:12px">'
		|| '<h2 style="margin:0 0 12px">' || monitoring.message_title(config, message, 'html', 1000) || '</h2>'
		|| (SELECT coalesce(string_agg('<p>' || replace(t.text, E'\n', '<br>') || '</p>', '' ORDER BY t.n), '')
			FROM unnest(monitoring.message_texts(CASE WHEN config ? 'html' THEN config || jsonb_build_object('text', config -> 'html') ELSE config - 'text' END,
				message, 'html', 10000, 100000)) WITH ORDINALITY AS t (text, n))
		|| '</div><p style="color:#5f6368;font-size:12px">' || monitoring.escape_text(concat_ws(' | ', message ->> 'status', message ->> 'severity',
			message ->> 'reason', message ->> 'group'), 'html', 1000) || '</p></body></html>'
$$;
COMMENT ON FUNCTION monitoring.mail_html(jsonb, jsonb) IS 'A message as HTML.';

CREATE FUNCTION monitoring.format_email(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 50);
	sender text := (SELECT b.address FROM monitoring.config_mailboxes(config, 'from') AS b);
	domain text := split_part(sender, '@', 2);
	thread text := '<group.' || left(monitoring.group_hash(notification), 32) || '@' || domain || '>';
	boundary text := 'monitoring-' || md5(coalesce(notification ->> 'idempotencyKey', ''));
	title text := monitoring.message_title(config, message, 'text', 200);
	texts text[] := monitoring.message_texts(config, message, 'text', 10000, 60000);
BEGIN
	RETURN QUERY SELECT 'SMTP', monitoring.base_url(receiver, NULL),
		jsonb_build_object('From', sender, 'To', (SELECT jsonb_agg(DISTINCT b.address)
			FROM unnest('{to,cc,bcc}'::text[]) AS k CROSS JOIN LATERAL monitoring.config_mailboxes(config, k) AS b)),
		concat_ws(E'\r\n',
			'From: ' || monitoring.mail_addresses(config, 'from'),
			'To: ' || coalesce(monitoring.mail_addresses(config, 'to'), 'undisclosed-recipients:;'),
			'Cc: ' || monitoring.mail_addresses(config, 'cc'),
			'Reply-To: ' || monitoring.mail_addresses(config, 'reply_to'),
			'Subject: ' || monitoring.encode_words(title),
			'Date: ' || to_char(coalesce((notification ->> 'now')::timestamptz, clock_timestamp()) AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS') || ' +0000',
			-- the same in every attempt: a server may drop repeats
			'Message-ID: <' || regexp_replace(coalesce(notification ->> 'idempotencyKey', ''), '[^A-Za-z0-9-]', '', 'g') || '.' || coalesce(notification ->> 'id', '0') || '@' || domain || '>',
			'In-Reply-To: ' || thread, 'References: ' || thread,
			'Auto-Submitted: auto-generated', 'X-Auto-Response-Suppress: All', 'Precedence: bulk',
			CASE WHEN message ->> 'severity' IN ('critical', 'high') AND message ->> 'status' = 'firing' THEN 'Importance: high' END,
			'MIME-Version: 1.0', E'Content-Type: multipart/alternative;\r\n boundary="' || boundary || '"', '',
			'--' || boundary, monitoring.mail_part('text/plain', array_to_string(title || texts, E'\n\n') || E'\n')
				|| '--' || boundary || E'\r\n' || monitoring.mail_part('text/html', monitoring.mail_html(config, message))
				|| '--' || boundary || '--', '');
END $$;
COMMENT ON FUNCTION monitoring.format_email(jsonb, jsonb) IS 'Formatter of the kind email: a message with text and HTML; messages about a group are a thread.';

CREATE FUNCTION monitoring.check_email(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	k text;
BEGIN
	PERFORM monitoring.check_templates(config);
	FOREACH k IN ARRAY '{from,to,cc,bcc,reply_to}'::text[] LOOP
		IF config ? k AND (jsonb_typeof(config -> k) NOT IN ('string', 'array')
			OR jsonb_path_exists(config -> k, 'lax $[*] ? (@.type() != "string")')) THEN
			RAISE EXCEPTION 'key "%" in the receiver''s config must be a text or an array of texts', k USING ERRCODE = 'invalid_parameter_value';
		ELSIF k = 'from' AND (SELECT count(*) FROM monitoring.config_mailboxes(config, k)) <> 1
			OR k = 'to' AND NOT EXISTS (SELECT FROM monitoring.config_mailboxes(config, k))
			OR k <> 'from' AND (SELECT count(*) FROM monitoring.config_mailboxes(config, k)) > 100 THEN
			RAISE EXCEPTION 'key "%" in the receiver''s config needs %', k, CASE k WHEN 'from' THEN 'one e-mail address' ELSE '1 to 100 e-mail addresses' END
				USING ERRCODE = 'invalid_parameter_value', HINT = 'Write them as in ops@example.com, "Doe, Ann" <ann@example.com>.';
		END IF;
	END LOOP;
END $$;
COMMENT ON FUNCTION monitoring.check_email(jsonb) IS 'Check of a config of the kind email.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, schemes, config_check, description, builtin) VALUES
	('email', 'monitoring.format_email', '{from,to,cc,bcc,reply_to,title,text,html,username,starttls}', '{password}', '{smtp,smtps}', 'monitoring.check_email',
		'e-mail of text and HTML', true);
