#!/bin/sh
# Train and prune a network of one's own, on data and a loss of one's own.
# Run it in this folder: sh run.sh (about a minute)
set -e
rm -rf run # a run folder holds one run

# What can be removed? Nothing is trained for this; --shape is that of one input.
sentei units model.py:Sensor --shape 2 64

# Train. The file holds the weights; the class stays in model.py.
sentei train --model model.py:Sensor --data data.py:rotations --loss loss.py:huber \
  --epochs 20 --lr 0.005 --out sensor.safetensors

# Which channels matter? Weights may also come from torch.save(model.state_dict(), ...).
sentei rank model.py:Sensor --weights sensor.safetensors --data data.py:rotations \
  --loss loss.py:huber --most 3

# Keep 40 % of the channels in six steps, train an epoch after each, and store every step. A step
# after which fewer than 90 % of the validation samples are within a fifth of a turn is undone.
sentei prune model.py:Sensor --weights sensor.safetensors --data data.py:rotations \
  --loss loss.py:huber --metric metric.py:close --metric-at-least 0.9 \
  --schedule linear --keep "40 %" --steps 6 --retrain-epochs 1 --journal run --out small.safetensors

# The smaller network is a file of weights of the same class.
sentei info small.safetensors
