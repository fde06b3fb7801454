# make predict: set up and predict with the released bundle.  make test: set up and run all tests.
# make check: format, lint, types, the wheel in a fresh environment.  make release-model: train and release a bundle.
# make ledger: measure the errors of the released bundle on held-out GPUs again.  make validate: replay whole models.
# make docs: README.md and docs/ as a site in build/site.  make lock, audit, sbom: what CI installs (extra: supply).

PYTHON ?= python3
BIN := .venv/bin
# Extras of pyproject.toml; tests of those that are not installed are skipped. All: dev,docs,web,dask,ray,train,torch,simulator,spark
EXTRAS ?= dev
LOCKED := dev docs web dask ray train torch spark
STAMP := .venv/.installed-$(EXTRAS)
# A file of packages with their hashes, such as .ci/lock.txt; without one the newest that pyproject.toml allows.
LOCK ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A mix of GPUs that the released bundle was trained on and of GPUs that it never saw.
GPUS ?= A100 H100 H200 B200 MI300X L4 "RTX 4090" "RTX 5090"
MODEL ?= Llama-3.1-8B

.PHONY: predict test check docs site release-model ledger validate benchmark lock audit sbom clean

predict: $(STAMP)
	$(BIN)/predictor predict $(MODEL) $(shell printf -- '--gpu "%s" ' $(GPUS))

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/check_wheel.py
	@if $(BIN)/python -c 'import mkdocs' 2> /dev/null; then $(MAKE) docs; \
		else echo 'docs: no site is built, as MkDocs is not installed; make check EXTRAS=dev,docs builds it.'; fi

docs:
	@$(MAKE) --no-print-directory site EXTRAS=$(if $(findstring docs,$(EXTRAS)),$(EXTRAS),$(EXTRAS),docs)

site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

release-model: $(STAMP)
	$(BIN)/python training/release.py $(if $(PREDICTOR_DATA),--from "$(PREDICTOR_DATA)")

ledger: $(STAMP)
	$(BIN)/python training/release.py --ledger $(if $(PREDICTOR_DATA),--from "$(PREDICTOR_DATA)")

validate: $(STAMP)
	$(BIN)/predictor validate

benchmark: $(STAMP)
	$(BIN)/python benchmarks/speed.py

# The three below need the extra `supply`: which packages CI installs, what is known against them, and the list of them.
lock:
	$(BIN)/python -m piptools compile --quiet --generate-hashes --strip-extras --no-header --no-emit-index-url \
		--no-emit-find-links --unsafe-package torch $(LOCKED:%=--extra %) --constraint .ci/constraints.txt \
		--output-file .ci/lock.txt pyproject.toml .ci/build.in

audit:
	$(BIN)/pip-audit --require-hashes --disable-pip -r .ci/lock.txt

sbom:
	mkdir -p build
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-file build/sbom.cdx.json .ci/lock.txt

clean:
	rm -rf .venv build dist

# What LOCK names comes first, so that what follows finds nothing to fetch but a machine's own build of torch.
$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"error: python is {sys.version.split()[0]}; predictor needs at least 3.11. Run make PYTHON=python3.11.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(if $(LOCK),$(PIP) --require-hashes --no-deps -r $(LOCK))
	$(PIP) $(if $(LOCK),--no-build-isolation) -e ".[$(EXTRAS)]"
	@touch $@
