/*-------------------------------------------------------------------------
 *
 * chunk_codec_columns.c
 *	  Columns of a chunk: one 64-bit number of each point.
 *
 *	  2 bits	what is subtracted from each number: nothing but the column's
 *				lowest, the number before, that and the step before, or what the
 *				columns before let expect
 *	  2 bits	how the rest is written: packed, packed behind a bit that says
 *				that it is not zero, or as codes
 *	  7 bits	width when packed, or the code's k
 *	  number	the lowest, or nothing (7 bits of length, zigzag)
 *
 * Arithmetic is modulo 2^64 throughout: any numbers survive.  The encoder tries
 * all and keeps the shortest, the first of equals.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/chunk_codec_internal.h"

typedef enum Basis
{
	BASIS_LOWEST,
	BASIS_DELTA,
	BASIS_DELTA2,
	BASIS_EXPECTED
} Basis;

typedef enum Form
{
	FORM_PACKED,
	FORM_SPARSE,
	FORM_CODES
} Form;

/* ---- numbers ---- */

void
chunk_put_long(ChunkWriter *out, uint64_t bits, int n)
{
	if (n <= 32)
		chunk_put(out, bits, n);
	else
	{
		chunk_put(out, bits & UINT32_MAX, 32);
		chunk_put(out, bits >> 32, n - 32);
	}
}

void
chunk_put_escaped(ChunkWriter *out, uint64_t v)
{
	int length = chunk_bit_length(v);

	chunk_put(out, 0, CODE_ESCAPE);
	chunk_put(out, (uint64_t) length - 1, 6);
	chunk_put_long(out, v, length);
}

bool
chunk_get_long(ExpoBitReader *br, int n, uint64_t *v)
{
	uint64_t high = 0;

	if (n <= 32)
		return chunk_get(br, n, v);
	if (!chunk_get(br, 32, v) || !chunk_get(br, n - 32, &high))
		return false;
	*v |= high << 32;
	return true;
}

/* The zero bits are still to be taken. */
bool
chunk_get_escaped(ExpoBitReader *br, uint64_t *v)
{
	uint64_t length;

	return chunk_get(br, CODE_ESCAPE, v) && chunk_get(br, 6, &length) &&
		chunk_get_long(br, (int) length + 1, v);
}

static void
put_number(ChunkWriter *out, uint64_t v)
{
	uint64_t z = expo_zigzag((int64_t) v);
	int length = z == 0 ? 0 : chunk_bit_length(z);

	chunk_put(out, (uint64_t) length, 7);
	chunk_put_long(out, z, length);
}

static bool
get_number(ExpoBitReader *br, uint64_t *v)
{
	uint64_t length;
	uint64_t z;

	if (!chunk_get(br, 7, &length) || length > 64 || !chunk_get_long(br, (int) length, &z))
		return false;
	*v = (uint64_t) expo_unzigzag(z);
	return true;
}

/* ---- encoding ---- */

/* What is left to write when the basis is subtracted; *base is the lowest number. */
static void
subtract(Basis basis, ChunkGuess guess, const uint64_t *x, const uint64_t *expected, int n,
		 uint64_t *base, uint64_t *rest)
{
	uint64_t last = 0;
	uint64_t step = 0;

	*base = x[0];
	for (int i = 1; i < n && basis == BASIS_LOWEST; i++)
		if ((int64_t) x[i] < (int64_t) *base)
			*base = x[i];
	for (int i = 0; i < n; i++)
	{
		uint64_t delta = x[i] - last;

		if (basis == BASIS_LOWEST)
			rest[i] = x[i] - *base;
		else if (basis == BASIS_DELTA)
			rest[i] = expo_zigzag((int64_t) delta);
		else if (basis == BASIS_DELTA2)
			rest[i] = expo_zigzag((int64_t) (delta - step));
		else if (guess == GUESS_ABOVE)
			rest[i] = x[i] - expected[i];
		else if (guess == GUESS_BELOW)
			rest[i] = expected[i] - x[i];
		else
			rest[i] = expo_zigzag((int64_t) (x[i] - expected[i]));
		step = i == 0 ? 0 : delta;
		last = x[i];
	}
	if (basis == BASIS_DELTA || basis == BASIS_DELTA2)
		rest[0] = 0; /* is the base */
}

static uint64_t
codes_bits(const uint64_t *rest, int n, int k)
{
	uint64_t bits = 0;

	for (int i = 0; i < n; i++)
		bits += chunk_code_bits(rest[i], k);
	return bits;
}

/* The best k, upward from two bits below the median's length: outliers do not mislead it. */
static int
choose_k(const uint64_t *rest, int n, uint64_t *bits)
{
	int lengths[65] = {0};
	int seen = 0;
	int k = 0;

	for (int i = 0; i < n; i++)
		lengths[chunk_bit_length(rest[i])]++;
	while ((seen += lengths[k]) <= n / 2)
		k++;
	k = k < 2 ? 0 : k - 2 < CODE_MAX_K ? k - 2 : CODE_MAX_K;
	*bits = codes_bits(rest, n, k);
	while (k < CODE_MAX_K)
	{
		uint64_t next = codes_bits(rest, n, k + 1);

		if (next >= *bits)
			break;
		*bits = next;
		k++;
	}
	return k;
}

/* The shortest form of the rest; returns its bits. */
static uint64_t
choose_form(const uint64_t *rest, int n, Form *form, int *param)
{
	uint64_t any = 0;
	uint64_t best;
	uint64_t bits;
	int nonzero = 0;
	int width;
	int k;

	for (int i = 0; i < n; i++)
	{
		any |= rest[i];
		nonzero += rest[i] != 0;
	}
	*form = FORM_PACKED;
	*param = width = any == 0 ? 0 : chunk_bit_length(any);
	best = (uint64_t) n * width;
	bits = (uint64_t) n + (uint64_t) nonzero * width;
	if (bits < best)
	{
		*form = FORM_SPARSE;
		best = bits;
	}
	if (width < 2)
		return best;
	k = choose_k(rest, n, &bits);
	if (bits < best)
	{
		*form = FORM_CODES;
		*param = k;
		best = bits;
	}
	return best;
}

static void
put_rest(ChunkWriter *out, const uint64_t *rest, int n, Form form, int param)
{
	for (int i = 0; i < n; i++)
		switch (form)
		{
			case FORM_SPARSE:
				chunk_put(out, rest[i] != 0, 1);
				if (rest[i] != 0)
					chunk_put_long(out, rest[i], param);
				break;
			case FORM_PACKED:
				chunk_put_long(out, rest[i], param);
				break;
			case FORM_CODES:
				chunk_put_code(out, rest[i], param);
				break;
		}
}

void
chunk_put_column(ChunkWriter *out, const uint64_t *x, int n, ChunkGuess guess,
				 const uint64_t *expected)
{
	uint64_t rest[2][CHUNK_MAX_UNITS]; /* the best so far and the one being tried */
	uint64_t best = UINT64_MAX;
	uint64_t best_base = 0;
	int best_at = 0;
	int best_param = 0;
	Basis best_basis = BASIS_LOWEST;
	Form best_form = FORM_PACKED;

	for (Basis basis = BASIS_LOWEST; basis <= BASIS_EXPECTED; basis++)
	{
		ChunkWriter header = {{NULL, 0, 0}, 0};
		uint64_t base;
		Form form;
		int param;

		if (basis == BASIS_EXPECTED && guess == GUESS_NONE)
			continue;
		subtract(basis, guess, x, expected, n, &base, rest[!best_at]);
		if (basis != BASIS_EXPECTED)
			put_number(&header, base);
		header.total += choose_form(rest[!best_at], n, &form, &param);
		if (header.total < best)
		{
			best = header.total;
			best_base = base;
			best_at = !best_at;
			best_param = param;
			best_basis = basis;
			best_form = form;
		}
	}
	chunk_put(out, best_basis, 2);
	chunk_put(out, best_form, 2);
	chunk_put(out, (uint64_t) best_param, 7);
	if (best_basis != BASIS_EXPECTED)
		put_number(out, best_base);
	put_rest(out, rest[best_at], n, best_form, best_param);
}

/* ---- decoding ---- */

static bool
get_rest(ExpoBitReader *br, uint64_t *rest, int n, Form form, int param)
{
	ExpoBitReader local = *br; /* in registers */
	bool good = true;

	if (form == FORM_PACKED && param == 0)
		memset(rest, 0, n * sizeof(*rest));
	else if (form == FORM_PACKED && param <= 56)
		for (int i = 0; i < n && good; i++)
			good = chunk_get(&local, param, &rest[i]);
	else if (form == FORM_PACKED)
		for (int i = 0; i < n && good; i++)
			good = chunk_get_long(&local, param, &rest[i]);
	else if (form == FORM_CODES)
		for (int i = 0; i < n && good; i++)
			good = chunk_get_code(&local, param, &rest[i]);
	else
		for (int i = 0; i < n && good; i++)
			good = chunk_get(&local, 1, &rest[i]) &&
				(rest[i] == 0 || chunk_get_long(&local, param, &rest[i]));
	*br = local;
	return good;
}

/* In place: x holds the rest at entry. */
static void
add_delta(int order, uint64_t base, int n, uint64_t *x)
{
	uint64_t last = base;
	uint64_t step = 0;

	for (int i = 0; i < n; i++)
	{
		uint64_t rest = (uint64_t) expo_unzigzag(x[i]);

		step = order == 1 ? rest : step + rest;
		x[i] = last += step;
	}
}

static void
add_expected(ChunkGuess guess, const uint64_t *expected, int n, uint64_t *x)
{
	if (guess == GUESS_ABOVE)
		for (int i = 0; i < n; i++)
			x[i] = expected[i] + x[i];
	else if (guess == GUESS_BELOW)
		for (int i = 0; i < n; i++)
			x[i] = expected[i] - x[i];
	else
		for (int i = 0; i < n; i++)
			x[i] = expected[i] + (uint64_t) expo_unzigzag(x[i]);
}

bool
chunk_get_column(ExpoBitReader *br, uint64_t *x, int n, ChunkGuess guess, const uint64_t *expected)
{
	uint64_t basis;
	uint64_t form;
	uint64_t param;
	uint64_t base = 0;

	if (!chunk_get(br, 2, &basis) || !chunk_get(br, 2, &form) || !chunk_get(br, 7, &param))
		return false;
	if (form > FORM_CODES || param > (form == FORM_CODES ? CODE_MAX_K : 64) ||
		(basis == BASIS_EXPECTED && guess == GUESS_NONE))
		return false;
	if ((basis != BASIS_EXPECTED && !get_number(br, &base)) ||
		!get_rest(br, x, n, (Form) form, (int) param))
		return false;
	if (basis == BASIS_LOWEST)
		for (int i = 0; i < n; i++)
			x[i] += base;
	else if (basis == BASIS_EXPECTED)
		add_expected(guess, expected, n, x);
	else
		add_delta(basis == BASIS_DELTA ? 1 : 2, base, n, x);
	return true;
}
