#!/bin/sh
# Sends one image to the digits model over REST: a row of 64 numbers.
set -eu
address=${1:-localhost:8501}
row=$(for y in 0 1 2 3 4 5 6 7; do case $y in 0 | 7) echo 0,0,0,0,0,0,0,0 ;; *) echo 0,0,0,16,16,0,0,0 ;; esac done | paste -sd, -)
curl --silent --show-error --fail-with-body --data "{\"instances\": [{\"image\": [$row]}]}" "http://$address/v1/models/digits:predict"
