/*-------------------------------------------------------------------------
 *
 * seasonal_test.c
 *	  Unit tests of the scores behind anomaly rules, as TAP: against a plain
 *	  computation by sorting, at the edges, and by how often they are wrong on
 *	  generated series.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "alerts/seasonal.h"
#include "random_tap.h"

/* As rules have it by default. */
#define SEASONS 8
#define POINTS 3
#define THRESHOLD 3.25
#define MAX_PLACES 49
#define MAX_WEEK 2016

#define MAX_VALUES (SEASONS * MAX_PLACES)

/* Windows of a week, and those looked at before and after the one in question. */
typedef struct Layout
{
	const char *name;
	int week;
	int reach;
} Layout;

static const Layout five_minutes = {"5 minutes", MAX_WEEK, 24};
static const Layout an_hour = {"an hour", 168, 6};

/* ---- a plain computation ---- */

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
plain_median(const double *v, int n)
{
	double copy[MAX_VALUES];

	memcpy(copy, v, sizeof(double) * n);
	qsort(copy, n, sizeof(double), by_value);
	return n % 2 ? copy[n / 2] : (copy[n / 2 - 1] + copy[n / 2]) / 2;
}

/* Past values at a place, without those of one season (-1: with all). */
static int
past_values(const SeasonalData *d, int place, int without, double *v)
{
	int n = 0;

	for (int s = 0; s < d->seasons; s++)
		if (s != without && !isnan(d->past[s * d->places + place]))
			v[n++] = d->past[s * d->places + place];
	return n;
}

static bool
plain_score(const SeasonalData *d, SeasonalScore *out)
{
	double v[MAX_VALUES], r[MAX_VALUES], z[MAX_VALUES], size[MAX_VALUES];
	int n = 0, nz = 0;
	double sum = 0, spread, floor;

	out->seasons = past_values(d, d->places / 2, -1, v);
	if (isnan(d->now[d->points - 1]) || out->seasons < 2)
		return false;
	out->value = d->now[d->points - 1];
	out->expected = plain_median(v, out->seasons);
	for (int place = 0; place < d->places; place++)
		for (int s = 0; s < d->seasons; s++)
		{
			double x = d->past[s * d->places + place];
			int others = past_values(d, place, s, v);

			if (!isnan(x) && others > 0)
				r[n++] = fabs(x - plain_median(v, others));
		}
	out->residuals = n;
	spread = 1.482602218505602 * plain_median(r, n);
	if (spread == 0)
	{
		for (int i = 0; i < n; i++)
			sum += r[i];
		spread = 1.2533141373155 * sum / n;
	}
	for (int i = 0; i < d->points; i++)
	{
		int known = past_values(d, d->places / 2 - (d->points - 1 - i), -1, v);
		double expected;

		if (isnan(d->now[i]) || known < 2)
			continue;
		expected = plain_median(v, known);
		floor = 0.01 * fabs(expected);
		if (d->event > 0 && sqrt(fmax(fabs(expected), d->event) * d->event) > floor)
			floor = sqrt(fmax(fabs(expected), d->event) * d->event);
		z[nz] = d->now[i] == expected ? 0 : (d->now[i] - expected) / fmax(spread, floor);
		z[nz] = z[nz] > 1000 ? 1000 : z[nz] < -1000 ? -1000 : z[nz];
		size[nz] = fabs(z[nz]);
		nz++;
	}
	if (nz <= d->points / 2)
		return false;
	qsort(size, nz, sizeof(double), by_value);
	out->score = 0;
	for (int i = 0; i < nz; i++)
	{
		if (nz > 1 && fabs(z[i]) > 2 * size[nz - 2])
			z[i] = z[i] > 0 ? 2 * size[nz - 2] : -2 * size[nz - 2];
		out->score += z[i] / nz;
	}
	floor = 0.01 * fabs(out->expected);
	if (d->event > 0 && sqrt(fmax(fabs(out->expected), d->event) * d->event) > floor)
		floor = sqrt(fmax(fabs(out->expected), d->event) * d->event);
	out->spread = fmax(spread, floor);
	return true;
}

static bool
close_to(double a, double b)
{
	return fabs(a - b) <= 1e-9 * fmax(1, fmax(fabs(a), fabs(b)));
}

static bool
score(SeasonalData *d, SeasonalScore *out)
{
	double *work = malloc(sizeof(double) * d->seasons * (d->places + 1));
	bool known;

	memset(out, 0, sizeof(*out));
	known = seasonal_score(d, work, out);
	free(work);
	return known;
}

static void
test_median(void)
{
	bool good = true;

	for (int i = 0; i < 20000; i++)
	{
		double v[40], copy[40];
		int n = 1 + next_random() % 40;

		for (int j = 0; j < n; j++)
			v[j] = i % 2 ? normal() : (double) (next_random() % 5);
		memcpy(copy, v, sizeof(v));
		good &= close_to(seasonal_median(v, n), plain_median(copy, n));
	}
	ok(good, "medians are those of sorted values, with and without ties");
}

static void
test_against_plain(void)
{
	bool good = true;
	int known = 0;

	for (int i = 0; i < 20000; i++)
	{
		double past[7 * 11], now[4];
		SeasonalData d = {2 + next_random() % 6, 1 + 2 * (next_random() % 6), 1, 0, 0, past, now};
		double unknown = uniform() / 2;
		int kind = next_random() % 3;
		SeasonalScore mine, plain = {0};
		bool have;

		d.points = 1 + next_random() % ((d.places + 1) / 2 < 4 ? (d.places + 1) / 2 : 4);
		for (int j = 0; j < d.seasons * d.places; j++)
			past[j] = uniform() < unknown ? NAN
				: kind == 0               ? normal()
				: kind == 1               ? 5
										  : (double) (next_random() % 3);
		for (int j = 0; j < d.points; j++)
			now[j] = uniform() < unknown ? NAN : normal() * 10;
		have = score(&d, &mine);
		known += have;
		if (have != plain_score(&d, &plain))
			good = false;
		else if (have)
			good &= close_to(mine.value, plain.value) && close_to(mine.expected, plain.expected) &&
				close_to(mine.spread, plain.spread) && close_to(mine.score, plain.score) &&
				mine.seasons == plain.seasons && mine.residuals == plain.residuals;
	}
	ok(good && known > 5000, "scores are those of a plain computation, with values missing");
}

/* ---- edges ---- */

static SeasonalScore
score_of(int seasons, int places, int points, double event, int silent, const double *past,
		 const double *now)
{
	double p[64], n[8];
	SeasonalData d = {seasons, places, points, event, silent, p, n};
	SeasonalScore s;

	memcpy(p, past, sizeof(double) * seasons * places);
	memcpy(n, now, sizeof(double) * points);
	if (!score(&d, &s))
		s.score = NAN;
	return s;
}

static void
test_edges(void)
{
	const double flat[6] = {10, 10, 10, 10, 10, 10};
	const double none[6] = {NAN, NAN, NAN, NAN, NAN, NAN};
	const double zeroes[6] = {0};
	const double one_missing[6] = {NAN, NAN, NAN, 10, 10, 10};
	const double spread_out[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
	const double rise[3] = {0, 0, 40};
	const double lasting[3] = {0, 40, 40};
	SeasonalScore s;

	ok(score_of(2, 3, 1, 0, 0, flat, (double[]){10}).score == 0, "a constant that stays");
	ok(close_to(score_of(2, 3, 1, 0, 0, flat, (double[]){10.5}).score, 5),
	   "of a constant one per cent is a spread");
	ok(score_of(2, 3, 1, 0, 0, zeroes, (double[]){1e-300}).score == SEASONAL_MAX_SCORE &&
		   score_of(2, 3, 1, 0, 0, zeroes, (double[]){-1}).score == -SEASONAL_MAX_SCORE,
	   "what never was is the largest score, not an infinite one");
	ok(isnan(score_of(2, 3, 1, 0, 0, none, (double[]){1}).score), "no past, no score");
	ok(isnan(score_of(2, 3, 1, 0, 0, one_missing, (double[]){1}).score),
	   "one past season, no score");
	ok(isnan(score_of(2, 3, 1, 0, 0, flat, (double[]){NAN}).score), "no value, no score");
	ok(isnan(score_of(2, 5, 3, 0, 0, (double[10]){0}, (double[]){NAN, NAN, 1}).score),
	   "one point of three, no score");

	ok(score_of(2, 3, 1, 1, 2, none, (double[]){NAN}).score == 0, "no events as ever");
	ok(close_to(score_of(2, 3, 1, 1, 2, none, (double[]){4}).score, 4),
	   "events where there were none: the spread is that of one");
	s = score_of(2, 3, 1, 1, 0, (double[]){NAN, NAN, NAN, 100, 100, 100}, (double[]){NAN});
	ok(s.seasons == 2 && s.expected == 50 && s.value == 0,
	   "silence since the oldest season with events is zero events");
	ok(isnan(score_of(2, 3, 1, 1, 1, none, (double[]){4}).score),
	   "silence before the group was known is no history");

	s = score_of(2, 5, 3, 0, 0, (double[]){0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, rise);
	ok(fabs(s.score) < 2 && s.value == 40, "one point that stands out is no anomaly");
	s = score_of(2, 5, 3, 0, 0, (double[]){0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, lasting);
	ok(s.score > 10, "two are");

	s = score_of(1, 9, 1, 0, 0, spread_out, (double[]){5 + 1.482602218505602 * 2 * 3});
	ok(s.expected == 5 && close_to(s.score, 3) && s.residuals == 9,
	   "without seasons all past windows are alike");
}

/* ---- how often it is wrong ---- */

typedef enum Noise
{
	WHITE,
	CORRELATED, /* each value is 0.8 of the last one's noise and new noise */
	HEAVY,      /* Student's t with four degrees of freedom */
	LEVEL,      /* a tenth of the level */
	EVENTS,     /* counts of independent events */
	SPIKES,     /* white, and a job that runs every hour */
} Noise;

static const struct
{
	const char *name;
	double least_detected; /* share of shifts of 5 sigma found at the third point */
} noises[] = {
	{"white noise", 0.97}, {"autocorrelated noise", 0.85},
	{"heavy tails", 0.97}, {"noise of the level", 0.85},
	{"events", 0.95},      {"an hourly job", 0.97},
};

/* The level at a time, in weeks: days and weeks that differ, with a second hump a day. */
static double
level(double weeks)
{
	double day = 6.283185307179586 * 7 * weeks;

	return 200 + 80 * sin(day) + 20 * sin(2 * day) + 30 * sin(day / 7);
}

static double
poisson(double mean)
{
	double p = exp(-mean), sum = p, u = uniform();
	int k = 0;

	while (u > sum && k < 1000)
		sum += p *= mean / ++k;
	return k;
}

/* The standard deviation of the noise. */
static double
sigma(Noise kind, double weeks)
{
	return kind == LEVEL ? level(weeks) / 10 : kind == EVENTS ? sqrt(level(weeks)) : 10;
}

static void
generate(const Layout *l, Noise kind, double *x, int n)
{
	double last = 0;

	for (int i = 0; i < n; i++)
	{
		double weeks = (double) i / l->week;
		double noise = normal();

		if (kind == EVENTS)
		{
			x[i] = poisson(level(weeks));
			continue;
		}
		if (kind == CORRELATED)
			last = noise = 0.8 * last + 0.6 * noise;
		else if (kind == HEAVY)
		{
			double squares = 0;

			for (int j = 0; j < 4; j++)
			{
				double g = normal();

				squares += g * g;
			}
			noise /= sqrt(squares / 4) * sqrt(2);
		}
		x[i] = level(weeks) + sigma(kind, weeks) * noise +
			(kind == SPIKES && i % 12 == 0 ? 150 : 0);
	}
}

/* The score at t, as a rule gets it. */
static double
score_at(const Layout *l, const double *x, int t, Noise kind)
{
	static double past[MAX_VALUES], work[MAX_VALUES + SEASONS], now[POINTS];
	int places = 2 * l->reach + 1;
	SeasonalData d = {SEASONS, places, POINTS, kind == EVENTS, 0, past, now};
	SeasonalScore s;

	for (int season = 0; season < SEASONS; season++)
		memcpy(past + season * places, x + t - (season + 1) * l->week - l->reach,
			   sizeof(double) * places);
	memcpy(now, x + t - POINTS + 1, sizeof(now));
	return seasonal_score(&d, work, &s) ? s.score : 0;
}

/* Is a shift of 5 sigma that begins at t found by the third point? */
static bool
finds_shift(const Layout *l, double *x, int t, Noise kind)
{
	double sign = next_random() % 2 ? 1 : -1;
	double saved[POINTS];
	bool found = false;

	memcpy(saved, x + t, sizeof(saved));
	for (int i = 0; i < POINTS; i++)
		x[t + i] += sign * 5 * sigma(kind, (double) (t + i) / l->week);
	for (int i = 0; i < POINTS; i++)
		found |= fabs(score_at(l, x, t + i, kind)) > THRESHOLD;
	memcpy(x + t, saved, sizeof(saved));
	return found;
}

static void
test_rates(const Layout *l, Noise kind, int series)
{
	static double x[MAX_WEEK * (SEASONS + 2)];
	int length = l->week * (SEASONS + 2);
	int shifts = 400 / series;
	int false_points = 0, false_alerts = 0, found = 0;
	double points = series * l->week;
	char name[200];

	seed = 100 + kind;
	for (int i = 0; i < series; i++)
	{
		bool firing = false;

		generate(l, kind, x, length);
		for (int t = length - l->week; t < length; t++)
		{
			bool breach = fabs(score_at(l, x, t, kind)) > THRESHOLD;

			false_points += breach;
			false_alerts += breach && !firing;
			firing = breach;
		}
		for (int j = 0; j < shifts; j++)
			found += finds_shift(l, x, length - l->week + next_random() % (l->week - POINTS), kind);
	}
	snprintf(name, sizeof(name),
			 "windows of %s, %s: %.3f %% false points, %.2f false alerts a week, %.1f %% of shifts "
			 "found",
			 l->name, noises[kind].name, 100 * false_points / points,
			 (double) false_alerts / series, 100.0 * found / (series * shifts));
	ok(false_points < 0.05 * points && false_alerts < series &&
		   found >= noises[kind].least_detected * series * shifts,
	   name);
}

int
main(void)
{
	test_median();
	test_against_plain();
	test_edges();
	for (Noise kind = WHITE; kind <= SPIKES; kind++)
		test_rates(&five_minutes, kind, 10);
	for (Noise kind = WHITE; kind <= EVENTS; kind++)
		test_rates(&an_hour, kind, 40);
	printf("1..%d\n", tests);
	return failures != 0;
}
