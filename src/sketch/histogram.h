/*-------------------------------------------------------------------------
 *
 * histogram.h
 *	  What the conversions from histograms of other systems share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SKETCH_HISTOGRAM_H
#define SKETCH_HISTOGRAM_H

#include "sketch/sketch.h"

/* What is read, for its error messages. */
typedef struct MonHistogramFormat
{
	const char *name;
	const char *hint;
} MonHistogramFormat;

pg_noreturn extern void mon_invalid_histogram(const MonHistogramFormat *f, const char *detail);
pg_noreturn extern void mon_histogram_out_of_range(const MonHistogramFormat *f, const char *detail);

#endif /* SKETCH_HISTOGRAM_H */
