"""The examples for boards: each program compiles, fits its board, and names gestures."""

import configparser
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sentei
from sentei.card import Card, set_card_
from sentei.pruning.boards import BOARDS

EXAMPLE = Path(__file__).parents[1] / "examples" / "firmware"
MAKE = runpy.run_path(str(EXAMPLE / "make_data.py"))
ARDUINO = """\
#include <stdint.h>
#include <stddef.h>
#define A0 14
struct Port { void begin(long); void println(const char *); };
static Port Serial;
void Port::begin(long) {}
void Port::println(const char *text) { volatile const char *last = text; (void)last; }
int analogRead(int) { return *(volatile uint8_t *)0x78; }
void delay(unsigned long) {}
void setup();
void loop();
int main() { setup(); for (;;) loop(); }
"""


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A copy of the example with a network's C files, in the current folder."""
    torch.manual_seed(0)
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    scale = torch.full((32,), 512.0), torch.full((32,), 100.0)
    network = sentei.Standardise(*scale).before(sentei.training.build("32-12-3:relu"))
    set_card_(network, Card(classes=MAKE["GESTURES"]))
    x = 512 + 100 * torch.randn(64, 32)
    sentei.export(network, "gesture.c", x, format="c-int8-int8")
    return tmp_path


@pytest.mark.skipif(shutil.which("avr-g++") is None, reason="no avr-g++ on this machine")
def test_the_sketch_fits_an_arduino_uno(there):
    (there / "sketch.cpp").write_text(ARDUINO + Path("arduino/gesture/gesture.ino").read_text())
    flags = ["-mmcu=atmega328p", "-Os", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-I."]
    subprocess.run(["avr-gcc", *flags, "-std=c99", "-c", "gesture.c"], check=True)
    build = ["avr-g++", *flags, "-Wl,--gc-sections", "sketch.cpp", "gesture.o", "-lm", "-o", "uno"]
    subprocess.run(build, check=True)
    told = subprocess.run(["avr-size", "uno"], check=True, capture_output=True, text=True)
    text, data, bss = map(int, told.stdout.splitlines()[1].split()[:3])
    uno = BOARDS["arduino-uno"]
    assert 1000 < text + data < uno.flash
    assert 4 * 32 < data + bss < uno.ram


needs_arm = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="no arm-none-eabi-gcc or no qemu-system-arm on this machine",
)


@needs_arm
@pytest.mark.usefixtures("there")
def test_the_program_without_an_operating_system_runs():
    """The last commands of run.sh, on an untrained network."""
    lines = Path("run.sh").read_text().replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith(("arm-none-eabi-gcc", "qemu"))]
    assert len(commands) == 2
    done = [
        subprocess.run(command.split(), check=True, capture_output=True, text=True, stdin=-3)
        for command in commands
    ]
    assert len(done[1].stdout.split()) == 3
    assert set(done[1].stdout.split()) <= set(MAKE["GESTURES"])


@needs_arm
@pytest.mark.slow
def test_raw_readings_become_a_program_that_names_them(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "run.sh"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
    )
    assert done.stdout.splitlines()[-3:] == ["still", "shaken", "tapped"]


def test_the_manifest_names_folders_that_are_there():
    manifest = configparser.ConfigParser()
    manifest.read(EXAMPLE / "platformio.ini")
    assert (EXAMPLE / manifest["platformio"]["src_dir"] / "gesture.ino").exists()
    assert f"env:{manifest['platformio']['default_envs']}" in manifest
