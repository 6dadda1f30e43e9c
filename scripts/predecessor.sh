#!/usr/bin/env bash
# The predecessor's whole workflow on tiny data: about a minute, offline. Run it from the repository's root, with the
# project's Python first on the path (. .venv/bin/activate). Everything is written into example/.
set -eu
python3 scripts/make_example.py example
python3 code/train.py scripts/train_config.json
python3 code/train.py scripts/train_food.json
python3 code/train.py scripts/train_hotels.json
python3 code/predict.py scripts/fisher_films.json
python3 code/predict.py scripts/fisher_food.json
python3 code/predict.py scripts/fisher_hotels.json
bash scripts/uncertainty_based_gradient_matching.sh
bash scripts/task_arithmetic.sh
python3 code/predict.py scripts/search_config.json
