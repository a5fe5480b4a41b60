/*-------------------------------------------------------------------------
 *
 * match_labels.c
 *	  Which of many label sets match which of many selectors.
 *
 * A hundred thousand alerts and a thousand silences are a hundred million
 * pairs.  So the label sets are turned into an index, from every value of a
 * label to the sets that have it, and a selector looks only at the sets that
 * have the rarest value it asks for.  A condition is tried once per distinct
 * value, not once per set: regular expressions cost little where values repeat.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/selector.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/tuplestore.h"

/* A label, or one of its values. */
typedef struct Word
{
	struct Word *label; /* NULL: this is a label */
	const char *text;
	int len;
	struct Word *values; /* of a label: its distinct values */
	struct Word *next;   /* among the values of its label */
	int *sets;           /* of a value: the label sets that have it */
	int nsets;
	int room;
	int asked;     /* number of the last condition that was tried on this value, */
	bool accepted; /* and its answer */
} Word;

typedef struct WordEntry
{
	Word *word;
	uint32 hash;
	char status;
} WordEntry;

static inline uint32
hash_word(const Word *w)
{
	return hash_combine(hash_bytes((const unsigned char *) w->text, w->len),
						hash_bytes((const unsigned char *) &w->label, sizeof(w->label)));
}

static inline bool
same_word(const Word *a, const Word *b)
{
	return a->label == b->label && a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

#define SH_PREFIX words
#define SH_ELEMENT_TYPE WordEntry
#define SH_KEY_TYPE Word *
#define SH_KEY word
#define SH_HASH_KEY(tb, key) hash_word(key)
#define SH_EQUAL(tb, a, b) same_word(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) ((entry)->hash)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct LabelSet
{
	Word **values;
	int nvalues;
} LabelSet;

typedef struct LabelIndex
{
	words_hash *words;
	LabelSet *sets;
	int nsets;
	int nconditions; /* tried on it so far */
} LabelIndex;

/* What a selector asks of one label. */
typedef struct Condition
{
	Word *label;
	const LabelMatcher *matcher; /* NULL: only `want` will do */
	Word *want;
	bool missing; /* whether a set without the label will do */
	int number;
} Condition;

/* ---- the index ---- */

static Word *
find_word(LabelIndex *index, Word *label, const char *text, int len)
{
	Word key = {.label = label, .text = text, .len = len};
	WordEntry *entry = words_lookup(index->words, &key);

	return entry ? entry->word : NULL;
}

static Word *
add_word(LabelIndex *index, Word *label, const char *text, int len)
{
	Word key = {.label = label, .text = text, .len = len};
	bool found;
	WordEntry *entry = words_insert(index->words, &key, &found);

	if (!found)
	{
		Word *w = palloc0(sizeof(Word));

		*w = key;
		if (label)
		{
			w->next = label->values;
			label->values = w;
		}
		entry->word = w;
	}
	return entry->word;
}

/* The text of a scalar; false for what is no label's value. */
static bool
scalar_text(const JsonbValue *v, const char **text, int *len)
{
	switch (v->type)
	{
		case jbvString:
			*text = v->val.string.val;
			*len = v->val.string.len;
			return true;
		case jbvNumeric:
			*text = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
			break;
		case jbvBool:
			*text = v->val.boolean ? "true" : "false";
			break;
		default:
			return false;
	}
	*len = strlen(*text);
	return true;
}

static void
add_set_to_value(Word *value, int set)
{
	if (value->nsets == value->room)
	{
		value->room = value->room ? value->room * 2 : 4;
		value->sets = value->sets ? repalloc_huge(value->sets, value->room * sizeof(int))
								  : palloc(value->room * sizeof(int));
	}
	value->sets[value->nsets++] = set;
}

static void
add_set(LabelIndex *index, int number, Jsonb *labels)
{
	LabelSet *set = &index->sets[number];
	JsonbIterator *it = JsonbIteratorInit(&labels->root);
	JsonbIteratorToken token;
	JsonbValue key, v;

	if (!JB_ROOT_IS_OBJECT(labels))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid labels"),
				 errdetail("The labels are not an object.")));
	set->values = palloc(sizeof(Word *) * JB_ROOT_COUNT(labels));
	(void) JsonbIteratorNext(&it, &v, true); /* the object itself */
	while ((token = JsonbIteratorNext(&it, &key, true)) == WJB_KEY)
	{
		const char *text;
		int len;

		(void) JsonbIteratorNext(&it, &v, true);
		if (scalar_text(&v, &text, &len))
		{
			Word *label = add_word(index, NULL, key.val.string.val, key.val.string.len);
			Word *value = add_word(index, label, text, len);

			add_set_to_value(value, number);
			set->values[set->nvalues++] = value;
		}
	}
}

static void
build_index(LabelIndex *index, ArrayType *array)
{
	Datum *labels;
	bool *nulls;

	deconstruct_array(array, JSONBOID, -1, false, TYPALIGN_INT, &labels, &nulls, &index->nsets);
	index->words = words_create(CurrentMemoryContext, 1024, NULL);
	index->sets = MemoryContextAllocExtended(CurrentMemoryContext,
											 sizeof(LabelSet) * Max(index->nsets, 1),
											 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < index->nsets; i++)
	{
		if (i % 1000 == 0)
			CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("labels to be matched must not be null")));
		add_set(index, i, DatumGetJsonbP(labels[i]));
	}
}

/* ---- one selector ---- */

/* False when no set can match. */
static bool
ask_for_value(LabelIndex *index, List **conditions, const char *label, int label_len,
			  const char *value, int value_len)
{
	Condition *c = palloc0(sizeof(Condition));

	c->label = find_word(index, NULL, label, label_len);
	c->want = c->label ? find_word(index, c->label, value, value_len) : NULL;
	*conditions = lappend(*conditions, c);
	return c->want != NULL;
}

static bool
ask_for_match(LabelIndex *index, List **conditions, const LabelMatcher *m)
{
	Condition *c;

	if (m->op == MATCH_EQUAL && m->value_len > 0)
		return ask_for_value(index, conditions, m->label, m->label_len, m->value, m->value_len);
	c = palloc0(sizeof(Condition));
	c->label = find_word(index, NULL, m->label, m->label_len);
	c->matcher = m;
	c->missing = mon_matcher_accepts(m, NULL, 0);
	c->number = ++index->nconditions;
	if (c->label)
		*conditions = lappend(*conditions, c);
	return c->label || c->missing;
}

static bool
selector_conditions(LabelIndex *index, const LabelSelector *selector, List **conditions)
{
	JsonbIterator *it = JsonbIteratorInit(&selector->equal->root);
	JsonbValue key, v;
	ListCell *lc;

	(void) JsonbIteratorNext(&it, &v, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &v, true);
		if (!ask_for_value(index, conditions, key.val.string.val, key.val.string.len,
						   v.val.string.val, v.val.string.len))
			return false;
	}
	foreach (lc, selector->matchers)
		if (!ask_for_match(index, conditions, lfirst(lc)))
			return false;
	return true;
}

static bool
accepts(const Condition *c, Word *value)
{
	if (c->want)
		return value == c->want;
	if (value->asked != c->number)
	{
		value->accepted = mon_matcher_accepts(c->matcher, value->text, value->len);
		value->asked = c->number;
	}
	return value->accepted;
}

static bool
set_fits(const LabelSet *set, const Condition *c)
{
	for (int i = 0; i < set->nvalues; i++)
		if (set->values[i]->label == c->label)
			return accepts(c, set->values[i]);
	return c->missing;
}

/* The condition that leaves the fewest sets, as far as that is known without trying it; NULL: none needs its label. */
static Condition *
narrowest(List *conditions)
{
	Condition *best = NULL;
	ListCell *lc;

	foreach (lc, conditions)
	{
		Condition *c = lfirst(lc);

		if (!c->missing &&
			(best == NULL ||
			 (c->want && (best->want == NULL || c->want->nsets < best->want->nsets))))
			best = c;
	}
	return best;
}

/* The sets that fit a condition which needs its label, or all of them. */
static int
candidates(LabelIndex *index, const Condition *c, int *found)
{
	int n = 0;

	if (c == NULL)
		while (n < index->nsets)
		{
			found[n] = n;
			n++;
		}
	else
		for (Word *value = c->want ? c->want : c->label->values; value; value = value->next)
		{
			if (accepts(c, value))
			{
				memcpy(found + n, value->sets, value->nsets * sizeof(int));
				n += value->nsets;
			}
			if (c->want)
				break;
		}
	return n;
}

/* The sets that match a selector; `found` has room for all. */
static int
matching_sets(LabelIndex *index, Jsonb *selector, int *found)
{
	LabelSelector parsed;
	List *conditions = NIL;
	Condition *first;
	ListCell *lc;
	int n;

	mon_selector_parse(&parsed, selector);
	if (!selector_conditions(index, &parsed, &conditions))
		return 0;
	first = narrowest(conditions);
	n = candidates(index, first, found);
	foreach (lc, conditions)
	{
		Condition *c = lfirst(lc);
		int kept = 0;

		if (c == first)
			continue;
		for (int i = 0; i < n; i++)
			if (set_fits(&index->sets[found[i]], c))
				found[kept++] = found[i];
		n = kept;
	}
	return n;
}

/* ---- SQL ---- */

static void
put_match(ReturnSetInfo *rsinfo, int set, int selector)
{
	Datum values[2] = {Int32GetDatum(set + 1), Int32GetDatum(selector + 1)};
	bool nulls[2] = {false, false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(mon_match_labels);
/* match_labels(labels jsonb[], selectors jsonb[], first_only boolean) */
Datum
mon_match_labels(PG_FUNCTION_ARGS)
{
	bool first_only = PG_GETARG_BOOL(2);
	LabelIndex index = {0};
	Datum *selectors;
	bool *nulls, *done;
	int nselectors;
	int *found;
	MemoryContext per_selector, caller;

	InitMaterializedSRF(fcinfo, 0);
	build_index(&index, PG_GETARG_ARRAYTYPE_P(0));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), JSONBOID, -1, false, TYPALIGN_INT, &selectors,
					  &nulls, &nselectors);
	found = palloc(sizeof(int) * Max(index.nsets, 1));
	done = palloc0(Max(index.nsets, 1));
	per_selector = AllocSetContextCreate(CurrentMemoryContext, "label selector",
										 ALLOCSET_DEFAULT_SIZES);
	for (int s = 0; s < nselectors; s++)
	{
		int n;

		CHECK_FOR_INTERRUPTS();
		if (nulls[s])
			continue;
		caller = MemoryContextSwitchTo(per_selector);
		n = matching_sets(&index, DatumGetJsonbP(selectors[s]), found);
		for (int i = 0; i < n; i++)
		{
			if (first_only && done[found[i]])
				continue;
			done[found[i]] = true;
			put_match((ReturnSetInfo *) fcinfo->resultinfo, found[i], s);
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(per_selector);
	}
	PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(mon_check_selector);
/* check_selector(selector jsonb) */
Datum
mon_check_selector(PG_FUNCTION_ARGS)
{
	LabelSelector selector;

	mon_selector_parse(&selector, PG_GETARG_JSONB_P(0));
	mon_selector_check_cost(&selector);
	PG_RETURN_VOID();
}
