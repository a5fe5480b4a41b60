/*-------------------------------------------------------------------------
 *
 * compact.h
 *	  What the files that compact share.
 *
 * compact.c		 segments -> minutes -> chunks -> hourly -> daily
 * compact_late.c	 late rows -> chunks, and what holds these
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_COMPACT_H
#define METRICS_COMPACT_H

#include "metrics/chunk_rows.h"

#include "portability/instr_time.h"
#include "utils/hsearch.h"

typedef struct Compaction
{
	StorageState state;
	StorageState stored;      /* as it was at the beginning */
	instr_time began;         /* by the clock that does not step ... */
	int budget_ms;            /* ... stop this long after; 0 = never */
	MemoryContext cxt;        /* of one batch; the current context throughout */
	HTAB *deleted;            /* series deleted lately, or NULL */
	MemoryContext series_cxt; /* of one series */
	int64 rows;               /* written */
	int64 damaged;            /* left out of the current step */
} Compaction;

/* ---- compact.c ---- */

extern bool mon_compaction_out_of_time(const Compaction *c);
/* Tell what a step has left out. */
extern void mon_compaction_warn(Compaction *c, const char *table, TimestampTz since);
/*
 * Add the rows of one series and period from i on, and note those that could be
 * read in *added, if given; returns the next i.
 */
extern int mon_compaction_add_rows(Compaction *c, ChunkBuilder *b, const ChunkRows *rows, int i,
								   int64 id, ChunkRows *added);
/* The same with rows of the finer level, for the builder's period. */
extern int mon_compaction_add_finer(Compaction *c, ChunkBuilder *b, const ChunkRows *rows, int i,
									int64 id);
/* Add the encoded chunk, unless it is empty. */
extern void mon_compaction_add_built(ChunkRows *built, int64 id, ChunkBuilder *b);

/* ---- compact_late.c ---- */

/* Work late rows in, as many as there is time for. */
extern void mon_compact_late(Compaction *c);

#endif /* METRICS_COMPACT_H */
