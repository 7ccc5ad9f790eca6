/* libcuda.so.1: as much of the driver as is asked before a session opens. */
#include <stdlib.h>

static int setting(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

int cuInit(unsigned flags) {
  (void)flags;
  return setting("STAND_IN_INIT", 0);
}

int cuDriverGetVersion(int *version) {
  *version = setting("STAND_IN_DRIVER", 13000);
  return 0;
}

int cuDeviceGetCount(int *count) {
  *count = setting("STAND_IN_GPUS", 1);
  return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability = setting("STAND_IN_CAPABILITY", 90);
  (void)device;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 1;
  return 0;
}

int cuTensorMapEncodeTiled(void) { return 0; }
