"""Recipes: one file per model or kind of model, and the table of them that the command line reads."""

from collections.abc import Mapping
from typing import Any

from training.recipe import Recipe
from training.recipes.bccd_detector import BccdDetector
from training.recipes.bsds_denoiser import BsdsDenoiser
from training.recipes.bsds_upscaler import BsdsUpscaler
from training.recipes.camvid_segmenter import CamvidSegmenter
from training.recipes.cifar10_autoencoder import Cifar10Autoencoder, Cifar10VaeGenerator
from training.recipes.cifar10_classifier import Cifar10Classifier
from training.recipes.cifar10_embedder import Cifar10Embedder
from training.recipes.cifar10_generator import Cifar10Generator
from training.recipes.folder_generator import FolderGenerator
from training.recipes.imagefolder_classifier import ImageFolderClassifier
from training.recipes.mask_segmenter import MaskSegmenter
from training.recipes.textbook import CifarCnn, MnistCnn
from training.recipes.voc_detector import VocDetector

RECIPES: Mapping[str, Recipe[Any]] = {
    recipe.name: recipe
    for recipe in (
        Cifar10Classifier(), CamvidSegmenter(), Cifar10Generator(), ImageFolderClassifier(), MaskSegmenter(),
        FolderGenerator(), MnistCnn(), CifarCnn(), BccdDetector(), VocDetector(), BsdsDenoiser(), BsdsUpscaler(),
        Cifar10Autoencoder(), Cifar10VaeGenerator(), Cifar10Embedder(),
    )
}  # fmt: skip
