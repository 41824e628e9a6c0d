"""Handwritten digits, 8x8: scikit-learn's 1797 real scans, embedded, no download.

    python train.py digits

trains a class-conditional U-Net with label dropout and a noisy classifier, on two CPU cores in about four minutes. Then

    python sample.py runs/digits --guidance classifier-free --scale 3 --num-samples 500

draws digits of which an independent classifier recognises 95 % or more.
"""

from configs.schema import Experiment

EXPERIMENT = Experiment()
