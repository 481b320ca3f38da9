#!/bin/sh
# Make the environment of the peers in FOLDER: sh benchmarks/peers_env.sh FOLDER
# It is theirs alone; benchmarks/peers.py runs them with FOLDER/bin/python.
set -eu
folder=${1:?give a folder to make}
python3 -m venv "$folder"
install="$folder/bin/pip install --quiet --disable-pip-version-check"
$install torch==2.13.0
# Without its dependencies: they would replace torch where another build of it is here.
$install --no-deps torchvision==0.28.0
$install omnicloudmask==1.8.1 segmentation-models-pytorch==0.6.0 timm==1.0.31 \
    "ukis-csmask[cpu]==1.0.0" onnxruntime==1.32.0 numpy==2.4.6 rasterio==1.4.4 scipy==1.17.1
"$folder/bin/pip" freeze --disable-pip-version-check
