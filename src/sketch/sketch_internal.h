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

/* ereport(ERROR) for bytes of a table that are no sketch. */
pg_noreturn extern void mon_sketch_corrupt(void);

#endif /* SKETCH_INTERNAL_H */
