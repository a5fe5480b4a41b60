-- formatters, chat: slack, discord, teams, telegram.

CREATE FUNCTION monitoring.format_slack(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
	title text := monitoring.message_title(config, message, 'slack', 150);
	-- a section takes 3000 characters, a message 50 blocks
	texts text[] := monitoring.message_texts(config, message, 'slack', 3000, 30000);
	-- what notifications on a phone show
	fallback text := monitoring.message_title(config, message, 'slack', 200)
		|| coalesce(': ' || monitoring.escape_text(coalesce(message ->> 'text', message -> 'alerts' -> 0 ->> 'summary'), 'slack', 300, true), '');
BEGIN
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'),
		jsonb_build_object(
			'text', fallback,
			'blocks', jsonb_build_array(jsonb_build_object('type', 'header', 'text', jsonb_build_object('type', 'plain_text', 'text', title)))
				|| (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'section', 'text', jsonb_build_object('type', 'mrkdwn', 'text', t.text)) ORDER BY t.n), '[]')
					FROM unnest(texts) WITH ORDINALITY AS t (text, n)),
			'attachments', jsonb_build_array(jsonb_build_object('color', monitoring.hex_colour((message ->> 'colour')::integer),
				'blocks', jsonb_build_array(jsonb_build_object('type', 'context', 'elements', jsonb_build_array(jsonb_build_object(
					'type', 'mrkdwn', 'text', monitoring.escape_text(concat_ws(' | ', message ->> 'severity', message ->> 'status', message ->> 'reason',
						message ->> 'group'), 'slack', 500, true))))))))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_slack(jsonb, jsonb) IS 'Formatter of the kind slack: a message for an incoming webhook, with fall-back text, a header, a section for each of the first ten alerts, and the severity''s colour.';

CREATE FUNCTION monitoring.format_discord(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
BEGIN
	-- A title takes 256 characters, a description 4096, all of a message 6000.
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'),
		jsonb_strip_nulls(jsonb_build_object(
			'username', config ->> 'username', 'avatar_url', config ->> 'avatar_url',
			'embeds', jsonb_build_array(jsonb_build_object(
				'title', monitoring.message_title(config, message, 'discord', 256),
				'description', array_to_string(monitoring.message_texts(config, message, 'discord', 3000, 4000), E'\n\n'),
				'color', message -> 'colour',
				'url', monitoring.safe_link(message -> 'alerts' -> 0 ->> 'console_url'),
				'timestamp', message -> 'alerts' -> 0 ->> 'startsAt',
				'footer', jsonb_build_object('text', monitoring.escape_text(concat_ws(' | ', message ->> 'severity', message ->> 'status',
					message ->> 'reason', message ->> 'group'), 'text', 500, true)))),
			'allowed_mentions', '{"parse": []}'::jsonb))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_discord(jsonb, jsonb) IS 'Formatter of the kind discord: a message for a webhook with an embed in the severity''s colour; it mentions nobody, whatever the alert says.';

CREATE FUNCTION monitoring.check_discord(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	PERFORM monitoring.check_config_text(config, 'username', false, '^.{1,80}$', 'The name that messages are from has 1 to 80 characters.');
	PERFORM monitoring.check_config_text(config, 'avatar_url', false, '^https?://[!-~]+$', 'The address of a picture.');
END $$;
COMMENT ON FUNCTION monitoring.check_discord(jsonb) IS 'Check of a config of the kind discord.';

CREATE FUNCTION monitoring.format_teams(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
	room integer := 16000;
	result jsonb;
BEGIN
	-- A webhook takes 28 kB. An empty line is what breaks a line.
	LOOP
		result := jsonb_build_object('type', 'message', 'summary', monitoring.message_title(config, message, 'text', 200),
			'attachments', jsonb_build_array(jsonb_build_object(
				'contentType', 'application/vnd.microsoft.card.adaptive', 'contentUrl', NULL,
				'content', jsonb_build_object(
					'$schema', 'http://adaptivecards.io/schemas/adaptive-card.json', 'type', 'AdaptiveCard', 'version', '1.4',
					'msteams', '{"width": "Full"}'::jsonb,
					'body', jsonb_build_array(jsonb_build_object('type', 'TextBlock', 'size', 'Large', 'weight', 'Bolder', 'wrap', true,
							'color', CASE WHEN message ->> 'status' = 'resolved' THEN 'Good' WHEN message ->> 'severity' IN ('critical', 'high') THEN 'Attention'
								WHEN message ->> 'severity' = 'medium' THEN 'Warning' ELSE 'Accent' END,
							'text', monitoring.message_title(config, message, 'teams', 300)))
						|| (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'TextBlock', 'wrap', true, 'separator', true,
								'text', replace(t.text, E'\n', E'\n\n')) ORDER BY t.n), '[]')
							FROM unnest(monitoring.message_texts(config, message, 'teams', 5000, room)) WITH ORDINALITY AS t (text, n)),
					'actions', (SELECT coalesce(jsonb_agg(jsonb_build_object('type', 'Action.OpenUrl', 'title', left(l.value ->> 'text', 50), 'url', l.value ->> 'url') ORDER BY l.ordinality), '[]')
						FROM jsonb_array_elements(message -> 'alerts' -> 0 -> 'links') WITH ORDINALITY AS l)))));
		EXIT WHEN octet_length(result::text) <= 27000 OR room < 200;
		room := room / 2;
	END LOOP;
	RETURN QUERY SELECT 'POST', receiver ->> 'url',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'), result::text;
END $$;
COMMENT ON FUNCTION monitoring.format_teams(jsonb, jsonb) IS 'Formatter of the kind teams: an adaptive card for a webhook of Microsoft Teams (workflow or connector), at most 27,000 bytes.';

CREATE FUNCTION monitoring.format_telegram(receiver jsonb, notification jsonb)
RETURNS TABLE (method text, url text, headers jsonb, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	config jsonb := receiver -> 'config';
	message jsonb := monitoring.message(notification, 10);
	title text := monitoring.markup('html', 'bold', monitoring.message_title(config, message, 'html', 500));
BEGIN
	-- A text takes 4096 characters. Line ends are as they are, <br> is none.
	RETURN QUERY SELECT 'POST', monitoring.base_url(receiver, 'https://api.telegram.org') || '/bot' || monitoring.receiver_secret(receiver, 'bot_token') || '/sendMessage',
		monitoring.request_headers(receiver, notification, '{"Content-Type": "application/json"}'),
		jsonb_strip_nulls(jsonb_build_object('chat_id', config -> 'chat_id', 'message_thread_id', config -> 'message_thread_id',
			'disable_notification', config -> 'disable_notification', 'parse_mode', 'HTML',
			'link_preview_options', '{"is_disabled": true}'::jsonb,
			'text', array_to_string(title || monitoring.message_texts(config, message, 'html', 3000, 3500), E'\n\n')))::text;
END $$;
COMMENT ON FUNCTION monitoring.format_telegram(jsonb, jsonb) IS 'Formatter of the kind telegram: a message of a bot.';

CREATE FUNCTION monitoring.check_telegram(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	PERFORM monitoring.check_templates(config);
	IF config -> 'chat_id' IS NULL OR config ->> 'chat_id' !~ '^(-?[0-9]{1,20}|@[A-Za-z0-9_]{1,64})$' THEN
		RAISE EXCEPTION 'key "chat_id" in the receiver''s config is %', CASE WHEN config ? 'chat_id' THEN 'not valid' ELSE 'missing' END
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The number of a chat, or @name of a channel.';
	ELSIF config ->> 'message_thread_id' !~ '^[0-9]{1,18}$' THEN
		RAISE EXCEPTION 'key "message_thread_id" in the receiver''s config is not valid'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The number of a topic.';
	ELSIF config ? 'disable_notification' AND jsonb_typeof(config -> 'disable_notification') <> 'boolean' THEN
		RAISE EXCEPTION 'key "disable_notification" in the receiver''s config must be true or false' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END $$;
COMMENT ON FUNCTION monitoring.check_telegram(jsonb) IS 'Check of a config of the kind telegram.';

INSERT INTO monitoring.receiver_kinds (kind, function, config_keys, secret_keys, url_required, config_check, description, builtin) VALUES
	('slack', 'monitoring.format_slack', '{title,text}', '{}', true, 'monitoring.check_templates', 'message for a Slack incoming webhook', true),
	('discord', 'monitoring.format_discord', '{title,text,username,avatar_url}', '{}', true, 'monitoring.check_discord', 'message for a Discord webhook', true),
	('teams', 'monitoring.format_teams', '{title,text}', '{}', true, 'monitoring.check_templates', 'adaptive card for a Microsoft Teams webhook', true),
	('telegram', 'monitoring.format_telegram', '{chat_id,message_thread_id,disable_notification,title,text}', '{bot_token}', false,
		'monitoring.check_telegram', 'message of a Telegram bot', true);
