#!/bin/sh
# From raw rows to a program that runs on an emulated board.
set -e
python make_data.py
sentei train --model 32-24-3:relu --data sensor.csv --target gesture --epochs 40 --out gesture.safetensors
sentei fit gesture.safetensors --data sensor.csv --target gesture --board arduino-uno \
  --format c-int8-int8 --retrain-epochs 2 --paths units --units-at-most 12 --out gesture.c
cp gesture.c gesture.h arduino/gesture
arm-none-eabi-gcc -std=c99 -Os -mcpu=cortex-m4 -mthumb --specs=rdimon.specs -I. \
  -Wl,--section-start=.vectors=0 bare_metal/main.c bare_metal/start.c gesture.c -o gesture.elf
qemu-system-arm -M mps2-an386 -nographic -monitor none -serial null -semihosting -kernel gesture.elf
