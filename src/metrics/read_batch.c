/*-------------------------------------------------------------------------
 *
 * read_batch.c
 *	  read_values(): what series_values() gives, for many requests at once.
 *
 * Requests that differ in their function only share a read, and the reads of all
 * requests are made together (read.c).
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/read.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

/* The columns of monitoring.value_request. */
enum
{
	REQUEST_METRIC,
	REQUEST_FN,
	REQUEST_OVER,
	REQUEST_LABELS,
	REQUEST_BY,
	REQUEST_SHIFT,
	REQUEST_NCOLUMNS
};

/* What requests have in common that share a read. */
typedef struct ReadKey
{
	text *metric;
	Jsonb *labels;
	ArrayType *by;
	TimestampTz from, to;
	bool counts_series; /* that takes cells of its own */
} ReadKey;

typedef struct ReadEntry
{
	ReadKey key;
	ReadState *read;
	uint32 hash;
	char status;
} ReadEntry;

static inline uint32
hash_varlena(uint32 hash, const void *v)
{
	return hash_combine(hash,
						hash_bytes((const unsigned char *) VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v)));
}

static inline uint32
hash_key(ReadKey k)
{
	uint32 hash = hash_bytes_uint32((uint32) k.from ^ (uint32) k.to);

	return hash_varlena(hash_varlena(hash_varlena(hash, k.metric), k.labels), k.by);
}

static inline bool
same_varlena(const void *a, const void *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static inline bool
same_key(ReadKey a, ReadKey b)
{
	return a.from == b.from && a.to == b.to && a.counts_series == b.counts_series &&
		same_varlena(a.metric, b.metric) && same_varlena(a.labels, b.labels) &&
		same_varlena(a.by, b.by);
}

#define SH_PREFIX reads
#define SH_ELEMENT_TYPE ReadEntry
#define SH_KEY_TYPE ReadKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) hash_key(k)
#define SH_EQUAL(tb, a, b) same_key(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct Request
{
	ReadFn fn;
	TimestampTz at;
	ReadState *read;
} Request;

typedef struct RequestBatch
{
	TimestampTz at;
	Request *requests;
	int nrequests;
	int current; /* for messages */
	ReadState **reads;
	int nreads;
	reads_hash *index;
	Jsonb *no_labels;
	ArrayType *no_names;
} RequestBatch;

/* ---- requests ---- */

static void
request_context(void *arg)
{
	errcontext("request %d of read_values", ((RequestBatch *) arg)->current + 1);
}

static TimestampTz
shifted(TimestampTz at, Datum shift)
{
	mon_check_finite(at, "at");
	return DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(at), shift));
}

/* The read of requests like this one. */
static ReadState *
find_or_add_read(RequestBatch *b, const ReadKey *key, const ReadState *window)
{
	bool found;
	ReadEntry *entry = reads_insert(b->index, *key, &found);
	ReadState *read;

	if (found)
		return entry->read;
	read = palloc(sizeof(ReadState));
	*read = *window;
	mon_read_metric_name(read, key->metric, key->labels);
	read->by = key->by;
	read->fn.name = "";
	read->fn.metric_kinds = FOR_ALL; /* each request is checked by itself */
	read->fn.kind = key->counts_series ? FN_SERIES : FN_COUNT;
	b->reads[b->nreads++] = read;
	entry->read = read;
	return read;
}

static void
add_request(RequestBatch *b, Request *request, const Datum *values, const bool *nulls)
{
	ReadState window = {0};
	ReadKey key;

	if (nulls[REQUEST_METRIC] || nulls[REQUEST_FN] || nulls[REQUEST_OVER])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("metric, fn and over of a request must not be null")));
	mon_parse_fn(DatumGetTextPP(values[REQUEST_FN]), &request->fn);
	request->at = nulls[REQUEST_SHIFT] ? b->at : shifted(b->at, values[REQUEST_SHIFT]);
	mon_read_window(&window, DatumGetIntervalP(values[REQUEST_OVER]), request->at);

	key.metric = DatumGetTextPP(values[REQUEST_METRIC]);
	key.labels = nulls[REQUEST_LABELS] ? b->no_labels : DatumGetJsonbP(values[REQUEST_LABELS]);
	key.by = nulls[REQUEST_BY] ? b->no_names : DatumGetArrayTypeP(values[REQUEST_BY]);
	key.from = window.from;
	key.to = window.to;
	key.counts_series = request->fn.kind == FN_SERIES;
	request->read = find_or_add_read(b, &key, &window);
	request->read->fn.needs_sketch |= request->fn.needs_sketch;
	if (mon_fn_is_ordered(&request->fn))
		request->read->fn.kind = request->fn.kind;
}

static void
add_requests(RequestBatch *b, ArrayType *array)
{
	TupleDesc desc = lookup_rowtype_tupdesc(ARR_ELEMTYPE(array), -1);
	Datum *elements;
	bool *nulls;

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, 'd', &elements, &nulls, &b->nrequests);
	b->requests = palloc_extended(sizeof(Request) * (b->nrequests + 1), MCXT_ALLOC_HUGE);
	b->reads = palloc_extended(sizeof(ReadState *) * (b->nrequests + 1), MCXT_ALLOC_HUGE);
	b->index = reads_create(CurrentMemoryContext, Max(b->nrequests, 8), NULL);
	for (b->current = 0; b->current < b->nrequests; b->current++)
	{
		Datum columns[REQUEST_NCOLUMNS] = {0};
		bool isnull[REQUEST_NCOLUMNS] = {true, true, true, true, true, true};
		HeapTupleData tuple = {0};

		if (!nulls[b->current])
		{
			HeapTupleHeader header = DatumGetHeapTupleHeader(elements[b->current]);

			tuple.t_len = HeapTupleHeaderGetDatumLength(header);
			tuple.t_data = header;
			heap_deform_tuple(&tuple, desc, columns, isnull);
		}
		add_request(b, &b->requests[b->current], columns, isnull);
	}
	ReleaseTupleDesc(desc);
}

/* ---- results ---- */

/* A row; group NULL: the request has an error. */
static void
put_row(ReturnSetInfo *rsinfo, int request, const ReadGroup *group, double value,
		TimestampTz newest, const char *error)
{
	Datum values[5];
	bool nulls[5] = {false, !group, !group, !group, !error};

	values[0] = Int32GetDatum(request);
	values[1] = group ? JsonbPGetDatum(group->labels) : 0;
	values[2] = Float8GetDatum(value);
	values[3] = TimestampTzGetDatum(newest);
	values[4] = error ? CStringGetTextDatum(error) : 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_values(const RequestBatch *b, ReturnSetInfo *rsinfo)
{
	for (int i = 0; i < b->nrequests; i++)
	{
		const Request *request = &b->requests[i];
		const ReadState *read = request->read;
		char *problem = read->kind != 0
			? mon_fn_kind_problem(&request->fn, read->metric, read->kind)
			: NULL;

		CHECK_FOR_INTERRUPTS();
		if (problem)
		{
			put_row(rsinfo, i + 1, NULL, 0, 0, problem);
			continue;
		}
		for (int g = 0; g < read->ngroups; g++)
		{
			const ReadGroup *group = &read->groups[g];
			double value;

			if (group->cells && mon_fn_value(&request->fn, &group->cells[0], read->seconds, &value))
				put_row(rsinfo, i + 1, group, value, Min(group->newest, request->at), NULL);
		}
	}
}

PG_FUNCTION_INFO_V1(mon_read_values);
/* read_values(requests value_request[], at) -> (request, series_labels, value, newest, error) */
Datum
mon_read_values(PG_FUNCTION_ARGS)
{
	MonJsonbState empty = {0};
	RequestBatch b = {PG_GETARG_TIMESTAMPTZ(1)};
	ErrorContextCallback context = {error_context_stack, request_context, &b};

	mon_push_jsonb(&empty, WJB_BEGIN_OBJECT, NULL);
	mon_push_jsonb(&empty, WJB_END_OBJECT, NULL);
	b.no_labels = JsonbValueToJsonb(empty.result);
	b.no_names = construct_empty_array(TEXTOID);
	InitMaterializedSRF(fcinfo, 0);

	error_context_stack = &context;
	add_requests(&b, PG_GETARG_ARRAYTYPE_P(0));
	error_context_stack = context.previous;
	mon_read_batch(b.reads, b.nreads);
	put_values(&b, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
