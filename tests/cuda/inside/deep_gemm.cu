// An fp8 matrix product of DeepGEMM for Hopper as its own generator would ask for it: 128x128x128, 4 stages, bfloat16 out.
#include <deep_gemm/impls/sm90_fp8_gemm_1d2d.cuh>

using namespace deep_gemm;

static void __instantiate_kernel() {
    auto kernel = reinterpret_cast<void *>(
        &sm90_fp8_gemm_1d2d_impl<cute::UMMA::Major::K, 0, 4096, 7168, 1, 128, 128, 128, 128, 128, 128, 4, 128, 256, 1,
                                 true, 132, GemmType::Normal, cutlass::bfloat16_t,
                                 epilogue::transform::EpilogueIdentity>);
    (void)kernel;
}
