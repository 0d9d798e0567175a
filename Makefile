# Every target sets up what it needs: an environment in .venv and the extension in place.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

# The checks of CUDA code that need no GPU; the second environment has a torch built for CUDA.
CUDA_VENV ?= .venv-cuda
CUDA_RUN := $(CURDIR)/$(CUDA_VENV)/bin/python
CUDA_SMOKE := random/test_philox.py pointwise/test_masks.py modules/test_pointwise_modules.py

.PHONY: help demo example-lm example-rnn example-finetune sweep test test-full test-mutations \
    test-fusion bench bench-quick bench-step bench-fusion lint format build mutants \
    build/sanitize-memory build/sanitize-threads sanitize sanitize-threads fuzz docs clean \
    cuda-check cuda-sanitize cuda-extension cuda-build wheel wheel-test gpu-report \
    gpu-sanitize-program coverage fusion-versions

help:
	@echo "make demo       train on handwritten digits, fused against unfused"
	@echo "make example-lm train a character-level language model, fused against unfused"
	@echo "make example-rnn  train a recurrent language model with embedding, locked and weight dropout"
	@echo "make example-finetune  fine-tune a fused Hugging Face classifier"
	@echo "make sweep      which p helps on the digits (SWEEP=\"--data breast_cancer\": on other data)"
	@echo "make test       all tests but the longest (TESTS=tests/norm: a part of them)"
	@echo "make test-full  those too, and all tests with every instruction set"
	@echo "make test-mutations  deliberate mistakes in a second build, each of which fails some test"
	@echo "make test-fusion  fused models of transformers, timm and torchvision against unfused ones"
	@echo "make coverage   what fuse reaches in the families of transformers and timm (FAMILIES=...)"
	@echo "make fusion-versions  and in several versions of them (VERSIONS=\"timm==1.0.31\")"
	@echo "make bench      benchmarks (make bench-quick: in a minute)"
	@echo "make bench-step whole training steps of transformer blocks"
	@echo "make bench-fusion  whole training steps of a BERT and a ViT, as they are and fused"
	@echo "make lint       check style (make format: mend it)"
	@echo "make docs       the documentation as a website, into build/docs"
	@echo "make build      the extension, in place"
	@echo "make mutants    build the package for the mutation tests"
	@echo "make sanitize   generated calls of the CPU kernels under AddressSanitizer and UBSan"
	@echo "make sanitize-threads  the same under ThreadSanitizer"
	@echo "make fuzz       the same with other calls every time (MINUTES=60)"
	@echo "make cuda-check     compile the CUDA kernels and hold the machine code to its budgets"
	@echo "make cuda-sanitize  run the CUDA kernels on the CPU under AddressSanitizer"
	@echo "make cuda-build     the whole extension against a torch for CUDA, without a GPU"
	@echo "make wheel      for another machine (PYTHON=python3.12 TORCH=2.11.0 ARCH=9.0), into dist/"
	@echo "make wheel-test the CPU tests against that wheel, beside its torch"
	@echo "make gpu-report     on a machine with a GPU: tests, benchmarks, profile, sanitizers"
	@echo "                    (REHEARSE=1: the same steps without one; INSTALLED=1: of a wheel)"
	@echo "make gpu-sanitize-program  the kernels as a program for compute-sanitizer, without torch"
	@echo "make clean      remove everything that was made, the environment included"

$(VENV)/ready: requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# Ninja decides what has to be compiled again.
build: $(VENV)/ready
	@mkdir -p build
	@$(RUN) setup.py --quiet build_ext --inplace > build/log 2>&1 \
	    || (cat build/log; echo "The build failed; see also docs/building.md."; exit 1)
	@grep '^fused_dropout:' build/log

# The package with deliberate mistakes, which tests/mutations turns on one by one. Only the
# CPU kernels make them: what else is linked comes from the plain build.
mutants: build
	@FUSED_DROPOUT_MUTATIONS=1 $(RUN) setup.py --quiet build --build-temp build/mutants-temp \
	    --build-lib build/mutants > build/mutants.log 2>&1 || (cat build/mutants.log; exit 1)

# The CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer, or with ThreadSanitizer, and
# generated calls of them on every instruction set; FUZZ_MINUTES=1 is a quick run.
FUZZ_MINUTES ?= 10
FUZZ_MEMORY := $(RUN) -m tests.fuzz.run --package build/sanitize-memory --sanitizers memory

build/sanitize-memory build/sanitize-threads: build/sanitize-%: build
	@FUSED_DROPOUT_SANITIZE=$* $(RUN) setup.py --quiet build --build-temp $@-temp --build-lib $@ \
	    > $@.log 2>&1 || (cat $@.log; exit 1)

sanitize: build/sanitize-memory
	$(FUZZ_MEMORY) --minutes $(FUZZ_MINUTES)

sanitize-threads: build/sanitize-threads
	$(RUN) -m tests.fuzz.run --package $< --sanitizers threads --minutes $(FUZZ_MINUTES)

# Other calls every time. What fails is in build/fuzz: CALL=build/fuzz/avx2-1.txt runs it again.
fuzz: build/sanitize-memory
	$(FUZZ_MEMORY) $(if $(CALL),--replay $(CALL),--random --minutes $(or $(MINUTES),60))

demo: build
	$(RUN) -m examples.digits --out demo_output

# LM_STEPS=40 is a quick run.
LM_STEPS ?= 350
example-lm: build
	$(RUN) -m examples.lm --out demo_output --steps $(LM_STEPS)

RNN_STEPS ?= 500
example-rnn: build
	$(RUN) -m examples.rnn --out demo_output --steps $(RNN_STEPS)

SWEEP ?= --data digits
sweep: build
	$(RUN) -m examples.sweep --out demo_output $(SWEEP)

# As many processes as cores, each with one torch thread. TESTS=tests/norm is a part of the tests.
TESTS ?=
PYTEST = $(RUN) -m pytest --numprocesses auto --dist worksteal

test: build
	$(PYTEST) $(TESTS)

test-mutations: mutants
	$(PYTEST) tests/mutations

test-full: build
	$(PYTEST) --full $(TESTS)
	for capability in $$($(RUN) -c "import fused_dropout as fd; \
	        print(*fd.build_info()['cpu_capabilities'])"); do \
	    FUSED_DROPOUT_CPU_CAPABILITY=$$capability $(PYTEST) $(TESTS) || exit 1; \
	done

bench: build
	$(RUN) -m benchmarks --device cpu

bench-quick: build
	$(RUN) -m benchmarks --device cpu --quick

bench-step: build
	$(RUN) -m benchmarks.training_step

lint: $(VENV)/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/ready
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

$(VENV)/docs-ready: $(VENV)/ready requirements-docs.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

# Fails if a link or an anchor is broken. Reads the docstrings without importing the package.
docs: $(VENV)/docs-ready
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build

$(VENV)/cuda-ready: $(VENV)/ready requirements-cuda.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-cuda.txt
	touch $@

# OBJECTS=... reads the object files of a build, and compiles for what they lack.
cuda-check: $(VENV)/cuda-ready
	$(RUN) tools/cuda_check/check.py $(if $(OBJECTS),--objects $(OBJECTS))

cuda-sanitize: build
	PYTHONPATH=. $(RUN) tests/cuda_emulator/shim.py

$(CUDA_VENV)/ready: requirements-cuda-build.txt
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_RUN) -m pip install --quiet --disable-pip-version-check -r requirements-cuda-build.txt
	touch $@

# Without TORCH_CUDA_ARCH_LIST one architecture and PTX, which says whether it builds.
cuda-extension: $(CUDA_VENV)/ready
	@mkdir -p build
	FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-9.0+PTX}" \
	    $(CUDA_RUN) setup.py --quiet build --build-temp build/cuda-temp --build-lib build/cuda \
	    > build/cuda.log 2>&1 || (cat build/cuda.log; exit 1)
	@grep '^fused_dropout:' build/cuda.log

cuda-build: cuda-extension
	cd build/cuda && $(CUDA_RUN) -c "import fused_dropout as fd; info = fd.build_info(); \
	    print(info); assert info['cuda'] and info['cuda_architectures']"
	cd build/cuda && $(CUDA_RUN) -m pytest -p no:cacheprovider \
	    $(addprefix $(CURDIR)/tests/,$(CUDA_SMOKE))

# For PYTHON and TORCH, each in an environment of its own; ARCH asks for CUDA, and for which GPUs.
TORCH ?=
ARCH ?=
WHEEL := python3 tools/wheel.py
WHEEL_FOR = --python "$(PYTHON)" $(if $(TORCH),--torch "$(TORCH)") $(if $(ARCH),--arch "$(ARCH)")

wheel:
	@$(WHEEL) build $(WHEEL_FOR)

wheel-test:
	@$(WHEEL) test $(WHEEL_FOR) $(TESTS)

# The packages whose models can be fused import beside a torch for CUDA; no GPU is needed. The
# extension is the one in build/cuda, which comes before this folder's.
$(CUDA_VENV)/fusion-ready: $(CUDA_VENV)/ready requirements-fusion.txt
	$(CUDA_RUN) -m pip install --quiet --disable-pip-version-check -r requirements-fusion.txt
	touch $@

FUSION := cd build/cuda && PYTHONPATH=$(CURDIR) $(CUDA_RUN)

test-fusion: cuda-extension $(CUDA_VENV)/fusion-ready
	$(FUSION) -m pytest -p no:cacheprovider $(CURDIR)/tests/fusion

bench-fusion: cuda-extension $(CUDA_VENV)/fusion-ready
	$(FUSION) -m benchmarks.end_to_end $(BENCH_FUSION)

# Their environments see the torch and the extension of this one. FAMILIES and VERSIONS choose;
# WRITE=1 writes the page in docs and the results beside the tool.
FUSED_LIBRARIES = $(shell grep -E '^(transformers|timm)==' requirements-fusion.txt)

build/coverage/ready: $(VENV)/ready requirements-fusion.txt
	$(RUN) -m tools.environment $(@D) $(FUSED_LIBRARIES)

coverage: build build/coverage/ready
	build/coverage/bin/python -m tools.coverage $(FAMILIES) $(if $(WRITE),--write)

fusion-versions: build
	$(RUN) -m tools.fusion_versions $(VERSIONS) $(if $(WRITE),--write)

# FINETUNE=--quick is a quick run.
example-finetune: cuda-extension $(CUDA_VENV)/fusion-ready
	$(FUSION) -m examples.finetune --out $(CURDIR)/demo_output $(FINETUNE)

# Uses the torch of the machine, whatever it is: PYTHON=... chooses another. OUT is where the report
# goes, MINUTES what it may take, ONLY="facts tests" some of its steps, SANITIZE_PROGRAM a program
# that the next target has made.
REPORT_OPTIONS := $(if $(OUT),--out $(OUT)) $(if $(MINUTES),--minutes $(MINUTES)) \
    $(if $(ONLY),--only $(ONLY)) $(if $(INSTALLED),--installed) $(if $(REHEARSE),--rehearse) \
    $(if $(SANITIZE_PROGRAM),--sanitize-program $(SANITIZE_PROGRAM))

REPORT_PYTHON = $(PYTHON)
# Without a wheel, what is rehearsed is built here.
ifneq ($(REHEARSE),)
ifeq ($(INSTALLED),)
gpu-report: build
REPORT_PYTHON = PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN)
endif
endif

gpu-report:
	$(REPORT_PYTHON) -m benchmarks.gpu_report $(REPORT_OPTIONS)

# For one architecture. OBJECTS=... links the object files of a build instead of compiling.
gpu-sanitize-program:
	$(PYTHON) tools/cuda_check/sanitize_program.py --arch $(or $(ARCH),9.0) \
	    $(if $(OBJECTS),--objects $(OBJECTS))

clean:
	rm -rf $(VENV) $(CUDA_VENV) build dist *.egg-info fused_dropout/*.so demo_output
