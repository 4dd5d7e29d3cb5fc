// OpenCL C 1.2. f64 needs cl_khr_fp64, which is core there where the device has it.
#pragma OPENCL FP_CONTRACT OFF
#define KERNEL(name) __attribute__((reqd_work_group_size(THREADS, 1, 1))) __kernel void name
#define FUNCTION static inline
#define IN(type, name, index) __global const type *restrict name
#define OUT(type, name, index) __global type *restrict name
#define VALUE(type, name, index) type name
#define IDS
#define THREAD ((uint)get_local_id(0))
#define BLOCK ((uint)get_group_id(0))
#define BLOCKS ((uint)get_num_groups(0))
#define SHARED(type, name, len) __local type name[len]
#define SHARED_PTR __local
#define GLOBAL __global
#define PRIVATE __private
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE)
#define UNROLL _Pragma("unroll")
FUNCTION float f16_load(ushort h) { return vload_half(0, (const __private half *)&h); }
FUNCTION ushort f16_store(float f) { ushort h; vstore_half_rte(f, 0, (__private half *)&h); return h; }
FUNCTION float from_bits(uint u) { return as_float(u); }
FUNCTION uint to_bits(float f) { return as_uint(f); }
#ifdef DTYPE_F64
FUNCTION double from_words(uint low, uint high) { return as_double((ulong)high << 32 | low); }
FUNCTION uint low_word(double d) { return (uint)as_ulong(d); }
FUNCTION uint high_word(double d) { return (uint)(as_ulong(d) >> 32); }
#endif
#define LOAD_VECTOR(type, p) (*(GLOBAL const type *)(p))
#define SAVE_VECTOR(type, p, v) *(GLOBAL type *)(p) = v
#define SQRT sqrt
#define EXP exp
#define LOG log
#define FLOOR floor
