"""What IVON leaves, as a Hessian folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from merging import tasks
from merging.files.checkpoints import weights_hash
from merging.hessians.artifact import StoredHessian
from merging.sources.stored_statistics import open_statistics
from merging.training.ivon import HESS, Ivon, IvonOptions, write_posterior


def test_the_posterior_of_a_model(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts([0, 1] * 5)
    network = tasks.load("sequence_classification").load_model(str(model))
    network.classifier.bias.requires_grad_(False)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = Ivon(learned, lr=0.1, seed=0, options=IvonOptions(ess=30.0, beta2=0.5))
    with optimizer.sampled():
        network(input_ids=torch.tensor([[2, 3]])).logits.log_softmax(-1)[0, 0].neg().backward()
    optimizer.step()
    weight = network.classifier.weight
    optimizer.state[weight][HESS][0, 0] = -1e-6

    def write() -> None:
        write_posterior(
            optimizer,
            network,
            task_type="sequence_classification",
            model=model,
            data={"data": str(data), "split": "train"},
            seed=3,
            out=tmp_path / "out",
        )

    with pytest.warns(UserWarning, match=r"after 1 steps with beta2 = 0\.5 .* initial value 1\.0"):
        write()
    optimizer.param_groups[0]["num_steps"] = 2
    write()
    stored = StoredHessian(tmp_path / "out", label="hessian")
    record = stored.record
    assert (record.estimator, record.statistic, record.num_train_examples) == ("ivon", "diagonal", 10)
    assert record.model_hash == weights_hash(model) and record.seed == 3
    assert record.options["num_steps"] == 2 and record.options["clip_radius"] is None
    assert record.options["num_floored"] >= 1
    source = open_statistics(tmp_path / "out", label="hessians['a']", key="hessians")
    found = source.read("classifier.weight")  # type: ignore[union-attr]
    torch.testing.assert_close(found, 30 * optimizer.state[weight][HESS].clamp(min=0))
    assert "classifier.bias" not in stored.checkpoint.tensors
