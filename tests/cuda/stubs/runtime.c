/* libcudart.so.13: memory, copies, launches and streams, all of them written down.

   Device memory is a range of addresses that the host may not touch: a stray access ends the
   process. Copies are real; they must stay within what is allocated. Kernels compute nothing, so
   what comes down is what lay there before; see made_finite. Work that a thread gives to one stream
   while its own work on another is neither waited for nor ordered before it is a violation.
   What happens goes to the file STAND_IN_LOG, one line each, a first word that names it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned char byte;
typedef struct { unsigned x, y, z; } dim3;
typedef void *handle;

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, BAD_PITCH = 12, OLD_DRIVER = 35, BAD_DEVICE = 101, FAILED = 719 };
enum { HOST_MEMORY = 1, DEVICE_MEMORY = 2 };

#define SPACE (1ull << 38) /* addresses, not memory */
#define PLACE (1ull << 44) /* the same in every run: addresses end up in device memory, too */
#define MOST 200000        /* allocations in one process */

typedef struct { byte *start; size_t bytes; int live; } block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static byte *device, *shadow; /* the same pages: without access, and for us */
static size_t top = 4096, used, peak;
static block blocks[MOST], pinned[MOST];
static int block_count, pinned_count, launches, failed, capturing;
static FILE *journal;
static int token;

static long setting(const char *name, long otherwise) {
  const char *value = getenv(name);
  return value ? atol(value) : otherwise;
}

static void note(const char *kind, const char *what, size_t size) {
  if (!journal && getenv("STAND_IN_LOG")) journal = fopen(getenv("STAND_IN_LOG"), "a");
  if (journal) {
    fprintf(journal, "%s %s %zu\n", kind, what, size);
    fflush(journal);
  }
}

/* For the tests. */
static void stand_in_tell(const char *kind, const char *what) { pthread_mutex_lock(&lock); note(kind, what, 0); pthread_mutex_unlock(&lock); }
void stand_in_mark(const char *what) { pthread_mutex_lock(&lock); note("mark", what, 0); pthread_mutex_unlock(&lock); }
size_t stand_in_used(void) { return used; }
size_t stand_in_peak(void) { return peak; }
void stand_in_library(const char *what) { pthread_mutex_lock(&lock); note("library", what, 0); pthread_mutex_unlock(&lock); }

static void start(void) {
  if (device) return;
  int file = memfd_create("stand-in-gpu", 0);
  if (file < 0 || ftruncate(file, SPACE)) abort();
  shadow = mmap(0, SPACE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  device = mmap((void *)PLACE, SPACE, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (shadow == MAP_FAILED || device == MAP_FAILED) abort();
}

static int on_device(const void *at) {
  return device && (byte *)at >= device && (byte *)at < device + SPACE;
}

static block *around(block *all, int count, const void *at) {
  for (int i = count - 1; i >= 0; i--)
    if (all[i].live && (byte *)at >= all[i].start && (byte *)at < all[i].start + all[i].bytes)
      return all + i;
  return 0;
}

/* Where an address is for us; NULL where nothing of so many bytes is allocated there. */
static byte *reach(const void *at, size_t bytes) {
  if (!on_device(at)) return (byte *)at;
  block *found = around(blocks, block_count, at);
  if (!found || (byte *)at + bytes > found->start + found->bytes) {
    note("violation", "outside-of-allocations", bytes);
    return 0;
  }
  return shadow + ((byte *)at - device);
}

/* Streams. A blocking one and the legacy default stream (0 or 1) wait for each other. */
enum { LEGACY = 1 };
typedef struct stream { int live, blocking, pending; pthread_t by; struct stream *next; } stream;
static stream legacy = {.live = 1, .blocking = 1}, *streams = &legacy;

static int make_stream(handle *made, unsigned flags) {
  stream *fresh = calloc(1, sizeof *fresh);
  if (!fresh) return NO_MEMORY;
  pthread_mutex_lock(&lock);
  *fresh = (stream){.live = 1, .blocking = !(flags & 1), .next = streams};
  *made = streams = fresh;
  note("stream", flags & 1 ? "non-blocking" : "blocking", 0);
  pthread_mutex_unlock(&lock);
  return OK;
}

static stream *named(handle given) {
  stream *found = (uintptr_t)given <= LEGACY ? &legacy : given;
  if (!found->live) note("violation", "destroyed-stream", 0);
  return found;
}

/* Work is given to a stream. */
static stream *work(handle given) {
  stream *on = named(given);
  for (stream *other = streams; other; other = other->next) {
    int ordered = other == on || (on == &legacy && other->blocking) || (other == &legacy && on->blocking);
    if (other->pending && other->by == pthread_self() && !ordered) note("violation", "unordered-work", 0);
  }
  on->pending = 1;
  on->by = pthread_self();
  return on;
}

/* The host has waited for a stream. */
static void waited(stream *on) {
  on->pending = 0;
  for (stream *other = on == &legacy ? streams : 0; other; other = other->next)
    if (other->blocking) other->pending = 0;
}

/* Events order the work of one stream before that of another. */
typedef struct { stream *of; } event;

static int take(void **at, size_t bytes) {
  pthread_mutex_lock(&lock);
  start();
  size_t whole = (bytes + 511) & ~(size_t)511;
  int code = OK;
  if (capturing) note("violation", "allocation-while-capturing", bytes);
  if (used + whole > (size_t)setting("STAND_IN_MEMORY", 1l << 36) || block_count == MOST) {
    *at = 0;
    code = NO_MEMORY;
    note("refused", "allocation", bytes);
  } else {
    *at = device + top;
    blocks[block_count++] = (block){device + top, whole, 1};
    top += whole + 512;
    used += whole;
    if (used > peak) peak = used;
    note("allocate", "device", whole);
  }
  pthread_mutex_unlock(&lock);
  return code;
}

static int give_back(void *at) {
  if (!at) return OK;
  pthread_mutex_lock(&lock);
  block *found = around(blocks, block_count, at);
  int code = found && found->start == at ? OK : INVALID;
  if (code == OK) {
    used -= found->bytes;
    found->live = 0;
    madvise(shadow + (found->start - device), found->bytes, MADV_REMOVE);
    note("free", "device", found->bytes);
  } else {
    note("violation", "freed-what-is-not-allocated", 0);
  }
  pthread_mutex_unlock(&lock);
  return code;
}

int cudaMalloc(void **at, size_t bytes) { return take(at, bytes); }
int cudaFree(void *at) { return give_back(at); }
int cudaMallocFromPoolAsync(void **at, size_t bytes, handle pool, handle stream) { (void)pool, (void)stream; return take(at, bytes); }
int cudaFreeAsync(void *at, handle stream) { (void)stream; return give_back(at); }

int cudaHostAlloc(void **at, size_t bytes, unsigned flags) {
  (void)flags;
  if (posix_memalign(at, 4096, bytes ? bytes : 1)) return NO_MEMORY;
  pthread_mutex_lock(&lock);
  if (pinned_count < MOST) pinned[pinned_count++] = (block){*at, bytes, 1};
  note("allocate", "pinned", bytes);
  pthread_mutex_unlock(&lock);
  return OK;
}
int cudaMallocHost(void **at, size_t bytes) { return cudaHostAlloc(at, bytes, 0); }
int cudaFreeHost(void *at) {
  pthread_mutex_lock(&lock);
  block *found = around(pinned, pinned_count, at);
  if (found) found->live = 0;
  pthread_mutex_unlock(&lock);
  free(at);
  return OK;
}
int cudaMemGetInfo(size_t *left, size_t *all) {
  *all = setting("STAND_IN_MEMORY", 1l << 36);
  *left = *all - used;
  return OK;
}

/* No half-precision number in it is NaN or infinite any more: where a kernel would have written
   numbers, there may lie anything, such as the addresses of a batched product. */
static void made_finite(byte *at, size_t bytes) {
  for (size_t i = 1; i < bytes; i += 2)
    if ((at[i] & 0x7c) == 0x7c) at[i] &= ~0x04;
}

static const char *memory(const void *at) {
  return on_device(at) ? "device" : around(pinned, pinned_count, at) ? "pinned" : "host";
}

static int copy(const char *how, void *to, const void *from, size_t bytes, handle on) {
  pthread_mutex_lock(&lock);
  char kind[32];
  const char *there = memory(to);
  snprintf(kind, sizeof kind, "%s-to-%s", memory(from), there);
  note(how, kind, bytes);
  stream *used = work(on);
  byte *a = bytes ? reach(to, bytes) : 0, *b = bytes ? reach(from, bytes) : 0;
  if (a && b) memmove(a, b, bytes);
  if (a && b && on_device(from) && !on_device(to)) {
    made_finite(a, bytes);
    /* The host waits for it, if only because the memory is pageable. */
    if (!strcmp(how, "copy") || !strcmp(there, "host")) waited(used);
  }
  pthread_mutex_unlock(&lock);
  return failed ? FAILED : !bytes || (a && b) ? OK : INVALID;
}
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { (void)kind; return copy("copy", to, from, bytes, 0); }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, handle stream) { (void)kind; return copy("copy-async", to, from, bytes, stream); }
int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows, int kind, handle stream) {
  (void)kind;
  if (width > to_pitch || width > from_pitch) return BAD_PITCH;
  for (size_t i = 0; i < rows; i++)
    if (copy("copy-async", (byte *)to + i * to_pitch, (byte *)from + i * from_pitch, width, stream)) return INVALID;
  return OK;
}
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, int kind) { (void)symbol, (void)offset, (void)kind; memset(to, 0, bytes); return OK; }

static int fill(void *at, int value, size_t bytes) {
  pthread_mutex_lock(&lock);
  byte *a = bytes ? reach(at, bytes) : 0;
  if (a) memset(a, value, bytes);
  pthread_mutex_unlock(&lock);
  return a || !bytes ? OK : INVALID;
}
int cudaMemset(void *at, int value, size_t bytes) { return fill(at, value, bytes); } /* of tables, as sessions open: long done when they are used */
int cudaMemsetAsync(void *at, int value, size_t bytes, handle on) {
  pthread_mutex_lock(&lock);
  work(on);
  pthread_mutex_unlock(&lock);
  return fill(at, value, bytes);
}

/* Offsets of cudaPointerAttributes, cudaFuncAttributes and cudaDeviceProp are CUDA 13's. */
#define PUT(at, offset, type, value) (*(type *)((byte *)(at) + (offset)) = (value))

int cudaPointerGetAttributes(void *found, const void *at) {
  memset(found, 0, 88);
  pthread_mutex_lock(&lock);
  int kind = on_device(at) ? DEVICE_MEMORY : around(pinned, pinned_count, at) ? HOST_MEMORY : 0;
  pthread_mutex_unlock(&lock);
  PUT(found, 0, int, kind);
  PUT(found, 8, const void *, at);
  PUT(found, 16, const void *, at);
  return OK;
}
int cudaFuncGetAttributes(void *found, const void *function) {
  (void)function;
  memset(found, 0, 144);
  PUT(found, 24, int, 1024);  /* maxThreadsPerBlock */
  PUT(found, 28, int, 64);    /* numRegs */
  PUT(found, 32, int, 90);    /* ptxVersion */
  PUT(found, 36, int, 90);    /* binaryVersion */
  PUT(found, 44, int, 49152); /* maxDynamicSharedSizeBytes */
  return OK;
}
int cudaFuncSetAttribute(const void *function, int attribute, int value) { (void)function, (void)attribute, (void)value; return OK; }
int cudaKernelSetAttributeForDevice(handle kernel, int attribute, int value, int gpu) { (void)kernel, (void)attribute, (void)value, (void)gpu; return OK; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *function, int threads, size_t shared, unsigned flags) { (void)function, (void)threads, (void)shared, (void)flags; *count = 2; return OK; }

static int capability(void) { return setting("STAND_IN_CAPABILITY", 90); }

int cudaGetDeviceCount(int *count) { *count = setting("STAND_IN_GPUS", 1); return setting("STAND_IN_DRIVER", 13000) < 13000 ? OLD_DRIVER : OK; }
int cudaGetDevice(int *index) { *index = 0; return setting("STAND_IN_DRIVER", 13000) < 13000 ? OLD_DRIVER : OK; }
int cudaSetDevice(int index) { return setting("STAND_IN_DRIVER", 13000) < 13000 ? OLD_DRIVER : index < setting("STAND_IN_GPUS", 1) ? OK : BAD_DEVICE; }
int cudaGetDeviceProperties(void *found, int index) {
  (void)index;
  memset(found, 0, 1008);
  strcpy(found, "stand-in");
  PUT(found, 288, size_t, setting("STAND_IN_MEMORY", 1l << 36));
  PUT(found, 296, size_t, 49152);      /* sharedMemPerBlock */
  PUT(found, 304, int, 65536);         /* regsPerBlock */
  PUT(found, 308, int, 32);            /* warpSize */
  PUT(found, 320, int, 1024);          /* maxThreadsPerBlock */
  PUT(found, 324, int, 1024);          /* maxThreadsDim */
  PUT(found, 328, int, 1024);
  PUT(found, 332, int, 64);
  PUT(found, 336, int, 2147483647);    /* maxGridSize */
  PUT(found, 340, int, 65535);
  PUT(found, 344, int, 65535);
  PUT(found, 360, int, capability() / 10);
  PUT(found, 364, int, capability() % 10);
  PUT(found, 384, int, 132);           /* multiProcessorCount */
  PUT(found, 560, int, 1);             /* concurrentKernels */
  PUT(found, 588, int, 1);             /* unifiedAddressing */
  PUT(found, 596, int, 50 << 20);      /* l2CacheSize */
  PUT(found, 604, int, 2048);          /* maxThreadsPerMultiProcessor */
  PUT(found, 624, size_t, 233472);     /* sharedMemPerMultiprocessor */
  PUT(found, 632, int, 65536);         /* regsPerMultiprocessor */
  PUT(found, 672, size_t, 232448);     /* sharedMemPerBlockOptin */
  PUT(found, 688, int, 32);            /* maxBlocksPerMultiProcessor */
  PUT(found, 720, int, 1);             /* memoryPoolsSupported */
  return OK;
}
int cudaDeviceGetAttribute(int *value, int attribute, int index) {
  (void)index;
  switch (attribute) {
    case 1: *value = 1024; break;             /* MaxThreadsPerBlock */
    case 8: *value = 49152; break;            /* MaxSharedMemoryPerBlock */
    case 10: *value = 32; break;              /* WarpSize */
    case 12: *value = 65536; break;           /* MaxRegistersPerBlock */
    case 16: *value = 132; break;             /* MultiProcessorCount */
    case 38: *value = 50 << 20; break;        /* L2CacheSize */
    case 39: *value = 2048; break;            /* MaxThreadsPerMultiProcessor */
    case 75: *value = capability() / 10; break;
    case 76: *value = capability() % 10; break;
    case 81: *value = 233472; break;          /* MaxSharedMemoryPerMultiprocessor */
    case 82: *value = 65536; break;           /* MaxRegistersPerMultiprocessor */
    case 97: *value = 232448; break;          /* MaxSharedMemoryPerBlockOptin */
    case 106: *value = 32; break;             /* MaxBlocksPerMultiprocessor */
    default: *value = 1;
  }
  return OK;
}
int cudaDriverGetVersion(int *version) { *version = setting("STAND_IN_DRIVER", 13000); return OK; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return OK; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags, int *status) {
  (void)name, (void)version, (void)flags;
  *function = (void *)cudaRuntimeGetVersion;
  if (status) *status = 0;
  return OK;
}

static int wait(const char *what, stream *on) {
  pthread_mutex_lock(&lock);
  note("sync", what, 0);
  if (capturing) note("violation", "synchronization-while-capturing", 0);
  for (stream *other = on ? 0 : streams; other; other = other->next) other->pending = 0;
  if (on) waited(on);
  pthread_mutex_unlock(&lock);
  return failed ? FAILED : OK;
}
int cudaDeviceSynchronize(void) { return wait("device", 0); }
int cudaStreamSynchronize(handle given) {
  stream *on = named(given);
  return wait(on == &legacy ? "default-stream" : "stream", on);
}
int cudaEventSynchronize(handle given) { return wait("event", ((event *)given)->of); }

int cudaEventCreate(handle *made) { *made = calloc(1, sizeof(event)); return *made ? OK : NO_MEMORY; }
int cudaEventCreateWithFlags(handle *made, unsigned flags) { (void)flags; return cudaEventCreate(made); }
int cudaEventDestroy(handle given) { free(given); return OK; }
int cudaEventElapsedTime(float *milliseconds, handle a, handle b) { (void)a, (void)b; *milliseconds = 1; return OK; }
int cudaEventRecord(handle given, handle on) { ((event *)given)->of = named(on); return OK; }
int cudaEventRecordWithFlags(handle given, handle on, unsigned flags) { (void)flags; return cudaEventRecord(given, on); }
int cudaStreamWaitEvent(handle on, handle given, unsigned flags) {
  (void)flags;
  pthread_mutex_lock(&lock);
  stream *before = ((event *)given)->of, *after = named(on);
  if (before && before != after && before->pending) {
    before->pending = 0;
    after->pending = 1;
    after->by = before->by;
  }
  pthread_mutex_unlock(&lock);
  return OK;
}
int cudaStreamCreate(handle *made) { return make_stream(made, 0); }
int cudaStreamCreateWithFlags(handle *made, unsigned flags) { return make_stream(made, flags); }
int cudaStreamDestroy(handle given) {
  pthread_mutex_lock(&lock);
  *named(given) = (stream){.next = named(given)->next};
  pthread_mutex_unlock(&lock);
  return OK;
}

int cudaStreamBeginCapture(handle stream, int mode) { (void)stream, (void)mode; capturing = 1; stand_in_tell("graph", "begin"); return OK; }
int cudaStreamEndCapture(handle stream, handle *graph) { (void)stream; capturing = 0; *graph = &token; stand_in_tell("graph", "end"); return OK; }
int cudaStreamIsCapturing(handle stream, int *status) { (void)stream; *status = capturing; return OK; }
int cudaGraphInstantiate(handle *ready, handle graph, unsigned long long flags) { (void)graph, (void)flags; *ready = &token; return OK; }
int cudaGraphLaunch(handle graph, handle stream) {
  (void)graph;
  pthread_mutex_lock(&lock);
  note("graph", "launch", 0);
  work(stream);
  pthread_mutex_unlock(&lock);
  return OK;
}
int cudaGraphDestroy(handle graph) { (void)graph; return OK; }
int cudaGraphExecDestroy(handle graph) { (void)graph; return OK; }

const char *cudaGetErrorName(int code) { return code == NO_MEMORY ? "cudaErrorMemoryAllocation" : code == FAILED ? "cudaErrorLaunchFailure" : "cudaError"; }
const char *cudaGetErrorString(int code) { return code == NO_MEMORY ? "out of memory" : code == FAILED ? "unspecified launch failure" : code == OLD_DRIVER ? "CUDA driver version is insufficient for CUDA runtime version" : "error of the stand-in"; }
int cudaGetLastError(void) { return failed ? FAILED : OK; }
int cudaPeekAtLastError(void) { return failed ? FAILED : OK; }

/* Kernels: their names are told at load, and written down at launch. */
typedef struct { const void *function; const char *name; } kernel;
static kernel *kernels;
static int kernel_count, kernel_room;

static int by_address(const void *a, const void *b) {
  const void *x = ((const kernel *)a)->function, *y = ((const kernel *)b)->function;
  return x < y ? -1 : x > y;
}

static int launch(const void *function, handle on) {
  static int sorted;
  pthread_mutex_lock(&lock);
  if (sorted != kernel_count) {
    qsort(kernels, kernel_count, sizeof *kernels, by_address);
    sorted = kernel_count;
  }
  kernel wanted = {function, 0};
  kernel *found = kernels ? bsearch(&wanted, kernels, kernel_count, sizeof *kernels, by_address) : 0;
  note("kernel", found ? found->name : "unknown", 0);
  work(on);
  launches++;
  long last = setting("STAND_IN_FAIL_AFTER", -1);
  if (last >= 0 && launches > last) failed = 1;
  pthread_mutex_unlock(&lock);
  return failed ? FAILED : OK;
}
int cudaLaunchKernel(const void *f, dim3 grid, dim3 threads, void **arguments, size_t shared, handle stream) { (void)grid, (void)threads, (void)arguments, (void)shared; return launch(f, stream); }
int cudaLaunchCooperativeKernel(const void *f, dim3 grid, dim3 threads, void **arguments, size_t shared, handle stream) { (void)grid, (void)threads, (void)arguments, (void)shared; return launch(f, stream); }
int __cudaLaunchKernel(const void *f, dim3 grid, dim3 threads, void **arguments, size_t shared, handle stream) { (void)grid, (void)threads, (void)arguments, (void)shared; return launch(f, stream); }
typedef struct { dim3 grid, threads; size_t shared; handle stream; void *attributes; unsigned count; } settings;
int cudaLaunchKernelExC(const settings *given, const void *f, void **arguments) { (void)arguments; return launch(f, given->stream); }
int cudaLaunchHostFunc(handle stream, void (*function)(void *), void *data) { (void)stream; function(data); return OK; }
int __cudaGetKernel(const void **found, const void *f) { *found = f; return OK; }
/* <<<...>>> pushes what the launch after it pops. */
static __thread struct { dim3 grid, threads; size_t shared; handle stream; } pushed;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 threads, size_t shared, handle stream) {
  pushed.grid = grid, pushed.threads = threads, pushed.shared = shared, pushed.stream = stream;
  return 0;
}
int __cudaPopCallConfiguration(dim3 *grid, dim3 *threads, size_t *shared, handle *stream) {
  *grid = pushed.grid, *threads = pushed.threads, *shared = pushed.shared, *stream = pushed.stream;
  return OK;
}
void **__cudaRegisterFatBinary(void *content) { (void)content; static void *none; return &none; }
void __cudaRegisterFatBinaryEnd(void **binary) { (void)binary; }
void __cudaUnregisterFatBinary(void **binary) { (void)binary; }
void __cudaRegisterFunction(void **binary, const char *function, char *stub, const char *name, int limit, void *a, void *b, void *c, void *d, int *e) {
  (void)binary, (void)stub, (void)limit, (void)a, (void)b, (void)c, (void)d, (void)e;
  if (kernel_count == kernel_room) {
    kernel_room = kernel_room ? 2 * kernel_room : 4096;
    kernels = realloc(kernels, kernel_room * sizeof *kernels);
    if (!kernels) abort();
  }
  kernels[kernel_count++] = (kernel){function, name};
}
void __cudaRegisterVar(void **binary, char *host, char *stub, const char *name, int external, size_t bytes, int constant, int global) { (void)binary, (void)host, (void)stub, (void)name, (void)external, (void)bytes, (void)constant, (void)global; }
int cudaLibraryLoadData(handle *library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) { (void)code, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f; *library = &token; return OK; }
int cudaLibraryGetKernel(handle *found, handle library, const char *name) { (void)library, (void)name; *found = &token; return OK; }
int cudaLibraryUnload(handle library) { (void)library; return OK; }

int cudaMemPoolCreate(handle *pool, const void *settings) { (void)settings; *pool = &token; return OK; }
int cudaMemPoolDestroy(handle pool) { (void)pool; return OK; }
int cudaMemPoolGetAttribute(handle pool, int attribute, void *value) { (void)pool, (void)attribute; *(uint64_t *)value = 0; return OK; }
int cudaMemPoolSetAttribute(handle pool, int attribute, void *value) { (void)pool, (void)attribute, (void)value; return OK; }
int cudaMemPoolTrimTo(handle pool, size_t bytes) { (void)pool, (void)bytes; return OK; }
