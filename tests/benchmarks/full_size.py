"""A rehearsal of the full scale without a GPU: published dimensions, random weights, one trial.

`python -m tests.benchmarks.full_size --model random:instructblip-flan-t5-xl|random:llama-3.2-3b|
random:qwen2-vl-2b [--json FILE]`: makes the base once (bf16, below the temporary files), has the
ordinary command train one trial of a handful of drawn samples on a CPU, and loads its adapter with
stock transformers and PEFT, which must give the same val loss. Says how long each phase took and
how much anonymous memory the runner had: weights that are mapped from their file are not in it.
Wants 16 GB of memory and 9 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from hpo.files import Options, load_study
from hpo.protocol import Setup
from hpo.training.base.stills import StillsProcessor
from hpo.training.bench import set_up
from hpo.weights import EMBEDDED
from tests.benchmarks.bases import MARK, drawn, find, made
from tests.benchmarks.report import table, write
from tests.commands import environment
from tests.training.oracle import answer_losses, caption_losses, label_losses

TOLERANCE = 0.02  # of val loss: both compute in bf16, in another order
MOST_ANONYMOUS = 1.2  # of the base's bytes, while it is loaded
POLL_S = 0.05
LLAMA_3B: dict[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
QWEN2_VL_2B: dict[str, dict[str, Any]] = {
    "text": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    },
    "vision": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 1536,
        "num_heads": 16,
        "patch_size": 14,
    },
}
COMMON = (
    "model.precision=bf16",
    "model.device=cpu",
    "trial.epochs=1",
    "trial.evals=1",
    "trial.eval_batch_size=2",
    "space.batch_size=2",
    "space.lora_r=8",
    "known=[]",
    "limits.hang_seconds=3600",
)


@dataclass(frozen=True)
class Rehearsal:
    """A study at full scale on drawn data, and how stock libraries compute its losses."""

    study: str
    settings: tuple[str, ...]
    base: Callable[[str], str]
    """Its name -> the folder of a base with random weights."""
    kind: type[Any]
    losses: Callable[..., torch.Tensor]
    """(model, bench, rows) -> loss of every row, summed over its targets."""


def _captioner(name: str) -> str:
    return find(MARK + name, "cpu")


def _llama(name: str) -> str:
    """Published dimensions of Llama 3.2, with the embedded tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED["mini-classifier"])
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def make(folder: Path) -> None:
        drawn(LlamaForCausalLM, LlamaConfig(**LLAMA_3B, **ids), "cpu").save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return made(name, LLAMA_3B, make)


def _qwen2_vl(name: str) -> str:
    """Published dimensions of Qwen2-VL, with the embedded tokenizer."""
    processor = StillsProcessor.from_pretrained(EMBEDDED["mini-answerer"], local_files_only=True)
    processor.image_processor.patch_size = QWEN2_VL_2B["vision"]["patch_size"]
    stock = Qwen2VLConfig.from_pretrained(EMBEDDED["mini-answerer"])
    ids = {key: value for key, value in stock.to_dict().items() if key.endswith("_token_id")}
    tokens = {"pad_token_id": stock.text_config.pad_token_id, "eos_token_id": 2}

    def make(folder: Path) -> None:
        config = Qwen2VLConfig(
            text_config={**QWEN2_VL_2B["text"], **tokens},
            vision_config=QWEN2_VL_2B["vision"],
            tie_word_embeddings=True,
            **ids,
        )
        drawn(Qwen2VLForConditionalGeneration, config, "cpu").save_pretrained(folder)
        processor.save_pretrained(folder)

    return made(name, QWEN2_VL_2B, make)


REHEARSALS = {
    "instructblip-flan-t5-xl": Rehearsal(
        "rsicap",
        ("data.format=scenes", "data.samples=10"),
        _captioner,
        InstructBlipForConditionalGeneration,
        caption_losses,
    ),
    "llama-3.2-3b": Rehearsal(
        "classify",
        ("data.format=messages", "data.samples=24", "data.max_length=32", "space.last_n=28"),
        _llama,
        AutoModelForSequenceClassification,
        label_losses,
    ),
    "qwen2-vl-2b": Rehearsal(
        "kvasir",
        ("data.format=quiz", "data.samples=18"),
        _qwen2_vl,
        Qwen2VLForConditionalGeneration,
        answer_losses,
    ),
}


@dataclass
class Watch:
    """A command under way: its events with their times, and the memory of its runner."""

    began: float = field(default_factory=time.monotonic)
    events: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    anonymous_bytes: dict[str, int] = field(default_factory=dict)
    """Largest of the runner, until it was ready and in all."""

    def listen(self, process: subprocess.Popen[str]) -> None:
        """Reads the command's events to their end."""
        assert process.stdout is not None
        poll = threading.Thread(target=self._poll, args=(process,), daemon=True)
        poll.start()
        for line in process.stdout:
            event = json.loads(line)
            self.events[event["event"]] = (time.monotonic() - self.began, event)
        process.wait()
        poll.join()

    def _poll(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            now = max(map(_anonymous_bytes, _children(process.pid)), default=0)
            phases = ("in all",) if "runner_ready" in self.events else ("until ready", "in all")
            for phase in phases:
                self.anonymous_bytes[phase] = max(self.anonymous_bytes.get(phase, 0), now)
            time.sleep(POLL_S)

    def seconds(self, first: str, last: str) -> float:
        """Between two events; the first may be empty, for the start of the command."""
        return self.events[last][0] - (self.events[first][0] if first else 0.0)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended meanwhile
        return []


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def train(rehearsal: Rehearsal, base: str, folder: Path) -> Watch:
    """Has the ordinary command train one trial; what was seen of it."""
    sets = [w for s in (*COMMON, *rehearsal.settings) for w in ("--set", s)]
    words = [sys.executable, "-m", "hpo.run", "--study", rehearsal.study, "--scale", "full"]
    words += ["--model", base, "--trials", "1", "--runners", "1", "--pack", "1", "--json", *sets]
    watch = Watch()
    process = subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    watch.listen(process)
    if process.returncode:
        raise SystemExit(f"hpo.run ended with {process.returncode}: {watch.events.get('error')}")
    return watch


def reloaded_val_loss(rehearsal: Rehearsal, base: str, adapter: Path) -> float:
    """Val loss per target of the exported adapter, by stock transformers and PEFT."""
    settings = (*COMMON, *rehearsal.settings, f"model.name={base}")
    spec = load_study(rehearsal.study, Options(scale="full", assignments=settings))
    setup = Setup(study=spec, memory_limit_bytes=None, gpu=False, zero_shot=False)
    bench, _ = set_up(setup)
    labels = {"num_labels": len(bench.task.label_names)} if bench.task.label_names else {}
    stock = rehearsal.kind.from_pretrained(base, dtype=torch.bfloat16, **labels).eval()
    if labels:
        stock.config.pad_token_id = bench.task.model.config.pad_token_id
    model = PeftModel.from_pretrained(stock, str(adapter)).eval()
    last = max(row.stage for row in bench.val)
    rows = [row for row in bench.val if row.stage == last]  # val loss is that of the last stage
    with torch.no_grad():
        total = sum(float(rehearsal.losses(model, bench, [row]).sum()) for row in rows)
    return total / sum(row.targets for row in rows)


def rehearse(name: str) -> dict[str, Any]:
    """Phases, memory and losses of one base."""
    rehearsal = REHEARSALS[name]
    base = rehearsal.base(name)
    base_bytes = sum(path.stat().st_size for path in Path(base).glob("*.safetensors"))
    with tempfile.TemporaryDirectory() as scratch:
        watch = train(rehearsal, base, Path(scratch))
        ended = watch.events["trial_ended"][1]
        (folder,) = Path(scratch, "runs").glob("*/trial-00000")
        loss = watch.events["trial_evaluated"][1]["val_loss"]
        reloaded = reloaded_val_loss(rehearsal, base, folder / "adapter")
    assert ended["outcome"] == "complete", ended
    assert abs(loss - reloaded) <= TOLERANCE * abs(loss), (loss, reloaded)
    ready = watch.anonymous_bytes["until ready"]
    return {
        "model": name,
        "base_bytes": base_bytes,
        "load_verify_cache_s": round(watch.seconds("", "runner_ready"), 1),
        "train_evaluate_s": round(watch.seconds("trial_started", "trial_evaluated"), 1),
        "export_end_s": round(watch.seconds("trial_evaluated", "summary"), 1),
        "anonymous_until_ready_bytes": ready,
        "anonymous_peak_bytes": watch.anonymous_bytes["in all"],
        "anonymous_of_base": round(ready / base_bytes, 3),
        "within_limit": ready <= MOST_ANONYMOUS * base_bytes,
        "val_loss": loss,
        "val_loss_by_peft": reloaded,
    }


def main() -> None:
    """Rehearses the base that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [MARK + name for name in REHEARSALS]
    parser.add_argument("--model", required=True, choices=names)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = rehearse(options.model.removeprefix(MARK))
    print(table([found]))
    if options.json:
        write(options.json, {"benchmark": "full_size", **found})


if __name__ == "__main__":
    main()
