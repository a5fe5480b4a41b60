/*-------------------------------------------------------------------------
 *
 * seasonal_agg.c
 *	  The aggregate seasonal_score(): the windows of one group of series in, the
 *	  score of the latest ones out (seasonal.h).
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <math.h>

#include "alerts/seasonal.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"

#define MAX_WINDOWS 100000

static double *
unknown_values(MemoryContext cxt, int n)
{
	double *v = MemoryContextAlloc(cxt, sizeof(double) * n);

	for (int i = 0; i < n; i++)
		v[i] = NAN;
	return v;
}

/* Arguments after the state: season, place, value, seasons, places, points, event, silent */
static SeasonalData *
new_state(FunctionCallInfo fcinfo, MemoryContext cxt)
{
	SeasonalData *d = MemoryContextAlloc(cxt, sizeof(SeasonalData));

	d->seasons = PG_GETARG_INT32(4);
	d->places = PG_GETARG_INT32(5);
	d->points = PG_GETARG_INT32(6);
	d->event = PG_GETARG_FLOAT8(7);
	d->silent = Min(Max(PG_GETARG_INT32(8), 0), d->seasons);
	if (d->seasons < 1 || d->places < 1 || (int64) d->seasons * d->places > MAX_WINDOWS ||
		d->points < 1 || d->points > (d->places + 1) / 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a score needs at least one season and place, at most %d in all, and at "
						"most half as many points as places",
						MAX_WINDOWS)));
	d->past = unknown_values(cxt, d->seasons * d->places);
	d->now = unknown_values(cxt, d->points);
	return d;
}

PG_FUNCTION_INFO_V1(mon_seasonal_score_trans);
Datum
mon_seasonal_score_trans(PG_FUNCTION_ARGS)
{
	MemoryContext cxt;
	SeasonalData *d;
	int season, place;

	if (!AggCheckCallContext(fcinfo, &cxt))
		elog(ERROR, "mon_seasonal_score_trans called outside an aggregate");
	for (int i = 1; i <= 8; i++)
		if (i != 3 && PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("only the value of seasonal_score() may be null")));
	d = PG_ARGISNULL(0) ? new_state(fcinfo, cxt) : (SeasonalData *) PG_GETARG_POINTER(0);
	season = PG_GETARG_INT32(1);
	place = PG_GETARG_INT32(2);
	if (season < 0 || season > d->seasons || place < 0 ||
		place >= (season == 0 ? d->points : d->places))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no place %d in season %d", place, season)));
	if (!PG_ARGISNULL(3) && isfinite(PG_GETARG_FLOAT8(3)))
	{
		double value = PG_GETARG_FLOAT8(3);

		if (season == 0)
			d->now[place] = value;
		else
			d->past[(season - 1) * d->places + place] = value;
	}
	PG_RETURN_POINTER(d);
}

PG_FUNCTION_INFO_V1(mon_seasonal_score_final);
/* {value, expected, spread, score, seasons, residuals}, or NULL when too little is known */
Datum
mon_seasonal_score_final(PG_FUNCTION_ARGS)
{
	SeasonalData *d;
	SeasonalScore score;
	Datum values[6];

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	d = (SeasonalData *) PG_GETARG_POINTER(0);
	if (!seasonal_score(d, palloc(sizeof(double) * d->seasons * (d->places + 1)), &score))
		PG_RETURN_NULL();
	values[0] = Float8GetDatum(score.value);
	values[1] = Float8GetDatum(score.expected);
	values[2] = Float8GetDatum(score.spread);
	values[3] = Float8GetDatum(score.score);
	values[4] = Float8GetDatum(score.seasons);
	values[5] = Float8GetDatum(score.residuals);
	PG_RETURN_ARRAYTYPE_P(
		construct_array(values, 6, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
