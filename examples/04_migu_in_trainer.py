"""Use MIGU in the Trainer of transformers: one `with` around `train()`.

    python examples/04_migu_in_trainer.py

Only the output features with the largest magnitudes are updated in each step; the others keep their rows.
"""

from tempfile import TemporaryDirectory

from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

import nacre

host = nacre.load_host("demo")
(task,) = nacre.load_tasks(["topic"], data=None)
rows = [
    host.tokenizer(example.input, text_target=example.target, truncation=True)
    for example in task.limited(train=120).examples("train")
]
before = {name: parameter.detach().clone() for name, parameter in host.model.named_parameters()}

with TemporaryDirectory() as folder:
    trainer = Trainer(
        host.model,
        TrainingArguments(folder, max_steps=5, learning_rate=1e-3, report_to=[], disable_tqdm=True, use_cpu=True),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(host.tokenizer, host.model),
    )
    trainer.create_optimizer()
    with nacre.masking(trainer.model, trainer.optimizer, threshold=0.7, mask="update"):
        trainer.train()

name = next(name for name in before if name.endswith("SelfAttention.q.weight"))
changed = (host.model.get_parameter(name) != before[name]).any(dim=1)
print(f"{name}: {int(changed.sum())} of {len(changed)} rows changed in 5 steps")
