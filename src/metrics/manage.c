/*-------------------------------------------------------------------------
 *
 * manage.c
 *	  Looking into stored metrics, and what deleting needs of memory.
 *
 *-------------------------------------------------------------------------
 */
#include "core/transaction.h"
#include "metrics/levels.h"
#include "metrics/segment_codec.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sketch/sketch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

/* Series to be taken out of memory at commit; in TopTransactionContext. */
static int64 *forgotten = NULL;
static int nforgotten = 0;
static MonTransactionPart manage_part;

PG_FUNCTION_INFO_V1(mon_flush_before_delete);
/* flush_before_delete() returns bigint: number of the flush */
Datum
mon_flush_before_delete(PG_FUNCTION_ARGS)
{
	StorageState state;

	mon_require_preload();
	PreventCommandIfReadOnly("deleting metrics");
	PreventCommandDuringRecovery("deleting metrics");
	mon_lock_storage(LOCK_COMPACT, true);
	mon_flush_now(true, false);
	mon_latest_storage_state(&state);
	PG_RETURN_INT64(state.seq);
}

PG_FUNCTION_INFO_V1(mon_forget_series);
/* forget_series(series_ids bigint[]) */
Datum
mon_forget_series(PG_FUNCTION_ARGS)
{
	ArrayType *ids = PG_GETARG_ARRAYTYPE_P(0);
	Datum *elems;
	int n;

	deconstruct_array(ids, INT8OID, 8, true, 'd', &elems, NULL, &n);
	if (n == 0)
		PG_RETURN_VOID();
	mon_transaction_join(&manage_part);
	if (!forgotten)
		forgotten = MemoryContextAllocExtended(TopTransactionContext, sizeof(int64) * n,
											   MCXT_ALLOC_HUGE);
	else
		forgotten = repalloc_huge(forgotten, sizeof(int64) * ((Size) nforgotten + n));
	for (int i = 0; i < n; i++)
	{
		forgotten[nforgotten++] = DatumGetInt64(elems[i]);
		mon_registry_unpersist_series(DatumGetInt64(elems[i]));
	}
	PG_RETURN_VOID();
}

static void
manage_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && nforgotten > 0)
	{
		for (int i = 0; i < nforgotten; i++)
			mon_registry_forget_series(forgotten[i]);
		mon_registry_bump_kind_tick();
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		forgotten = NULL;
		nforgotten = 0;
	}
}

void
mon_manage_init(void)
{
	mon_transaction_register(&manage_part, manage_at_end, NULL);
}

/* ---- looking into rows ---- */

PG_FUNCTION_INFO_V1(mon_segment_entries);
/* segment_entries(directory bytea, points bytea) -> (series_id, bytes) */
Datum
mon_segment_entries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bytea *directory = PG_GETARG_BYTEA_PP(0);
	SegmentReader r;

	InitMaterializedSRF(fcinfo, 0);
	if (!mon_segment_try_open(&r, VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory),
							  toast_raw_datum_size(PG_GETARG_DATUM(1)) - VARHDRSZ))
		return (Datum) 0;
	for (int i = 0; i < r.nseries; i++)
	{
		int64 id;
		uint32 offset, end;
		Datum values[2];
		bool nulls[2] = {false, false};

		if (!mon_segment_try_entry(&r, i, &id, &offset, &end))
			continue;
		values[0] = Int64GetDatum(id);
		values[1] = Int32GetDatum(end - offset + SEGMENT_DIRECTORY_ENTRY);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(mon_segment_is_sound);
/* segment_is_sound(directory bytea, points bytea) */
Datum
mon_segment_is_sound(PG_FUNCTION_ARGS)
{
	bytea *directory = PG_GETARG_BYTEA_PP(0);
	bytea *points = PG_GETARG_BYTEA_PP(1);
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);
	SegmentReader r;
	int64 previous = PG_INT64_MIN;
	bool sound = mon_segment_try_open(&r, VARDATA_ANY(directory), VARSIZE_ANY_EXHDR(directory),
									  VARSIZE_ANY_EXHDR(points));

	for (int i = 0; sound && i < r.nseries; i++)
	{
		int64 id;
		uint32 offset, end;
		MonPoint p;

		CHECK_FOR_INTERRUPTS();
		sound = mon_segment_try_entry(&r, i, &id, &offset, &end) && (i == 0 || id > previous) &&
			mon_segment_try_decode(VARDATA_ANY(points) + offset, end - offset, 0, &p, &alloc);
		if (sound)
			expo_free(&p.sketch, &alloc);
		previous = id;
	}
	PG_RETURN_BOOL(sound);
}

PG_FUNCTION_INFO_V1(mon_chunk_points);
/* chunk_points(data bytea) returns int, NULL when it is corrupt */
Datum
mon_chunk_points(PG_FUNCTION_ARGS)
{
	bytea *data = PG_GETARG_BYTEA_PP(0);
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);
	ChunkPoint points[CHUNK_MAX_UNITS];
	int n = 0, kind;
	int rc = chunk_decode((uint8_t *) VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), true, points, &n,
						  &kind, &alloc);

	for (int i = 0; i < n; i++)
		expo_free(&points[i].sketch, &alloc);
	if (rc != EXPO_OK)
		PG_RETURN_NULL();
	PG_RETURN_INT32(n);
}
