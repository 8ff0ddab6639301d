"""Small shards of synthetic clips, for tests that train.

Frames are smooth random colours that move, so that a network can learn them.
"""

import io
import tarfile
from pathlib import Path

import torch

from vidtron.data.building.probe import probe
from vidtron.data.shards.index_writer import IndexWriter
from vidtron.data.shards.sample import IndexRow


def moving_colours_THWC(seed: int, frames: int, height: int, width: int) -> torch.Tensor:
    """uint8 video that differs with every seed."""
    coarse = torch.rand(1, 3, 5, 4, 6, generator=torch.Generator().manual_seed(seed))
    video = torch.nn.functional.interpolate(coarse, size=(frames, height, width), mode="trilinear")[0]
    return (video.permute(1, 2, 3, 0) * 255).to(torch.uint8)


def encoded(frames_THWC: torch.Tensor, fps: int = 8) -> bytes:
    """An mp4 of VP9."""
    import av

    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libvpx-vp9", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames_THWC.shape[2], frames_THWC.shape[1], "yuv420p"
        for frame in frames_THWC.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def write_shards(
    folder: Path,
    clips: int = 8,
    *,
    frames: int = 20,
    height: int = 64,
    width: int = 96,
    first_seed: int = 0,
    prefix: str = "",
) -> Path:
    """A folder with one shard and its index."""
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / "shard_000000.tar"
    samples = {}
    with tarfile.open(shard, "w") as tar:
        for number in range(clips):
            key, caption = f"{prefix}clip{number:03d}", f"moving colours, number {number}"
            video = encoded(moving_colours_THWC(first_seed + number, frames, height, width))
            samples[key] = (probe(video), len(caption))
            for extension, content in (("mp4", video), ("txt", caption.encode()), ("json", b"{}")):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with tarfile.open(shard) as tar, IndexWriter(folder) as index:
        for key, (facts, characters) in samples.items():
            found = {extension: tar.getmember(f"{key}.{extension}") for extension in ("mp4", "txt", "json")}
            members = {extension: (member.offset_data, member.size) for extension, member in found.items()}
            index.add(IndexRow(shard.name, key, "mp4", members, facts, characters))
        index.finish({shard.name: shard.stat().st_size})
    return folder
