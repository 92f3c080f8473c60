# The page at port 7860, run by a user without privileges.
FROM python:3.12-slim

# A PNG with Chinese prompts on it takes its characters from here.
RUN apt-get update && apt-get install -y --no-install-recommends fonts-noto-cjk && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH PYTHONUNBUFFERED=1 GRADIO_SERVER_NAME=0.0.0.0

# Where to take torch from. Unset, it is PyPI's, which brings 5 GB for NVIDIA's GPUs; an index of CPU wheels leaves them out:
#   docker build --build-arg TORCH_INDEX=URL -t mmdemo .
ARG TORCH_INDEX=""

# Requirements first: the layer with torch is rebuilt only when they change. What only tests need stays out.
COPY --chown=user requirements.txt .
RUN sed -i '/^# For the tests alone/,$d' requirements.txt && \
    if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --user --index-url "$TORCH_INDEX" torch torchvision; fi && \
    pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"
CMD ["python", "app.py", "--port", "7860"]
