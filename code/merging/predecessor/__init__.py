"""The predecessor's command line, carried over to this library.

::

    python3 code/train.py train_config.json
    python3 code/predict.py search_config.json
    python3 code/uncertainty_based_gradient_matching.py --pretrained_model_name_or_path ...
    python3 code/task_arithmetic.py --pretrained_model_name_or_path ...

The parameters are those that were taken there; ``parameters.py`` says which have no effect any more, and why.
What differs is mended: ``data.py`` never chooses a model on test data, and unknown parameters are errors. New
work is better served by ``merging --help``.
"""

from merging.predecessor.json_programs import predict, train
from merging.predecessor.merge_programs import gradient_matching, task_arithmetic

__all__ = ["gradient_matching", "predict", "task_arithmetic", "train"]
