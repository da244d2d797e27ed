"""The training run, read top to bottom: data, model, loop, result.

Everything random or ordered depends on the seed and the step alone, so a run that was killed goes on from its newest
checkpoint and takes the same steps an undisturbed run takes.
"""

import fcntl
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from finetune_site.lib.channel import Cancelled, Channel, InputError
from training_app.engine import checkpoint, data, models, record
from training_app.engine.data import Row
from training_app.engine.loss import mean_loss, token_losses
from training_app.engine.spec import TrainSpec

LOCK_SECONDS = 60


def run(spec: TrainSpec, link: Channel) -> dict[str, Any]:
    """Train, or go on training; returns the result. Raises `Cancelled` after saving when asked to stop."""
    run_dir = Path(spec.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with _lock(run_dir):
        models.set_threads(spec.threads)
        device = models.device_of(spec.device)
        train_rows, validation_rows = load_rows(spec)
        torch.manual_seed(spec.seed)
        model = build_model(spec, device)
        record.environment(run_dir, spec, device)
        trainer = Trainer(spec, link, model, train_rows, validation_rows, device)
        trainer.train()
        return trainer.finish()


def load_rows(spec: TrainSpec) -> tuple[list[Row], list[Row]]:
    """The tokenized train and validation rows; everything that could stop the run later stops it here."""
    version = data.read_version(spec.data_path, spec.data_sha256)
    tokenizer = models.load_tokenizer(spec.base_dir)
    train_rows = data.tokenize(data.conversations(version, "train"), tokenizer, spec.max_length)
    if not train_rows:
        raise InputError("The version has no training example. Approve more examples and seal a new version.")
    validation = data.tokenize(data.conversations(version, "validation"), tokenizer, spec.max_length)
    return train_rows, validation


def build_model(spec: TrainSpec, device: torch.device) -> Any:
    """The base model with what is trained of it: an adapter on every linear layer, or all weights."""
    model = models.load_base(spec.base_dir, device)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.method == "full":
        return model.train()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_dora=spec.method == "dora",
        use_rslora=spec.rslora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config).train()


class Trainer:
    """The loop and what it needs at each step. `step` counts finished updates of the weights."""

    def __init__(
        self, spec: TrainSpec, link: Channel, model: Any, train: list[Row], validation: list[Row], device: torch.device
    ) -> None:
        self.spec, self.link, self.model, self.device = spec, link, model, device
        self.run_dir = Path(spec.run_dir)
        self.train_rows = train
        self.validation_bins = data.pack(validation, spec.micro_batch_tokens)
        self.steps_per_epoch = math.ceil(len(train) / spec.batch_size)
        self.total_steps = min(spec.max_steps or 10**9, spec.epochs * self.steps_per_epoch)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay)
        self.step = 0
        self.tokens = 0
        self.last_loss = self.last_validation = float("nan")
        self.saved_step = -1

    def train(self) -> None:
        self._resume()
        self._tell_start()
        began, done_before = time.monotonic(), self.step
        for batch in self._batches():
            started = time.monotonic()
            tokens = sum(len(row.ids) for row in batch)
            loss, norm, rate = self._update(batch)
            self.step += 1
            self.tokens += tokens
            now = time.monotonic()
            self.link.emit(
                "step",
                step=self.step,
                epoch=round(self.step / self.steps_per_epoch, 4),
                loss=loss,
                grad_norm=norm,
                learning_rate=rate,
                tokens=self.tokens,
                tokens_per_second=round(tokens / (now - started), 1),
                memory_bytes=record.memory_bytes(self.device),
                seconds_left=round((now - began) / (self.step - done_before) * (self.total_steps - self.step), 1),
            )
            self._validate_if_due()
            if self.step % self.spec.checkpoint_every == 0 or self.step == self.total_steps:
                self._save()
            if self.link.should_stop and self.step < self.total_steps:
                self._save()
                raise Cancelled

    def finish(self) -> dict[str, Any]:
        """Write the weights whole and return the result."""
        folder = models.weights_dir(self.spec.run_dir, self.spec.method)
        record.write_weights(self.model, folder, self.spec.base_dir, is_full=self.spec.method == "full")
        return {
            "steps": self.step,
            "loss": self.last_loss,
            "validation_loss": None if math.isnan(self.last_validation) else self.last_validation,
            "weights": folder.name,
            "weights_sha256": record.hash_folder(folder),
            "tokens": self.step and sum(len(row.ids) for row in self.train_rows) * self.step // self.steps_per_epoch,
        }

    def _update(self, batch: list[Row]) -> tuple[float, float, float]:
        """One update of the weights; the loss is the mean over all trained tokens of the batch, however it is packed."""
        rate = self._set_rate()
        trained = sum(row.trained_tokens for row in batch)
        total = 0.0
        for rows in data.pack(batch, self.spec.micro_batch_tokens):
            loss = token_losses(self.model, rows, self.device).sum() / trained
            loss.backward()
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.max_grad_norm))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise InputError(
                f"The loss is no longer a number at step {self.step + 1}: the run diverged. "
                "Lower the learning rate (a third of it is a good next try) and start a new run."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last_loss = total
        return round(total, 6), round(norm, 5), rate

    def _set_rate(self) -> float:
        """Linear warm-up, then the schedule, as a function of the step alone."""
        spec = self.spec
        warmup = round(spec.warmup_share * self.total_steps)
        if self.step < warmup:
            share = (self.step + 1) / warmup
        else:
            done = (self.step - warmup) / max(1, self.total_steps - warmup)
            share = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
                spec.scheduler
            ]
        rate = spec.learning_rate * share
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _batches(self) -> Iterator[list[Row]]:
        """The batches still to do, beginning in the middle of an epoch where a resumed run stopped."""
        epoch, skip = divmod(self.step, self.steps_per_epoch)
        while self.step < self.total_steps:
            batches = list(data.epoch_batches(len(self.train_rows), self.spec.batch_size, self.spec.seed, epoch))
            for numbers in batches[skip:]:
                if self.step >= self.total_steps:
                    return
                yield [self.train_rows[number] for number in numbers]
            epoch, skip = epoch + 1, 0

    def _validate_if_due(self) -> None:
        every = self.spec.eval_every or self.steps_per_epoch
        if self.validation_bins and (self.step % every == 0 or self.step == self.total_steps):
            self.last_validation = mean_loss(self.model, self.validation_bins, self.device)
            perplexity = math.exp(min(self.last_validation, 50))
            self.link.emit("eval", step=self.step, loss=round(self.last_validation, 6), perplexity=round(perplexity, 4))

    def _save(self) -> None:
        if self.saved_step != self.step:
            checkpoint.save(self.run_dir, self.step, self.model, self.optimizer, self.spec.keep_checkpoints)
            self.saved_step = self.step
            self.link.emit("checkpoint", step=self.step)

    def _resume(self) -> None:
        folder = checkpoint.newest(self.run_dir)
        if folder:
            self.step = self.saved_step = checkpoint.load(folder, self.model, self.optimizer)
            self.tokens = sum(len(row.ids) for row in self.train_rows) * self.step // self.steps_per_epoch

    def _tell_start(self) -> None:
        self.link.emit(
            "started",
            total_steps=self.total_steps,
            start_step=self.step,
            steps_per_epoch=self.steps_per_epoch,
            trainable_parameters=sum(parameter.numel() for parameter in self.parameters),
            total_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            device=record.device_name(self.device),
            train_rows=len(self.train_rows),
            validation_rows=sum(map(len, self.validation_bins)),
            tokens_per_epoch=sum(len(row.ids) for row in self.train_rows),
        )


def _lock(run_dir: Path) -> IO[str]:
    """Hold the run folder: two engines never write one. A predecessor that is just saving gets a minute to leave."""
    stream = (run_dir / "lock").open("w")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError("Another process is training in this run's folder. Wait for it or stop it.") from None
            time.sleep(0.5)
