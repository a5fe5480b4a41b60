\echo Use "CREATE EXTENSION monitoring" to load this file. \quit

-- core: what every slice builds on.

COMMENT ON SCHEMA monitoring IS 'Metrics, alerts and server insight. Units are seconds, bytes and ratios 0..1; times are UTC.';
