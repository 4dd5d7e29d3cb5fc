// Enough of Metal's standard library for clang's "C++ for OpenCL" to check our kernels by: the address spaces and the
// restrictions (no function pointers, no recursion, no exceptions) are those of MSL. Stands in for <metal_stdlib>.
#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
#pragma OPENCL EXTENSION __cl_clang_non_portable_kernel_param_types : enable
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
namespace metal {
template <class To, class From> static inline To as_type(From from) {
    static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
    return __builtin_bit_cast(To, from);
}
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags);
}
#define double MSL_HAS_NO_double
