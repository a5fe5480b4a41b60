/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  Entering metrics and series into the catalogs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_CATALOG_H
#define METRICS_CATALOG_H

#include "metrics/metrics_internal.h"

typedef struct CatalogEntry
{
	int64 series_id;
	const char *metric;
	MonMetricKind kind;
	const Jsonb *labels;
	int64 observations; /* late ones; see catalog.c */
} CatalogEntry;

extern void mon_catalog_init(void);

/* All of these between SPI_connect() and SPI_finish(). */

/* Enter series unless they are there.  Flush lock held. */
extern void mon_catalog_write(const CatalogEntry *entries, int n);
/* Leave the series of late rows to the next flush. */
extern void mon_catalog_announce(const CatalogEntry *entries, int n);
/* Whether any are announced. */
extern bool mon_catalog_announced(void);
/* Enter what is announced, and count its observations when the transaction commits.  Flush lock held. */
extern void mon_catalog_take_announced(void);

#endif /* METRICS_CATALOG_H */
