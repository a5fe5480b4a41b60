/*-------------------------------------------------------------------------
 *
 * slow_plan.c
 *	  The plan of an execution that was slow, as EXPLAIN shows it.
 *
 * EXPLAIN looks names up, allocates and so may fail, but the statement has done
 * its work and must not: errors end here, with a subtransaction that gives back
 * what they leave behind.  Where there can be none, as in what the leader of a
 * parallel query runs, no plan is shown.  A cancellation waits meanwhile, since
 * it is meant for the statement; so plans that take long to show are left out.
 *
 * Lines of the text that hold expressions lose their literals; those of nodes
 * and of counts have none.  The shape of a plan is its text without the numbers
 * of the node lines and without the lines of counts.
 *
 *-------------------------------------------------------------------------
 */
#include "server/slow_capture.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "core/normalize.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define MAX_RELATIONS 500 /* of a plan that is shown */

static void
print_plan(QueryDesc *query, ExplainState *es)
{
	es->analyze = query->instrument_options != 0;
	es->buffers = (query->instrument_options & INSTRUMENT_BUFFERS) != 0;
	es->timing = (query->instrument_options & INSTRUMENT_TIMER) != 0;
	es->summary = false;
	es->costs = true;
	es->format = EXPLAIN_FORMAT_TEXT;
	ExplainBeginOutput(es);
	ExplainPrintPlan(es, query);
	ExplainEndOutput(es);
}

/* Lines whose numbers are counts, not literals. */
static bool
holds_counts(const char *line, size_t len)
{
	static const char *const labels[] = {
		"Buffers:",      "I/O Timings:",   "Heap Blocks:", "Workers ",  "Worker ",
		"Rows Removed ", "Heap Fetches:",  "Sort Method:", "Buckets:",  "Batches:",
		"Hits:",         "WAL:",           "Group Count:", "Full-sort", "Pre-sorted",
		"Planned ",      "JIT:",           "Functions:",   "Options:",  "Timing:",
		"Memory Usage",  "Peak Memory:",   "Disk Usage",   "Tuples ",   "Conflicting ",
		"Subplans ",     "Index Searches:"};

	while (len > 0 && *line == ' ')
		line++, len--;
	for (int i = 0; i < lengthof(labels); i++)
		if (len >= strlen(labels[i]) && memcmp(line, labels[i], strlen(labels[i])) == 0)
			return true;
	return false;
}

static const char *
find_in_line(const char *line, size_t len, const char *what)
{
	size_t what_len = strlen(what);

	for (size_t i = 0; i + what_len <= len; i++)
		if (memcmp(line + i, what, what_len) == 0)
			return line + i;
	return NULL;
}

typedef struct PlanText
{
	char *out;
	size_t len;
	size_t size;
	bool literals;
	uint64 hash;
} PlanText;

static void
append(PlanText *text, const char *from, size_t len)
{
	len = Min(len, text->size - 1 - text->len);
	memcpy(text->out + text->len, from, len);
	text->len += len;
}

static void
hash_bytes_of(PlanText *text, const char *from, size_t len)
{
	text->hash = hash_combine64(text->hash,
								hash_bytes_extended((const unsigned char *) from, len, 0));
}

/* A line that holds an expression: `Filter: (a = 1)`. */
static void
append_expression(PlanText *text, const char *line, size_t len)
{
	NormalizeOptions options = {0};
	size_t indent = 0;
	char *without = palloc(len + 64);
	size_t n;

	while (indent < len && line[indent] == ' ')
		indent++;
	n = mon_normalize_statement(line + indent, len - indent, &options, without, len + 64);
	hash_bytes_of(text, without, n);
	append(text, line, indent);
	append(text, text->literals ? line + indent : without, text->literals ? len - indent : n);
	pfree(without);
}

static void
append_line(PlanText *text, const char *line, size_t len)
{
	const char *numbers = find_in_line(line, len, "  (cost=");

	if (!numbers && !holds_counts(line, len))
		append_expression(text, line, len);
	else
	{
		if (numbers)
			hash_bytes_of(text, line, numbers - line);
		append(text, line, len);
	}
	append(text, "\n", 1);
}

static void
append_lines(PlanText *text, const char *plan)
{
	while (*plan && text->len + 1 < text->size)
	{
		size_t len = strcspn(plan, "\n");

		if (len > 0)
			append_line(text, plan, len);
		plan += len + (plan[len] != '\0');
	}
}

static pg_noinline void
write_plan(QueryDesc *query, PlanText *text)
{
	ExplainState *es = NewExplainState();

	print_plan(query, es);
	append_lines(text, es->str->data);
	if (text->len > 0 && text->out[text->len - 1] == '\n')
		text->len--;
}

static bool
can_show(const QueryDesc *query)
{
	return query->planstate && list_length(query->plannedstmt->rtable) <= MAX_RELATIONS &&
		IsTransactionState() && !IsInParallelMode();
}

size_t
mon_slow_plan(QueryDesc *query, bool literals, char *out, size_t size, int64 *hash)
{
	PlanText text = {.out = out, .size = size, .literals = literals};
	MemoryContext caller_cxt = CurrentMemoryContext;
	ResourceOwner caller = CurrentResourceOwner;
	uint32 holdoff = InterruptHoldoffCount;
	uint32 cancel_holdoff = QueryCancelHoldoffCount;
	MemoryContext cxt;
	volatile bool done = false;

	if (!can_show(query))
		return 0;
	cxt = AllocSetContextCreate(caller_cxt, "plan of a slow execution", ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	HOLD_INTERRUPTS();
	PG_TRY();
	{
		write_plan(query, &text);
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_cxt);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller_cxt);
	CurrentResourceOwner = caller;
	MemoryContextDelete(cxt);
	InterruptHoldoffCount = holdoff;
	QueryCancelHoldoffCount = cancel_holdoff;
	if (!done)
		return 0;
	*hash = text.hash != 0 ? (int64) text.hash : 1;
	return text.len;
}
