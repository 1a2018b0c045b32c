// What Python calls: attention of a decode step, one linear layer, a whole decode step.

#include "attention.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "decoder.h"
#define PALMA_HAS_LINEAR 1
#endif

using namespace palma;

namespace {

template <typename T>
void attend_with(const Call& call) {
    with_group(call.num_heads / call.num_kv_heads, [&](auto group) {
        Attention<T, decltype(group)::value> attention(call);
        const int64_t num_tasks = attention.num_tasks();
        if (call.num_threads == 1) {
            for (int64_t task = 0; task < num_tasks; ++task) attention.work(task);
            return;
        }
#pragma omp parallel for schedule(dynamic) num_threads(call.num_threads)
        for (int64_t task = 0; task < num_tasks; ++task) attention.work(task);
    });
}

}  // namespace

extern "C" {

void palma_decode_attention(const Call* given, int32_t is_bfloat16) {
    Call call = *given;
    if (!pays_threads(call)) call.num_threads = 1;
    if (is_bfloat16) attend_with<bfloat16>(call);
    else attend_with<float>(call);
}

// Which formats of weights the linear layers take here: a bit for each `Format`.
int32_t palma_linear_formats() {
    int32_t formats = 0;
#ifdef PALMA_HAS_LINEAR
    formats |= 1 << kFloat32;
#ifdef __AVX512BF16__
    formats |= 1 << kBfloat16;
#endif
#ifdef __AVX512VNNI__
    formats |= 1 << kInt8;
#endif
#endif
    return formats;
}

#ifdef PALMA_HAS_LINEAR

// out (num_rows, num_outputs) = in (num_rows, num_inputs) * weights; float32 or bfloat16 outside.
void palma_linear(const Linear* linear, const void* in, int64_t num_rows, void* out,
                  int32_t is_bfloat16, int64_t num_threads) {
    if (is_bfloat16) run_linear(*linear, static_cast<const bfloat16*>(in), num_rows,
                                static_cast<bfloat16*>(out), num_threads);
    else run_linear(*linear, static_cast<const float*>(in), num_rows, static_cast<float*>(out),
                    num_threads);
}

void palma_decode(const Model* model, const Step* step) {
    with_group(model->num_heads / model->num_kv_heads, [&](auto group) {
        constexpr int G = decltype(group)::value;
        if (model->is_bfloat16) Decoder<bfloat16, G>(*model, *step).run();
        else Decoder<float, G>(*model, *step).run();
    });
}

#endif

}  // extern "C"
