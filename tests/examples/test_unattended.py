"""The unit files, crontab and logrotate snippet that users copy."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import pipeline.config.build  # noqa: F401 - registers the schema
from pipeline.errors import ConfigError, OutputLockedError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FOLDER = ROOT / "examples" / "unattended"
PROGRAM = "/opt/d2run/.venv/bin/d2run"
SERVICES = sorted(FOLDER.glob("*.service"))
UNITS = sorted([*SERVICES, *FOLDER.glob("*.timer"), *FOLDER.glob("*.socket")])


def parsed(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(re.sub(r"\\\n\s*", " ", unit.read_text("ascii")))
    return parser


def cron_lines() -> list[tuple[str, str]]:
    """Schedule and command of each job, the command as cron gives it to the shell."""
    lines = (FOLDER / "crontab").read_text("ascii").splitlines()
    jobs = [line for line in lines if re.match(r"[\d*]", line)]
    found = []
    for line in jobs:
        *schedule, command = line.split(maxsplit=5)
        command, *standard_input = re.split(r"(?<!\\)%", command)
        assert not standard_input
        found.append((" ".join(schedule), command.replace(r"\%", "%")))
    return found


def as_cron_runs_it(command: str, tmp_path: Path, status: int = 0) -> tuple[list[str], str, str]:
    """Run a command with a program that notes its arguments; also returns what is mailed, logged.

    That is all that cron gives: ``/bin/sh`` and next to no environment.
    """
    program, log = tmp_path / "d2run", tmp_path / "log"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/arguments\necho said >&2\nexit {status}\n'
    )
    program.chmod(0o755)
    log.mkdir()
    command = command.replace(PROGRAM, str(program)).replace("/var/log/d2run", str(log))
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    (logged,) = log.iterdir()
    arguments = (tmp_path / "arguments").read_text().splitlines()
    return arguments, done.stdout + done.stderr, logged.read_text()


def check_composes(arguments: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", arguments)
    instantiate(cfg.runner, _convert_="all")
    if "runner=serve" not in arguments:  # which has neither
        assert Path(cfg.input).is_absolute()
        assert Path(cfg.output).is_absolute()
    assert cfg.quiet is True


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_have_their_sections(unit: Path) -> None:
    sections = set(parsed(unit).sections())
    assert "Unit" in sections
    assert unit.suffix[1:].title() in sections
    assert "${" not in unit.read_text()  # systemd would fill it in
    installed = "Install" in sections
    # a service that has a timer is started by it
    assert installed != unit.with_suffix(".timer").exists() or unit.suffix == ".timer"


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    systemd_analyze = shutil.which("systemd-analyze")
    if systemd_analyze is None:
        pytest.skip("there is no systemd-analyze")
    for path in UNITS:  # it wants to see the program
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, "/bin/true"))
    command = [systemd_analyze, "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_the_watch_is_restarted_only_where_that_helps() -> None:
    service = parsed(FOLDER / "d2run-watch.service")["Service"]
    prevented = {int(status) for status in service["RestartPreventExitStatus"].split()}
    assert service["Restart"] == "on-failure"
    assert prevented == {ConfigError.exit_status, OutputLockedError.exit_status, 4}
    assert service["KillSignal"] == "SIGTERM"
    assert service["KillMode"] == "mixed"  # or the workers would get it too
    assert int(service["TimeoutStopSec"]) > 10  # what a drain may take
    assert service["ExecReload"].split() == ["/bin/kill", "-HUP", "$MAINPID"]


def test_the_service_and_its_socket_agree() -> None:
    service = parsed(FOLDER / "d2run-serve.service")["Service"]
    listen = parsed(FOLDER / "d2run-serve.socket")["Socket"]["ListenStream"]
    assert f"runner.port={listen.rpartition(':')[2]}" in service["ExecStart"].split()
    assert int(service["RestartPreventExitStatus"]) == ConfigError.exit_status
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 60


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_services_may_write_only_their_results(service: Path) -> None:
    section = parsed(service)["Service"]
    assert section["ProtectSystem"] == "strict"
    assert section["NoNewPrivileges"] == section["PrivateTmp"] == "true"
    assert "MemoryDenyWriteExecute" not in section  # torch compiles while it runs
    writable = section.get("ReadWritePaths", "").split()
    outputs = re.findall(r" output=(\S+)", section["ExecStart"])
    assert len(outputs) == len(writable) == (service.name != "d2run-serve.service")
    for output, path in zip(outputs, writable, strict=True):
        assert Path(output).is_relative_to(path)
    assert section["User"] == "d2run"


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_services_start_what_there_is(service: Path) -> None:
    program, *arguments = shlex.split(parsed(service)["Service"]["ExecStart"])
    assert program == PROGRAM
    check_composes(arguments)


def test_cron_lines() -> None:
    lines = cron_lines()
    assert [schedule for schedule, _ in lines] == ["15 2 * * *", "*/5 * * * *"]
    for _, command in lines:
        assert command.startswith(f"{PROGRAM} ")
        assert " runner.on_lock=skip quiet=true >>/var/log/d2run/" in command


@pytest.mark.parametrize("job", range(2))
@pytest.mark.parametrize("status", [0, 3])
def test_cron_mails_only_what_went_wrong(job: int, status: int, tmp_path: Path) -> None:
    arguments, mailed, logged = as_cron_runs_it(cron_lines()[job][1], tmp_path, status)
    assert logged == "said\n"
    assert len(mailed.splitlines()) == (1 if status else 0)
    assert not status or mailed.startswith(f"d2run: status {status}, see ")
    outputs = [argument for argument in arguments if argument.startswith("output=")]
    assert re.fullmatch(r"output=/srv/results/(\d{4}-\d\d-\d\d|inbox)", *outputs)


@pytest.mark.parametrize("job", range(2))
def test_cron_starts_what_there_is(job: int, tmp_path: Path) -> None:
    check_composes(as_cron_runs_it(cron_lines()[job][1], tmp_path)[0])


def test_logs_are_reopened_by_whom_holds_them() -> None:
    text = (FOLDER / "logrotate").read_text("ascii")
    output = re.search(r" output=(\S+)", (FOLDER / "d2run-watch.service").read_text())
    assert output
    assert f"\n{output[1]}/run.log {{" in text
    assert "systemctl reload d2run-watch.service" in text
    assert text.count("{") == text.count("}") == 2


def test_the_readme_names_what_is_there() -> None:
    readme = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme
