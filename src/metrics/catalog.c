/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Entering metrics and series into the catalogs.
 *
 * Only a flush does that, so that nobody but flushes, one at a time, waits for
 * a row of another transaction there.  Who writes late rows may be prepared or
 * take hours: it announces their series in monitoring.late_series, which waits
 * for nobody, and the flush after its commit enters them.  Reads look there, too.
 *
 * Each announcement is made although the series is in the catalog: it may be
 * deleted before the late rows are committed, which are of after that, then.
 *
 * An announcement says how many late observations there are.  The flush counts
 * them: whatever becomes of the transaction, a prepared one too, the account
 * tells what was stored.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/catalog.h"
#include "core/transaction.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "metrics/levels.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Late observations that a subtransaction has entered, in TopTransactionContext. */
typedef struct Taken
{
	struct Taken *next;
	SubTransactionId subid;
	uint64 observations;
} Taken;

static Taken *taken = NULL;
static MonTransactionPart catalog_part;

/* ---- writing ---- */

/* Run a statement over entries: arrays of id, metric, kind, labels and observations. */
static void
execute_with_entries(const char *sql, const CatalogEntry *entries, int n)
{
	Oid types[5] = {INT8ARRAYOID, TEXTARRAYOID, INT2ARRAYOID, JSONBARRAYOID, INT8ARRAYOID};
	Datum values[5];
	Datum *column[5];

	for (int c = 0; c < 5; c++)
		column[c] = palloc_extended(sizeof(Datum) * n, MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		column[0][i] = Int64GetDatum(entries[i].series_id);
		column[1][i] = CStringGetTextDatum(entries[i].metric);
		column[2][i] = Int16GetDatum(entries[i].kind);
		column[3][i] = JsonbPGetDatum(entries[i].labels);
		column[4][i] = Int64GetDatum(entries[i].observations);
	}
	values[0] = PointerGetDatum(construct_array(column[0], n, INT8OID, 8, true, 'd'));
	values[1] = PointerGetDatum(construct_array(column[1], n, TEXTOID, -1, false, 'i'));
	values[2] = PointerGetDatum(construct_array(column[2], n, INT2OID, 2, true, 's'));
	values[3] = PointerGetDatum(construct_array(column[3], n, JSONBOID, -1, false, 'i'));
	values[4] = PointerGetDatum(construct_array(column[4], n, INT8OID, 8, true, 'd'));
	mon_storage_execute(sql, 5, types, values);
}

void
mon_catalog_write(const CatalogEntry *entries, int n)
{
	if (n == 0)
		return;
	execute_with_entries("WITH metrics AS (INSERT INTO monitoring.metric_catalog (metric, kind) "
						 "SELECT DISTINCT ON (m) m, k FROM unnest($2, $3) AS u(m, k) ORDER BY m "
						 "ON CONFLICT (metric) DO NOTHING) "
						 "INSERT INTO monitoring.series_catalog (series_id, metric, labels) "
						 "SELECT i, m, l FROM unnest($1, $2, $4) AS u(i, m, l) "
						 "ON CONFLICT (series_id) DO NOTHING",
						 entries, n);
}

void
mon_catalog_announce(const CatalogEntry *entries, int n)
{
	if (n == 0)
		return;
	execute_with_entries("INSERT INTO monitoring.late_series "
						 "(series_id, metric, kind, labels, observations) "
						 "SELECT i, m, k, l, o FROM unnest($1, $2, $3, $4, $5) AS u(i, m, k, l, o)",
						 entries, n);
}

bool
mon_catalog_announced(void)
{
	if (SPI_execute("SELECT FROM monitoring.late_series LIMIT 1", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read metrics");
	return SPI_processed > 0;
}

/* ---- the account ---- */

static void
add_taken(SubTransactionId subid, uint64 observations)
{
	Taken *t = taken;

	while (t && t->subid != subid)
		t = t->next;
	if (!t)
	{
		t = MemoryContextAllocZero(TopTransactionContext, sizeof(Taken));
		t->subid = subid;
		t->next = taken;
		taken = t;
		mon_transaction_join(&catalog_part);
	}
	t->observations += observations;
}

/* A subtransaction ended: what it entered is its parent's, or has gone. */
static void
catalog_at_subend(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid,
				  void *arg)
{
	if (event != SUBXACT_EVENT_PRE_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (Taken **link = &taken; *link; link = &(*link)->next)
	{
		Taken *t = *link;

		if (t->subid != mySubid)
			continue;
		*link = t->next;
		if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
			add_taken(parentSubid, t->observations);
		pfree(t);
		return;
	}
}

static void
catalog_at_end(XactEvent event, void *arg)
{
	MonDb *db;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (event == XACT_EVENT_COMMIT && (db = mon_registry_db(MyDatabaseId)) != NULL)
		for (Taken *t = taken; t; t = t->next)
		{
			pg_atomic_fetch_add_u64(&db->accepted, t->observations);
			pg_atomic_fetch_add_u64(&db->persisted, t->observations);
		}
	taken = NULL; /* it goes with the transaction */
}

void
mon_catalog_take_announced(void)
{
	bool isnull;
	Datum observations;

	if (!mon_catalog_announced())
		return;
	if (SPI_execute("WITH late AS (DELETE FROM monitoring.late_series RETURNING *), "
					"metrics AS (INSERT INTO monitoring.metric_catalog (metric, kind) "
					"SELECT DISTINCT ON (metric) metric, kind FROM late ORDER BY metric, seq "
					"ON CONFLICT (metric) DO NOTHING), "
					"series AS (INSERT INTO monitoring.series_catalog (series_id, metric, labels) "
					"SELECT DISTINCT ON (series_id) series_id, metric, labels FROM late "
					"ORDER BY series_id ON CONFLICT (series_id) DO NOTHING) "
					"SELECT sum(observations)::bigint FROM late",
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not enter series into the catalog");
	observations = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		add_taken(GetCurrentSubTransactionId(), DatumGetInt64(observations));
}

void
mon_catalog_init(void)
{
	mon_transaction_register(&catalog_part, catalog_at_end, catalog_at_subend);
}
