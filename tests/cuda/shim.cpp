// The fibres behind shim.h.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {
namespace {

constexpr size_t kStack = 256 * 1024;

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
  void* fake_stack = nullptr;
  bool done = true;
  bool waiting = false;  // at a barrier
};

std::vector<Fibre> fibres;
ucontext_t scheduler;
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
  swapcontext(&self->context, &scheduler);
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
  swapcontext(&scheduler, &fibre.context);
  announce_finish(scheduler_fake_stack, nullptr, nullptr);
}

}  // namespace

void barrier() {
  running->waiting = true;
  back_to_scheduler(false);
}

void run_grid(int64_t blocks, int threads, Body body, void* data) {
  if (static_cast<int>(fibres.size()) < threads) fibres.resize(threads);
  current_body = body;
  current_data = data;
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = static_cast<unsigned>(block);
    for (int thread = 0; thread < threads; ++thread) {
      Fibre& fibre = fibres[thread];
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.get();
      fibre.context.uc_stack.ss_size = kStack;
      fibre.context.uc_link = nullptr;
      fibre.done = false;
      makecontext(&fibre.context, entry, 0);
    }
    for (int left = threads; left > 0;) {
      int waiting = 0;
      left = 0;
      for (int thread = 0; thread < threads; ++thread) {
        Fibre& fibre = fibres[thread];
        if (fibre.done) continue;
        fibre.waiting = false;
        resume(fibre, thread);
        left += !fibre.done;
        waiting += fibre.waiting && !fibre.done;
      }
      // As on sm_70 and later, every thread that has not left has to come to the barrier.
      if (waiting != left) {
        std::fprintf(stderr, "shim: %d of %d threads wait at a barrier\n", waiting, left);
        std::abort();
      }
    }
  }
}

}  // namespace shim
