# mibench on NVIDIA GPUs; from the repository's root, with NVIDIA's container toolkit:
#   docker build -f containers/cuda.Dockerfile -t mibench:cuda .
#   docker run --rm --gpus all -v "$PWD/runs:/home/mibench/runs" mibench:cuda doctor
# PyTorch's build brings CUDA's libraries, so that the image needs none of its own; the driver is the
# machine's.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# The index of another CUDA version than pip's default build has, for an older driver.
ARG TORCH_INDEX_URL=

ENV NVIDIA_VISIBLE_DEVICES=all
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN useradd --create-home --uid 1000 mibench && mkdir /src
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
      pip install --no-cache-dir --index-url "$TORCH_INDEX_URL" torch torchvision; \
    fi
COPY . /src
RUN cd /src && pip install --no-cache-dir .

USER mibench
WORKDIR /home/mibench
ENTRYPOINT ["mibench"]
CMD ["doctor"]
