# Two commands for a fresh machine: `make lab` opens the book, `make test` checks everything.
# Each makes .venv when it is not there. The rest is listed by `make help`.

PY := .venv/bin/python
# `make test LEVEL=everything` installs torch and flax too, and runs what needs them
LEVEL ?= test
.DEFAULT_GOAL := help
.PHONY: help lab test quick check lint format notebooks portable single claims bench lock lowest colab wheel binder readme owner picture site serve course version clean notebook-venv site-venv test-venv

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

notebook-venv:
	@sh tools/setup.sh notebook

site-venv:
	@sh tools/setup.sh site

test-venv:
	@sh tools/setup.sh $(LEVEL)

lab: notebook-venv  ## open a copy of the book (folder ntk-book) in JupyterLab, on this machine only
	@$(PY) -m ntkbook lab $(if $(PORT),--port $(PORT))

test: test-venv  ## run everything: unit and property tests, all notebooks, the browser test
	@$(PY) tools/check.py tests notebooks browser

check: test-venv  ## all that CI does: lint, types, and everything of `make test`
	@$(PY) tools/check.py lint types tests notebooks browser

quick: test-venv  ## the tests that take seconds
	@$(PY) tools/check.py quick

lint: test-venv  ## style of code and notebooks, and types
	@$(PY) tools/check.py lint types

format: test-venv  ## put code and notebooks into the common style
	@$(PY) -m ruff check --fix --quiet . && $(PY) -m ruff format .

notebooks: test-venv  ## run all notebooks again and save their outputs (ONLY=03 for one)
	@$(PY) tools/refresh.py $(ONLY)

portable: test-venv  ## run the notebooks as another processor would: one core, other vector width
	@$(PY) tools/check.py portable

single: test-venv  ## run in float32 the tests that hold in both precisions
	@$(PY) tools/check.py single

claims: test-venv  ## run the book and print its claims, chapter by chapter
	@$(PY) -m ntkbook claims notebooks

bench: test-venv  ## time the library beside its peer (ten minutes), and write the README's table
	@$(PY) benchmarks/run.py

lock: test-venv  ## write constraints.txt: the newest versions that work together
	@$(PY) tools/lock.py

lowest: test-venv  ## run the quick tests with the lowest versions that pyproject.toml allows
	@$(PY) tools/lowest.py

colab: test-venv  ## build all panels and run chapters with the versions that Colab has (ONLY=03 for one chapter)
	@$(PY) tools/colab.py $(ONLY)

version:  ## print the version of this checkout
	@sed -n 's/^__version__ = "\(.*\)"/\1/p' ntkbook/version.py

wheel: test-venv  ## build the wheel and try it from an empty directory
	@$(PY) tools/wheel.py

readme: test-venv  ## write the tables of the README again, from what is stored
	@$(PY) tools/readme.py

owner: test-venv  ## let the Binder links lead to an account: make owner OWNER=name
	@$(PY) tools/readme.py --owner "$(OWNER)"

picture: test-venv  ## make the moving picture of the README from a panel
	@$(PY) tools/moving_picture.py

site: site-venv  ## build the book as pages into docs/_build/html, from what is committed
	@$(PY) tools/build_site.py

serve: site-venv  ## show these pages on this machine (PORT=8000 for a port of your choice)
	@$(PY) tools/build_site.py --serve $(if $(PORT),--port $(PORT))

course: test-venv  ## write an assignment, and let nbgrader grade it
	@$(PY) tools/try_course.py

binder: test-venv  ## do what Binder does, without Docker, and run a chapter there
	@$(PY) tools/binder.py

clean:  ## remove .venv and everything that was made
	@rm -rf .venv build dist artifacts .pytest_cache .ruff_cache .hypothesis
