#!/usr/bin/env bash
# The same workflow with this project's own command line: about a minute, offline. Run it from the repository's root,
# with the project's Python first on the path (. .venv/bin/activate). Everything is written into example/.
set -eu
python3 scripts/make_example.py example
for domain in films food hotels; do
  merging download --source "local/$domain" --folder example/data --out "example/sets/$domain"
done
options="--max-tokens 16 --batch-size 16 --num-epochs 3"
merging train --task-type sequence_classification --model example/model $options --learning-rate 3e-3 \
  --data example/sets/films:train --validation example/sets/films:validation --out example/own/films
for domain in food hotels; do
  merging train --task-type sequence_classification --model example/own/films $options --learning-rate 1e-3 \
    --data "example/sets/$domain:train" --validation "example/sets/$domain:validation" --out "example/own/$domain"
done
for domain in films food hotels; do
  merging hessian --task-type sequence_classification --model "example/own/$domain" --max-tokens 16 \
    --data "example/sets/$domain:train" --out "example/hessians/$domain"
done
merging merge --method gradient_matching --scaling-factor 1.0 --base example/own/films \
  --models food=example/own/food hotels=example/own/hotels --base-hessian example/hessians/films \
  --hessians food=example/hessians/food hotels=example/hessians/hotels --out example/own/merged
merging evaluate --task-type sequence_classification --model example/own/merged --max-tokens 16 \
  --data food=example/sets/food:test hotels=example/sets/hotels:test --out example/own/evaluation
merging predict --task-type sequence_classification --model example/own/merged --max-tokens 16 \
  --data example/sets/food:test --out example/own/predictions.jsonl
