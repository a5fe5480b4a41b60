/*-------------------------------------------------------------------------
 *
 * sketch_internal.h
 *	  What the SQL type and the aggregates share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SKETCH_INTERNAL_H
#define SKETCH_INTERNAL_H

#include "sketch/sketch.h"

/* The encoded form as a varlena, palloc'd. */
extern bytea *mon_sketch_encode(const ExpoSketch *s);

/* The decoded form of a sketch argument, in the current memory context. */
extern ExpoSketch mon_sketch_arg(FunctionCallInfo fcinfo, int argno);

/* ereport(ERROR) unless 0 <= q <= 1. */
extern void mon_check_fraction(double q);

/* ereport(ERROR) for bytes of a table that are no sketch. */
pg_noreturn extern void mon_sketch_corrupt(void);

#endif /* SKETCH_INTERNAL_H */
