# vidtron on NVIDIA's PyTorch container, which brings torch, NCCL, cuDNN and Transformer Engine built for each other.
#   docker build -t vidtron . && docker run --gpus all --ipc=host -v /data:/data -it vidtron
ARG BASE=nvcr.io/nvidia/pytorch:25.12-py3
FROM ${BASE}

# The image constrains many packages to its own versions; only those that must stay are held here.
ENV PIP_CONSTRAINT="" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -c "import importlib.metadata as m; print(*(f'{p}=={m.version(p)}' for p in ('torch', 'transformer-engine', 'numpy')), sep='\n')" \
    > /etc/vidtron-constraint.txt && cat /etc/vidtron-constraint.txt

# megatron-core's own requirements are torch, numpy and packaging, which the image has.
ARG MEGATRON_CORE=0.16.1
ARG DALI=2.4.0
RUN pip install --no-deps "megatron-core==${MEGATRON_CORE}" \
    && pip uninstall --yes nvidia-dali-cuda120 nvidia-dali-cuda130 \
    && pip install -c /etc/vidtron-constraint.txt "nvidia-dali-cuda130==${DALI}" \
        av==18.1.0 tyro==1.0.17 diffusers==0.42.1 transformers==5.23.0 sentencepiece==0.2.3 \
        tensorboard==2.21.0 wandb==0.31.0 psutil pyyaml pillow tqdm \
        pytest==9.2.0 pytest-timeout==2.4.0 pytest-xdist==3.8.0

WORKDIR /opt/vidtron
COPY . .
RUN pip install --no-deps --no-build-isolation --editable .

# What the image is for must be there; a missing part ends the build, not a run on the cluster.
RUN python -c "import torch; assert torch.version.cuda, 'torch has no CUDA'" \
    && python -c "import transformer_engine.pytorch, megatron.core" \
    && python -c "import nvidia.dali.fn as fn; fn.decoders.video" \
    && python -c "import av, diffusers, tensorboard, transformers, tyro, wandb" \
    && python -c "import vidtron.training, vidtron.inference" \
    && python pretrain_video.py --help > /dev/null
