/*-------------------------------------------------------------------------
 *
 * seasonal.c
 *	  Robust scores of the latest values of a series against past seasons.
 *
 * What is expected is the median of the past values at the same place.  The
 * spread is the median absolute deviation of past values from what the other
 * seasons would have had expected: it measures how well the past foretold
 * itself, so that growth and unsteady weeks widen it, while a few odd values do
 * not.
 *
 * The score is the mean over the latest points, of which one that stands out
 * counts twice the next one at most: a lasting change is found at the second or
 * third point, a single outlier is none.
 *
 *-------------------------------------------------------------------------
 */
#include "alerts/seasonal.h"

#include <math.h>
#include <stdlib.h>

#define MAD_TO_SD 1.482602218505602  /* of a normal distribution */
#define MEAN_TO_SD 1.253314137315500 /* the same for the mean absolute deviation */
#define LEAST_RELATIVE_SPREAD 0.01   /* smaller changes are of no interest */
#define OUTLIER_FACTOR 2

static int
compare(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/* The value of rank k, found without sorting all. */
static double
select_rank(double *v, int n, int k)
{
	int lo = 0;
	int hi = n - 1;

	while (lo < hi)
	{
		double pivot = v[lo + (hi - lo) / 2];
		int i = lo - 1;
		int j = hi + 1;

		for (;;)
		{
			double swap;

			while (v[++i] < pivot)
				;
			while (v[--j] > pivot)
				;
			if (i >= j)
				break;
			swap = v[i];
			v[i] = v[j];
			v[j] = swap;
		}
		if (k <= j)
			hi = j;
		else
			lo = j + 1;
	}
	return v[k];
}

double
seasonal_median(double *v, int n)
{
	double upper = select_rank(v, n, n / 2);

	/* what is left of it is no greater */
	return n % 2 ? upper : upper / 2 + select_rank(v, n, n / 2 - 1) / 2;
}

/* The median of sorted values without the one of rank `without`. */
static double
median_without(const double *sorted, int n, int without)
{
	int upper = (n - 1) / 2;
	int lower = (n - 2) / 2;

	upper += upper >= without;
	lower += lower >= without;
	return sorted[lower] / 2 + sorted[upper] / 2;
}

/* ---- what was expected ---- */

/* The known past values at a place, sorted. */
static int
sorted_place(const SeasonalData *d, int place, double *sorted)
{
	int n = 0;

	for (int s = 0; s < d->seasons; s++)
	{
		double v = d->past[s * d->places + place];

		if (!isnan(v))
			sorted[n++] = v;
	}
	qsort(sorted, n, sizeof(double), compare);
	return n;
}

/* Absolute deviations of each place's values from the median of the others. */
static int
seasonal_residuals(const SeasonalData *d, double *sorted, double *residuals)
{
	int n = 0;

	for (int place = 0; place < d->places; place++)
	{
		int known = sorted_place(d, place, sorted);

		for (int i = 0; known >= 2 && i < known; i++)
			residuals[n++] = fabs(sorted[i] - median_without(sorted, known, i));
	}
	return n;
}

static double
spread_of(double *residuals, int n)
{
	double spread = MAD_TO_SD * seasonal_median(residuals, n);
	double sum = 0;

	if (spread > 0)
		return spread;
	/* more than half are equal to what was expected */
	for (int i = 0; i < n; i++)
		sum += residuals[i] / n;
	return MEAN_TO_SD * sum;
}

/* Not less than what is of interest, nor than what chance makes of a number of events. */
static double
least_spread(const SeasonalData *d, double expected)
{
	double least = LEAST_RELATIVE_SPREAD * fabs(expected);

	return d->event > 0 ? fmax(least, sqrt(fmax(fabs(expected), d->event) * d->event)) : least;
}

static double
deviation(const SeasonalData *d, double value, double expected, double spread)
{
	double difference = value - expected;
	double score = difference / fmax(spread, least_spread(d, expected));

	if (difference == 0)
		return 0;
	return fmin(fmax(score, -SEASONAL_MAX_SCORE), SEASONAL_MAX_SCORE);
}

/* ---- the latest points ---- */

/* The mean of scores, of which the largest is cut down to twice the next one. */
static double
mean_score(double *scores, int n)
{
	int largest = 0;
	double next = 0;
	double sum = 0;

	for (int i = 1; i < n; i++)
		if (fabs(scores[i]) > fabs(scores[largest]))
			largest = i;
	for (int i = 0; i < n; i++)
		if (i != largest)
			next = fmax(next, fabs(scores[i]));
	if (n > 1 && fabs(scores[largest]) > OUTLIER_FACTOR * next)
		scores[largest] = copysign(OUTLIER_FACTOR * next, scores[largest]);
	for (int i = 0; i < n; i++)
		sum += scores[i] / n;
	return sum;
}

/* Where events are counted, none is a number too, since the group has been known. */
static void
fill_silence(SeasonalData *d)
{
	int known = d->silent;

	for (int i = d->seasons * d->places - 1; i >= 0 && known < d->seasons; i--)
		if (!isnan(d->past[i]))
		{
			known = i / d->places >= known ? i / d->places + 1 : known;
			break;
		}
	for (int i = 0; i < known * d->places; i++)
		if (isnan(d->past[i]))
			d->past[i] = 0;
	for (int i = 0; i < d->points; i++)
		if (isnan(d->now[i]))
			d->now[i] = 0;
}

/* What all past windows tell, where there are no seasons. */
static void
pooled_baseline(const SeasonalData *d, double *work, SeasonalScore *out)
{
	int n = 0;

	for (int i = 0; i < d->places; i++)
		if (!isnan(d->past[i]))
			work[n++] = d->past[i];
	out->seasons = n;
	out->residuals = n;
	if (n < 2)
		return;
	out->expected = seasonal_median(work, n);
	for (int i = 0; i < n; i++)
		work[i] = fabs(work[i] - out->expected);
	out->spread = spread_of(work, n);
}

/* What is expected at a place, and the number of values that it rests on. */
static int
expected_at(const SeasonalData *d, int place, double *scratch, double *expected)
{
	int n = sorted_place(d, place, scratch);

	if (n > 0)
		*expected = seasonal_median(scratch, n);
	return n;
}

bool
seasonal_score(SeasonalData *d, double *work, SeasonalScore *out)
{
	bool pooled = d->seasons == 1;
	int centre = d->places / 2;
	double *scratch = work + d->seasons * d->places;
	int n = 0;

	if (d->event > 0)
		fill_silence(d);
	out->value = d->now[d->points - 1];
	if (pooled)
		pooled_baseline(d, work, out);
	else
	{
		out->seasons = expected_at(d, centre, scratch, &out->expected);
		out->residuals = seasonal_residuals(d, scratch, work);
		if (out->residuals > 0)
			out->spread = spread_of(work, out->residuals);
	}
	if (isnan(out->value) || out->seasons < 2)
		return false;

	for (int i = 0; i < d->points; i++)
	{
		double expected = out->expected;

		if (isnan(d->now[i]) ||
			(!pooled && expected_at(d, centre - (d->points - 1 - i), scratch, &expected) < 2))
			continue;
		work[n++] = deviation(d, d->now[i], expected, out->spread);
	}
	out->spread = fmax(out->spread, least_spread(d, out->expected));
	/* a point alone would count in full */
	if (n <= d->points / 2)
		return false;
	out->score = mean_score(work, n);
	return true;
}
