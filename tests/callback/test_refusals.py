"""Wrong use of the callback: the error names the cause and the way out."""

from __future__ import annotations

import pytest
import torch
from conftest import (
    FineTuning,
    loader,
    tiny_llama,
    tiny_peft,
    tokens,
    trainer,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from influcoder_lightning import (
    InfluenceCallback,
    collate_with_sample_ids,
    with_sample_ids,
)
from influcoder_lightning.errors import CaptureError, ConfigError, DataError


def fit(folder, module=None, batches=None, trainer_options=None, **options):
    callback = InfluenceCallback(
        str(folder / "store"), **({"sketch_dim": 64, "code_dim": 8} | options)
    )
    batches = loader(tokens(4)) if batches is None else batches
    trainer(folder, [callback], **(trainer_options or {})).fit(module or FineTuning(), batches)


def test_no_lora(tmp_path):
    with pytest.raises(CaptureError, match="no LoRA layers"):
        fit(tmp_path, FineTuning(tiny_llama()))


def test_frozen_lora(tmp_path):
    model = tiny_peft(inference_mode=True)
    model.base_model.model.lm_head.weight.requires_grad_(True)
    with pytest.raises(CaptureError, match="trainable"):
        fit(tmp_path, FineTuning(model))


def test_lora_on_embeddings_is_refused_by_name(tmp_path):
    with pytest.raises(CaptureError, match="Embedding"):
        fit(tmp_path, FineTuning(tiny_peft(target_modules=["q_proj", "embed_tokens"])))


def test_convolution_lora_is_refused_by_name():
    from peft import LoraConfig, inject_adapter_in_model

    from influcoder_lightning.capture.layers import find_lora_linears

    module = torch.nn.Sequential(torch.nn.Conv1d(4, 4, 3))
    inject_adapter_in_model(LoraConfig(target_modules=["0"]), module)
    with pytest.raises(CaptureError, match="Conv1d"):
        find_lora_linears(module)


def test_a_quantised_base_is_refused_by_name():
    from influcoder_lightning.capture.layers import find_lora_linears

    model = tiny_peft()
    base = next(m for n, m in model.named_modules() if n.endswith("q_proj.base_layer"))
    del base.weight
    base.weight = torch.zeros(4, 4, dtype=torch.int8)
    with pytest.raises(CaptureError, match="quantised base"):
        find_lora_linears(model)


def test_modules_to_save_are_named_in_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"no part of the influence feature.*lm_head"):
        fit(tmp_path, FineTuning(tiny_peft(modules_to_save=["lm_head"])))


def test_a_compiled_model(tmp_path):
    module = FineTuning()
    module.model = torch.compile(module.model)
    with pytest.raises(CaptureError, match=r"torch\.compile.*allow_compiled=True"):
        fit(tmp_path, module)


def test_manual_optimization(tmp_path):
    module = FineTuning()
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="automatic optimization"):
        fit(tmp_path, module)


def test_a_pytorch_lightning_trainer(tmp_path):
    import pytorch_lightning

    run = pytorch_lightning.Trainer(
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        callbacks=[InfluenceCallback(str(tmp_path / "s"))],
        max_epochs=1,
    )

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(MisconfigurationException, match="pytorch_lightning"):
        run.fit(Module(), DataLoader(torch.zeros(4, 2)))


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_strategies_that_rearrange_weights(tmp_path, strategy):
    callback = InfluenceCallback(str(tmp_path / "s"))
    run = trainer(tmp_path, [callback])
    run.strategy.__class__ = type(strategy, (type(run.strategy),), {})
    with pytest.raises(MisconfigurationException, match=f"{strategy}.*ModelParallelStrategy"):
        callback.setup(run, FineTuning(), "fit")


def test_a_batch_without_ids(tmp_path):
    with pytest.raises(DataError, match="with_sample_ids"):
        fit(tmp_path, batches=DataLoader(tokens(4), batch_size=2))


def test_more_ids_than_rows(tmp_path):
    def collate(samples):
        batch = torch.utils.data.default_collate(samples)
        return {k: v[:-1] for k, v in batch.items()}

    batches = DataLoader(
        with_sample_ids(tokens(4)), batch_size=4, collate_fn=collate_with_sample_ids(collate)
    )
    with pytest.raises(DataError, match="4 sample ids"):
        fit(tmp_path, batches=batches)


def test_a_batch_without_labels(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "labels"} for row in tokens(4)]
    with pytest.raises(DataError, match="labels"):
        fit(tmp_path, batches=loader(rows))


def test_a_batch_without_response_tokens(tmp_path):
    rows = tokens(4)
    for row in rows:
        row["labels"][:] = -100
    with pytest.raises(DataError, match="no response token"):
        fit(tmp_path, batches=loader(rows))


def test_packed_rows(tmp_path):
    rows = tokens(4)
    for row in rows:
        row["position_ids"] = torch.tensor([0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
        row["attention_mask"] = torch.ones(12, dtype=torch.long)
    with pytest.raises(DataError, match="packed"):
        fit(tmp_path, batches=loader(rows))


def test_a_forward_over_other_rows_than_the_batch(tmp_path):
    class Pairs(FineTuning):
        def training_step(self, batch, batch_idx):
            doubled = {k: torch.cat([batch[k]] * 2) for k in ("input_ids", "labels")}
            return self.model(**doubled).loss

    with pytest.raises(CaptureError, match="expected \\[batch, tokens, features\\]"):
        fit(tmp_path, Pairs())


def test_a_loss_that_misses_the_adapter(tmp_path):
    class Elsewhere(FineTuning):
        def __init__(self):
            super().__init__()
            self.other = torch.nn.Parameter(torch.ones(()))

        def training_step(self, batch, batch_idx):
            return self.other * 2

    with pytest.raises(CaptureError, match="reached no LoRA layer"):
        fit(tmp_path, Elsewhere())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"projector": "fourier"}, "unknown projector 'fourier'"),
        ({"loss_reduction": "median"}, "unknown `loss_reduction`"),
        ({"sketch_dim": 0}, "`sketch_dim` must be a whole number of at least 1"),
        ({"every_n_train_steps": 0}, "`every_n_train_steps`"),
        ({"refresh_queries_every_n_steps": -1}, "`refresh_queries_every_n_steps`"),
        ({"query_dataloader": iter([])}, "read once"),
    ],
)
def test_arguments(options, words):
    with pytest.raises(MisconfigurationException, match=words):
        InfluenceCallback(**options)


def test_an_unknown_encoder_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"text_encoder=.*no such folder"):
        fit(tmp_path, text_encoder=str(tmp_path / "nothing"))
    assert not (tmp_path / "store" / "influence.h5").exists()


def test_query_loss_of_the_wrong_shape(tmp_path):
    class Summed(InfluenceCallback):
        def query_loss(self, pl_module, batch):
            return super().query_loss(pl_module, batch).sum()

    callback = Summed(str(tmp_path / "s"), query_dataloader=loader(tokens(3)), sketch_dim=64)
    with pytest.raises(DataError, match="one mean response loss per sample"):
        trainer(tmp_path, [callback]).fit(FineTuning(), loader(tokens(4)))


def test_an_empty_query_loader(tmp_path):
    with pytest.raises(DataError, match="`query_dataloader` is empty"):
        fit(tmp_path, query_dataloader=[])


def test_extract_features_of_an_empty_pool(tmp_path):
    from influcoder_lightning import extract_features

    with pytest.raises(DataError, match="pool is empty"):
        extract_features(tiny_peft(), [], tmp_path / "s", sketch_dim=64, code_dim=8)


def test_extract_features_refuses_unknown_options(tmp_path):
    from influcoder_lightning import extract_features

    with pytest.raises(ConfigError, match="sketchdim"):
        extract_features(tiny_peft(), [], tmp_path / "s", sketchdim=64)
