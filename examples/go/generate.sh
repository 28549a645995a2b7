#!/bin/sh
# Generates Go stubs from headrace's .proto files into examples/go/protos; needs go and protoc.
set -eu
cd "$(dirname "$0")"
protos=../../protos/headrace_protos
module=headrace.example/client

GOBIN="$PWD/bin" go install tool # the two plugins of protoc, in the versions of go.mod

files=$(cd "$protos" && echo tensorflow/core/*/*.proto tensorflow_serving/*/*.proto)
options=
for file in $files; do
  # One Go package for each folder.
  options="$options --go_opt=M$file=$module/protos/$(dirname "$file") --go-grpc_opt=M$file=$module/protos/$(dirname "$file")"
done
# shellcheck disable=SC2086 # both are lists
${PROTOC:-protoc} -I"$protos" --plugin=bin/protoc-gen-go --plugin=bin/protoc-gen-go-grpc \
  --go_out=. --go_opt=module="$module" --go-grpc_out=. --go-grpc_opt=module="$module" $options $files
