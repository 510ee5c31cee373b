"""The benchmarks run and hold equal work. What they measure is of the day, and not tested."""

import dataclasses
import json
import tempfile

import pytest

from tests.benchmarks import bases, cache, packing, throughput
from tests.benchmarks.contenders import Contender, Round, Trained
from tests.benchmarks.equal import unequal
from tests.benchmarks.work import TOLERANCES, draw, make_work

TOLERANCE = TOLERANCES["float32"]
SMALL = ("data.samples=80", "trial.epochs=1", "trial.evals=2")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make_work(tmp_path_factory.mktemp("work"), 3, SMALL)


def as_asked(work, losses=(0.5, 0.7, 0.6)):
    """A round that did what the work asks for; every trial ends 0.1 below its first val loss."""
    steps = [len(trial["batches"]) for trial in work.job["trials"]]
    rows = 2 * len(work.job["val"])
    trials = {
        number: Trained(steps=steps[number], losses=(loss + 0.1, loss), rows=rows)
        for number, loss in enumerate(losses)
    }
    return Round(trials=trials, steady_s=1.0, total_s=1.0)


def changed(done, number, **changes):
    """The round with one trial changed."""
    trial = dataclasses.replace(done.trials[number], **changes)
    return dataclasses.replace(done, trials={**done.trials, number: trial})


def test_the_draw_is_fixed_and_mixed(work):
    space = work.spec.space
    assert draw(space, 3) == draw(space, 16)[:3] == list(work.spec.known)
    configs = draw(space, 16)
    assert sorted(c["batch_size"] for c in configs) == [4] * 4 + [8] * 4 + [16] * 4 + [32] * 4
    assert {c["lora_r"] for c in configs} == set(space["lora_r"].choices)
    assert {c["lora_dropout"] for c in configs} == {0.0}


def test_batches_that_do_not_meet_the_grid_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not meet the eval grid"):
        make_work(tmp_path, 4, ("data.samples=60", "trial.epochs=1"))


def test_equal_work_is_found_equal(work):
    ours = as_asked(work)
    assert unequal(work, ours, ours) == []
    near = changed(ours, 1, losses=(0.8, 0.7 + TOLERANCE / 2))
    assert unequal(work, ours, near) == []


def test_every_difference_in_the_work_is_found(work):
    ours = as_asked(work)
    final, best = (0.8, 0.7 + 2 * TOLERANCE), (0.6, 0.7)
    assert "final" in unequal(work, ours, changed(ours, 1, losses=final))[0]
    assert "best" in unequal(work, ours, changed(ours, 1, losses=best))[0]
    assert "final" in unequal(work, ours, changed(ours, 1, losses=(0.8, float("nan"))))[0]
    assert "steps" in unequal(work, ours, changed(ours, 2, steps=1))[0]
    assert "evaluations" in unequal(work, ours, changed(ours, 2, losses=(0.6,)))[0]
    assert "rows" in unequal(work, ours, changed(ours, 2, rows=1))[0]
    two = dataclasses.replace(ours, trials={n: ours.trials[n] for n in (0, 2)})
    assert unequal(work, ours, two) == ["it trained [0, 2] of trials 0 to 2"]


def test_a_way_that_does_other_work_ends_the_round_unless_that_was_to_be_expected(work):
    ours = as_asked(work)
    other = changed(ours, 2, steps=1)

    def measured(doubtful):
        ways = {
            "ours": Contender(what="ours", run=lambda *_: ours),
            "other": Contender(what="other", run=lambda *_: other, doubtful=doubtful),
            "none": Contender(what="none", run=lambda *_: ours, missing="not of this version"),
        }
        return [throughput.Measured(name=n, contender=c, note=c.missing) for n, c in ways.items()]

    with pytest.raises(throughput.UnequalError, match="trial 2: 1 steps"):
        throughput.measure_round(work, measured(doubtful=False), 0)
    ways = measured(doubtful=True)
    for number in range(3):
        throughput.measure_round(work, ways, number)
    assert [len(one.rounds) for one in ways] == [3, 0, 0]
    assert ways[1].note.startswith("not equal work: trial 2: 1 steps")
    assert ways[2].as_dict()["measured"] is False


@pytest.mark.slow
def test_the_command_measures_every_peer_on_equal_work(tmp_path, capsys):
    out = tmp_path / "results" / "throughput.json"
    small = [word for setting in SMALL for word in ("--set", setting)]
    ways = ["fresh-processes", "search-processes"]
    words = ["--configs", "2", "--rounds", "1", "--only", *ways, "--json", str(out)]
    assert throughput.main([*words, *small]) == 0
    found = json.loads(out.read_text())
    assert {"device", "versions", "date", "commit"} <= found.keys()
    assert len(found["configurations"]) == 2
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["ours", *ways]
    for row in rows.values():
        assert row["measured"] and row["loss_difference"] <= TOLERANCE
        assert row["ratio"] > 0 and row["ratio_end_to_end"] > 0
    printed = capsys.readouterr().out
    assert "| search-processes |" in printed and "(goal: 9x)" in printed


TINY = {
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
    },
    "qformer": {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "text": {"vocab_size": 1024, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1},
}


def test_a_base_of_random_weights_is_built_once_and_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(bases.SHAPES, "tiny", TINY)
    out = tmp_path / "cache.json"
    words = ["--model", "random:tiny", "--batches", "4", "--repeats", "1", "--json", str(out)]
    assert cache.main(words) == 0
    (folder,) = (tmp_path / "hpo-random-bases").iterdir()
    built = (folder / "model.safetensors").stat().st_mtime_ns
    assert cache.main([*words, "--precision", "bf16"]) == 0
    assert (folder / "model.safetensors").stat().st_mtime_ns == built
    found = json.loads(out.read_text())
    assert found["base"] == {"model": "random:tiny", "device": "cpu", "precision": "bf16"}
    assert [row["what"] for row in found["rows"]] == ["training step", "evaluation"]
    assert all(row["allowed"] > 1 and row["loss_difference"] == 0 for row in found["rows"])


@pytest.mark.parametrize("benchmark", [cache, packing, throughput])
def test_a_gpu_that_is_not_there_is_said_in_one_sentence(monkeypatch, benchmark):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cuda: torch finds no GPU"):
        benchmark.main(["--device", "cuda"])


def test_a_base_that_is_not_known_is_refused():
    with pytest.raises(SystemExit, match="random:instructblip-flan-t5-xl"):
        cache.main(["--model", "random:blip"])


@pytest.mark.parametrize(
    "benchmark, words, said",
    [
        (throughput, ["--set", "trial.epoch=1"], "did you mean epochs?"),
        (packing, ["--tokens", "0"], "0: must be a whole number above 0"),
        (cache, ["--batches", "4", "2.5"], "2.5: must be a whole number above 0"),
    ],
)
def test_a_wrong_option_is_one_sentence(benchmark, words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(words)
    assert said in f"{ended.value}{capsys.readouterr().err}"
