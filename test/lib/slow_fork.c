/*-------------------------------------------------------------------------
 *
 * slow_fork.c
 *	  Preloaded to have a server's processes begin late, for tests.
 *
 * A new process does nothing as long as the file $TEST_FORK is there.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

pid_t
fork(void)
{
	pid_t (*true_fork)(void) = (pid_t(*)(void)) dlsym(RTLD_NEXT, "fork");
	pid_t pid = true_fork();
	const char *file = getenv("TEST_FORK");
	struct timespec moment = {.tv_nsec = 10000000};

	while (pid == 0 && file && access(file, F_OK) == 0)
		(void) nanosleep(&moment, NULL);
	return pid;
}
