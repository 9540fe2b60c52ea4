"""Which modules of a model are known to be stateless.

Threads may share a module only if its forward writes nothing to it. That cannot be proved of code
in general, so the list is positive: torch's and Detectron2's own modules of which it is known, as
their authors wrote them and in eval mode. All others are doubts.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

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
# Not here: CycleBatchNormList, which counts its calls; swin.BasicLayer, which writes sizes to its
# blocks; what wraps modules of other packages.
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
class Doubt:
    """Why a module is not known to be stateless.

    Attributes:
        where: The module's name in the model; empty for the model itself.
        what: The reason, as what follows the name in a sentence.
        changed: Whether something was put into a module of a known kind, which whoever computes
            the same in another way would leave out.
    """

    where: str
    what: str
    changed: bool = False

    def __str__(self) -> str:
        return f"{self.where or 'the model'} {self.what}"


def doubts(model: Any) -> list[Doubt]:
    """Return what in a model, as loaded, is not known to be stateless; empty if all of it is.

    Args:
        model: An ``nn.Module``, before anything in it is replaced for speed.
    """
    from torch.nn.modules import module as torch_module

    found = [
        Doubt("", f"runs a global {text} of torch", changed=True)
        for name, text in _HOOKS.items()
        if getattr(torch_module, f"_global{name}")
    ]
    patched = {kind: list(_patched(kind)) for kind in {type(each) for each in model.modules()}}
    for name, each in model.named_modules():
        found += _of(name, each, patched[type(each)])
    return found


def is_known(module: Any) -> bool:
    """Return whether a module is of exactly a kind that is known to be stateless."""
    return _is_listed(type(module))


def _of(name: str, module: Any, patched: list[tuple[str, str]]) -> Iterator[Doubt]:
    kind = type(module)
    if not _is_listed(kind):
        yield Doubt(name, f"is {_named(kind)}, which is not known to be stateless")
    if module.training:
        yield Doubt(name, "is in training mode", changed=True)
    for key, text in _HOOKS.items():
        if vars(module)[key]:
            yield Doubt(name, f"has a {text}", changed=True)
    if not _is_listed(kind):
        return  # its code may do anything
    for key, value in vars(module).items():
        if callable(getattr(kind, key, None)):
            yield Doubt(name, f"has a {key} of its own", changed=True)
        elif key not in _internal() and not _is_plain(value):
            yield Doubt(name, f"has a {key} that is not known to be stateless")
    for method, package in patched:
        yield Doubt(name, f"has a {method} that {package} has replaced", changed=True)


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

    return frozenset(vars(nn.Module()))


def _is_plain(value: Any) -> bool:
    """Return whether an attribute is a value, or code of a known package."""
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
    """Yield the methods of a kind that another package has put there, and the package."""
    for cls in kind.__mro__[:-1]:
        for name, value in vars(cls).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType) and _package(function) not in _PACKAGES:
                yield name, _package(function)


def _package(function: FunctionType) -> str:
    # its own __module__ may be copied from what it wraps
    return str(function.__globals__.get("__name__", "?")).split(".")[0]


def _named(kind: type) -> str:
    known = kind.__module__.split(".")[0] in ("torch", "torchvision", "detectron2")
    return kind.__name__ if known else f"{kind.__module__}.{kind.__qualname__}"
