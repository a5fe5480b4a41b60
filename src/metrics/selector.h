/*-------------------------------------------------------------------------
 *
 * selector.h
 *	  Selecting series by their labels.
 *
 *-------------------------------------------------------------------------
 */
#ifndef METRICS_SELECTOR_H
#define METRICS_SELECTOR_H

#include "core/core.h"
#include "nodes/pg_list.h"

typedef struct LabelSelector
{
	Jsonb *equal;   /* labels that a series must have; canonical */
	List *matchers; /* further conditions */
	bool all;       /* every series matches */
} LabelSelector;

/* ereport(ERROR) 22023 when it is no object of scalars and conditions. */
extern void mon_selector_parse(LabelSelector *selector, Jsonb *labels);
/* Whether canonical labels match. */
extern bool mon_selector_match(const LabelSelector *selector, Jsonb *labels);

#endif /* METRICS_SELECTOR_H */
