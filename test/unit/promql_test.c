/*-------------------------------------------------------------------------
 *
 * promql_test.c
 *	  Unit tests of Prometheus's expressions as rules of ours, and of YAML as
 *	  JSON, as TAP.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "alerts/promql.h"
#include "alerts/yaml/yaml_json.h"
#include "random_tap.h"

/* ---- memory that is freed between tests ---- */

typedef struct Block
{
	struct Block *next;
	double data[];
} Block;

static Block *all_blocks = NULL;

static void *
allocate(size_t size)
{
	Block *b = calloc(1, sizeof(Block) + size);

	if (!b)
		abort();
	b->next = all_blocks;
	all_blocks = b;
	return b->data;
}

static void
free_all(void)
{
	while (all_blocks)
	{
		Block *next = all_blocks->next;

		free(all_blocks);
		all_blocks = next;
	}
}

/* ---- expressions ---- */

static const struct
{
	const char *expr;
	const char *rule; /* beginning with {: all of it; otherwise the reason */
} translations[] = {
	/* selectors */
	{"m > 5",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"last\", \"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 5}"},
	{" ( ( 5 < m{a='b',} ) ) # why",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {\"a\": \"b\"}, "
	 "\"fn\": \"last\", \"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 5}"},
	{"{__name__=\"m\",a=\"\\u00fc\\\"\\x41\",b!~`x|y`} != 0",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {\"a\": "
	 "\"\xc3\xbc\\\"A\"}, \"fn\": \"last\", \"by\": [\"...\"], "
	 "\"params\": {\"where\": {\"b\": {\"!~\": \"x|y\"}}}, \"op\": \"<>\", \"threshold\": 0}"},
	{"m{a=\"\",b=\"1\",b!=\"2\"} == 1",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"last\", \"by\": [\"...\"], "
	 "\"params\": {\"where\": {\"a\": {\"=\": \"\"}, \"b\": {\"=\": \"1\", \"!=\": \"2\"}}}, "
	 "\"op\": \"=\", \"threshold\": 1}"},
	{"m{a=~\"(?i)\\\\d+([a\\\\w-]|b{2,3})\\\\.x?\"} >= 1e3",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"last\", \"by\": [\"...\"], \"params\": {\"where\": "
	 "{\"a\": {\"=~\": \"(?i)[0-9]+(?:[a0-9A-Za-z_-]|b{2,3})\\\\.x?\"}}}, \"op\": \">=\", "
	 "\"threshold\": 1000}"},
	{"m{a=~\"\\\\bx\"} > 1",
	 "a regular expression may not mean the same in PostgreSQL: m{a=~\"\\\\bx\"}"},
	{"m{a=~\"(?P<n>x)\"} > 1",
	 "a regular expression may not mean the same in PostgreSQL: m{a=~\"(?P<n>x)\"}"},
	{"m{a!=\"b\",a!=\"c\"} > 1", "a label has two matchers of the same kind: m{a!=\"b\",a!=\"c\"}"},
	{"{a=\"b\"} > 1", "the name of the metric must be given: {a=\"b\"}"},
	{"m offset 5m > 1", "offset and @ are not translated: m offset 5m"},
	{"(m) @ 17 > 1", "offset and @ are not translated: (m) @ 17"},
	{"delta(m[5m]) offset 1h > 1", "offset and @ are not translated: delta(m[5m]) offset 1h"},
	{"m_total > 1", "a counter's total is not kept, only what was added (rate, increase): m_total"},
	{"m[5m] > 1", "a range needs a function: m[5m]"},
	/* functions */
	{"rate(m_total{a=\"b\"}[1h30m]) > 5 * 60",
	 "{\"kind\": \"metric\", \"metric\": \"m_total\", \"over\": \"1h30m\", \"labels\": {\"a\": "
	 "\"b\"}, \"fn\": \"rate\", \"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 300}"},
	{"increase(h_count[5m]) > 2 ^ 3 ^ 2 / 2",
	 "{\"kind\": \"metric\", \"metric\": \"h\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"increase\", \"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 256}"},
	{"max_over_time(m[5m]) < -2 ^ 2",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": \"max\", "
	 "\"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \"<\", \"threshold\": -4}"},
	{"quantile_over_time(0.999, m[5m]) > 1",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"p99.9\", \"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 1}"},
	{"histogram_quantile(0.95, sum by (le, a, b) (rate(h_bucket{c=\"d\"}[5m]))) > 0.5",
	 "{\"kind\": \"metric\", \"metric\": \"h\", \"over\": \"5m\", \"labels\": {\"c\": \"d\"}, "
	 "\"fn\": \"p95\", \"by\": [\"a\", \"b\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 0.5}"},
	{"histogram_quantile(0.95, rate(h_bucket[5m])) > 0.5",
	 "{\"kind\": \"metric\", \"metric\": \"h\", \"over\": \"5m\", \"labels\": {}, \"fn\": \"p95\", "
	 "\"by\": [\"...\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 0.5}"},
	{"histogram_quantile(0.95, sum by (a) (rate(h_bucket[5m]))) > 1",
	 "the sum must be by le: histogram_quantile(0.95, sum by (a) (rate(h_bucket[5m])))"},
	{"histogram_quantile(2, sum by (le) (rate(h_bucket[5m]))) > 1",
	 "the share must be a number from 0 to 1: histogram_quantile(2, sum by (le) "
	 "(rate(h_bucket[5m])))"},
	{"sum(rate(h_bucket[5m])) > 1",
	 "of a histogram only its count, its mean and its quantiles are translated: "
	 "sum(rate(h_bucket[5m])) > 1"},
	{"rate(h_sum[5m]) > 1",
	 "of a histogram only its count, its mean and its quantiles are translated: rate(h_sum[5m]) > "
	 "1"},
	{"irate(m[5m]) > 1", "this function is not translated: irate(m[5m])"},
	{"predict_linear(m[1h], 3600) < 0",
	 "predict_linear() is no line of ours; see rule kind forecast: predict_linear(m[1h], 3600)"},
	{"max_over_time(rate(m[5m])[1h:]) > 1", "subqueries are not translated: rate(m[5m])[1h:]"},
	{"rate(m) > 1", "a range such as [5m] is missing: m"},
	/* absence */
	{"absent(m{a=\"b\"})",
	 "{\"kind\": \"absence\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {\"a\": \"b\"}}"},
	{"absent_over_time(m[1h]) == 1",
	 "{\"kind\": \"absence\", \"metric\": \"m\", \"over\": \"1h\", \"labels\": {}}"},
	{"absent(m) == 0", "absent() is 1 or nothing, so this never holds: absent(m) == 0"},
	{"absent(rate(m[5m]))", "this must be a metric: rate(m[5m])"},
	/* aggregations */
	{"sum by (a, b) (rate(m[5m])) > 1",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"rate\", \"by\": [\"a\", \"b\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 1}"},
	{"SUM(m) BY (a) > 1",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"last\", \"by\": [\"a\"], "
	 "\"params\": {\"across\": \"sum\"}, \"op\": \">\", \"threshold\": 1}"},
	{"max(rate(m[5m])) > 1",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"rate\", \"by\": [], "
	 "\"params\": {\"across\": \"max\"}, \"op\": \">\", \"threshold\": 1}"},
	{"avg(rate(m[5m])) > 1",
	 "series without events have no value here, so only sum and max of them are the same: "
	 "avg(rate(m[5m]))"},
	{"sum without (a) (m) > 1", "\"without\" is not translated; \"by\" is: sum without (a) (m)"},
	{"topk(3, m) > 1", "this aggregation is not translated: topk(3, m)"},
	{"count(count by (a) (m)) > 1",
	 "only a function of one metric can be aggregated: count(count by (a) (m))"},
	/* arithmetic */
	{"100 - 100 * avg by (i) (avg_over_time(m[5m])) > 80",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": \"avg\", "
	 "\"by\": [\"i\"], "
	 "\"params\": {\"across\": \"avg\", \"multiply\": -100, \"add\": 100}, \"op\": \">\", "
	 "\"threshold\": 80}"},
	{"-(m / 2 + 1) < 0",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"last\", \"by\": [\"...\"], "
	 "\"params\": {\"multiply\": -0.5, \"add\": -1}, \"op\": \"<\", \"threshold\": 0}"},
	{"m * 0 > 1", "this arithmetic is not translated: m * 0"},
	{"1 / m > 1", "this arithmetic is not translated: 1 / m"},
	{"m - n > 1", "arithmetic with several metrics is not translated, but for a ratio: m - n"},
	/* ratios */
	{"sum by (a) (rate(e{c=~\"5..\"}[5m])) / sum by (a) (rate(e[5m])) * 100 > 5",
	 "{\"kind\": \"ratio\", \"metric\": \"e\", \"over\": \"5m\", \"labels\": {}, \"fn\": \"rate\", "
	 "\"by\": [\"a\"], \"params\": {\"where\": "
	 "{\"c\": {\"=~\": \"5..\"}}, \"metric\": \"e\", \"fn\": \"rate\", \"labels\": {}, "
	 "\"multiply\": 100}, \"op\": \">\", \"threshold\": 5}"},
	{"a{x=\"1\"} / b{y!=\"2\",z=\"3\"} < 0.1",
	 "{\"kind\": \"ratio\", \"metric\": \"a\", \"over\": \"5m\", \"labels\": {\"x\": \"1\"}, "
	 "\"fn\": \"last\", \"by\": [\"...\"], \"params\": "
	 "{\"metric\": \"b\", \"fn\": \"last\", \"labels\": {\"z\": \"3\", \"y\": {\"!=\": \"2\"}}}, "
	 "\"op\": \"<\", \"threshold\": 0.1}"},
	{"(a - b) / a > 0.9 and a > 0",
	 "{\"kind\": \"ratio\", \"metric\": \"b\", \"over\": \"5m\", \"labels\": {}, \"fn\": \"last\", "
	 "\"by\": [\"...\"], \"params\": "
	 "{\"metric\": \"a\", \"fn\": \"last\", \"labels\": {}, \"multiply\": -1, \"add\": 1}, \"op\": "
	 "\">\", \"threshold\": 0.9}"},
	{"sum by (a) (rate(h_sum[5m])) / on (a) sum by (a) (rate(h_count[5m])) > 1",
	 "{\"kind\": \"metric\", \"metric\": \"h\", \"over\": \"5m\", \"labels\": {}, \"fn\": \"avg\", "
	 "\"by\": [\"a\"], "
	 "\"params\": {}, \"op\": \">\", \"threshold\": 1}"},
	{"a / on (x) b > 1", "both sides of a ratio must have the same labels: a / on (x) b"},
	{"sum by (a) (rate(m[5m])) / sum by (b) (rate(n[5m])) > 1",
	 "both sides of a ratio must have the same labels: sum by (a) (rate(m[5m])) / sum by (b) "
	 "(rate(n[5m]))"},
	{"rate(m[5m]) / rate(n[1m]) > 1",
	 "both sides of a ratio must have the same range: rate(m[5m]) / rate(n[1m])"},
	{"a / b != 1", "in Prometheus this holds of no number at all, too: a / b != 1"},
	{"sum(a) / sum(b) > 1",
	 "a ratio of aggregated series is translated only of sums of rate() and increase(): sum(a) / "
	 "sum(b)"},
	{"a / a > 1", "a ratio of something to itself is always one: a / a"},
	/* conditions */
	{"sum(rate(m[5m])) < 1",
	 "{\"kind\": \"metric\", \"metric\": \"m\", \"over\": \"5m\", \"labels\": {}, \"fn\": "
	 "\"rate\", \"by\": [], "
	 "\"params\": {}, \"op\": \"<\", \"threshold\": 1}"},
	{"sum by (a) (rate(m[5m])) < 1",
	 "a group without events has no value here, so that it would not be found: sum by (a) "
	 "(rate(m[5m])) < 1"},
	{"rate(a{c=\"1\"}[5m]) / rate(a[5m]) < 1",
	 "a group without events has no value here, so that it would not be found: "
	 "rate(a{c=\"1\"}[5m]) / rate(a[5m]) < 1"},
	{"count_over_time(m[5m]) < 3",
	 "without values the count is zero here and nothing in Prometheus: count_over_time(m[5m]) < 3"},
	{"m > Inf", "the number must be finite: m > Inf"},
	{"m", "there is no comparison with a number: m"},
	{"m + 1", "there is no comparison with a number: m + 1"},
	{"m > n", "one side of the comparison must be a number: m > n"},
	{"1 > 0", "one side of the comparison must be a number: 1 > 0"},
	{"m > bool 1", "\"bool\" makes a number of every comparison: m > bool 1"},
	{"(m > 1) * 2 > 3", "a comparison can only be the last thing that is done: (m > 1)"},
	{"m > 1 and n > 1",
	 "\"and\", \"or\" and \"unless\" are not translated; see rule kind composite: m > 1 and n > 1"},
	{"a / b > 1 and b > 1",
	 "\"and\", \"or\" and \"unless\" are not translated; see rule kind composite: a / b > 1 and b "
	 "> 1"},
	{"a / b > 1 and c > 0",
	 "\"and\", \"or\" and \"unless\" are not translated; see rule kind composite: a / b > 1 and c "
	 "> 0"},
	{"\"text\"", "a text is nothing to compare: \"text\""},
	/* what is no expression */
	{"", "an expression is missing at the end"},
	{"m >", "an expression is missing at the end"},
	{"m > 5m", "bad number at \"5m\""},
	{"sum by (", "the name of a label is missing at the end"},
	{"m{a=\"b\"", "\"}\" is missing at the end"},
	{"m{a=\"b} > 1", "a string does not end at the end"},
	{"m{a=\"\\q\"} > 1", "bad escape in a string at \"\"} > 1\""},
	{"m{a=\"\\x00\"} > 1", "bad escape in a string at \"00\"} > 1\""},
	{"m{=\"b\"} > 1", "bad matcher at \"=\"b\"} > 1\""},
	{"rate(m[5x]) > 1", "bad duration at \"x]) > 1\""},
	{"m n > 1", "an operator is missing at \"n > 1\""},
	{"m = 1", "an operator is missing at \"= 1\""},
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* In memory of exactly that size, so that the sanitizer sees a step too far. */
static char *
translate(const char *expr, size_t len)
{
	char *exact = malloc(len + !len);
	char *result;

	memcpy(exact, expr, len);
	result = prom_translate(exact, len, allocate);
	free(exact);
	return result;
}

static void
test_translations(void)
{
	for (size_t i = 0; i < COUNT_OF(translations); i++)
	{
		const char *want = translations[i].rule;
		const char *got = translate(translations[i].expr, strlen(translations[i].expr));
		PromText reason;
		char name[200];

		if (want[0] != '{')
		{
			prom_text_init(&reason, allocate);
			prom_appends(&reason, "{\"reason\": ");
			prom_append_json(&reason, want, strlen(want));
			prom_appends(&reason, "}");
			want = reason.s;
		}
		snprintf(name, sizeof(name), "\"%s\"", translations[i].expr);
		name[strcspn(name, "#")] = '\0';
		ok(strcmp(got, want) == 0, name);
		if (strcmp(got, want) != 0)
			printf("# got    %s\n# wanted %s\n", got, want);
		free_all();
	}
}

static bool
gives_reason(const char *expr, size_t len, const char *reason)
{
	char *got = translate(expr, len);
	bool found = strncmp(got, "{\"reason\": ", 11) == 0 && strstr(got, reason);

	free_all();
	return found;
}

static void
test_limits(void)
{
	static char expr[PROM_MAX_EXPR + 2];

	memset(expr, '(', 1000);
	ok(gives_reason(expr, 1000, "nested too deeply"), "a thousand parentheses");
	memset(expr, '-', 1000);
	ok(gives_reason(expr, 1000, "nested too deeply"), "a thousand signs");
	for (int i = 0; i < 20000; i++)
		memcpy(expr + 2 * i, "1+", 2);
	ok(gives_reason(expr, 39999, "too many parts"), "a sum of twenty thousand numbers");
	for (int i = 0; i < 3000; i++)
		memcpy(expr + 3 * i, "m/(", 3);
	ok(gives_reason(expr, 9000, "nested too deeply"), "quotients in quotients");
	memset(expr, 'm', sizeof(expr));
	ok(gives_reason(expr, PROM_MAX_EXPR + 1, "too long"), "more than 64 kB");
	ok(gives_reason(expr, PROM_MAX_EXPR, "no comparison"), "a name of 64 kB");
}

/* Pieces of expressions in any order: never a crash, always an answer. */
static void
test_any_order(void)
{
	static const char *const pieces[] = {"m",
										 "{",
										 "}",
										 "a=\"b\"",
										 "a=~\"(x|[^y])+\"",
										 ",",
										 "[5m]",
										 "[1h:5m]",
										 "rate(",
										 "sum by (a) (",
										 "histogram_quantile(0.9, ",
										 "sum(",
										 "absent(",
										 ")",
										 ")",
										 " > ",
										 " / ",
										 " - ",
										 " * ",
										 " and ",
										 "1",
										 "0.5",
										 "x_bucket",
										 "x_sum",
										 "x_count",
										 " offset 1m",
										 " on (a) ",
										 " bool ",
										 "\"",
										 "'",
										 "\\",
										 "\xc3",
										 "-",
										 "^",
										 "#",
										 "inf",
										 "@ 1",
										 "without (b)"};
	bool good = true;

	for (int round = 0; round < 200000; round++)
	{
		char expr[400];
		size_t len = 0;
		int n = next_random() % 14;
		char *got;

		for (int i = 0; i < n; i++)
		{
			const char *piece = pieces[next_random() % COUNT_OF(pieces)];

			memcpy(expr + len, piece, strlen(piece));
			len += strlen(piece);
		}
		got = translate(expr, len);
		good = good && got[0] == '{' && got[strlen(got) - 1] == '}';
		free_all();
	}
	ok(good, "pieces of expressions in any order");
}

/* ---- YAML ---- */

static const struct
{
	const char *yaml;
	const char *json; /* beginning with "line": the error */
} documents[] = {
	{"", "null"},
	{"# nothing\n", "null"},
	{"{\"a\": [1, true, null, \"null\", ~], \"b\": {}}",
	 "{\"a\": [\"1\", \"true\", null, \"null\", null], \"b\": {}}"},
	{"---\na: no\nb: 1e3\nc:\nd: |\n  x > 1\n  and y\ne: >-\n  p\n  q\n'f': '~'\n",
	 "{\"a\": \"no\", \"b\": \"1e3\", \"c\": null, \"d\": \"x > 1\\u000aand y\\u000a\", \"e\": \"p "
	 "q\", \"f\": \"~\"}"},
	{"- a: \"\\u20ac \\\"\\\\\"\n- [x, {y: z}]\n",
	 "[{\"a\": \"\xe2\x82\xac \\\"\\\\\"}, [\"x\", {\"y\": \"z\"}]]"},
	{"a: 1\nb: 2\na: 3\n", "line 4: the key \"a\" occurs twice"},
	{"a: &x 1\nb: *x\n", "line 2: an alias (*)"},
	{"a: !!python/object 1\n", "line 1: a tag (!)"},
	{"a: 1\n---\nb: 2\n", "line 2: a second document"},
	{"[1, 2]: 3\n", "line 1: a key that is no text"},
	{"a: \"x\\0y\"\n", "line 1: a zero byte"},
	{"a: [1\nb", "line 3: did not find expected ',' or ']'"},
	{"a: \x01\n", "line 0: control characters are not allowed"},
	{"a: \xff\n", "line 0: invalid leading UTF-8 octet"},
	{"\ta: 1\n", "line 1: found character that cannot start any token"},
};

static void
check_yaml(const char *yaml, size_t len, const char *want, const char *name)
{
	YamlError error = {0};
	char *exact = malloc(len + !len);
	char *json;
	char text[250];

	memcpy(exact, yaml, len);
	json = yaml_to_json(exact, len, &error);
	snprintf(text, sizeof(text), "line %zu: %s", error.line, error.message);
	ok(strcmp(json ? json : text, want) == 0, name);
	if (strcmp(json ? json : text, want) != 0)
		printf("# got    %.200s\n# wanted %s\n", json ? json : text, want);
	free(json);
	free(exact);
}

static void
test_yaml(void)
{
	char *large = malloc(YAML_MAX_BYTES + 1);

	for (size_t i = 0; i < COUNT_OF(documents); i++)
	{
		char name[40];

		snprintf(name, sizeof(name), "YAML document %zu", i + 1);
		check_yaml(documents[i].yaml, strlen(documents[i].yaml), documents[i].json, name);
	}
	memset(large, '[', YAML_MAX_BYTES + 1);
	check_yaml(large, YAML_MAX_BYTES + 1, "line 0: longer than 4 MB", "YAML of more than 4 MB");
	check_yaml(large, YAML_MAX_BYTES, "line 1: nested too deeply", "four million brackets");
	free(large);
}

int
main(void)
{
	test_translations();
	test_limits();
	test_any_order();
	test_yaml();
	printf("1..%d\n", tests);
	return failures > 0;
}
