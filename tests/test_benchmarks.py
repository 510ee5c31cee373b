"""The benchmarks run and hold equal work. What they measure is of the day, and not tested."""

import dataclasses
import json
import tempfile

import pytest

from tests.benchmarks import bases, cache, packing, study, throughput
from tests.benchmarks.contenders import Contender, Round, Trained
from tests.benchmarks.equal import unequal
from tests.benchmarks.work import TOLERANCES, draw, make_search, make_work

TOLERANCE = TOLERANCES["float32"]
SMALL = ("data.samples=80", "trial.epochs=1", "trial.evals=2")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return make_work(tmp_path_factory.mktemp("work"), 3, SMALL)


def as_asked(work, losses=(0.5, 0.7, 0.6)):
    """A round that did what the work asks for; every trial ends 0.1 below its first val loss."""
    steps = [work.steps(number, config) for number, config in enumerate(work.spec.known)]
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


def test_rounds_run_in_turn_forwards_and_backwards(work):
    ours, order = as_asked(work), []

    def way(name):
        return Contender(what=name, run=lambda *_: order.append(name) or ours)

    ways = [throughput.Measured(name=n, contender=way(n)) for n in ("ours", "one", "two")]
    for number in range(2):
        throughput.measure_round(work, ways, number)
    assert order == ["ours", "one", "two", "two", "one", "ours"]
    assert [len(one.ours) for one in ways] == [2, 2, 2]


def test_a_way_that_fails_ends_the_round_unless_that_was_to_be_expected(work):
    def fails(*_):
        raise RuntimeError("a log\nits last line")

    def measured(doubtful):
        ours = Contender(what="ours", run=lambda *_: as_asked(work))
        other = Contender(what="other", run=fails, doubtful=doubtful)
        ways = {"ours": ours, "other": other}
        return [throughput.Measured(name=n, contender=c) for n, c in ways.items()]

    with pytest.raises(RuntimeError, match="its last line"):
        throughput.measure_round(work, measured(doubtful=False), 1)
    ways = measured(doubtful=True)
    throughput.measure_round(work, ways, 0)
    assert [len(one.rounds) for one in ways] == [1, 0]
    assert ways[1].note == "not equal work: its last line"


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


def ended(work, number, at_s, losses, steps=None):
    """A trial with batches of 8, to its end; PRUNED where it has a number of steps."""
    whole = work.steps(number, {"batch_size": 8})
    rows = len(losses) * len(work.job["val"])
    did = Trained(steps=whole if steps is None else steps, losses=losses, rows=rows)
    state = "COMPLETE" if steps is None else "PRUNED"
    return study.Ended(state=state, at_s=at_s, steps=whole, did=did)


def test_searches_are_compared_at_the_val_loss_that_both_found(tmp_path, monkeypatch):
    work = make_search(tmp_path, 3, SMALL)
    half = work.steps(2, {"batch_size": 8}) // 2
    pruned = ended(work, 2, 5.0, (0.1,), steps=half)
    ours = {0: ended(work, 0, 20.0, (0.9, 0.8)), 1: ended(work, 1, 30.0, (0.9, 0.5)), 2: pruned}
    theirs = {0: ended(work, 0, 60.0, (0.9, 0.7)), 1: ended(work, 1, 90.0, (0.6, 0.9)), 2: pruned}
    ways = {
        "ours": lambda *_: study.Search(trials=ours, total_s=31.0),
        "search": lambda *_: study.Search(trials=theirs, total_s=91.0),
    }
    monkeypatch.setattr(study, "WAYS", ways)
    row, faults = study.measure(work)
    assert faults == []
    assert (row["val_loss"], row["ours"]["best"], row["search"]["best"]) == (0.6, 0.5, 0.6)
    assert (row["ours"]["same_s"], row["search"]["same_s"]) == (30.0, 90.0)


def test_a_search_that_did_other_work_is_found(tmp_path):
    work = make_search(tmp_path, 2, SMALL)
    whole = work.steps(1, {"batch_size": 8})
    good = {n: ended(work, n, 1.0, (0.9, 0.8)) for n in range(2)}

    def faults(**trials):
        changed = good | {int(name[1:]): trial for name, trial in trials.items()}
        return study.unequal(work, study.Search(trials=changed, total_s=1.0))

    assert faults() == faults(t1=ended(work, 1, 1.0, (0.9,), steps=whole // 2 + 1)) == []
    assert "trial 1" in faults(t1=ended(work, 1, 1.0, (0.9,)))[0]
    assert "trial 1" in faults(t1=ended(work, 1, 1.0, (0.9,), steps=whole // 2 - 1))[0]
    assert "trial 1" in faults(t1=dataclasses.replace(good[1], state="FAIL"))[0]
    assert faults(t2=good[1])[-1] == "it ended trials [0, 1, 2], not 0 to 1"


@pytest.mark.slow
def test_the_command_compares_whole_studies(tmp_path, capsys):
    out = tmp_path / "study.json"
    small = [word for setting in SMALL for word in ("--set", setting)]
    assert study.main(["--trials", "3", "--rounds", "1", "--json", str(out), *small]) == 0
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert row["val_loss"] == max(row["ours"]["best"], row["search"]["best"])
    for way in ("ours", "search"):
        assert 0 < row[way]["same_s"] <= row[way]["total_s"] and row[way]["trained"] == 1.0
    assert found["ratio_same"] > 0 and "(goal: 10x)" in capsys.readouterr().out


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


@pytest.mark.parametrize("benchmark", [cache, packing, study, throughput])
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
