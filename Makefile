# make demo   the app on a small dataset, from nothing
# make test   all tests but the long ones (under 10 minutes on 2 cores)
# make test-long   the others: containers, SLURM, 50 kills
# make lint   style, types and the direction of imports
# make audit  known vulnerabilities of what the images hold; needs internet
# make docs   the documentation, docs/_build/html/index.html
# make image, make sif, make test-containers   the image, the file for Apptainer, and their tests
# make lock   requirements.lock anew, after a change of pyproject.toml or to newer versions
PYTHON ?= python3
VENV   ?= .venv
# On Linux this takes PyTorch's default build, with CUDA. Another build: make demo TORCH=<wheel>.
TORCH  ?= torch==2.13.0
DEMO   ?= demo
# Processes that run tests, each with its own copy of torch.
JOBS   ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))
BIN    := $(VENV)/bin

.PHONY: demo test test-long lint audit docs image sif test-containers lock clean
demo: $(VENV)/installed
	$(BIN)/python -m swift_bids.demo $(DEMO)
	$(BIN)/python run.py $(DEMO)/fmriprep $(DEMO)/swift_bids participant --weights $(DEMO)/weights --random-weights -w $(DEMO)/work
	$(BIN)/python run.py $(DEMO)/fmriprep $(DEMO)/swift_bids group
	@echo
	@echo "Written to $(DEMO)/swift_bids:"
	@cd $(DEMO)/swift_bids && find . -type f -not -path '*/log/*' -not -path '*/figures/*' -not -path '*/.*' | sort | sed 's,^\./,  ,'
	@echo
	@echo "Open   $(DEMO)/swift_bids/sub-01.html              what went into the network, and what to trust"
	@echo "       $(DEMO)/swift_bids/sub-03.html              a real run that is only a slab, and says so"
	@echo "       $(DEMO)/swift_bids/group.html              do the embeddings tell participants apart?"
	@echo "       $(DEMO)/swift_bids/group_desc-swift_embedding.tsv   one row a run, for your statistics"
	@echo "The weights of this demo are random numbers: its embeddings mean nothing."

test: $(VENV)/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope -m "not long"

# One after the other: containers, SLURM and torch.compile each use the whole machine.
test-long: $(VENV)/installed
	$(BIN)/python -m pytest -m long

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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
	$(BIN)/python -m pytest tests/test_container.py tests/test_apptainer.py tests/test_brainlife.py

# torch is left to the image's argument TORCH. For macOS torch asks for no CUDA libraries; whatever
# else it asks for is the same on Linux, and a missing package would fail the image's build.
lock:
	echo "$(TORCH)" | MACOSX_DEPLOYMENT_TARGET=14.0 uv pip compile pyproject.toml --constraint - \
		--python-version 3.11 --python-platform macos --generate-hashes --no-emit-package torch \
		--custom-compile-command "make lock" --upgrade --output-file requirements.lock

$(VENV)/installed: pyproject.toml version
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "swift_bids needs Python 3.11 or newer; make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[test,docs]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist docs/_build *.egg-info *.sif
