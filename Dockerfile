# The page (`autolink serve`) with the shipped models, on a CPU:
#   docker build -t autolink .
#   docker run --rm -it -p 127.0.0.1:8421:8421 autolink
# It prints the address to open, with a secret in it. `-v "$PWD/runs:/home/autolink/runs"`
# before its name shows your trainings.
FROM python:3.12-slim

# Both from one index of CPU builds: about 1.3 GB in all, where the default with CUDA takes 5.2.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE /source/
COPY autolink /source/autolink
COPY apps /source/apps
COPY pretrained /source/pretrained
RUN pip install --no-cache-dir "/source[serve]" && rm -r /source

RUN useradd --create-home autolink
USER autolink
WORKDIR /home/autolink
EXPOSE 8421
HEALTHCHECK --interval=30s --start-period=60s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8421), 5).close()"]
ENTRYPOINT ["autolink", "serve", "--no-open", "--host", "0.0.0.0", "--allow-host", "127.0.0.1:8421", "localhost:8421"]
