/*-------------------------------------------------------------------------
 *
 * selector.c
 *	  Selecting series by their labels, with the matchers of Prometheus.
 *
 * A selector is a jsonb object.  A member whose value is a scalar asks for that
 * value; an object holds conditions by operator:
 *
 *		{"route": "/cart", "status": {"!~": "2.."}, "tenant": {"exists": true}}
 *
 * A label that is missing is taken for an empty one, but by exists; regular
 * expressions are PostgreSQL's and have to match the whole value.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/selector.h"

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "regex/regex.h"
#include "regex/regexport.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

/* Arcs of a compiled expression that is stored: a list of 200 host names has about as many. */
#define MAX_REGEX_ARCS 10000

static const struct
{
	const char *name;
	MatcherOp op;
} operators[] = {
	{"=", MATCH_EQUAL},      {"!=", MATCH_NOT_EQUAL},  {"=~", MATCH_REGEX},
	{"!~", MATCH_NOT_REGEX}, {"exists", MATCH_EXISTS},
};

/* ---- parsing ---- */

static MatcherOp
parse_operator(const JsonbValue *key)
{
	for (int i = 0; i < lengthof(operators); i++)
		if (strlen(operators[i].name) == (size_t) key->val.string.len &&
			memcmp(operators[i].name, key->val.string.val, key->val.string.len) == 0)
			return operators[i].op;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown operator \"%s\" for a label",
					pnstrdup(key->val.string.val, key->val.string.len)),
			 errhint("Operators are =, !=, =~, !~ and exists.")));
	return MATCH_EQUAL;
}

/* The length of options such as (?i) that an expression begins with: PostgreSQL takes them there only. */
static int
options_length(const char *re, int len)
{
	int n = 2;

	if (len < 4 || re[0] != '(' || re[1] != '?')
		return 0;
	while (n < len && strchr("imnpstw", re[n]) && re[n] != '\0')
		n++;
	return n > 2 && n < len && re[n] == ')' ? n + 1 : 0;
}

/* The whole value has to match. */
static text *
anchored(const char *re, int len)
{
	StringInfoData buf;
	text *result;
	int options = options_length(re, len);

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, re, options);
	appendStringInfoString(&buf, "^(?:");
	appendBinaryStringInfo(&buf, re + options, len - options);
	appendStringInfoString(&buf, ")$");
	result = cstring_to_text_with_len(buf.data, buf.len);
	/* Raises what is wrong; as it will be executed, since remembering submatches can take for ever. */
	RE_compile_and_cache(result, REG_ADVANCED | REG_NOSUB, DEFAULT_COLLATION_OID);
	return result;
}

static LabelMatcher *
make_matcher(const JsonbValue *label, MatcherOp op, const JsonbValue *value)
{
	LabelMatcher *m = palloc0(sizeof(LabelMatcher));

	m->label = label->val.string.val;
	m->label_len = label->val.string.len;
	m->op = op;
	if (op == MATCH_EXISTS)
	{
		if (value->type != jbvBool)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the operator \"exists\" takes true or false")));
		m->exists = value->val.boolean;
		return m;
	}
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the operators =, !=, =~ and !~ take a string")));
	m->value = value->val.string.val;
	m->value_len = value->val.string.len;
	if (op == MATCH_REGEX || op == MATCH_NOT_REGEX)
		m->regex = anchored(m->value, m->value_len);
	return m;
}

/* The conditions on one label: {"op": value, ...}. */
static void
parse_conditions(LabelSelector *selector, const JsonbValue *label, JsonbContainer *conditions)
{
	JsonbIterator *it = JsonbIteratorInit(conditions);
	JsonbIteratorToken token;
	JsonbValue v;
	JsonbValue key = {0};

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = v;
		else if (token == WJB_VALUE)
			selector->matchers = lappend(selector->matchers,
										 make_matcher(label, parse_operator(&key), &v));
	}
}

void
mon_selector_parse(LabelSelector *selector, Jsonb *labels)
{
	MonJsonbState equal = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;
	JsonbValue label = {0};

	selector->matchers = NIL;
	if (!JB_ROOT_IS_OBJECT(labels))
	{
		selector->equal = mon_labels_canonical(labels); /* raises the error */
		return;
	}
	mon_push_jsonb(&equal, WJB_BEGIN_OBJECT, NULL);
	it = JsonbIteratorInit(&labels->root);
	(void) JsonbIteratorNext(&it, &v, false); /* the object itself */
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			label = v;
		else if (token == WJB_VALUE && v.type == jbvBinary &&
				 JsonContainerIsObject(v.val.binary.data))
			parse_conditions(selector, &label, v.val.binary.data);
		else if (token == WJB_VALUE && v.type == jbvString && v.val.string.len == 0)
			selector->matchers = lappend(selector->matchers, make_matcher(&label, MATCH_EQUAL, &v));
		else if (token == WJB_VALUE)
		{
			mon_push_jsonb(&equal, WJB_KEY, &label);
			mon_push_jsonb(&equal, WJB_VALUE, &v);
		}
	}
	mon_push_jsonb(&equal, WJB_END_OBJECT, NULL);
	selector->equal = mon_labels_canonical(JsonbValueToJsonb(equal.result));
}

/* ---- cost ---- */

static void
check_regex_cost(const regex_t *re)
{
	int64 arcs = 0;

	if (re->re_info & REG_UBACKREF)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("a regular expression for a label must not have back references")));
	for (int state = 0; state < pg_reg_getnumstates(re); state++)
		arcs += pg_reg_getnumoutarcs(re, state);
	if (arcs > MAX_REGEX_ARCS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a regular expression for a label is too complex"),
				 errhint("Use fewer or shorter alternatives and smaller numbers of repetitions.")));
}

/*
 * What takes exponential time or much memory is refused, the same at every
 * time and on every machine.
 */
void
mon_selector_check_cost(const LabelSelector *selector)
{
	ListCell *lc;

	foreach (lc, selector->matchers)
	{
		LabelMatcher *m = lfirst(lc);

		if (m->regex)
			check_regex_cost(RE_compile_and_cache(m->regex, REG_ADVANCED, DEFAULT_COLLATION_OID));
	}
}

/* ---- matching ---- */

bool
mon_matcher_accepts(const LabelMatcher *m, const char *value, int len)
{
	if (m->op == MATCH_EXISTS)
		return (value != NULL) == m->exists;
	if (value == NULL)
		value = "";
	switch (m->op)
	{
		case MATCH_EQUAL:
			return len == m->value_len && memcmp(value, m->value, len) == 0;
		case MATCH_NOT_EQUAL:
			return len != m->value_len || memcmp(value, m->value, len) != 0;
		case MATCH_REGEX:
		case MATCH_NOT_REGEX:
			return RE_compile_and_execute(m->regex, unconstify(char *, value), len, REG_ADVANCED,
										  DEFAULT_COLLATION_OID, 0, NULL) == (m->op == MATCH_REGEX);
		case MATCH_EXISTS:
			break;
	}
	return false;
}

static bool
matches(const LabelMatcher *m, Jsonb *labels)
{
	JsonbValue *v = getKeyJsonValueFromContainer(&labels->root, m->label, m->label_len, NULL);

	return mon_matcher_accepts(m, v ? v->val.string.val : NULL, v ? v->val.string.len : 0);
}

bool
mon_labels_contain(Jsonb *labels, Jsonb *equal)
{
	JsonbIterator *have, *want;

	if (JB_ROOT_COUNT(equal) == 0)
		return true;
	have = JsonbIteratorInit(&labels->root);
	want = JsonbIteratorInit(&equal->root);
	return JsonbDeepContains(&have, &want);
}

bool
mon_selector_conditions(const LabelSelector *selector, Jsonb *labels)
{
	ListCell *lc;

	foreach (lc, selector->matchers)
		if (!matches(lfirst(lc), labels))
			return false;
	return true;
}

bool
mon_selector_match(const LabelSelector *selector, Jsonb *labels)
{
	return mon_labels_contain(labels, selector->equal) && mon_selector_conditions(selector, labels);
}

PG_FUNCTION_INFO_V1(mon_labels_match);
/* labels_match(labels jsonb, selector jsonb) */
Datum
mon_labels_match(PG_FUNCTION_ARGS)
{
	LabelSelector selector;

	mon_selector_parse(&selector, PG_GETARG_JSONB_P(1));
	PG_RETURN_BOOL(mon_selector_match(&selector, mon_labels_canonical(PG_GETARG_JSONB_P(0))));
}
