# Every target sets up what it needs; only Python 3.11+ and make have to be installed by hand.

# ONNX Runtime sends telemetry unless this variable turns it off. headrace sets it, but some scripts do not import
# headrace.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help install demo test test-gpu check format fuzz fuzz-models endings conformance bench protos toolkit-acceptance open-inference-acceptance toolkit-table test-torch test-keras test-examples test-kubernetes test-stores test-ray test-image coverage wheels docs

help:
	@echo 'make install  set up .venv, with the native transport if cargo is installed'
	@echo 'make demo     serve handwritten digits, send 360 images at once, print the answers'
	@echo 'make test     run the tests'
	@echo 'make test-gpu run the tests of GPU backends, if there is a GPU'
	@echo 'make test-torch  run the toolkit'\''s tests of PyTorch, which is 5 GB, in .venv-torch'
	@echo 'make test-keras  run the toolkit'\''s tests of Keras, SavedModels and TFLite, in .venv-tensorflow'
	@echo 'make coverage measure which lines the tests of the batching library and the client reach; fail below a minimum'
	@echo 'make check    check lint, types, import directions and generated code'
	@echo 'make format   format the code'
	@echo 'make fuzz     search for bytes that make the native decoders fail, five minutes per decoder (needs cargo)'
	@echo 'make fuzz-models send odd requests to models of nearly every ONNX operator, ten minutes'
	@echo 'make endings  stop a server by SIGTERM in 26 situations, two minutes'
	@echo 'make conformance serve the models of ONNX'\''s own backend tests, and compare the answers with a bare session'\''s, a few minutes'
	@echo 'make bench    measure against grpc.aio, grpc++ and Triton (needs h2load), about twelve minutes'
	@echo 'make toolkit-acceptance  check the toolkit against its specification, a few minutes'
	@echo 'make open-inference-acceptance  serve an ensemble, stateful models and generators to many callers, a few minutes'
	@echo 'make test-examples run every program in examples/, including the one in Java'
	@echo 'make test-kubernetes  check the chart and the manifests in deploy/ with helm and kubernetes-validate'
	@echo 'make test-stores  fetch models from real stores (S3, GCS, Azure, OCI, MLflow), ten minutes'
	@echo 'make test-ray  run two replicas on Ray Serve and replace them under load, in .venv-ray'
	@echo 'make test-image  build the CPU image with buildah, run it and stop it (as root), some minutes'
	@echo 'make wheels   build the wheels of a release into dist/ (needs cargo)'
	@echo 'make docs     build the documentation as a site into build/site'
	@echo 'make toolkit-table  measure the effect of each of the toolkit'\''s steps on four models, into docs/toolkit/table.md'
	@echo 'make protos   regenerate the modules under protos/'

install:
	@scripts/install
	@scripts/install-native

demo:
	@scripts/demo

test:
	@scripts/test

test-gpu:
	@scripts/test-gpu

test-torch:
	@scripts/test-torch

test-keras:
	@scripts/test-keras

coverage:
	@scripts/coverage

check:
	@scripts/check

format:
	@scripts/format

fuzz:
	@scripts/fuzz

fuzz-models:
	@scripts/fuzz-models

endings:
	@scripts/endings

conformance:
	@scripts/conformance

bench:
	@scripts/install dev,bench
	@.venv/bin/python -m scripts.bench $(ARGS)
	@.venv/bin/python -m scripts.bench.kinds

protos:
	@scripts/install dev
	@scripts/protos

toolkit-acceptance:
	@scripts/toolkit-acceptance $(ARGS)

open-inference-acceptance:
	@scripts/open-inference-acceptance $(ARGS)

wheels:
	@scripts/wheels $(ARGS)

docs:
	@scripts/docs

test-examples:
	@scripts/install dev
	@scripts/install-native
	@HEADRACE_TEST_JAVA=1 .venv/bin/pytest tests/examples

toolkit-table:
	@scripts/toolkit-table $(ARGS)

test-kubernetes:
	@scripts/test-kubernetes

test-stores:
	@scripts/test-stores

test-ray:
	@scripts/test-ray

test-image:
	@scripts/test-image
