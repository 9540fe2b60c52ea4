"""A video of each video, with the predictions drawn on it."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import SinkError
from pipeline.protocols import Asset
from pipeline.records import Categories, Result
from pipeline.sinks.mp4.encoder import Settings
from pipeline.sinks.mp4.recorder import Recorder
from pipeline.sinks.mp4.segments import Segment
from pipeline.system.children import python_command
from pipeline.system.files import RegularFile, output_name
from pipeline.system.media import check_pyav
from pipeline.system.output_folder import OutputFolder
from pipeline.system.terminal import print_stderr
from pipeline.validation import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from pipeline.sinks.drawing import Painter

_SEGMENTS = ".segments"
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower")
_JOIN_S, _JOIN_BYTES_PER_S = 120.0, 2e6  # the patience with the process that joins


class Video:
    """Writes ``<directory>/<asset id>.mp4``: H.264 that browsers play, with the source's sound.

    The video has the frames that the stages did not drop, at their times. It is encoded in segments
    of a fixed number of frames, each a file in ``<directory>/.segments`` until the video is
    complete. A run that is killed and resumed encodes only what comes after the last segment, and
    writes the same bytes. Stills, and pages without timestamps, get no video.

    Args:
        directory: Directory of the videos.
        min_score: Draw only instances with at least this score, 0 to 1.
        masks: Draw instance masks, semantic and panoptic maps.
        boxes: Draw boxes.
        labels: Write the class, the score and, if there is one, the track id.
        color: ``class``, ``instance`` or ``track``; see ``Overlay``.
        opacity: Opacity of masks and maps, 0 to 1.
        audio: Copy the sound of the source.
        crf: Quality of x264, 0 to 51; lower is better, and larger.
        preset: Preset of x264; slower ones make smaller files.
        segment_frames: Frames per segment.

    Raises:
        ConfigError: An option has an invalid value, or PyAV is not installed.
    """

    def __init__(
        self,
        directory: str | Path,
        min_score: float = 0.0,
        masks: bool = True,
        boxes: bool = True,
        labels: bool = True,
        color: Literal["class", "instance", "track"] = "class",
        opacity: float = 0.45,
        audio: bool = True,
        crf: int = 23,
        preset: str = "veryfast",
        segment_frames: int = 64,
    ) -> None:
        check_number("min_score", min_score, 0, 1)
        flags = (("masks", masks), ("boxes", boxes), ("labels", labels), ("audio", audio))
        for option, value in flags:
            check_flag(option, value)
        check_choice("color", color, ("class", "instance", "track"))
        check_number("opacity", opacity, 0, 1)
        check_whole("crf", crf, 0, 51)
        check_choice("preset", preset, _PRESETS)
        check_whole("segment_frames", segment_frames, 1)
        check_pyav("sink=video")
        self.directory = Path(directory)
        self.outputs: tuple[str, ...] = (f"{self.directory.name}/",)
        self.min_score = min_score
        self.masks, self.boxes, self.labels = masks, boxes, labels
        self.color: Literal["class", "instance", "track"] = color
        self.opacity = opacity
        self.audio = audio
        self.crf, self.preset, self.segment_frames = crf, preset, segment_frames
        self._skeleton: tuple[tuple[int, int], ...] = ()
        self._painter: Painter | None = None
        self._folder = OutputFolder(self.directory.parent)
        self._recorder: Recorder | None = None
        self._last_pts: int | None = None
        self._skips = self._warned = self._suspended = False

    def check(self, categories: Categories) -> None:
        """Store which keypoints to join."""
        self._skeleton = categories.skeleton

    def __enter__(self) -> Video:
        """Create the painter; OpenCV is not imported before."""
        from pipeline.sinks.drawing import Painter

        self._suspended = False
        self._painter = Painter(
            self.masks,
            self.boxes,
            self.labels,
            color=self.color,
            opacity=self.opacity,
            skeleton=self._skeleton,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Remove the segments of inputs that are gone, unless a video is not complete."""
        self._painter = self._recorder = None
        if kind is None and not self._suspended:
            self._folder.remove(f"{self.directory.name}/{_SEGMENTS}")

    def begin(self, asset: Asset) -> None:
        """Wait for the first frame, which has the size."""
        self._recorder, self._last_pts = None, None
        self._skips = asset.is_still
        if asset.is_still:
            self._warn("images")

    def write(self, result: Result) -> None:
        """Draw on a frame and encode it."""
        frame = result.frame
        if self._skips:
            return
        if frame.pts is None or frame.time_base is None:
            self._skips = True
            self._warn("pages without timestamps")
            return
        if self._painter is None:
            raise RuntimeError("Video: enter the sink first")
        import cv2  # takes 0.1 s, which most commands do not need

        image: Any = self._painter.draw(frame.image, result.predictions)
        height, width = image.shape[:2]
        if self._recorder is None:
            settings = Settings(
                width + width % 2,  # H.264 as browsers play it has an even size
                height + height % 2,
                (frame.time_base.numerator, frame.time_base.denominator),
                self.segment_frames,
                self.crf,
                self.preset,
            )
            self._recorder = Recorder(self._folder, self._segments(frame.asset_id), settings)
        wanted = self._recorder.settings.width, self._recorder.settings.height
        right, bottom = wanted[0] - width, wanted[1] - height
        if {right, bottom} <= {0, 1}:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        else:  # a stream that changes its size
            image = cv2.resize(image, wanted, interpolation=cv2.INTER_AREA)
        # players refuse a time that stands still, as in damaged files
        pts = frame.pts if self._last_pts is None else max(frame.pts, self._last_pts + 1)
        self._last_pts = pts
        self._recorder.add(image, pts)

    def flush(self, asset: Asset) -> None:
        """Complete the video: join its segments, and give it its name.

        Raises:
            SinkError: They cannot be joined.
        """
        recorder, self._recorder = self._recorder, None
        name = self._name(asset.id)
        if recorder is None:  # no frame: an earlier video is of another file
            self._folder.remove(name)
            return
        segments = recorder.finish()
        self._join(asset, segments, recorder.settings, self._folder.open(name).fileno())
        self._folder.commit(name)
        self._folder.remove(recorder.name)

    def suspend(self, asset: Asset) -> None:
        """Keep the complete segments for the next run, because this one stops."""
        self._suspended, self._recorder = True, None
        self._folder.remove(self._name(asset.id))

    def sync(self) -> None:
        """Make the names of the videos durable.

        Raises:
            OSError: The disk fails.
            OutputError: A video was moved or deleted during the run.
        """
        self._folder.sync()

    def discard(self, asset: Asset) -> None:
        """Remove the asset's video, also an earlier one, and its segments."""
        self._recorder = None
        self._folder.remove(self._name(asset.id))
        self._folder.remove(self._segments(asset.id))
        self._folder.remove_empty(f"{self.directory.name}/{_SEGMENTS}")

    def _join(self, asset: Asset, segments: list[Segment], settings: Settings, output: int) -> None:
        with ExitStack() as stack:
            source = None
            if self.audio:
                try:
                    source = stack.enter_context(RegularFile(asset.path)).fileno()
                except OSError:  # not a file, or moved meanwhile: a video without sound
                    source = None
            request = {
                "output": output,
                "source": source,
                "settings": settings.as_json(),
                "segments": [(os.fspath(each.path.absolute()), each.n_frames) for each in segments],
            }
            n_bytes = sum(each.path.stat().st_size for each in segments)
            n_bytes += os.fstat(source).st_size if source is not None else 0
            try:
                done = subprocess.run(
                    python_command("pipeline.sinks.mp4.join"),
                    input=json.dumps(request),
                    capture_output=True,
                    encoding="utf-8",
                    errors="backslashreplace",
                    pass_fds=[fd for fd in (output, source) if fd is not None],
                    timeout=_JOIN_S + n_bytes / _JOIN_BYTES_PER_S,
                    start_new_session=True,  # out of reach of the terminal's Ctrl-C
                    check=True,
                )
            except subprocess.SubprocessError as exc:
                text = getattr(exc, "stderr", None) or ""
                reason = text.strip().splitlines()[-1] if text.strip() else str(exc)
                raise SinkError(
                    f"its segments cannot be joined ({reason}). To do without the sound of the "
                    "source, set sink.video.audio=false",
                    asset_id=asset.id,
                    step="video",
                ) from exc
        for codec in json.loads(done.stdout)["refused"]:
            print_stderr(f"warning: {asset.id}: video without its sound: MP4 cannot hold {codec}")

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            print_stderr(f"warning: sink=video writes no video of {what}; use sink=overlay")

    def _name(self, asset_id: str) -> str:
        return f"{self.directory.name}/{output_name(asset_id, '.mp4')}"

    def _segments(self, asset_id: str) -> str:
        mark = sha256(os.fsencode(asset_id)).hexdigest()[:16]
        return f"{self.directory.name}/{_SEGMENTS}/{mark}"
