#!/usr/bin/env bash
# Merge the two fine-tuned models by task arithmetic.
set -eu
python3 code/task_arithmetic.py \
  --pretrained_model_name_or_path example/models/films \
  --ft_model_name_or_paths example/models/food,example/models/hotels \
  --scaling_factor 1.0 \
  --task_type SEQ_CLS \
  --out_model_path example/models/task_arithmetic
