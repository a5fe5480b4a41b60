/*-------------------------------------------------------------------------
 *
 * sketch.h
 *	  The SQL side of sketches: what other slices may use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MONITORING_SKETCH_H
#define MONITORING_SKETCH_H

#include "core/core.h"
#include "sketch/expo_sketch.h"

/* Allocator over the current memory context at the time of mon_palloc_allocator(). */
extern ExpoAllocator mon_palloc_allocator(MemoryContext cxt);

/* A monitoring.sketch datum (a varlena holding the encoded form), palloc'd. */
extern Datum mon_sketch_datum(const ExpoSketch *s);

#endif /* MONITORING_SKETCH_H */
