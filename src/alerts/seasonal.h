/*-------------------------------------------------------------------------
 *
 * seasonal.h
 *	  How unusual the latest values of a series are, in plain C without server
 *	  headers, so that it is tested without a server.
 *
 * Time is cut into windows of equal length.  A past season gives `places`
 * windows around the time of day (or week) in question; the latest `points`
 * windows are compared with those at the same places.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ALERTS_SEASONAL_H
#define ALERTS_SEASONAL_H

#include <stdbool.h>

#define SEASONAL_MAX_SCORE 1000

typedef struct SeasonalData
{
	int seasons;  /* past ones; 1: no seasons, all past windows are alike */
	int places;   /* windows per season; odd, the one in the middle is that of the latest window */
	int points;   /* latest windows, at most half of the places */
	double event; /* what one event adds to a value that counts events; 0: it counts none */
	int silent;   /* of a value that counts events: past seasons of which unknown means none */
	double *past; /* seasons * places, season by season; NaN: unknown */
	double *now;  /* points, the latest one last; NaN: unknown */
} SeasonalData;

typedef struct SeasonalScore
{
	double value;    /* the latest */
	double expected; /* what it usually is then */
	double spread;   /* how far values usually are from what is expected, as a standard deviation */
	double score;    /* deviation in spreads, over the latest points */
	int seasons;     /* past values that `expected` rests on */
	int residuals;   /* past deviations that `spread` rests on */
} SeasonalScore;

/*
 * False when too little is known: not the latest value and most of the points, or
 * fewer than two past values at their places.  `work` has room for seasons *
 * (places + 1) doubles.  Unknown values that are none become zero in `d`.
 */
extern bool seasonal_score(SeasonalData *d, double *work, SeasonalScore *out);

/* The middle of n >= 1 values, which are reordered. */
extern double seasonal_median(double *v, int n);

#endif /* ALERTS_SEASONAL_H */
