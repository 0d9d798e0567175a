// Runs thread blocks for shim.h: each thread is a fibre, and a scheduler resumes the fibres between
// barriers.
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

enum class Barrier { kNone, kWarp, kThreadBlock };

struct Fibre {
  ucontext_t context;    // the start of the thread
  jmp_buf resume_point;  // the barrier at which it waits
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

// AddressSanitizer needs to know about every switch between stacks.
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
  if (_setjmp(self->resume_point) == 0) _longjmp(scheduler, 1);
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
  // swapcontext would make a system call for the signal mask each time.
  if (_setjmp(scheduler) == 0) {
    if (fibre.started) _longjmp(fibre.resume_point, 1);
    fibre.started = true;
    setcontext(&fibre.context);
  }
  announce_finish(scheduler_fake_stack, nullptr, nullptr);
}

// Returns how many of these threads wait at the barrier. Aborts if some of the running threads wait
// at it and others do not, which is an error on sm_70 and later too.
int waiting_at(Barrier barrier, int first, int last) {
  int running_threads = 0, waiting = 0;
  for (int thread = first; thread < last; ++thread) {
    running_threads += !fibres[thread].done;
    waiting += !fibres[thread].done && fibres[thread].waiting == barrier;
  }
  if (waiting != running_threads && waiting > 0) {
    std::fprintf(stderr, "shim: %d of %d threads wait at a barrier\n", waiting, running_threads);
    std::abort();
  }
  return waiting;
}

// Runs a warp until each of its threads waits at a barrier of the thread block or has returned.
// Returns how many wait.
int run_warp(int first, int last) {
  do {
    for (int thread = first; thread < last; ++thread) {
      if (fibres[thread].done) continue;
      fibres[thread].waiting = Barrier::kNone;
      resume(fibres[thread], thread);
    }
  } while (waiting_at(Barrier::kWarp, first, last) > 0);
  return waiting_at(Barrier::kThreadBlock, first, last);
}

}  // namespace

void barrier() {
  running->waiting = Barrier::kThreadBlock;
  back_to_scheduler(false);
}

void exchange(void* value, int size, unsigned from) {
  static uint64_t passed[1024];
  for (int phase = 0; phase < 2; ++phase) {  // all threads write, then all threads read
    phase == 0 ? std::memcpy(&passed[threadIdx.x], value, size)
               : std::memcpy(value, &passed[from], size);
    running->waiting = Barrier::kWarp;
    back_to_scheduler(false);
  }
}

void run_grid(int64_t blocks, int threads, int64_t shared_bytes, Body body, void* data) {
  if (shared_bytes > max_shared_bytes) {
    std::fprintf(stderr, "shim: %lld bytes of shared memory\n",
                 static_cast<long long>(shared_bytes));
    std::abort();
  }
  // Exactly as large as requested, so that AddressSanitizer finds overruns.
  shared_memory = std::malloc(shared_bytes);
  if (static_cast<int>(fibres.size()) < threads) fibres.resize(threads);
  current_body = body;
  current_data = data;
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = static_cast<unsigned>(block);
    // All numbers start as NaN.
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
    // Each warp runs alone to the next barrier of the thread block. A missing barrier thus gives
    // wrong results: the warp does not wait for the others.
    for (int waiting = threads; waiting > 0;) {
      waiting = 0;
      for (int first = 0; first < threads; first += kWarp) {
        waiting += run_warp(first, std::min(first + kWarp, threads));
      }
      waiting_at(Barrier::kThreadBlock, 0, threads);
    }
  }
  std::free(shared_memory);
}

}  // namespace shim
