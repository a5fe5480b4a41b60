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

typedef enum MatcherOp
{
	MATCH_EQUAL,
	MATCH_NOT_EQUAL,
	MATCH_REGEX,
	MATCH_NOT_REGEX,
	MATCH_EXISTS
} MatcherOp;

typedef struct LabelMatcher
{
	const char *label;
	int label_len;
	MatcherOp op;
	const char *value;
	int value_len;
	text *regex;
	bool exists;
} LabelMatcher;

typedef struct LabelSelector
{
	Jsonb *equal;   /* labels that a series must have; canonical */
	List *matchers; /* further conditions: LabelMatcher */
} LabelSelector;

/* ereport(ERROR) 22023 when it is no object of scalars and conditions. */
extern void mon_selector_parse(LabelSelector *selector, Jsonb *labels);
/* For selectors that are stored and matched again and again: ereport(ERROR) when one is too expensive. */
extern void mon_selector_check_cost(const LabelSelector *selector);
/* Whether a label's value, NULL when the label is missing, is what the matcher asks for. */
extern bool mon_matcher_accepts(const LabelMatcher *m, const char *value, int len);
/* Whether canonical labels have certain values. */
extern bool mon_labels_contain(Jsonb *labels, Jsonb *equal);
/* Whether canonical labels meet the further conditions. */
extern bool mon_selector_conditions(const LabelSelector *selector, Jsonb *labels);
/* Both. */
extern bool mon_selector_match(const LabelSelector *selector, Jsonb *labels);

#endif /* METRICS_SELECTOR_H */
