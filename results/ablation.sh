#!/usr/bin/env bash
# What each ingredient earns: the recipe of profile `cpu` with one thing changed at a time, all else equal.
# usage: results/ablation.sh TEACHER STUDENT [VARIANT…], with the data sets under HELMAS_DATA; writes results/ablation/*.json
# Trained on 160 GSM8K problems alone, measured there and on private facts, which only the variant `mix` has seen any of.
set -euof pipefail
cd "$(dirname "$0")/.."

pair=(-s "pair.teacher=$1" -s "pair.student=$2")
shift 2
runs=${RUNS:-runs/ablation} store=${STORE:-runs/ablation-store} limit=${LIMIT:-100} out=results/ablation helmas=${HELMAS:-helmas}
mkdir -p "$out"

stage() { echo "train.stages=[{name=\"$1\",steps=50,losses={$1=1.0}}]"; }
ridge_only='train.stages=[{name="none",steps=1,losses={ce=1.0},learning_rate=1e-12}]'

declare -A variants=(
  [recipe]=""
  [head-wise]="-s bridge.projector_input=head"
  [one-layer]="-s bridge.projector_input=layer"
  [one-linear-map]="-s bridge.projector_depth=1"
  [rank-88]="-s bridge.rank=88 -s bridge.projector_depth=1"
  [not-standardised]="-s bridge.standardise=false"
  [rope-left-on]="-s bridge.rope_handling=naive"
  [random-start]="-s bridge.start=random"
  [ridge-alone]="-s $ridge_only"
  [cache_mse]="-s $(stage cache_mse)"
  [attention]="-s $(stage attention)"
  [kl]="-s $(stage kl)"
  [answers-only]="-s train.continuation=0"
  [mix]='-s data.limit=700 -s data.mix={gsm8k=0.4,arc=0.2,"channel:facts"=0.3,"channel:copy"=0.05,"channel:rare"=0.05}'
  [student-lora]="-s bridge.student_lora=8"
)

names=("$@")
[ $# -gt 0 ] || names=("${!variants[@]}")
for name in "${names[@]}"; do
  # shellcheck disable=SC2086 # a variant is several words
  $helmas train -q -p cpu "${pair[@]}" -s "$(stage ce)" ${variants[$name]} -s train.eval_samples=0 -s "train.store=$store" \
    -o "$runs/$name" --overwrite
  for task in gsm8k channel:facts; do
    $helmas eval -q --bridge "$runs/$name" "${pair[@]}" --dataset "$task" --limit "$limit" --batch 32 --arms bridge,deranged \
      -s eval.reuse=true -s "train.store=$store" --json > "$out/$name.${task##*:}.json"
  done
done
