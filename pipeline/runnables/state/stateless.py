"""Finds the modules of a model that are not known to be stateless.

Threads may share a module only if its forward writes nothing to it. This cannot be proved for code
in general, so there is a list of modules for which it is known: modules of torch and Detectron2,
unchanged and in eval mode. Every other module is a risk.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from pipeline.runnables.speedups.patching import RECORD, replaced_methods

# of torch.nn: in eval mode they compute from input, weights and buffers alone
_TORCH = """
    Identity Sequential ModuleList ModuleDict ParameterList ParameterDict
    Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Linear Bilinear
    BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm GroupNorm LayerNorm RMSNorm LocalResponseNorm
    InstanceNorm1d InstanceNorm2d InstanceNorm3d Embedding MultiheadAttention
    Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
    ReLU ReLU6 LeakyReLU PReLU ELU SELU CELU GELU GLU SiLU Mish Hardswish Hardsigmoid Hardtanh
    Sigmoid LogSigmoid Tanh Tanhshrink Softplus Softsign Softshrink Hardshrink Threshold
    Softmax Softmax2d LogSoftmax Softmin
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
    AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle
    Flatten Unflatten Fold Unfold ZeroPad1d ZeroPad2d ZeroPad3d
    ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d
    ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d
"""
# Not listed: CycleBatchNormList, which counts its calls; swin.BasicLayer, which writes sizes to its
# blocks; wrappers of other packages' modules.
_DETECTRON2 = {
    "layers.aspp": "ASPP",
    "layers.batch_norm": "FrozenBatchNorm2d NaiveSyncBatchNorm LayerNorm",
    "layers.blocks": "DepthwiseSeparableConv2d",
    "layers.deform_conv": "DeformConv ModulatedDeformConv",
    "layers.roi_align": "ROIAlign",
    "layers.wrappers": "Conv2d ConvTranspose2d BatchNorm2d Linear",  # the last three in old builds
    "modeling.anchor_generator": "BufferList DefaultAnchorGenerator",
    "modeling.backbone.fpn": "FPN LastLevelMaxPool LastLevelP6P7",
    "modeling.backbone.mvit": "MultiScaleAttention MultiScaleBlock MViT",
    "modeling.backbone.regnet": "ResStem SimpleStem SE VanillaBlock BasicTransform ResBasicBlock "
    "BottleneckTransform ResBottleneckBlock AnyStage AnyNet RegNet",
    "modeling.backbone.resnet": "BasicBlock BottleneckBlock DeformBottleneckBlock BasicStem ResNet",
    "modeling.backbone.utils": "PatchEmbed",
    "modeling.backbone.vit": "Attention ResBottleneckBlock Block ViT SimpleFeaturePyramid",
    "modeling.meta_arch.fcos": "FCOS FCOSHead",
    "modeling.meta_arch.panoptic_fpn": "PanopticFPN",
    "modeling.meta_arch.rcnn": "GeneralizedRCNN",
    "modeling.meta_arch.retinanet": "RetinaNet RetinaNetHead",
    "modeling.meta_arch.semantic_seg": "SemanticSegmentor SemSegFPNHead",
    "modeling.poolers": "ROIPooler",
    "modeling.proposal_generator.rpn": "StandardRPNHead RPN",
    "modeling.roi_heads.box_head": "FastRCNNConvFCHead",
    "modeling.roi_heads.cascade_rcnn": "CascadeROIHeads",
    "modeling.roi_heads.fast_rcnn": "FastRCNNOutputLayers",
    "modeling.roi_heads.keypoint_head": "KRCNNConvDeconvUpsampleHead",
    "modeling.roi_heads.mask_head": "MaskRCNNConvUpsampleHead",
    "modeling.roi_heads.roi_heads": "Res5ROIHeads StandardROIHeads",
}
_PACKAGES = ("torch", "torchvision", "detectron2", "fvcore", "yacs", "numpy", "math", "builtins")
_HOOKS = {"_forward_hooks": "forward hook", "_forward_pre_hooks": "forward pre-hook"}


@dataclass(frozen=True, slots=True)
class StateRisk:
    """Why a module is not known to be stateless.

    Attributes:
        where: The module's name in the model; empty for the model itself.
        reason: The predicate of a sentence about the module.
        is_modified: Whether a listed module was modified, for example by a hook. A speed-up that
            computes the module in another way would skip the modification.
    """

    where: str
    reason: str
    is_modified: bool = False

    def __str__(self) -> str:
        return f"{self.where or 'the model'} {self.reason}"


def find_state_risks(model: Any) -> list[StateRisk]:
    """Return which modules of a model are not known to be stateless.

    Args:
        model: An ``nn.Module`` as it was loaded, before speed-ups.
    """
    from torch.nn.modules import module as torch_module

    found = [
        StateRisk("", f"runs a global {text} of torch", is_modified=True)
        for name, text in _HOOKS.items()
        if getattr(torch_module, f"_global{name}")
    ]
    patched = {kind: list(_patched(kind)) for kind in {type(each) for each in model.modules()}}
    for name, each in model.named_modules():
        found += _of(name, each, patched[type(each)])
    return found


def is_known(module: Any) -> bool:
    """Return whether a module's class, not a subclass of it, is known to be stateless."""
    return _is_listed(type(module))


def _of(name: str, module: Any, patched: list[tuple[str, str]]) -> Iterator[StateRisk]:
    kind = type(module)
    if not _is_listed(kind):
        yield StateRisk(name, f"is {_named(kind)}, which is not known to be stateless")
    if module.training:
        yield StateRisk(name, "is in training mode", is_modified=True)
    for key, text in _HOOKS.items():
        if vars(module)[key]:
            yield StateRisk(name, f"has a {text}", is_modified=True)
    if not _is_listed(kind):
        return  # its attributes add nothing: its code is unknown
    replaced = replaced_methods(module)
    for key, value in vars(module).items():
        if key in replaced:
            yield StateRisk(name, f"already has a {key} of d2run's speed-ups", is_modified=True)
        elif callable(getattr(kind, key, None)):
            yield StateRisk(name, f"has a custom {key} method", is_modified=True)
        elif key not in _internal() and not _is_plain(value):
            yield StateRisk(name, f"has an attribute {key} that is not known to be stateless")
    for method, package in patched:
        yield StateRisk(
            name, f"has a method {method} that was replaced by {package}", is_modified=True
        )


def _is_listed(kind: type) -> bool:
    package, _, place = kind.__module__.partition(".")
    if package == "torch":
        listed = kind.__name__ in _TORCH.split() and place.startswith("nn.modules.")
    else:
        listed = package == "detectron2" and kind.__name__ in _DETECTRON2.get(place, "").split()
    return listed and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


@functools.cache
def _internal() -> frozenset[str]:
    from torch import nn

    return frozenset(vars(nn.Module())) | {RECORD}


def _is_plain(value: Any) -> bool:
    """Return whether an attribute is plain data, or code of a known package."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, functools.partial):
        return all(map(_is_plain, (value.func, value.args, value.keywords)))
    if isinstance(value, MethodType):
        return _is_plain(value.__func__) and _is_plain(value.__self__)
    if isinstance(value, FunctionType):
        return _package(value) in _PACKAGES
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__.split(".")[0] in _PACKAGES


def _patched(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the methods of a class that another package has replaced, and the package."""
    for cls in kind.__mro__[:-1]:
        for name, value in vars(cls).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType) and _package(function) not in _PACKAGES:
                yield name, _package(function)


def _package(function: FunctionType) -> str:
    # __module__ may be copied from a wrapped function
    return str(function.__globals__.get("__name__", "?")).split(".")[0]


def _named(kind: type) -> str:
    known = kind.__module__.split(".")[0] in ("torch", "torchvision", "detectron2")
    return kind.__name__ if known else f"{kind.__module__}.{kind.__qualname__}"
