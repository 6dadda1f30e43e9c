"""RoBERTa on sentiment, as in the paper: data and settings that ``example`` and ``table1`` share."""

from recipe.data import split
from recipe.download import DownloadModelJob
from recipe.experiment import Experiment, Splits

ROBERTA = {"model": "FacebookAI/roberta-base", "revision": "e2da8e2f811d1448a5b465c236feacd80ffbac7b"}
# Source, training part, test part. With one epoch there is no best epoch to choose, so no validation set, and
# none is cut from a test set. The labels of SST-2's own test split are secret.
BASE = ("imdb", "train", "test")
TASKS = {
    "yelp": ("yelp_polarity", "train[:20%]", "test"),
    "rotten_tomatoes": ("rotten_tomatoes", "train", "test"),
    "sst2": ("sst2", "train", "validation"),
    "amazon": ("amazon_polarity", "train[:5%]", "test"),
}
TRAINING = {"num_epochs": 1, "batch_size": 16, "warmup_steps": 100, "max_tokens": 384, "dropout": 0.0}
HESSIAN = {"max_examples": 10_000, "max_tokens": 384}
EVALUATION = {"max_tokens": 384, "batch_size": 64}
RESOURCES = {  # mem in GB, time in hours
    "train": {"gpu": 1, "cpu": 4, "mem": 24, "time": 24},
    "hessian": {"gpu": 1, "cpu": 2, "mem": 24, "time": 2},
    "merge": {"cpu": 2, "mem": 8, "time": 1},
    "evaluate": {"gpu": 1, "cpu": 4, "mem": 16, "time": 6},
}


def roberta(name: str) -> Experiment:
    """theta_0 is RoBERTa trained on IMDB; the tasks start from it with half the learning rate."""
    return Experiment(
        name=name,
        task_type="sequence_classification",
        start={"model": DownloadModelJob(**ROBERTA).out_model},
        base=_splits(*BASE),
        base_task="imdb",
        tasks={task: _splits(*parts) for task, parts in TASKS.items()},
        base_training={**TRAINING, "learning_rate": 1e-5},
        training={**TRAINING, "learning_rate": 5e-6},
        hessian=HESSIAN,
        evaluation=EVALUATION,
        resources=RESOURCES,
    )


def _splits(source: str, train: str, test: str) -> Splits:
    return Splits(train=split(source, train), validation=None, test=split(source, test))
