# `make` alone prints the menu.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test lint types mypy pyright collect unit long simulate generate bench compiled clean

help: ## print this menu
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(VENV)/.run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.run

run: $(VENV)/.run ## start a broker on localhost:9092 with its data in ./penstock-data
	$(BIN)/penstock serve --data-dir ./penstock-data

test: $(VENV)/.test ## lint, types and all tests
	$(MAKE) --no-print-directory -j2 --output-sync=target lint mypy pyright collect
	$(MAKE) --no-print-directory unit

lint: $(VENV)/.test ## ruff and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: mypy pyright ## mypy and pyright, both strict

mypy: $(VENV)/.test
	$(BIN)/mypy

pyright: $(VENV)/.test
	$(BIN)/pyright --warnings

# The tests start hundreds of processes, which would compile Penstock each time anew where this is set.
collect unit long: export PYTHONDONTWRITEBYTECODE :=

collect: $(VENV)/.test # every test module can be imported; its bytecode, with the assertions rewritten, is made once, and not by each worker
	$(BIN)/pytest -q --collect-only >$(VENV)/.collected || { cat $(VENV)/.collected; exit 1; }

unit: $(VENV)/.test ## the tests alone, four at a time: some only wait
	$(BIN)/pytest -q -n 4 --dist loadfile --no-loadscope-reorder

simulate: $(VENV)/.test ## clusters of brokers under faults in virtual time: HOURS=1 simulated hours of fresh seeds, one process a core
	$(BIN)/python -m tests.simulation.run --hours $(or $(HOURS),1)

long: $(VENV)/.test ## groups under churn, kills and power cuts in full counts (an hour; docs/long-runs.md)
	CHURN_SECONDS=120 CHURN_EXAMPLES=500 CLUSTER_GROUP_RUNS=200 CLEANING_RUNS=200 $(BIN)/pytest -q -rA --no-header -o faulthandler_timeout=0 \
		tests/faults/test_group_churn.py tests/property/consumer/test_groups_in_virtual_time.py \
		tests/property/consumer/test_groups_on_a_cluster.py tests/property/broker/test_cleaning_on_replicas.py
	CONTROLLER_EXAMPLES=20000 EXAMPLES=1 $(BIN)/pytest -q -rA --no-header tests/property/broker tests/property/consumer tests/property/producer \
		tests/property/protocol tests/property/storage/test_log_model.py tests/unit/protocol
	MANY_PARTITIONS=5000 $(BIN)/pytest -q -rA --no-header tests/faults/test_many_partitions.py
	PENSTOCK_TRIALS=build/trials.json BIT_FLIP_EVERY=1 CRASH_LIVES=200 CRASH_SECOND_EVERY=10 CRASH_TORN_BYTES_MAX=5000 DISK_ERROR_EVERY=1 DISK_ERROR_LIVES=30 \
		$(BIN)/pytest -q --no-header -o faulthandler_timeout=0 tests/property/storage/test_crash_small.py \
		tests/property/storage/test_crashes.py tests/property/storage/test_disk_errors.py tests/property/storage/test_bit_flips.py
	KILLS=200 CUTS=500 FAULT_CUTS=200 FULL_DISKS=100 $(BIN)/pytest -q -rA --no-header -o faulthandler_timeout=0 \
		tests/faults/test_kills_under_load.py tests/faults/test_power_cuts.py tests/faults/test_full_disk_under_load.py
	REPLICATION_RUNS=300 $(BIN)/pytest -q --no-header -o faulthandler_timeout=0 tests/property/broker/test_replication_in_virtual_time.py
	CRASH_RUNS=3000 $(BIN)/pytest -q -rA --no-header -o faulthandler_timeout=0 tests/property/broker/test_crashes_in_virtual_time.py
	REPAIR_SURVIVALS=all REPAIR_EXAMPLES=3000 $(BIN)/pytest -q -rA --no-header \
		tests/unit/storage/test_repair.py tests/property/storage/test_repair_model.py
	LEADER_KILLS=100 CLUSTER_FAULTS=100 WRITER_RATE=50 $(BIN)/pytest -q -rA --no-header -o faulthandler_timeout=0 tests/faults/cluster
	REDRIVE_CHURNS=300 $(BIN)/pytest -q -rA --no-header tests/unit/consumer/test_redrive.py
	ETCD_FAULT_RUNS=1000 $(BIN)/pytest -q -rA --no-header tests/property/runtime/test_etcd_faults.py
	COMPACTION_EXAMPLES=3000 COMPACTION_SECOND_EVERY=1 $(BIN)/pytest -q -rA --no-header -o faulthandler_timeout=0 \
		tests/property/storage/test_compaction_model.py tests/unit/storage/test_segment_swap.py
	SIMULATION_SEEDS=300 PLANTED_BUG_SEEDS=1000 $(BIN)/pytest -q -rA --no-header -o faulthandler_timeout=0 tests/simulation

generate: $(VENV)/.test ## write the schema tables (from kio) and the tables in docs/ anew
	$(BIN)/python -m tests.generate_schemas
	$(BIN)/python -m tests.generate_configuration

bench: $(VENV)/.test ## compare with the bare loop and Apache Kafka (half an hour; BENCH="lone_write" for a part)
	$(BIN)/python -m bench $(BENCH)

compiled: ## a venv .venv-compiled with Penstock's loops over records compiled to C (needs gcc), for bench.clients --compiled
	test -x .venv-compiled/bin/python || $(PYTHON) -m venv .venv-compiled
	PENSTOCK_COMPILE=1 .venv-compiled/bin/python -m pip install --quiet .
	.venv-compiled/bin/python -c 'from penstock.consumer import decoding as d; assert d.__file__.endswith(".so"); print(d.__file__)'

clean: ## remove what was built
	rm -rf $(VENV) .venv-compiled build dist *.egg-info
