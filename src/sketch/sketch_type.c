/*-------------------------------------------------------------------------
 *
 * sketch_type.c
 *	  The SQL type monitoring.sketch and what can be asked of one.
 *
 * A value of the type is a varlena with the encoded form of expo_codec.c.  Its
 * text is that in base64, its binary form the bytes themselves.  Whatever comes
 * from outside is decoded and encoded again, so that every stored sketch is in
 * the one canonical form and equality is a comparison of bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "sketch/sketch.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/base64.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "sketch/sketch_internal.h"

PG_FUNCTION_INFO_V1(mon_sketch_in);
PG_FUNCTION_INFO_V1(mon_sketch_out);
PG_FUNCTION_INFO_V1(mon_sketch_recv);
PG_FUNCTION_INFO_V1(mon_sketch_send);
PG_FUNCTION_INFO_V1(mon_sketch_eq);
PG_FUNCTION_INFO_V1(mon_sketch_ne);
PG_FUNCTION_INFO_V1(mon_sketch_hash);
PG_FUNCTION_INFO_V1(mon_sketch_hash_extended);
PG_FUNCTION_INFO_V1(mon_sketch_count);
PG_FUNCTION_INFO_V1(mon_sketch_sum);
PG_FUNCTION_INFO_V1(mon_sketch_avg);
PG_FUNCTION_INFO_V1(mon_sketch_min);
PG_FUNCTION_INFO_V1(mon_sketch_max);
PG_FUNCTION_INFO_V1(mon_sketch_stddev);
PG_FUNCTION_INFO_V1(mon_sketch_share_below);
PG_FUNCTION_INFO_V1(mon_sketch_percentile);
PG_FUNCTION_INFO_V1(mon_sketch_percentiles);
PG_FUNCTION_INFO_V1(mon_sketch_max_relative_error);

/* ---- memory ---- */

static void *
cxt_alloc(void *ctx, size_t size, size_t *actual)
{
	*actual = size;
	return MemoryContextAlloc((MemoryContext) ctx, size);
}

static void
cxt_free(void *ctx, void *ptr, size_t actual)
{
	pfree(ptr);
}

ExpoAllocator
mon_palloc_allocator(MemoryContext cxt)
{
	ExpoAllocator a = {cxt_alloc, cxt_free, cxt};

	return a;
}

/* ---- encoded and decoded ---- */

bytea *
mon_sketch_encode(const ExpoSketch *s)
{
	bytea *result = palloc(VARHDRSZ + expo_encoded_bound(s));

	SET_VARSIZE(result, VARHDRSZ + expo_encode(s, (uint8_t *) VARDATA(result)));
	return result;
}

Datum
mon_sketch_datum(const ExpoSketch *s)
{
	return PointerGetDatum(mon_sketch_encode(s));
}

void
mon_sketch_corrupt(void)
{
	ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED), errmsg("stored sketch is corrupt"));
}

ExpoSketch
mon_sketch_arg(FunctionCallInfo fcinfo, int argno)
{
	struct varlena *datum = PG_GETARG_VARLENA_PP(argno);
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);
	ExpoSketch s;
	size_t used;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	if (expo_decode(&s, (const uint8_t *) VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum), &used,
					&alloc) != EXPO_OK)
		mon_sketch_corrupt();
	PG_FREE_IF_COPY(datum, argno);
	return s;
}

/* ---- input and output ---- */

/* The canonical sketch of bytes from outside, or NULL if they are none. */
static bytea *
canonical(const char *data, size_t len)
{
	ExpoAllocator alloc = mon_palloc_allocator(CurrentMemoryContext);
	ExpoSketch s;
	size_t used;
	bytea *result;

	expo_init(&s, EXPO_DEFAULT_SCALE);
	if (expo_decode(&s, (const uint8_t *) data, len, &used, &alloc) != EXPO_OK)
		return NULL;
	result = used == len ? mon_sketch_encode(&s) : NULL;
	expo_free(&s, &alloc);
	return result;
}

Datum
mon_sketch_in(PG_FUNCTION_ARGS)
{
	const char *text = PG_GETARG_CSTRING(0);
	int len = (int) strlen(text);
	int size = pg_b64_dec_len(len);
	void *data = palloc(size + 1);
	bytea *result = NULL;

	size = pg_b64_decode(text, len, data, size);
	if (size >= 0)
		result = canonical(data, size);
	if (!result)
		ereport(ERROR, errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				errmsg("invalid input syntax for type %s", "monitoring.sketch"),
				errhint("A sketch is made by the aggregate monitoring.sketch(float8); its text is "
						"that of another sketch."));
	PG_RETURN_BYTEA_P(result);
}

Datum
mon_sketch_out(PG_FUNCTION_ARGS)
{
	struct varlena *datum = PG_GETARG_VARLENA_PP(0);
	const void *data = VARDATA_ANY(datum);
	int len = VARSIZE_ANY_EXHDR(datum);
	int size = pg_b64_enc_len(len);
	char *text = palloc(size + 1);

	size = pg_b64_encode(data, len, text, size);
	if (size < 0)
		elog(ERROR, "could not encode a sketch in base64");
	text[size] = '\0';
	PG_RETURN_CSTRING(text);
}

Datum
mon_sketch_recv(PG_FUNCTION_ARGS)
{
	StringInfo buf = (StringInfo) PG_GETARG_POINTER(0);
	int len = buf->len - buf->cursor;
	bytea *result = canonical(pq_getmsgbytes(buf, len), len);

	if (!result)
		ereport(ERROR, errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				errmsg("invalid binary representation of type %s", "monitoring.sketch"));
	PG_RETURN_BYTEA_P(result);
}

Datum
mon_sketch_send(PG_FUNCTION_ARGS)
{
	struct varlena *datum = PG_GETARG_VARLENA_PP(0);
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbytes(&buf, VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* ---- equality ---- */

static bool
same_bytes(FunctionCallInfo fcinfo)
{
	struct varlena *a = PG_GETARG_VARLENA_PP(0);
	struct varlena *b = PG_GETARG_VARLENA_PP(1);
	bool result = VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return result;
}

Datum
mon_sketch_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(same_bytes(fcinfo));
}

Datum
mon_sketch_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!same_bytes(fcinfo));
}

Datum
mon_sketch_hash(PG_FUNCTION_ARGS)
{
	struct varlena *datum = PG_GETARG_VARLENA_PP(0);
	Datum result = hash_any((unsigned char *) VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum));

	PG_FREE_IF_COPY(datum, 0);
	PG_RETURN_DATUM(result);
}

Datum
mon_sketch_hash_extended(PG_FUNCTION_ARGS)
{
	struct varlena *datum = PG_GETARG_VARLENA_PP(0);
	Datum result = hash_any_extended((unsigned char *) VARDATA_ANY(datum), VARSIZE_ANY_EXHDR(datum),
									 PG_GETARG_INT64(1));

	PG_FREE_IF_COPY(datum, 0);
	PG_RETURN_DATUM(result);
}

/* ---- scalars ---- */

Datum
mon_sketch_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) mon_sketch_arg(fcinfo, 0).count);
}

Datum
mon_sketch_sum(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(mon_sketch_arg(fcinfo, 0).sum);
}

Datum
mon_sketch_avg(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);

	if (s.count == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(s.sum / (double) s.count);
}

Datum
mon_sketch_min(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);

	if (s.count == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(s.min);
}

Datum
mon_sketch_max(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);

	if (s.count == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(s.max);
}

Datum
mon_sketch_max_relative_error(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);

	PG_RETURN_FLOAT8(expo_max_relative_error(&s));
}

/* ---- percentiles ---- */

void
mon_check_fraction(double q)
{
	if (!(q >= 0 && q <= 1))
		ereport(ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				errmsg("percentile value %g is not between 0 and 1", q),
				errhint("The 95th percentile is 0.95."));
}

Datum
mon_sketch_stddev(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);

	if (s.count == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(expo_stddev(&s));
}

Datum
mon_sketch_share_below(PG_FUNCTION_ARGS)
{
	ExpoSketch s = mon_sketch_arg(fcinfo, 0);
	double x = PG_GETARG_FLOAT8(1);

	if (isnan(x))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("x must not be NaN")));
	if (s.count == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8((double) expo_count_below(&s, x) / (double) s.count);
}

Datum
mon_sketch_percentile(PG_FUNCTION_ARGS)
{
	double q = PG_GETARG_FLOAT8(1);
	ExpoSketch s;

	mon_check_fraction(q);
	s = mon_sketch_arg(fcinfo, 0);
	if (s.count == 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(expo_quantile(&s, q));
}

/* The fractions that are not NULL; *n says how many. */
static double *
known_fractions(const Datum *elements, const bool *nulls, int nelements, int *n)
{
	double *q = palloc(sizeof(double) * Max(nelements, 1));

	*n = 0;
	for (int i = 0; i < nelements; i++)
		if (!nulls[i])
		{
			q[*n] = DatumGetFloat8(elements[i]);
			mon_check_fraction(q[(*n)++]);
		}
	return q;
}

/* As percentile_disc with an array: the same dimensions, NULL where the fraction is. */
Datum
mon_sketch_percentiles(PG_FUNCTION_ARGS)
{
	ArrayType *fractions = PG_GETARG_ARRAYTYPE_P(1);
	Datum *elements;
	bool *nulls;
	int nelements;
	int n;
	double *q;
	double *values;
	ExpoSketch s;

	deconstruct_array(fractions, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &elements, &nulls, &nelements);
	q = known_fractions(elements, nulls, nelements, &n);
	s = mon_sketch_arg(fcinfo, 0);
	if (s.count == 0)
		PG_RETURN_NULL();
	if (nelements == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(FLOAT8OID));

	values = palloc(sizeof(double) * Max(n, 1));
	expo_quantiles(&s, q, n, values);
	n = 0;
	for (int i = 0; i < nelements; i++)
		if (!nulls[i])
			elements[i] = Float8GetDatum(values[n++]);
	PG_RETURN_ARRAYTYPE_P(construct_md_array(elements, nulls, ARR_NDIM(fractions),
											 ARR_DIMS(fractions), ARR_LBOUND(fractions), FLOAT8OID,
											 sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
