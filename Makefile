# make demo   the app on a small dataset, from nothing
# make test   all tests
# make lint   style
PYTHON ?= python3
VENV   ?= .venv
# On Linux this takes PyTorch's default build, with CUDA. Another build: make demo TORCH=<wheel>.
TORCH  ?= torch==2.13.0
DEMO   ?= demo
BIN    := $(VENV)/bin

.PHONY: demo test lint clean
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
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/installed: pyproject.toml version
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "swift_bids needs Python 3.11 or newer; make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
