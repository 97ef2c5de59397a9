"""Networks of torchvision, ultralytics and segmentation_models_pytorch, with random weights.

Each is the smallest member of its family, or a small configuration of it.
"""

# Each library is in the environment of `make networks` alone.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from networks_zoo.case import Build, Case, Forward, images

# torchvision.

TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {  # name: size of pictures, arguments
    "alexnet": (64, {}),
    "vgg11": (32, {}),
    "vgg11_bn": (32, {}),
    "resnet18": (64, {}),
    "resnet34": (64, {}),
    "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}),
    "wide_resnet50_2": (64, {}),
    "squeezenet1_0": (64, {}),
    "squeezenet1_1": (64, {}),
    "densenet121": (64, {}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "googlenet": (64, {"aux_logits": True, "init_weights": False}),
    "shufflenet_v2_x0_5": (64, {}),
    "shufflenet_v2_x1_0": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "mnasnet0_5": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "regnet_x_400mf": (64, {}),
    "regnet_y_400mf": (64, {}),
    "convnext_tiny": (64, {}),
}


def torchvision_model(name: str, size: int, settings: Mapping[str, Any]) -> Case:
    """Build a classifier of torchvision, with 10 classes."""
    import torchvision

    model = torchvision.models.get_model(name, weights=None, num_classes=10, **settings)
    return Case(model, images(size))


def torchvision_vit() -> Case:
    """Build torchvision's vision transformer with two layers of width 64."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10)
    return Case(model, images(32))


def torchvision_swin(version: int) -> Case:
    """Build torchvision's Swin transformer with two stages, of width 24."""
    from torchvision.models import swin_transformer as swin

    parts: dict[str, Any] = {}
    if version == 2:
        parts = {
            "block": swin.SwinTransformerBlockV2,
            "downsample_layer": swin.PatchMergingV2,
        }
    model = swin.SwinTransformer([4, 4], 24, [2, 2], [3, 6], [4, 4], num_classes=10, **parts)
    return Case(model, images(64))


def torchvision_maxvit() -> Case:
    """Build torchvision's MaxViT with two blocks."""
    from torchvision.models import MaxVit

    model = MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=10)
    return Case(model, images(64))


def torchvision_segmentation(name: str) -> Case:
    """Build a segmentation network of torchvision, with 5 classes and its auxiliary head."""
    import torchvision

    aux = {} if name.startswith("lraspp") else {"aux_loss": True}
    model = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=5, **aux
    )
    return Case(model, images(64))


def _boxes(size: int, count: int) -> list[Tensor]:
    box = torch.tensor([[2.0, 3.0, size / 2, size / 2], [size / 4, size / 3, size - 2.0, size - 1]])
    return [box] * count


def two_stages(model: Any, x: Tensor) -> Any:
    """Run an R-CNN: backbone, proposal head, and box, mask and keypoint heads on fixed boxes."""
    features = model.backbone(x)
    shapes = [tuple(x.shape[-2:])] * len(x)
    boxes = [each.to(x) for each in _boxes(x.shape[-1], len(x))]
    heads = model.roi_heads
    pooled = heads.box_roi_pool(features, boxes, shapes)
    outputs = [
        *model.rpn.head(list(features.values())),
        heads.box_predictor(heads.box_head(pooled)),
    ]
    for kind in ("mask", "keypoint"):
        if getattr(heads, f"{kind}_head", None) is not None:
            pooled = getattr(heads, f"{kind}_roi_pool")(features, boxes, shapes)
            outputs.append(
                getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(pooled))
            )
    return outputs


def one_stage(model: Any, x: Tensor) -> Any:
    """Run a detector of one stage up to the outputs of its head."""
    features = model.backbone(x)
    return model.head(list(features.values()))


def torchvision_detector(name: str, size: int, forward: Forward) -> Case:
    """Build a detector of torchvision, run up to the outputs of its heads."""
    import torchvision

    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
    return Case(model, images(size), forward)


def torchvision_video(name: str) -> Case:
    """Build a video network of torchvision."""
    import torchvision

    model = torchvision.models.get_model(name, weights=None, num_classes=10)
    frames, size = (14, 224) if name == "s3d" else (8, 32)
    return Case(model, torch.randn(1 if name == "s3d" else 2, 3, frames, size, size))


def torchvision_swin3d() -> Case:
    """Build torchvision's Swin transformer for video, small."""
    from torchvision.models.video import SwinTransformer3d

    model = SwinTransformer3d([2, 4, 4], 24, [2, 2], [3, 6], [2, 4, 4], num_classes=10)
    return Case(model, torch.randn(2, 3, 4, 32, 32))


def torchvision_mvit() -> Case:
    """Build torchvision's multiscale vision transformer, three blocks."""
    from torchvision.models.video import mvit

    setting = [
        mvit.MSBlockConfig(1, 16, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        mvit.MSBlockConfig(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
        mvit.MSBlockConfig(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    model = mvit.MViT(*((32, 32), 4, setting, True, False, True, True), num_classes=10)
    return Case(model, torch.randn(2, 3, 4, 32, 32))


def torchvision_raft() -> Case:
    """Build torchvision's RAFT, small, with two updates of the flow."""
    from torchvision.models.optical_flow import raft_small

    return Case(
        raft_small(weights=None),
        (images(128, 1), images(128, 1)),
        lambda model, pair: model(*pair, num_flow_updates=2),
    )


def torchvision_cases() -> dict[str, Build]:
    """Return the networks of torchvision."""
    cases: dict[str, Build] = {
        name: partial(torchvision_model, name, size, settings)
        for name, (size, settings) in TORCHVISION.items()
    }
    cases |= {"vit": torchvision_vit, "maxvit": torchvision_maxvit, "mvit": torchvision_mvit}
    cases |= {f"swin_v{v}": partial(torchvision_swin, v) for v in (1, 2)}
    for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        cases[name] = partial(torchvision_segmentation, name)
    detectors: dict[str, tuple[int, Forward]] = {
        "fasterrcnn_mobilenet_v3_large_320_fpn": (64, two_stages),
        "maskrcnn_resnet50_fpn": (64, two_stages),
        "keypointrcnn_resnet50_fpn": (64, two_stages),
        "retinanet_resnet50_fpn": (64, one_stage),
        "fcos_resnet50_fpn": (64, one_stage),
        "ssd300_vgg16": (300, one_stage),
        "ssdlite320_mobilenet_v3_large": (128, one_stage),
    }
    for name, (size, forward) in detectors.items():
        cases[name] = partial(torchvision_detector, name, size, forward)
    cases |= {
        name: partial(torchvision_video, name) for name in ("r3d_18", "mc3_18", "r2plus1d_18")
    }
    return cases | {
        "s3d": partial(torchvision_video, "s3d"),
        "swin3d": torchvision_swin3d,
        "raft_small": torchvision_raft,
    }


# ultralytics.

YOLO = {  # file of the configuration: class of the model
    "yolov3-tiny.yaml": "DetectionModel",
    "yolov5n.yaml": "DetectionModel",
    "yolov6n.yaml": "DetectionModel",
    "yolov8n.yaml": "DetectionModel",
    "yolov8n-seg.yaml": "SegmentationModel",
    "yolov8n-pose.yaml": "PoseModel",
    "yolov8n-cls.yaml": "ClassificationModel",
    "yolov9t.yaml": "DetectionModel",
    "yolov10n.yaml": "DetectionModel",
    "yolo11n.yaml": "DetectionModel",
    "yolo11n-seg.yaml": "SegmentationModel",
    "yolo11n-obb.yaml": "OBBModel",
    "yolo12n.yaml": "DetectionModel",
}


def raw(model: Any, x: Tensor) -> Any:
    """Run a YOLO up to the outputs of its heads, as its loss reads them."""
    head, training = model.model[-1], model.model[-1].training
    head.training = True
    try:
        outputs = model(x)
    finally:
        head.training = training
    both = outputs.get("one2one"), outputs.get("one2many")  # of heads without suppression
    parts = [each for each in both if each] or [outputs]
    return [value for each in parts for name, value in each.items() if name != "feats"]


def yolo(file: str, kind: str, forward: Forward | None) -> Case:
    """Build a network of ultralytics."""
    from ultralytics.nn import tasks

    model = getattr(tasks, kind)(file, verbose=False)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return Case(model, images(64), forward)


def yolo_cases() -> dict[str, Build]:
    """Return the networks of ultralytics: raw outputs of the heads, and one with decoded boxes."""
    cases: dict[str, Build] = {}
    for file, kind in YOLO.items():
        forward = None if kind == "ClassificationModel" else raw
        cases[file.removesuffix(".yaml")] = partial(yolo, file, kind, forward)
    cases["yolov8n-decoded"] = partial(yolo, "yolov8n.yaml", "DetectionModel", None)
    return cases


# segmentation_models_pytorch.

SMP = {  # decoder: (encoder, arguments)
    "Unet": ("resnet18", {}),
    "Unet-scse": ("resnet18", {"decoder_attention_type": "scse"}),
    "Unet-mobilenet": ("mobilenet_v2", {}),
    "Unet-efficientnet": ("timm-mobilenetv3_small_100", {}),
    "UnetPlusPlus": ("resnet18", {}),
    "MAnet": ("resnet18", {}),
    "Linknet": ("resnet18", {}),
    "FPN": ("resnet18", {}),
    "PSPNet": ("resnet18", {}),
    "PAN": ("resnet18", {}),
    "DeepLabV3": ("resnet18", {}),
    "DeepLabV3Plus": ("mobilenet_v2", {}),
    "UPerNet": ("resnet18", {}),
    "Segformer": ("mit_b0", {}),
    "DPT": ("tu-vit_tiny_patch16_224.augreg_in21k", {}),
}


def smp_model(name: str, encoder: str, settings: Mapping[str, Any]) -> Case:
    """Build a network of segmentation_models_pytorch, with 4 classes."""
    import segmentation_models_pytorch as smp

    kind = getattr(smp, name.partition("-")[0])
    model = kind(encoder, encoder_weights=None, classes=4, **settings)
    return Case(model, images({"DPT": 224, "PAN": 128}.get(name, 64)))
