/* What the CUDA runtime answers where there is a device, for those questions that torch asks of it in C++ before any
   kernel: preloaded, it goes before libcudart. All else is the real runtime's, which finds no driver and says so. */
#include <stdlib.h>

static int from_environment(const char *name) { const char *value = getenv(name); return value ? atoi(value) : 0; }

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return device != 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { (void)stream; *status = 0; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 75: *value = from_environment("FAKE_GPU_MAJOR"); break;
    case 76: *value = from_environment("FAKE_GPU_MINOR"); break;
    case 16: *value = from_environment("FAKE_GPU_PROCESSORS"); break;
    case 97: *value = from_environment("FAKE_GPU_SHARED_BYTES"); break; /* of a block that asks for it */
    case 10: *value = 32; break; /* a warp */
    default: *value = 1;
    }
    return 0;
}

