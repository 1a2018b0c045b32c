// A decode step through all layers of a Llama-like model, by threads that stay together.
//
// A layer: RMS norm, queries, keys and values, rotation, attention, output; RMS norm, gate and up,
// SiLU, down. Hidden states and all sums are float32; rows are rounded where a layer's format
// wants it. The threads of one parallel region go from phase to phase: each phase is cut into
// tasks, whoever is free takes the next one, and the last to finish opens the next phase. Waiting
// threads spin for some microseconds, then let others have the processor.

#pragma once

#include <atomic>
#include <omp.h>
#include <optional>
#include <sched.h>
#include <vector>

#include "attention.h"
#include "packed_linear.h"

namespace palma {

constexpr int kMaxSpins = 4000;

// Mirrors `_Layer` in decoder.py, field by field.
struct Layer {
    Linear qkv, output, gate_up, down;
    const float* input_norm;        // (hidden_size,)
    const float* middle_norm;       // (hidden_size,)
    const float* query_norm;        // (head_dim,) or null
    const float* key_norm;
    void* keys;                     // (num_kv_heads, num_slots, head_dim)
    void* values;
    int64_t window;                 // most keys a query sees; 0: all
};

// Mirrors `_Model` in decoder.py.
struct Model {
    const Layer* layers;
    int64_t num_layers;
    Linear head;
    const float* final_norm;        // (hidden_size,)
    int64_t hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim;
    int64_t num_slots, block_size;
    double epsilon, scale;
    int32_t is_bfloat16;            // what keys and values are; else float32
};

// Mirrors `_Step` in decoder.py.
struct Step {
    float* hidden;                  // (batch, hidden_size): embeddings
    const float* cosines;           // (batch, head_dim)
    const float* sines;
    const int32_t* block_tables;    // (batch, max_blocks)
    const int32_t* lengths;         // (batch,)
    float* logits;                  // (batch, vocab_size)
    int64_t batch, max_blocks, num_threads;
};

// The threads of a parallel region.
class Team {
public:
    // How many they are: OpenMP may give fewer than it was asked for. Before the first `each`.
    void set_size(int64_t size) { size_ = size; }

    // Run `work(i)` for every i below `count`, shared out among all threads; each calls this.
    template <typename Work>
    void each(int64_t count, Work work) {
        if (size_ == 1) {
            for (int64_t i = 0; i < count; ++i) work(i);
            return;
        }
        for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
        wait();
    }

private:
    void wait() {
        const uint64_t phase = phase_.load(std::memory_order_acquire);
        if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            waiting_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
            if (spins < kMaxSpins) _mm_pause();
            else sched_yield();
        }
    }

    int64_t size_ = 1;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int64_t> waiting_{0};
    alignas(64) std::atomic<uint64_t> phase_{0};
};

// Memory that grows and is used again.
template <typename T>
T* scratch(std::vector<T>& memory, int64_t count) {
    if (int64_t(memory.size()) < count) memory.resize(count);
    return memory.data();
}

inline void widen_row(const float* from, int64_t count, float* to) {
    std::memcpy(to, from, count * sizeof(float));
}
inline void widen_row(const bfloat16* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
}
inline void narrow_row(const float* from, int64_t count, float* to) {
    std::memcpy(to, from, count * sizeof(float));
}
inline void narrow_row(const float* from, int64_t count, bfloat16* to) {
    for (int64_t i = 0; i < count; ++i) narrow(from[i], to + i);
}

// to = x * rsqrt(mean(x * x) + epsilon) * weight. Source: arXiv:1910.07467.
inline void rms_norm(const float* x, const float* weight, int64_t size, double epsilon, float* to) {
    Floats<kLanes> squares = {};
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        auto part = load_floats<kLanes>(x + i);
        squares += part * part;
    }
    float sum = sum_lanes<kLanes>(squares);
    for (; i < size; ++i) sum += x[i] * x[i];
    const float factor = 1 / std::sqrt(sum / size + float(epsilon));
    for (i = 0; i < size; ++i) to[i] = x[i] * factor * weight[i];
}

// Rotate the two halves of a head. Source: arXiv:2104.09864, as Transformers orders it.
inline void rotate(float* head, const float* cosines, const float* sines, int64_t dim) {
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float a = head[i], b = head[half + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[half + i] = b * cosines[half + i] + a * sines[half + i];
    }
}

// to = silu(gate) * up
inline void gated(const float* gate, const float* up, int64_t size, float* to) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        auto g = load_floats<kLanes>(gate + i);
        auto magnitude = g < 0.0f ? -g : g;
        auto e = exp_vec<kLanes>(-magnitude);  // 1 / (1 + exp(-g)) without overflow
        auto sigmoid = (g < 0.0f ? e : e * 0.0f + 1.0f) / (1.0f + e);
        store(to + i, g * sigmoid * load_floats<kLanes>(up + i));
    }
    for (; i < size; ++i) to[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

// out = in * weights for any number of rows, by OpenMP's threads.
template <typename T>
void run_linear(const Linear& linear, const T* in, int64_t num_rows, T* out, int64_t num_threads) {
    const int64_t columns = linear.num_outputs, stride = Rows::stride_of(linear);
    thread_local std::vector<char> units;
    thread_local std::vector<float> scales, sums;
    Rows rows{scratch(units, num_rows * stride), scratch(scales, num_rows), stride};
    float* sum = sizeof(T) == 4 ? reinterpret_cast<float*>(out)
                                : scratch(sums, num_rows * columns);
    const int64_t panels = num_panels(linear);
    const bool is_large = num_rows * linear.num_inputs * columns >= 1 << 17;
    const bool is_ready = sizeof(T) == 2 && linear.format == kBfloat16
                          && linear.num_inputs % 2 == 0;
    if (is_ready) {  // the rows lie in the format already
        rows.units = reinterpret_cast<char*>(const_cast<T*>(in));
        rows.stride = linear.num_inputs * sizeof(T);
    }
#pragma omp parallel num_threads(is_large ? num_threads : 1)
    {
        if (!is_ready) {
            std::vector<float> row(linear.num_inputs);
#pragma omp for
            for (int64_t i = 0; i < num_rows; ++i) {
                widen_row(in + i * linear.num_inputs, linear.num_inputs, row.data());
                prepare_row(linear, row.data(), i, rows);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t panel = 0; panel < panels; ++panel)
            multiply(linear, rows, num_rows, panel, sum, columns, false);
        if (sizeof(T) == 2) {
#pragma omp for
            for (int64_t i = 0; i < num_rows; ++i)
                narrow_row(sum + i * columns, columns, out + i * columns);
        }
    }
}

template <typename T, int G>
class Decoder {
public:
    Decoder(const Model& model, const Step& step)
        : model_(model), step_(step), batch_(step.batch),
          query_width_(model.num_heads * model.head_dim),
          kv_width_(model.num_kv_heads * model.head_dim),
          qkv_width_(query_width_ + 2 * kv_width_) {
        thread_local std::vector<float> qkv, wide, scales;
        thread_local std::vector<T> states;
        thread_local std::vector<char> units;
        const int64_t widest = std::max({model.hidden_size, model.intermediate_size, query_width_});
        qkv_ = scratch(qkv, batch_ * std::max(qkv_width_, 2 * model.intermediate_size));
        wide_ = scratch(wide, batch_ * widest);
        states_ = scratch(states, batch_ * (qkv_width_ + query_width_));
        units_ = scratch(units, batch_ * (widest * 4 + 64));
        scales_ = scratch(scales, batch_);
    }

    void run() {
#pragma omp parallel num_threads(step_.num_threads)
        {
#pragma omp single
            team_.set_size(omp_get_num_threads());
            run_together();
        }
    }

private:
    void run_together() {
        for (int64_t i = 0; i < model_.num_layers; ++i) {
            const Layer& layer = model_.layers[i];
            multiply_normed(layer.qkv, layer.input_norm, qkv_);
            team_.each(batch_ + 1, [&](int64_t row) {
                if (row == 0) plan_attention(layer);
                else rotate_row(layer, row - 1);
            });
            team_.each(attention_->num_tasks(), [&](int64_t task) { attention_->work(task); });
            multiply_rows(layer.output, step_.hidden, true, [&](int64_t row, float* to) {
                widen_row(attended() + row * query_width_, query_width_, to);
            });
            multiply_normed(layer.gate_up, layer.middle_norm, qkv_);
            multiply_rows(layer.down, step_.hidden, true, [&](int64_t row, float* to) {
                const float* gate = qkv_ + row * 2 * model_.intermediate_size;
                gated(gate, gate + model_.intermediate_size, model_.intermediate_size, to);
            });
        }
        multiply_normed(model_.head, model_.final_norm, step_.logits);
    }

    T* queries() const { return states_; }
    T* new_keys() const { return states_ + query_width_; }
    T* new_values() const { return states_ + query_width_ + kv_width_; }
    T* attended() const { return states_ + batch_ * qkv_width_; }

    // out = rows * weights, or with `adds` out += rows * weights; `fill(row, to)` makes the rows.
    template <typename Fill>
    void multiply_rows(const Linear& linear, float* out, bool adds, Fill fill) {
        const Rows rows{units_, scales_, Rows::stride_of(linear)};
        team_.each(batch_, [&](int64_t row) {
            float* values = wide_ + row * linear.num_inputs;
            fill(row, values);
            prepare_row(linear, values, row, rows);
        });
        team_.each(num_panels(linear), [&](int64_t panel) {
            multiply(linear, rows, batch_, panel, out, linear.num_outputs, adds);
        });
    }

    void multiply_normed(const Linear& linear, const float* norm, float* out) {
        multiply_rows(linear, out, false, [&](int64_t row, float* to) {
            const int64_t size = model_.hidden_size;
            rms_norm(step_.hidden + row * size, norm, size, model_.epsilon, to);
        });
    }

    void rotate_row(const Layer& layer, int64_t row) {
        float* qkv = qkv_ + row * qkv_width_;
        const int64_t dim = model_.head_dim;
        for (int64_t head = 0; head < model_.num_heads + model_.num_kv_heads; ++head) {
            float* at = qkv + head * dim;
            const float* norm = head < model_.num_heads ? layer.query_norm : layer.key_norm;
            if (norm) rms_norm(at, norm, dim, model_.epsilon, at);
            rotate(at, step_.cosines + row * dim, step_.sines + row * dim, dim);
        }
        narrow_row(qkv, qkv_width_, states_ + row * qkv_width_);
    }

    void plan_attention(const Layer& layer) {
        Call call{};
        call.query = queries();
        call.new_keys = new_keys();
        call.new_values = new_values();
        call.keys = layer.keys;
        call.values = layer.values;
        call.output = attended();
        call.block_tables = step_.block_tables;
        call.lengths = step_.lengths;
        for (int64_t* strides :
             {call.query_strides, call.new_key_strides, call.new_value_strides}) {
            strides[0] = qkv_width_;
            strides[1] = model_.head_dim;
        }
        call.batch = batch_;
        call.num_heads = model_.num_heads;
        call.num_kv_heads = model_.num_kv_heads;
        call.head_dim = call.value_dim = model_.head_dim;
        call.num_slots = model_.num_slots;
        call.block_size = model_.block_size;
        call.max_blocks = step_.max_blocks;
        call.window = layer.window;
        call.num_threads = step_.num_threads;
        call.scale = model_.scale;
        attention_.emplace(call);
    }

    const Model& model_;
    const Step& step_;
    Team team_;
    const int64_t batch_, query_width_, kv_width_, qkv_width_;
    float* qkv_;     // (batch, qkv_width), later (batch, 2 * intermediate_size)
    float* wide_;    // (batch, widest)
    T* states_;      // (batch, qkv_width) queries, keys, values; then (batch, query_width) attended
    char* units_;
    float* scales_;
    std::optional<Attention<T, G>> attention_;
};

}  // namespace palma
