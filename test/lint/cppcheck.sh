#!/bin/sh
# cppcheck.sh SRC: cppcheck over the C sources.  The server's headers are not
# read; what their macros mean for the flow of control is said here.
exec cppcheck -q -j2 --suppress=normalCheckLevelMaxBranches --error-exitcode=1 --inline-suppr --std=c11 --enable=warning,portability,performance \
	-DPG_VERSION_NUM=150000 -DLIBCURL_VERSION_NUM=0x080000 \
	'-DINT64_FORMAT="%ld"' -DERROR=21 -DFATAL=22 -DWARNING=19 -DNOTICE=18 -DLOG=15 \
	'-DPG_FUNCTION_INFO_V1(f)=' '-Dereport(level,...)=((level) >= 21 ? exit(1) : (void) 0)' \
	'-Dforeach(cell,list)=while (((cell) = next_of(list)) != NULL)' \
	'-Delog(level,...)=((level) >= 21 ? exit(1) : (void) 0)' '-DAssert(x)=((x) ? (void) 0 : exit(1))' \
	-I "$1" "$1"
