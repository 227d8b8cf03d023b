# mibench on CPU cores; from the repository's root:
#   docker build -f containers/cpu.Dockerfile -t mibench .
#   docker run --rm -v "$PWD/runs:/home/mibench/runs" mibench run --budget 0.05 --out runs/first
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# The index of PyTorch's own CPU build, as the selector on PyTorch's site ("Get Started", compute
# platform "CPU") names it. Left empty, pip takes a build with CUDA, several gigabytes larger.
ARG TORCH_INDEX_URL=

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
