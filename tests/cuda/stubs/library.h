/* Ahead of the stubs of cuBLAS, cuBLASLt, cuDNN and cuRAND that stand_in.py writes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int token __attribute__((unused));

/* A line in the journal of the runtime, which must not be linked: its absence is a test. */
static __attribute__((unused)) void tell(const char *what) {
  static void (*told)(const char *);
  void *runtime = told ? 0 : dlopen("libcudart.so.13", RTLD_LAZY | RTLD_NOLOAD);
  if (runtime) *(void **)&told = dlsym(runtime, "stand_in_library");
  if (told) told(what);
}

/* A function that succeeds and does nothing, one that is worth a line in the journal, and one that
   hands out a handle. */
#define QUIET(name) int name(void) { return 0; }
#define TOLD(name) int name(void) { tell(#name); return 0; }
#define MAKES(name) int name(void **made) { *made = &token; return 0; }
