"""Streams, locales, paths and folders as shells give them: the right end, or one sentence."""

import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from hpo.guard import describe
from tests.commands import (
    SMALL,
    assert_exact,
    environment,
    gone,
    ran,
    run,
    stored,
    words,
)

OTHER_BYTES = b"d\xffr"  # no UTF-8
SHOWN = r"d\xffr"


def shell(cwd, script, *options, settings=SMALL, **extra):
    """Runs a shell line in which "$@" is the command; (exit code, output, errors)."""
    command = words("--runners", "1", *options, settings=settings)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}", "bash", *command],
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout + done.stderr and "Exception" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def log(cwd, name="rsicap-mini"):
    """What a search has written after its output was lost."""
    (path,) = (cwd / "runs" / name).glob("driver-*.log")
    return path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('"$@" | head -1', "Broken pipe"),
        ('"$@" --json | head -1', "Broken pipe"),
        ('"$@" >&-', "Bad file descriptor"),
        ('"$@" >/dev/full', "No space left on device"),
        ('FORCE_COLOR=1 "$@" | head -1', "Broken pipe"),
    ],
)
def test_a_search_whose_output_is_closed_continues_in_a_log(tmp_path, script, why):
    code, output, errors = shell(tmp_path, script, "--trials", "1")
    assert code == 0 and output.count("\n") <= 1
    assert errors.startswith(f"standard output cannot be written any more ({why}): the search con")
    assert errors.count("\n") == 1 and str(next((tmp_path / "runs").glob("*/driver*"))) in (
        f"{tmp_path}/{errors.split()[-1]}"
    )
    assert errors in log(tmp_path) and "complete" in log(tmp_path)
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db"), 1)


@pytest.mark.parametrize("script", ['"$@" 2>&1 | head -1', '"$@" <&- >&- 2>&-'])
def test_a_search_without_any_stream_says_so_in_its_log(tmp_path, script):
    code, _, errors = shell(tmp_path, script, "--trials", "1")
    assert (code, errors) == (0, "")
    assert log(tmp_path).startswith("standard output cannot be written any more")
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db"), 1)


def test_the_exit_code_is_that_of_the_work_when_nobody_reads(tmp_path):
    assert shell(tmp_path, '"$@" 2>&1 | true', "--trials", "0")[0] == 2
    assert shell(tmp_path, '"$@" | true', "--json", "--trials", "0")[0] == 2
    assert shell(tmp_path, '"$@" 2>&1 | true', "--trials", "many")[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["| true", ">&-", "2>&1 | true"])
def test_what_only_prints_ends_quietly_when_nobody_reads(tmp_path, end):
    assert shell(tmp_path, f'"$@" {end}', "--help") == (0, "", "")
    assert shell(tmp_path, f'"$@" {end}', "--dry-run") == (0, "", "")
    schema = f"{sys.executable} -m hpo.schema --storage sqlite:///x.db {end}"
    assert shell(tmp_path, schema) == (0, "", "")


def test_output_that_does_not_fit_on_a_disk_is_said(tmp_path):
    code, _, errors = shell(tmp_path, '"$@" >/dev/full', "--dry-run")
    assert (code, errors.count("\n")) == (0, 1)
    assert "(No space left on device): the rest of it is lost" in errors


@pytest.fixture
def terminal(tmp_path):
    """Starts a search on a terminal of its own."""
    main, other = pty.openpty()
    process = None

    def start(script):
        nonlocal process
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words("--runners", "1", "--trials", "2")],
            cwd=tmp_path,
            env=environment(TERM="xterm", PYTHONIOENCODING="ascii"),
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        return process, main

    yield start
    if process is not None:
        process.kill()
        process.wait()


def read_until(terminal, text):
    seen, until = b"", time.monotonic() + 60
    while text not in seen and time.monotonic() < until:
        if select.select([terminal], (), (), 1)[0]:
            seen += os.read(terminal, 1 << 16)
    assert text in seen, seen[-2000:]
    return seen


@pytest.mark.slow
def test_a_terminal_that_is_gone_leaves_plain_lines_in_the_log(tmp_path, terminal):
    process, main = terminal("trap '' HUP; exec \"$@\"")
    read_until(main, b"0 of 2")
    os.close(main)
    assert process.wait(120) == 0
    assert "(Input/output error): the search continues" in log(tmp_path)
    assert "\ntrial 1 ended in" in log(tmp_path) and "is complete" in log(tmp_path)
    assert log(tmp_path).count("\x1b") < 200, "no table, four times a second, all night"


@pytest.mark.slow
def test_a_live_table_is_drawn_in_ascii_where_the_terminal_takes_no_more(tmp_path, terminal):
    process, main = terminal('exec "$@"')
    seen = read_until(main, b"is complete")
    os.close(main)
    assert process.wait(60) in (0, -signal.SIGHUP)
    assert b"trial" in seen and seen.isascii()


LOCALES = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=str)
def test_any_character_can_be_said_in_any_locale(tmp_path, locale):
    output = run(tmp_path, "--help", settings=(), **locale)
    assert "--dry-run" in output
    data = "d\N{LATIN SMALL LETTER A WITH DIAERESIS}t\N{HORIZONTAL ELLIPSIS}\N{GRINNING FACE}"
    output = run(tmp_path, "--data", data, settings=(), expect=2, **locale)
    assert output.startswith("error: ") and output.count("\n") == 1 and "--data" in output
    if "PYTHONUTF8" in locale:
        assert "the locale of this shell is not UTF-8; set LC_ALL=C.UTF-8" in output
    else:
        assert "no captions.json there" in output


@pytest.mark.slow
def test_a_folder_of_any_characters_works_in_ascii(tmp_path):
    folder = tmp_path / "\N{LATIN SMALL LETTER U WITH DIAERESIS} \N{GRINNING FACE}"
    folder.mkdir()
    output = run(folder, "--trials", "1", "--runs-dir", "\N{SNOWMAN}", PYTHONIOENCODING="ascii")
    assert "runs: \\u2603/rsicap-mini" in output and "is complete" in output
    assert (folder / "\N{SNOWMAN}" / "rsicap-mini" / "trial-00000" / "metrics.csv").is_file()


@pytest.fixture
def odd(tmp_path):
    """A folder whose name is no UTF-8."""
    path = os.fsencode(tmp_path) + b"/" + OTHER_BYTES
    os.mkdir(path)
    return os.fsdecode(path)


@pytest.mark.parametrize("option", ["--data", "--model", "--runs-dir", "--name", "--set"])
def test_an_option_that_is_not_utf8_is_named_with_its_bytes(tmp_path, odd, option):
    output = run(tmp_path, option, odd, settings=(), expect=2)
    assert output == f"error: {option} {tmp_path}/{SHOWN}: is not UTF-8; rename it, or write it " \
        "as UTF-8\n"  # fmt: skip


def test_a_study_file_in_such_a_folder_is_named(tmp_path, odd):
    output = run(tmp_path, study=f"{odd}/my.toml", settings=(), expect=2)
    assert output.startswith(f"error: --study {tmp_path}/{SHOWN}/my.toml: is not UTF-8")


@pytest.mark.parametrize("module", ["run", "score", "schema"])
def test_a_database_and_a_folder_that_are_not_utf8_are_named_by_every_command(
    tmp_path, odd, module
):
    study = () if module == "schema" else ("--study", "rsicap")
    command = [sys.executable, "-m", f"hpo.{module}", *study]
    url = f"sqlite:///{odd}/hpo.db"
    assert ran(tmp_path, [*command, "--storage", url], expect=2).startswith("error: --storage: is")
    for name, value in (("HPO_STORAGE", url), ("HPO_STORAGE_FILE", f"{odd}/url")):
        output = ran(tmp_path, command, expect=2, **{name: value})
        assert output.startswith(f"error: ${name}: is not UTF-8")
    output = ran(odd, command, expect=2)
    assert output.startswith(f"error: the working directory {tmp_path}/{SHOWN}: is not UTF-8")
    assert os.listdir(odd) == []


def test_temporary_files_may_be_in_such_a_folder(tmp_path, odd):
    assert "is complete" in run(tmp_path, "--trials", "1", TMPDIR=odd, HOME=odd)


def test_a_working_directory_that_is_gone_is_said(tmp_path):
    script = 'mkdir x && cd x && rmdir ../x && "$@"'
    code, _, errors = shell(tmp_path, script)
    assert code == 2 and errors.startswith("error: the working directory cannot be used (No such")


def test_libraries_are_not_shadowed_by_files_of_the_working_directory(tmp_path):
    for name in ("json", "queue", "optuna", "torch", "transformers", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "hpo").mkdir()
    assert "is complete" in run(tmp_path, "--trials", "1")


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["PYTHONOPTIMIZE=2", "PYTHONWARNINGS=error", "PYTHONDEVMODE=1"])
def test_a_search_works_whatever_python_is_told(tmp_path, setting):
    name, value = setting.split("=")
    output = run(tmp_path, "--trials", "1", **{name: value})
    assert "study rsicap-mini is complete" in output
    assert_exact(stored(f"sqlite:///{tmp_path}/hpo.db"), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trials", str(10**30)), ("search.trials = 1000", "less than 2147483648")),
        (("--seed", "-1"), ("search.seed = -1", "greater than or equal to 0")),
        (("--runners", "9999"), ("--runners 9999", "cores", "at most")),
        (("--timeout", "1e999h"), ("--timeout 1e999h", "8h")),
        (("--timeout", f"{'9' * 400}h"), ("not a duration", "8h")),
        (("--memory-limit", "99999999999999GB"), ("--memory-limit 999", "2GB")),
        (("--memory-limit", f"{'9' * 400}GB"), ("not a size", "2GB")),
        (("--name", "two\nlines"), ('name = "two\\nlines"', "letters, digits")),
        (("--set", f"known={'[' * 5000}"), ("nested more than 16 deep",)),
        (("--set", f"trial.epochs={'9' * 5000}"), ("more than 64 bits",)),
        (("--set", f"trial.epochs=0x{'f' * 5000}"), ("more than 64 bits",)),
        (("--set", "trial.epochs=1\ntrial.evals=5"), ("must be a valid integer",)),
        (("--set", f"{'a.' * 5000}b=1"), ("not an assignment",)),
        (("--set", "search_space=lora"), ("known.0", "--set 'known=[]'")),
        (("--set", "limits.cache_gb=1e308"), ("limits.cache_gb = 1e+308", "less than or equal")),
        (("--set", 'model.name="a\\u0000b"'), ("no such directory", "--model DIR")),
        (("--data", "x" * 300), ("File name too long", "give a path")),
        (("--runs-dir", "file"), ("file is not a folder", "--runs-dir")),
        (("--runs-dir", "file/below"), ("is not a folder", "--runs-dir")),
        (("--runs-dir", "x" * 300), ("File name too long", "--runs-dir")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_far_too_much_is_one_short_sentence(tmp_path, options, said):
    (tmp_path / "file").touch()
    output = run(tmp_path, *options, settings=(), expect=2, CUDA_VISIBLE_DEVICES="")
    for line in output.splitlines():
        assert line.startswith("error: ") and len(line) < 1000
    for part in said:
        assert part in output, output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_study_file_that_is_none_is_not_waited_for(tmp_path, make):
    make(tmp_path / "my.toml")
    output = run(tmp_path, study="./my.toml", settings=(), expect=2)
    assert output == "error: my.toml: cannot be read: it is not a regular file; name a .toml file\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("a library says so"), "a file or a process of this command: a library says so; "),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit on"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; give"),
        (OSError(errno.EXDEV, "Invalid", "x", None, "y"), "x -> y: Invalid; check that it is"),
        (OSError(), "a file or a process of this command: OSError; check that it is whole"),
    ],
)
def test_what_the_system_refuses_has_a_thing_a_reason_and_a_remedy(error, said):
    assert said in describe(error)


def test_a_runner_ends_with_a_driver_that_is_killed(tmp_path):
    command = words("--runners", "1", "--json", "--trials", "9")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    )
    events = (json.loads(line)["event"] for line in process.stdout)
    assert "trial_started" in events
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        runners = [int(pid) for pid in file.read().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert runners and all(gone(pid) for pid in runners)
