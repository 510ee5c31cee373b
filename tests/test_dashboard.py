"""optuna-dashboard on a study of ours: study, trials, curves, outcomes."""

import json
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from optuna_dashboard import wsgi

from tests.commands import run


class Silent(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    known = "known=[{learning_rate=5e-3}, {learning_rate=2e-5}]"
    settings = ("data.samples=60", "trial.epochs=1", "trial.evals=3", known)
    prune = ("pruner.startup_trials=1", "pruner.min_trials=1", "pruner.warmup_evals=0")
    run(tmp_path, "--trials", "3", "--runners", "1", settings=(*settings, *prune))
    url = f"sqlite:///{tmp_path}/hpo.db"
    app = wsgi(optuna.storages.get_storage(url))
    with make_server("127.0.0.1", 0, app, handler_class=Silent) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def get(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def test_it_lists_study_trials_curves_and_outcomes(server):
    (study,) = get(f"{server}/api/studies")["study_summaries"]
    assert study["study_name"] == "rsicap-mini"
    trials = get(f"{server}/api/studies/{study['study_id']}?after=0")["trials"]
    assert len(trials) == 3
    states = {trial["state"] for trial in trials}
    assert states <= {"Complete", "Pruned"} and "Complete" in states
    for trial in trials:
        attributes = {a["key"]: a["value"] for a in trial["user_attrs"]}
        assert attributes["outcome"] == trial["state"].lower()
        assert trial["intermediate_values"]
        assert {p["name"] for p in trial["params"]} >= {"learning_rate", "lora_r", "batch_size"}
