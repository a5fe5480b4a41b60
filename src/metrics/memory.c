/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  Buddy allocator over the shared memory reserved for the registry.
 *
 * Blocks are powers of two from 64 bytes to 1 MB.  A byte per 64-byte unit
 * holds the order of the block that starts there and whether it is free, so
 * that a freed block finds its buddy in constant time.  The last twentieth of
 * the area is a reserve: only overflow series may draw on it, so that totals
 * stay right when everything else is refused.
 *
 * Everything is guarded by the memory lock; nothing here can raise an error.
 *
 *-------------------------------------------------------------------------
 */
#include "metrics/metrics_internal.h"

#include "port/pg_bitutils.h"

#define UNIT_BITS 6
#define UNIT ((Size) 1 << UNIT_BITS)
#define MAX_ORDER 14 /* 64 B << 14 = 1 MB */
#define FREE_FLAG 0x80

typedef struct FreeBlock
{
	struct FreeBlock *prev, *next;
} FreeBlock;

typedef struct MemoryHeader
{
	char *base; /* aligned to the largest block */
	Size nunits;
	Size used;
	Size reserve;
	FreeBlock free[MAX_ORDER + 1]; /* list heads */
	uint8 order[FLEXIBLE_ARRAY_MEMBER];
} MemoryHeader;

static MemoryHeader *mem = NULL;
static LWLock *mem_lock = NULL;

static void
list_push(int order, FreeBlock *b)
{
	FreeBlock *head = &mem->free[order];

	b->prev = head;
	b->next = head->next;
	head->next->prev = b;
	head->next = b;
}

static void
list_remove(FreeBlock *b)
{
	b->prev->next = b->next;
	b->next->prev = b->prev;
}

static Size
unit_of(const void *ptr)
{
	return ((const char *) ptr - mem->base) >> UNIT_BITS;
}

static void
put_free(Size unit, int order)
{
	mem->order[unit] = FREE_FLAG | order;
	list_push(order, (FreeBlock *) (mem->base + (unit << UNIT_BITS)));
}

/* Bytes that bookkeeping and alignment take beside an area of this size. */
Size
mon_memory_overhead(Size area)
{
	return sizeof(MemoryHeader) + (area >> UNIT_BITS) + (UNIT << 1);
}

/* Lay the allocator out over `size` bytes, its own overhead included. */
void
mon_memory_setup(char *area, Size size)
{
	Size nunits = (size - sizeof(MemoryHeader) - 2 * UNIT) / (UNIT + 1);
	Size unit = 0;

	mem = (MemoryHeader *) area;
	mem->nunits = nunits;
	mem->used = 0;
	mem->reserve = nunits * UNIT / 20;
	mem->base = (char *) TYPEALIGN(UNIT, area + sizeof(MemoryHeader) + nunits);
	memset(mem->order, 0, nunits);
	for (int i = 0; i <= MAX_ORDER; i++)
		mem->free[i].prev = mem->free[i].next = &mem->free[i];

	/* Carve the area into the largest blocks that fit at their own alignment. */
	while (unit < nunits)
	{
		int order = MAX_ORDER;

		while ((unit & (((Size) 1 << order) - 1)) != 0 || unit + ((Size) 1 << order) > nunits)
			order--;
		put_free(unit, order);
		unit += (Size) 1 << order;
	}
}

void
mon_memory_attach(char *area, LWLock *lock)
{
	mem = (MemoryHeader *) area;
	mem_lock = lock;
}

static int
order_for(Size size)
{
	if (size <= UNIT)
		return 0;
	return pg_leftmost_one_pos64(size - 1) + 1 - UNIT_BITS;
}

/*
 * A block of at least `size` bytes, or NULL.  Its true size, needed to free it,
 * goes to *actual.  `reserve` allows drawing on the reserve.
 */
void *
mon_memory_alloc(Size size, Size *actual, bool reserve)
{
	int want = order_for(size);
	int order = want;
	FreeBlock *b = NULL;
	Size limit = mem->nunits * UNIT - (reserve ? 0 : mem->reserve);

	if (want > MAX_ORDER)
		return NULL;

	LWLockAcquire(mem_lock, LW_EXCLUSIVE);
	if (mem->used + (UNIT << want) <= limit)
	{
		while (order <= MAX_ORDER && mem->free[order].next == &mem->free[order])
			order++;
		if (order <= MAX_ORDER)
		{
			Size unit;

			b = mem->free[order].next;
			list_remove(b);
			unit = unit_of(b);
			while (order > want)
			{
				order--;
				put_free(unit + ((Size) 1 << order), order);
			}
			mem->order[unit] = want;
			mem->used += UNIT << want;
		}
	}
	LWLockRelease(mem_lock);

	*actual = UNIT << want;
	return b;
}

void
mon_memory_free(void *ptr, Size actual)
{
	Size unit = unit_of(ptr);
	int order = order_for(actual);

	LWLockAcquire(mem_lock, LW_EXCLUSIVE);
	Assert(mem->order[unit] == order);
	mem->used -= UNIT << order;
	while (order < MAX_ORDER)
	{
		Size buddy = unit ^ ((Size) 1 << order);

		if (buddy + ((Size) 1 << order) > mem->nunits || mem->order[buddy] != (FREE_FLAG | order))
			break;
		list_remove((FreeBlock *) (mem->base + (buddy << UNIT_BITS)));
		mem->order[Max(unit, buddy)] = 0;
		unit = Min(unit, buddy);
		order++;
	}
	put_free(unit, order);
	LWLockRelease(mem_lock);
}

void
mon_memory_usage(Size *used, Size *total)
{
	LWLockAcquire(mem_lock, LW_SHARED);
	*used = mem->used;
	*total = mem->nunits * UNIT;
	LWLockRelease(mem_lock);
}
