/* As libcuda.so.1 of a driver that sees one GPU and is too old for any CUDA runtime. */
#include <stddef.h>

int cuInit(unsigned flags) { return flags != 0; }
int cuDriverGetVersion(int *version) { return *version = 10000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal ? 101 : 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = (size_t)16 << 30, device; }
int cuGetErrorString(int error, const char **text) { return *text = error ? "refused" : "no error", 0; }
int cuTensorMapEncodeTiled(void) { return 1; }
