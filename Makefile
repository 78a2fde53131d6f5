# Every target sets up what it needs: .venv, torch for this machine, Deadheat itself. A second run starts at once.
# Say `make PYTHON=python3.12 …` to choose the Python, `make ARGS=… test` to hand arguments on.

.PHONY: demo app test check clean help
.DEFAULT_GOAL := help

python := .venv/bin/python
pages := $(wildcard tests/test_app*.py)
declared := pyproject.toml scripts/setup $(wildcard constraints/*.txt)

demo: .venv/.installed  ## compare the pocket model with and without accelerators; table, pictures, report.html
	$(python) -m deadheat compare pocket-dit \
	  --recipe balanced \
	  --recipe "ab-cache:every=3" \
	  --recipe "first-block-cache:threshold=0.15" \
	  --out out/demo $(ARGS)

app: .venv/.installed  ## open the browser app
	$(python) app.py $(ARGS)

test: .venv/.installed-test  ## run the tests; those of the page use a Chromium of this machine
ifeq ($(ARGS),)
	$(python) -m pytest -q -n 2 --dist loadgroup $(addprefix --ignore=,$(pages))
	$(python) -m pytest -q -n 2 --dist loadfile $(pages)  # by themselves: a page waits for nobody
else
	$(python) -m pytest -q $(ARGS)
endif

check: .venv/.installed-test  ## formatting, lint and types
	scripts/check

clean:  ## remove what the targets made, except .venv
	rm -rf build dist out .pytest_cache .ruff_cache .mypy_cache *.egg-info

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' Makefile

.venv/.installed: $(declared)
	scripts/setup
	@touch $@

.venv/.installed-test: $(declared)
	scripts/setup test,dev
	@touch .venv/.installed $@
