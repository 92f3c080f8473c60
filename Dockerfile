# The page at port 7860, run by a user without privileges.
FROM python:3.12-slim

# A PNG with Chinese prompts on it takes its characters from here.
RUN apt-get update && apt-get install -y --no-install-recommends fonts-noto-cjk && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH PYTHONUNBUFFERED=1 GRADIO_SERVER_NAME=0.0.0.0

# Requirements first: the layer with torch is rebuilt only when they change.
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"
CMD ["python", "app.py", "--port", "7860"]
