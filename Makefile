# make            release build for PG_CONFIG's server, into build/package
# make install    copies it into that server (as root where the server is the system's)
# make test       everything that can be checked here; PG=18 for another major, PG="14 15 18" for several
# make demo       real vectors, a private server, recall and speed (see demo/)
# make bench      beside other vector indexes, on any data (see benches/sql/)
# make bench-gpu  packs what a machine with a GPU needs to measure everything there (see benches/gpu/)
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
PG ?= 15
PYTHON = build/venv/bin/python

.PHONY: all package install test demo soak bench bench-gpu kernels setup clean

all: package

package:
	@tools/setup.sh build
	@tools/build.sh package $(PG_CONFIG)

install:
	@tools/build.sh install $(PG_CONFIG)

test:
	@tools/test.sh $(PG)

demo: package
	@tools/setup.sh npm
	@tools/setup.sh server 15
	@tools/demo.sh $(DEMO)

# Inserts, deletions, VACUUM and searches at once for SECONDS, every answer checked: 64 searchers through the shared GPU service, 4 inserters.
# SOAK="--searchers N --inserters N", or SOAK="--mode sessions|faults|storm|crash|crowd|damage": see pg_test/soak.py.
soak:
	@SOAK='$(SOAK)' tools/test.sh --soak $(or $(SECONDS),600) $(PG)

# make bench BENCH="--data FILE.hdf5 --metric l2" PEERS=DIR; without them: the demo's data, omen alone.
bench: package
	@tools/setup.sh bench
	@tools/setup.sh npm
	@tools/setup.sh server 15
	@PEERS='$(PEERS)' tools/bench.sh $(BENCH)

# What a GPU machine without registries needs, in .device: server, programs, Python packages. There: benches/gpu/run.sh OUT (see
# benches/gpu/), tests/gpu/server.sh. REAL="FILE.hdf5 ..." packs real vectors too, in .device-real.
bench-gpu: package
	@tools/setup.sh npm
	@tools/setup.sh bench
	@tools/gpu_kit.sh $(REAL)

kernels:
	@tools/setup.sh python
	@$(PYTHON) tools/build_kernels.py

setup:
	@tools/setup.sh build
	@tools/setup.sh python
	@for major in $(PG); do tools/setup.sh server $${major%%:*}; done

clean:
	@tools/clean.sh
