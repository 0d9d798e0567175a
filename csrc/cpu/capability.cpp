// Finds the instruction sets that this machine can run, and chooses one.
#include "cpu/capability.h"

#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace fused_dropout::cpu {
namespace {

// The tables that this machine can run, best first.
std::vector<const KernelTable*> available() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  if (avx512_kernels() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    tables.push_back(avx512_kernels());
  }
  if (avx2_kernels() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    tables.push_back(avx2_kernels());
  }
#endif
  tables.push_back(baseline_kernels());
  return tables;
}

const KernelTable* find(std::string_view name) {
  for (const KernelTable* table : available()) {
    if (name == table->name) return table;
  }
  std::string known;
  for (const KernelTable* table : available())
    known += (known.empty() ? "" : ", ") + std::string(table->name);
  TORCH_CHECK_VALUE(false, "fused_dropout: the CPU capability '", name,
                    "' is not available here, but one of ", known, " is");
}

const KernelTable* choose() {
  if (const char* forced = std::getenv("FUSED_DROPOUT_CPU_CAPABILITY")) return find(forced);
  // Torch's names are DEFAULT, AVX2, and AVX512 or names that begin with it.
  const std::string torch = at::get_cpu_capability();
  for (const KernelTable* table : available()) {
    const std::string_view name = table->name;
    if (name == "avx512" && torch.rfind("AVX512", 0) != 0) continue;
    if (name == "avx2" && torch == "DEFAULT") continue;
    return table;
  }
  return baseline_kernels();
}

std::atomic<const KernelTable*> current{nullptr};

}  // namespace

const KernelTable& kernels() {
  const KernelTable* table = current.load(std::memory_order_relaxed);
  if (!table) {
    table = choose();
    current.store(table, std::memory_order_relaxed);
  }
  return *table;
}

const KernelTable& row_kernels(Storage storage) {
  return storage == Storage::kFloat64 ? *baseline_kernels() : kernels();
}

std::vector<std::string> available_capabilities() {
  std::vector<std::string> names;
  for (const KernelTable* table : available()) names.emplace_back(table->name);
  return names;
}

void force_capability(const std::string& name) {
  current.store(find(name), std::memory_order_relaxed);
}

}  // namespace fused_dropout::cpu
