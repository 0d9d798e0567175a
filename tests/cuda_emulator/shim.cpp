// The fibres behind shim.h.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

enum class Barrier { kNone, kWarp, kChunk };

struct Fibre {
  ucontext_t context;  // where it starts
  jmp_buf place;       // where it goes on
  bool started = false;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
  void* fake_stack = nullptr;
  bool done = true;
  Barrier waiting = Barrier::kNone;
};

std::vector<Fibre> fibres;
jmp_buf scheduler;
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;
Fibre* running = nullptr;
Body current_body;
void* current_data;

// AddressSanitizer has to be told of every change of stacks.
void announce_start(void** fake_stack, const void* stack, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, stack, size);
#endif
}
void announce_finish(void* fake_stack, const void** old_stack, size_t* old_size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, old_stack, old_size);
#endif
}

void back_to_scheduler(bool for_good) {
  Fibre* self = running;
  announce_start(for_good ? nullptr : &self->fake_stack, scheduler_stack, scheduler_size);
  if (_setjmp(self->place) == 0) _longjmp(scheduler, 1);
  announce_finish(self->fake_stack, &scheduler_stack, &scheduler_size);
}

void entry() {
  announce_finish(nullptr, &scheduler_stack, &scheduler_size);
  current_body(current_data);
  running->done = true;
  back_to_scheduler(true);
}

void resume(Fibre& fibre, unsigned thread) {
  running = &fibre;
  threadIdx.x = thread;
  announce_start(&scheduler_fake_stack, fibre.stack.get(), kStack);
  // Not swapcontext, which asks the system for the signal mask each time.
  if (_setjmp(scheduler) == 0) {
    if (fibre.started) _longjmp(fibre.place, 1);
    fibre.started = true;
    setcontext(&fibre.context);
  }
  announce_finish(scheduler_fake_stack, nullptr, nullptr);
}

// How many threads wait at this barrier, of those that have not left; all of them have to.
int waiting_at(Barrier barrier, int first, int last) {
  int left = 0, waiting = 0;
  for (int thread = first; thread < last; ++thread) {
    left += !fibres[thread].done;
    waiting += !fibres[thread].done && fibres[thread].waiting == barrier;
  }
  // As on sm_70 and later.
  if (waiting != left && waiting > 0) {
    std::fprintf(stderr, "shim: %d of %d threads wait at a barrier\n", waiting, left);
    std::abort();
  }
  return waiting;
}

// Until all its threads wait at a barrier of the block, or have left. Returns how many wait.
int run_warp(int first, int last) {
  do {
    for (int thread = first; thread < last; ++thread) {
      if (fibres[thread].done) continue;
      fibres[thread].waiting = Barrier::kNone;
      resume(fibres[thread], thread);
    }
  } while (waiting_at(Barrier::kWarp, first, last) > 0);
  return waiting_at(Barrier::kChunk, first, last);
}

}  // namespace

void barrier() {
  running->waiting = Barrier::kChunk;
  back_to_scheduler(false);
}

void exchange(void* value, int size, unsigned from) {
  static uint64_t passed[1024];
  for (int phase = 0; phase < 2; ++phase) {  // all have written, all have read
    phase == 0 ? std::memcpy(&passed[threadIdx.x], value, size)
               : std::memcpy(value, &passed[from], size);
    running->waiting = Barrier::kWarp;
    back_to_scheduler(false);
  }
}

void run_grid(int64_t blocks, int threads, int64_t shared_bytes, Body body, void* data) {
  if (shared_bytes > most_shared) {
    std::fprintf(stderr, "shim: %lld bytes of shared memory\n",
                 static_cast<long long>(shared_bytes));
    std::abort();
  }
  // Of its size exactly, for AddressSanitizer; not a number at first.
  shared_memory = std::malloc(shared_bytes);
  if (static_cast<int>(fibres.size()) < threads) fibres.resize(threads);
  current_body = body;
  current_data = data;
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = static_cast<unsigned>(block);
    if (shared_bytes) std::memset(shared_memory, 0xFF, shared_bytes);
    for (int thread = 0; thread < threads; ++thread) {
      Fibre& fibre = fibres[thread];
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.get();
      fibre.context.uc_stack.ss_size = kStack;
      fibre.context.uc_link = nullptr;
      fibre.done = fibre.started = false;
      makecontext(&fibre.context, entry, 0);
    }
    // A warp goes on alone for as long as it can: what it may not do before the others have come
    // somewhere goes wrong.
    for (int left = threads; left > 0;) {
      left = 0;
      for (int first = 0; first < threads; first += kWarp) {
        left += run_warp(first, std::min(first + kWarp, threads));
      }
      waiting_at(Barrier::kChunk, 0, threads);
    }
  }
  std::free(shared_memory);
}

}  // namespace shim
