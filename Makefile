# make demo   install the app, create a small dataset and process it
# make demo-real   download a real run of the whole brain (74 MB) and process it
# make test   run all tests except the long ones (12 to 35 minutes on 2 cores)
# make test-long   run the long tests: containers, SLURM, simulations, 50 kills
# make lint   check style, types and the direction of imports
# make gpu-check   check and measure the app on a GPU, in at most 6 minutes (GPU="--device cpu --quick" rehearses it)
# make audit  check the packages in the images for known vulnerabilities; needs internet
# make docs   build the documentation, docs/_build/html/index.html
# make image, make sif, make test-containers   build the image, build the Apptainer image, test both
# make lock   rebuild requirements.lock, after a change in pyproject.toml or to update versions
PYTHON ?= python3
VENV   ?= .venv
# On Linux, this installs PyTorch's default build, with CUDA. For another build: make demo TORCH=<wheel>.
TORCH  ?= torch==2.13.0
# For --harmonise. It requires packages that only its own figures need.
COMBAT ?= combatlearn==2.3.0
DEMO   ?= demo
# Number of processes that run tests; each loads its own copy of torch.
JOBS   ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))
BIN    := $(VENV)/bin

.PHONY: demo demo-real test test-long lint gpu-check audit docs image sif test-containers lock clean
demo: $(VENV)/installed
	$(BIN)/python -m swift_bids.demo $(DEMO)
	$(BIN)/python run.py $(DEMO)/fmriprep $(DEMO)/swift_bids participant --weights $(DEMO)/weights --random-weights -w $(DEMO)/work
	$(BIN)/python run.py $(DEMO)/fmriprep $(DEMO)/swift_bids group
	@echo
	@echo "Written to $(DEMO)/swift_bids:"
	@cd $(DEMO)/swift_bids && find . -type f -not -path '*/log/*' -not -path '*/figures/*' -not -path '*/.*' | sort | sed 's,^\./,  ,'
	@echo
	@echo "Open   $(DEMO)/swift_bids/sub-01.html              what went into the network, and which results to trust"
	@echo "       $(DEMO)/swift_bids/sub-03.html              a real run that covers only a slab of the brain, and says so"
	@echo "       $(DEMO)/swift_bids/group.html              do the embeddings tell participants apart?"
	@echo "       $(DEMO)/swift_bids/group_desc-swift_embedding.tsv   one row per run, for your statistics"
	@echo "The weights of this demo are random numbers: its embeddings mean nothing."

demo-real: $(VENV)/installed
	$(BIN)/python examples/real_bold.py $(DEMO)/real
	$(BIN)/python run.py $(DEMO)/real/minimal $(DEMO)/real/swift_bids participant --raw $(DEMO)/real/raw --weights $(DEMO)/real/weights --random-weights
	@echo
	@echo "Open   $(DEMO)/real/swift_bids/sub-ds205s03.html   a real run of the whole brain, resampled from the raw BOLD"

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not long"

# Two processes on any machine: these tests mostly wait for containers and SLURM.
test-long: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long $(LONG)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu-check: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu $(GPU)

audit: $(VENV)/installed
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip

docs: $(VENV)/installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html

image:
	docker/build

sif: image
	docker/sif

test-containers: $(VENV)/installed sif
	$(BIN)/python -m pytest tests/platforms/test_container.py tests/platforms/test_apptainer.py tests/platforms/test_brainlife.py

# The image's argument TORCH sets the version of torch. On macOS, torch requires no CUDA libraries; its
# other requirements are the same as on Linux, and a missing package would make the image build fail.
lock:
	echo "$(TORCH)" | MACOSX_DEPLOYMENT_TARGET=14.0 uv pip compile pyproject.toml --constraint - \
		--python-version 3.11 --python-platform macos --generate-hashes --no-emit-package torch \
		--custom-compile-command "make lock" --upgrade --output-file requirements.lock
	docker/check-cuda "$(TORCH)"

$(VENV)/installed: pyproject.toml setup.py version $(wildcard swift_bids/network/kernel/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "swift_bids needs Python 3.11 or newer; make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[test,docs]"
	$(BIN)/python -m pip install --quiet --no-deps "$(COMBAT)"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist docs/_build *.egg-info *.sif
