-- alerts, lifecycle: what people do with alerts (acknowledge, assign, note, snooze, dismiss, resolve), and everything
-- that happened to them.

