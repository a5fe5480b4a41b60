/*-------------------------------------------------------------------------
 *
 * pick_labels.c
 *	  Those of an alert's labels that somebody looks at.
 *
 * Routes, groups and incidents look at a few labels of each alert. When
 * 100,000 alerts fire at once most of them agree in these, and what follows
 * from them is worked out once for all that agree.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"

PG_FUNCTION_INFO_V1(mon_pick_labels);

typedef struct Names
{
	Datum *items;
	int n;
} Names;

static Names
read_names(ArrayType *array)
{
	Names names;
	bool *nulls;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names.items, &nulls, &names.n);
	for (int i = 0; i < names.n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("names of labels must not be null")));
	return names;
}

static bool
is_named(const JsonbValue *key, const Names *names)
{
	for (int i = 0; i < names->n; i++)
	{
		text *name = DatumGetTextPP(names->items[i]);

		if (VARSIZE_ANY_EXHDR(name) == key->val.string.len &&
			memcmp(VARDATA_ANY(name), key->val.string.val, key->val.string.len) == 0)
			return true;
	}
	return false;
}

/* pick_labels(labels jsonb, names text[]): without names all of them */
Datum
mon_pick_labels(PG_FUNCTION_ARGS)
{
	Jsonb *labels;
	Names names;
	MonJsonbState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;
	bool picked = false;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	labels = PG_GETARG_JSONB_P(0);
	if (!JB_ROOT_IS_OBJECT(labels))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("labels must be a JSON object")));
	if (PG_ARGISNULL(1))
		PG_RETURN_JSONB_P(labels);
	names = read_names(PG_GETARG_ARRAYTYPE_P(1));

	it = JsonbIteratorInit(&labels->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			picked = is_named(&v, &names);
		if (token == WJB_BEGIN_OBJECT || token == WJB_END_OBJECT)
			mon_push_jsonb(&state, token, NULL);
		else if (picked)
			mon_push_jsonb(&state, token, &v);
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(state.result));
}
