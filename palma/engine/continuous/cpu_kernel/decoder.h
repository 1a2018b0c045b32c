// A step through all layers of a Llama-like model, by threads that stay together. Its rows are
// tokens: one of each sequence that decodes, several of those whose prompts are read.
//
// A layer: RMS norm, queries, keys and values, rotation, attention, output; RMS norm, gate and up,
// SiLU, down. Hidden states and all sums are float32; rows are rounded where a layer's format
// wants it. The threads of one parallel region go from phase to phase: each phase is cut into
// tasks, whoever is free takes the next one, and the last to finish opens the next phase. Waiting
// threads spin for some microseconds before they sleep.

#pragma once

#include <atomic>
#include <climits>
#include <optional>
#include <vector>

#include <linux/futex.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attention.h"
#include "packed_linear.h"

namespace palma {

constexpr int kMaxSpins = 4000;  // some 50 microseconds

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
    double scale;                   // of the scores
};

// Mirrors `_Model` in decoder.py.
struct Model {
    const Layer* layers;
    int64_t num_layers;
    Linear head;
    const float* final_norm;        // (hidden_size,)
    int64_t hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim;
    int64_t num_slots, block_size;
    double epsilon;
    int32_t is_bfloat16;            // what keys and values are; else float32
};

// Mirrors `_Step` in decoder.py.
struct Step {
    float* hidden;                  // (num_rows, hidden_size): embeddings
    const float* cosines;           // (num_rows, head_dim)
    const float* sines;
    const int32_t* block_tables;    // (batch, max_blocks)
    const int32_t* lengths;         // (batch,): keys of each sequence, the new ones included
    const int32_t* first_rows;      // (batch + 1,): where a sequence's rows begin
    const int32_t* head_rows;       // (num_logits,): rows whose logits are wanted
    float* logits;                  // (num_logits, vocab_size)
    int64_t batch, num_rows, num_logits, max_blocks, num_threads;
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
        for (int64_t i; (i = take()) < count;) work(i);
        wait();
    }

    // The same with `work(i, next)`: a thread takes its next task, or -1, before it does this one.
    template <typename Work>
    void each_ahead(int64_t count, Work work) {
        if (size_ == 1) {
            for (int64_t i = 0; i < count; ++i) work(i, i + 1 < count ? i + 1 : -1);
            return;
        }
        for (int64_t i = take(), next; i < count; i = next) {
            next = take();
            work(i, next < count ? next : -1);
        }
        wait();
    }

private:
    int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

    void wait() {
        const uint32_t phase = phase_.load(std::memory_order_acquire);
        if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            waiting_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_seq_cst);
            if (num_asleep_.load(std::memory_order_seq_cst) > 0) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
            return;
        }
        for (int spins = 0; spins < kMaxSpins; ++spins) {
            if (phase_.load(std::memory_order_acquire) != phase) return;
            _mm_pause();
        }
        num_asleep_.fetch_add(1, std::memory_order_seq_cst);
        while (phase_.load(std::memory_order_seq_cst) == phase) futex(FUTEX_WAIT_PRIVATE, phase);
        num_asleep_.fetch_sub(1, std::memory_order_relaxed);
    }

    void futex(int operation, uint32_t value) {
        syscall(SYS_futex, reinterpret_cast<uint32_t*>(&phase_), operation, value, nullptr);
    }

    int64_t size_ = 1;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int64_t> waiting_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    std::atomic<int> num_asleep_{0};
};

// Memory that grows and is used again. It begins at a line of the cache: threads that write
// columns side by side would take the lines at their borders from each other.
template <typename T>
T* scratch(std::vector<T>& memory, int64_t count) {
    const int64_t spare = kLine / sizeof(T);
    if (int64_t(memory.size()) < count + spare) memory.resize(count + spare);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    return reinterpret_cast<T*>((address + kLine - 1) / kLine * kLine);
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
        : model_(model), step_(step), num_rows_(step.num_rows),
          query_width_(model.num_heads * model.head_dim),
          kv_width_(model.num_kv_heads * model.head_dim),
          qkv_width_(query_width_ + 2 * kv_width_) {
        thread_local std::vector<float> qkv, wide, scales;
        thread_local std::vector<T> states;
        thread_local std::vector<char> units;
        const int64_t widest = std::max({model.hidden_size, model.intermediate_size, query_width_});
        qkv_ = scratch(qkv, num_rows_ * std::max(qkv_width_, 2 * model.intermediate_size));
        wide_ = scratch(wide, num_rows_ * widest);
        states_ = scratch(states, num_rows_ * 2 * query_width_);
        units_ = scratch(units, num_rows_ * (widest * 4 + 64));
        scales_ = scratch(scales, num_rows_);
        thread_local std::vector<int32_t> sequences;
        sequence_of_ = scratch(sequences, num_rows_);
        for (int64_t b = 0; b < step.batch; ++b)
            std::fill(sequence_of_ + step.first_rows[b], sequence_of_ + step.first_rows[b + 1], b);
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
            multiply_normed(layer.qkv, layer.input_norm);
            team_.each(num_rows_ + 1, [&](int64_t row) {
                if (row == 0) plan_attention(layer);
                else rotate_and_store(layer, row - 1);
            });
            const int64_t num_decodes = decodes_->num_tasks();
            team_.each(num_decodes + prefills_->num_tasks(), [&](int64_t task) {
                if (task < num_decodes) decodes_->work(task);
                else prefills_->work(task - num_decodes);
            });
            multiply_rows(layer.output, num_rows_, step_.hidden, true, [&](int64_t row, float* to) {
                widen_row(attended() + row * query_width_, query_width_, to);
            });
            multiply_normed(layer.gate_up, layer.middle_norm);
            multiply_rows(layer.down, num_rows_, step_.hidden, true, [&](int64_t row, float* to) {
                const float* gate = qkv_ + row * 2 * model_.intermediate_size;
                gated(gate, gate + model_.intermediate_size, model_.intermediate_size, to);
            });
        }
        multiply_rows(model_.head, step_.num_logits, step_.logits, false,
                      [&](int64_t row, float* to) {
            normalize(step_.head_rows[row], model_.final_norm, to);
        });
    }

    T* queries() const { return states_; }
    T* attended() const { return states_ + num_rows_ * query_width_; }

    // out = rows * weights, or with `adds` out += rows * weights; `fill(row, to)` makes the rows.
    template <typename Fill>
    void multiply_rows(const Linear& linear, int64_t count, float* out, bool adds, Fill fill) {
        const Rows rows{units_, scales_, Rows::stride_of(linear)};
        team_.each(count, [&](int64_t row) {
            float* values = wide_ + row * linear.num_inputs;
            fill(row, values);
            prepare_row(linear, values, row, rows);
        });
        team_.each_ahead(num_panels(linear), [&](int64_t panel, int64_t next) {
            multiply(linear, rows, count, panel, out, linear.num_outputs, adds, next);
        });
    }

    void multiply_normed(const Linear& linear, const float* norm) {
        multiply_rows(linear, num_rows_, qkv_, false,
                      [&](int64_t row, float* to) { normalize(row, norm, to); });
    }

    void normalize(int64_t row, const float* norm, float* to) {
        const int64_t size = model_.hidden_size;
        rms_norm(step_.hidden + row * size, norm, size, model_.epsilon, to);
    }

    void rotate_and_store(const Layer& layer, int64_t row) {
        float* qkv = qkv_ + row * qkv_width_;
        const int64_t dim = model_.head_dim;
        for (int64_t head = 0; head < model_.num_heads + model_.num_kv_heads; ++head) {
            float* at = qkv + head * dim;
            const float* norm = head < model_.num_heads ? layer.query_norm : layer.key_norm;
            if (norm) rms_norm(at, norm, dim, model_.epsilon, at);
            rotate(at, step_.cosines + row * dim, step_.sines + row * dim, dim);
        }
        narrow_row(qkv, query_width_, queries() + row * query_width_);
        const int64_t slot = slot_of(row);
        for (int64_t head = 0; head < model_.num_kv_heads; ++head) {
            const int64_t at = (head * model_.num_slots + slot) * dim;
            const float* key = qkv + query_width_ + head * dim;
            narrow_row(key, dim, static_cast<T*>(layer.keys) + at);
            narrow_row(key + kv_width_, dim, static_cast<T*>(layer.values) + at);
        }
    }

    // Where a row's keys and values go.
    int64_t slot_of(int64_t row) const {
        const int64_t b = sequence_of_[row], size = model_.block_size;
        const int64_t position = step_.lengths[b] - (step_.first_rows[b + 1] - row);
        return step_.block_tables[b * step_.max_blocks + position / size] * size + position % size;
    }

    void plan_attention(const Layer& layer) {
        Call call{};
        call.query = queries();
        call.keys = layer.keys;
        call.values = layer.values;
        call.output = attended();
        call.block_tables = step_.block_tables;
        call.lengths = step_.lengths;
        call.first_rows = step_.first_rows;
        call.query_strides[0] = query_width_;
        call.query_strides[1] = model_.head_dim;
        call.batch = step_.batch;
        call.num_heads = model_.num_heads;
        call.num_kv_heads = model_.num_kv_heads;
        call.head_dim = call.value_dim = model_.head_dim;
        call.num_slots = model_.num_slots;
        call.block_size = model_.block_size;
        call.max_blocks = step_.max_blocks;
        call.window = layer.window;
        call.num_threads = step_.num_threads;
        call.scale = layer.scale;
        decodes_.emplace(call, Kind::one_row);
        prefills_.emplace(call, Kind::several_rows);
    }

    const Model& model_;
    const Step& step_;
    Team team_;
    const int64_t num_rows_, query_width_, kv_width_, qkv_width_;
    float* qkv_;            // (num_rows, qkv_width), later (num_rows, 2 * intermediate_size)
    float* wide_;           // (num_rows, widest)
    T* states_;             // (num_rows, query_width) queries, then as much attended
    char* units_;
    float* scales_;
    int32_t* sequence_of_;  // (num_rows,)
    std::optional<Attention<T, G>> decodes_;
    std::optional<Attention<T, kMaxGroup>> prefills_;
};

}  // namespace palma
