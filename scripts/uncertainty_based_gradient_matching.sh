#!/usr/bin/env bash
# Merge the two fine-tuned models by gradient matching; scaling factors are the sizes of the training sets.
set -eu
python3 code/uncertainty_based_gradient_matching.py \
  --pretrained_model_name_or_path example/models/films \
  --pretrained_hessian_path example/fishers/films \
  --ft_model_name_or_paths example/models/food,example/models/hotels \
  --ft_hessian_paths example/fishers/food,example/fishers/hotels \
  --scaling_factor_pt 240 \
  --scaling_factors_ft 240,240 \
  --scaling_factor 1.0 \
  --delta_0 1e-12 \
  --task_type SEQ_CLS \
  --out_model_path example/models/merged
